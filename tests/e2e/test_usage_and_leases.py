"""What tenants used and leased: replayed requests add up, and a corrected lease leaves no ghost."""

from __future__ import annotations

import csv
import json
import subprocess
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from tests.e2e.support import Up, gpufleet, one_line, query, until

pytestmark = pytest.mark.kafka
TRACE = Path(__file__).parents[2] / "producers" / "simulator" / "data" / "AzureLLMInferenceTrace_conv.csv"
Sums = dict[int, tuple[int, int, int]]


def sums_of_the_file(shift_s: float) -> Sums:
    """Start of a minute (seconds since 1970, moved) -> requests, tokens read, tokens written; by csv alone."""
    sums: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    with TRACE.open(newline="") as file:
        for row in csv.DictReader(file):
            at = datetime.fromisoformat(row["TIMESTAMP"][:19]).replace(tzinfo=UTC)
            entry = sums[int(at.timestamp()) // 60 * 60 + round(shift_s)]
            entry[0] += 1
            entry[1] += int(row["ContextTokens"])
            entry[2] += int(row["GeneratedTokens"])
    return {minute: (entry[0], entry[1], entry[2]) for minute, entry in sums.items()}


def sums_of(client: Client, table: str) -> Sums:
    found = query(
        client,
        "SELECT toUnixTimestamp(toStartOfMinute(ts)) AS minute, sum(requests) AS n, sum(input_tokens) AS i,"
        f" sum(output_tokens) AS o FROM {table} FINAL WHERE tenant = 'replayed' GROUP BY minute",
    )
    return {row["minute"]: (row["n"], row["i"], row["o"]) for row in found}


def test_a_replayed_trace_adds_up_minute_by_minute(live: Up) -> None:
    done = gpufleet(live.folder, "usage", "replay", TRACE, "--tenant", "replayed", "--data", live.data, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    expected = sums_of_the_file(said["shift_s"])
    assert sum(requests for requests, _, _ in expected.values()) == 19_366
    with live.client() as client:
        for table in ("tenant_usage", "usage_1m"):
            until(lambda table=table: len(sums_of(client, table)) >= len(expected), 60)  # type: ignore[misc]
            until(lambda table=table: sums_of(client, table) == expected)  # type: ignore[misc]
        day = "SELECT sum(requests) AS n FROM usage_1d FINAL WHERE tenant = 'replayed'"
        until(lambda: query(client, day)[0]["n"] == 19_366)


NODE = "gb200-r0001-n18"
"""A node that the scenario leases to nobody."""


def leases(begin: datetime, hand_over: datetime | None) -> str:
    """A lease of the node from ``begin`` on; from ``hand_over`` on another tenant's."""
    text = f'[[lease]]\nid = "e2e-1"\ntenant = "early"\nnodes = ["{NODE}"]\nprice = 2.5\nfrom = {zulu(begin)}\n'
    if hand_over is None:
        return text
    return text + (
        f"to = {zulu(hand_over)}\n"
        f'[[lease]]\nid = "e2e-2"\ntenant = "latecomer"\nnodes = ["{NODE}"]\nprice = 2.5\nfrom = {zulu(hand_over)}\n'
    )


def zulu(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def test_a_hand_over_corrected_backwards_leaves_no_ghost(live: Up, tmp_path: Path) -> None:
    file = tmp_path / "leases.toml"

    def lease(verb: str, text: str, *options: str) -> subprocess.CompletedProcess[str]:
        file.write_text(text)
        return gpufleet(live.folder, "lease", verb, file, "--yes", "--data", live.data, *options)

    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    begin, late = minute - timedelta(minutes=9), minute - timedelta(minutes=6)

    refused = lease("apply", leases(begin + timedelta(seconds=30), None))
    assert refused.returncode == 2
    assert "whole minute" in one_line(refused)
    applied = lease("apply", leases(begin, None))
    assert applied.returncode == 0, applied.stderr
    check_attribution(live, [("", begin), ("early", None)], windows=False)

    soon = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=2)
    announced = lease("apply", leases(begin, soon))
    assert announced.returncode == 0, announced.stderr
    past = lease("apply", leases(begin, late))
    assert past.returncode == 2
    assert "correct" in past.stderr
    done = lease("correct", leases(begin, late), "--reason", "signed late", "--json")
    assert done.returncode == 0, done.stderr
    assert any(change["rewrites_past"] for change in json.loads(done.stdout)["changes"])
    check_attribution(live, [("", begin), ("early", late), ("latecomer", None)])


def check_attribution(live: Up, spans: list[tuple[str, datetime | None]], *, windows: bool = True) -> None:
    """The node's rows and windows belong to each tenant until its end, and to nobody else."""
    owner = "multiIf("
    for tenant, end in spans:
        owner += f"'{tenant}')" if end is None else f"ts < toDateTime({int(end.timestamp())}, 'UTC'), '{tenant}', "
    tables = ("node_telemetry", "node_counters", "node_events", "gpu_1m")
    wrong = " UNION ALL ".join(
        f"SELECT '{table}' AS name, count() AS rows, countIf(tenant != {owner}) AS wrong"
        f" FROM {table} FINAL WHERE node_id = '{NODE}'"
        for table in tables
    )
    with live.client() as client:
        until(lambda: not any(row["wrong"] for row in query(client, wrong)), 180, 0.5)
        assert all(row["rows"] for row in query(client, wrong))
        for tenant, _ in spans[1:] if windows else ():
            until(lambda tenant=tenant: windows_are_right(client, tenant), 180, 0.5)  # type: ignore[misc]


def windows_are_right(client: Client, tenant: str) -> bool:
    """rack_1m of a tenant with this node alone, against the raw rows, minute by minute but for the last two."""
    closed = f"tenant = '{tenant}' AND ts < toStartOfMinute(now() - INTERVAL 1 MINUTE)"
    windows = query(client, f"SELECT toUnixTimestamp(ts) AS at, samples AS n, gpus FROM rack_1m FINAL WHERE {closed}")
    raw = query(
        client,
        "SELECT toUnixTimestamp(toStartOfMinute(ts)) AS at, sum(length(gpu_index) * ticks) AS n,"
        f" max(length(gpu_index)) AS gpus FROM node_telemetry FINAL WHERE {closed} GROUP BY at",
    )
    assert raw
    return sorted(windows, key=lambda row: row["at"]) == sorted(raw, key=lambda row: row["at"])
