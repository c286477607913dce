"""Compares what the store holds of one site with what the log says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.chaos import expected
from tests.chaos.log import Log, Logged, Who, fields

TOPICS = ("node-telemetry", "node-counters", "node-events", "tenant-usage", "leases")
KEYS: Mapping[str, tuple[str, ...]] = {
    "rack_10s": ("rack", "gpu_model", "tenant"),
    "fleet_10s": ("gpu_model", "tenant"),
    "rack_1m": ("rack", "gpu_model", "tenant"),
    "gpu_1m": ("node_id", "gpu_index", "tenant"),
    "gpu_1h": ("node_id", "gpu_index", "tenant"),
    "usage_1m": ("tenant", "workspace", "product", "model", "tier"),
    "usage_1h": ("tenant", "workspace", "product", "model", "tier"),
    "usage_1d": ("tenant", "workspace", "product", "model", "tier"),
}
"""Of each window table, after the start of the window."""
SHOWN = 12


@dataclass
class Found:
    """How the store differs from the log."""

    missing: int = 0
    """Events of the log that no row holds."""
    doubled: int = 0
    """Rows beyond one per event that a reader sees (FINAL)."""
    unmerged: int = 0
    """Rows beyond one per event that the engine has not merged yet: readers do not see them."""
    wrong: list[str] = field(default_factory=list)
    """Each difference in words."""

    @property
    def exact(self) -> bool:
        return not self.wrong and not self.missing and not self.doubled

    def __str__(self) -> str:
        more = f"\n... and {len(self.wrong) - SHOWN} more" if len(self.wrong) > SHOWN else ""
        return f"{self.missing} missing, {self.doubled} doubled\n" + "\n".join(self.wrong[:SHOWN]) + more


def table(topic: str) -> str:
    return topic.replace("-", "_")


def count_stored(client: Any, site: str) -> dict[str, int]:
    """Distinct events stored of a site, by topic."""
    parts = " UNION ALL ".join(
        f"SELECT '{topic}', uniqExact(producer_id, run_id, seq) FROM gpufleet.{table(topic)} WHERE site = '{site}'"
        for topic in TOPICS
    )
    return {str(topic): int(count) for topic, count in client.query(parts).result_rows}


def count_dead(client: Any, bad: list[Logged]) -> int:
    """How many of these messages are dead letters."""
    if not bad:
        return 0
    places = ", ".join(f"('{one.topic}', {one.partition}, {one.offset})" for one in bad)
    sql = f"""SELECT uniqExact(source_topic, source_partition, source_offset) FROM gpufleet.dead_letters
WHERE (source_topic, source_partition, source_offset) IN ({places})"""
    return int(client.query(sql).result_rows[0][0])


def raw(client: Any, site: str, log: Log) -> Found:
    """Event tables against the log: every row, every field."""
    found = Found()
    for topic in TOPICS:
        stored, seen = _stored(client, topic, site), set()
        wanted = {(e["producer_id"], e["run_id"], e["seq"]): e for e in log.events(topic) if e["site"] == site}
        for who, row in stored:
            event = wanted.get(who)
            if event is None:
                found.wrong.append(f"{topic}: {who} is stored and not in the log")
                continue
            if who not in seen:
                found.wrong += [f"{topic}: {who}: {text}" for text in _differences(event, row)]
            seen.add(who)
        found.missing += len(wanted.keys() - seen)
        found.wrong += [f"{topic}: {who} is in the log and not stored" for who in sorted(wanted.keys() - seen)]
        extra = len(stored) - len(seen)
        if extra:
            found.unmerged += extra
            sql = f"SELECT count() FROM gpufleet.{table(topic)} FINAL WHERE site = '{site}'"
            found.doubled += int(client.query(sql).result_rows[0][0]) - len(seen)
    _dead_letters(client, log.bad(), found)
    return found


def _dead_letters(client: Any, bad: list[Logged], found: Found) -> None:
    if not bad:
        return
    places = ", ".join(f"('{one.topic}', {one.partition}, {one.offset})" for one in bad)
    rows = client.query(
        "SELECT source_topic, source_partition, source_offset, hex(value) FROM gpufleet.dead_letters FINAL"
        f" WHERE (source_topic, source_partition, source_offset) IN ({places})"
    ).result_rows
    counted = Counter((str(t), int(p), int(o)) for t, p, o, _ in rows)
    values = {(str(t), int(p), int(o)): bytes.fromhex(value) for t, p, o, value in rows}
    for one in bad:
        place = (one.topic, one.partition, one.offset)
        if counted[place] != 1:
            found.wrong.append(f"dead letter of {place}: stored {counted[place]} times")
            found.missing += counted[place] == 0
            found.doubled += max(0, counted[place] - 1)
        elif values[place] != one.value:
            found.wrong.append(f"dead letter of {place}: another value than in the log")


def _stored(client: Any, topic: str, site: str) -> list[tuple[Who, dict[str, Any]]]:
    names = [name for name, _ in fields(topic)]
    answer = client.query(f"SELECT {', '.join(names)}, flaws FROM gpufleet.{table(topic)} WHERE site = '{site}'")
    flawed = [row for row in answer.result_rows if row[-1]]
    assert not flawed, f"the producers of these tests send nothing absurd: {flawed[0]}"
    rows = [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows]
    return [((row["producer_id"], row["run_id"], row["seq"]), row) for row in rows]


def _differences(event: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    for name, value in event.items():
        if _plain(value) != _plain(row[name]):
            yield f"{name} is {row[name]!r:.80}, the log says {value!r:.80}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        since = value.replace(tzinfo=value.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if isinstance(value, float) and math.isnan(value):
        return "no reading"
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def projected(client: Any, site: str, log: Log) -> bool:
    """Whether the projector seems to be done with a site: worth comparing, no more."""
    minutes = {(e["node_id"], e["ts"] // 60_000_000) for e in log.events("node-telemetry")}
    sql = f"""SELECT (SELECT count() FROM gpufleet.gpu_1m FINAL WHERE site = '{site}'),
    (SELECT sum(samples) FROM gpufleet.gpu_1m FINAL WHERE site = '{site}')"""
    rows, samples = client.query(sql).result_rows[0]
    wanted = sum(len(e["gpu_index"]) * e["ticks"] for e in log.events("node-telemetry"))
    return int(rows) == len(minutes) and int(samples or 0) == wanted


def tenants(client: Any, site: str, log: Log) -> list[str]:
    """Whose the rows of nodes are, against the leases of the log."""
    tenant, wrong = expected.tenant_of(log.events("leases")), []
    for topic in TOPICS[:3]:
        sql = f"SELECT node_id, toUnixTimestamp64Micro(ts), tenant FROM gpufleet.{table(topic)} WHERE site = '{site}'"
        for node, ts, name in client.query(sql).result_rows:
            if name != tenant(node, ts):
                wrong.append(f"{topic}: {node} at {ts}: tenant {name!r}, the leases say {tenant(node, ts)!r}")
    return wrong


def windows(client: Any, site: str, wanted: Mapping[str, expected.Rows], closed: int) -> list[str]:
    """Window tables against what the log says: every row, every measure. ``closed``: see ``expected.windows``."""
    wrong: list[str] = []
    for name, rows in wanted.items():
        columns = ", ".join(dict.fromkeys((*KEYS[name], *(c for row in rows.values() for c in row))))
        answer = client.query(
            f"SELECT toUnixTimestamp(ts) AS start, {columns} FROM gpufleet.{name} FINAL WHERE site = '{site}'"
        )
        stored = {}
        for row in answer.result_rows:
            values = dict(zip(answer.column_names, row, strict=True))
            stored[values["start"], *(values[key] for key in KEYS[name])] = values
        if name == "gpu_1h":  # an hour that is not over may or may not be there
            stored = {place: values for place, values in stored.items() if place[0] + 3600 <= closed}
        wrong += [f"{name}: {place} is there, and no event is" for place in stored.keys() - rows.keys()]
        wrong += [f"{name}: {place} is not there" for place in rows.keys() - stored.keys()]
        for place in stored.keys() & rows.keys():
            for column, value in rows[place].items():
                if not _close(stored[place][column], value):
                    wrong.append(f"{name}: {place}: {column} is {stored[place][column]!r}, the log says {value!r}")
    return wrong


def _close(stored: Any, wanted: Any) -> bool:
    if stored is None or wanted is None:
        return stored is wanted
    return math.isclose(stored, wanted, rel_tol=1e-9, abs_tol=1e-9)
