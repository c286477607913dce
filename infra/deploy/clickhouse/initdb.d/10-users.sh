#!/bin/bash
# At the server's first start: the pipeline's user and the one that Grafana and people on the operator's side ask as.
# Their roles get their rights and row policies from `gpufleet tenant prepare`, once the tables are there.
set -euo pipefail

secret() {
    local text
    text="$(cat "/run/secrets/$1")"
    [[ "$text" =~ ^[A-Za-z0-9_-]{16,}$ ]] || { echo "secrets/$1: expected 16 or more of A-Z a-z 0-9 _ -" >&2; exit 1; }
    printf '%s' "$text" | sha256sum | cut -d ' ' -f 1
}

# On standard input, so that no password or hash of one stands in a list of processes.
clickhouse client --user "$CLICKHOUSE_USER" --password "$(cat "$CLICKHOUSE_PASSWORD_FILE")" --multiquery <<SQL
CREATE ROLE IF NOT EXISTS gpufleet_writer;
CREATE ROLE IF NOT EXISTS gpufleet_operator;
CREATE USER IF NOT EXISTS gpufleet IDENTIFIED WITH sha256_hash BY '$(secret gpufleet.password)' DEFAULT DATABASE gpufleet;
CREATE USER IF NOT EXISTS operator IDENTIFIED WITH sha256_hash BY '$(secret operator.password)' DEFAULT DATABASE gpufleet;
GRANT gpufleet_writer TO gpufleet;
GRANT gpufleet_operator TO operator;
SQL
