#!/bin/sh
# Makes the secrets that compose.yaml mounts, those that are not there yet. The folder is for its owner alone; the
# passwords within can be read by the containers' users, the signing keys by their owner only (compose's service `keys`
# hands them on).
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
for name in clickhouse-admin gpufleet operator grafana-admin; do
    file="secrets/$name.password"
    [ -s "$file" ] || random 24 >"$file"
    chmod 644 "$file"
done
# A site key for the site, and one for that of the simulator's fleet, which bears its own name.
if [ ! -s secrets/site.keys ]; then
    umask 077
    for site in "${GPUFLEET_SITE:-site-1}" memphis-lab; do
        printf '[[site_key]]\nsite = "%s"\nsecret = "%s"\n\n' "$site" "$(random 32)"
    done >secrets/site.keys
fi
