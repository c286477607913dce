#!/bin/sh
# Makes the passwords that compose.yaml mounts, those that are not there yet. The folder is for its owner alone; the
# files within can be read by the containers' users.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
for name in clickhouse-admin gpufleet operator grafana-admin; do
    file="secrets/$name.password"
    [ -s "$file" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$file"
    chmod 644 "$file"
done
