"""What a run produced, by its producers' own journals, against what the store holds of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from clickhouse_connect.driver.client import Client

from producers import journal as reading
from producers.journal import Given, Journal
from schemas.catalogue import KINDS

# Grain: one row. Plain count() against distinct identities: FINAL would hide a double.
STORED = "SELECT count(), uniqExact(producer_id, seq) FROM {table} WHERE run_id = {{run:Int64}}"
DEAD = "SELECT count() FROM dead_letters FINAL WHERE source_run_id = {run:Int64} AND source_topic = {topic:String}"
SAMPLES = "SELECT sum(length(gpu_index) * ticks) FROM node_telemetry FINAL WHERE run_id = {run:Int64}"

# Grain: one row, of the last two minutes: cheap enough for every redraw.
RECENT = """
SELECT sum(last - first + 1 - distinct_seqs) AS lost, sum(rows - distinct_seqs) AS doubled
FROM
(
    SELECT min(seq) AS first, max(seq) AS last, uniqExact(seq) AS distinct_seqs, count() AS rows
    FROM node_telemetry
    WHERE ts > now64(6) - INTERVAL 2 MINUTE AND run_id = {run:Int64}
    GROUP BY producer_id
)
"""


@dataclass(slots=True)
class Accounts:
    """Events of one run: sent, stored, and the difference."""

    produced: dict[str, int] = field(default_factory=dict)
    """Sequence numbers given out, by topic."""
    stored: dict[str, int] = field(default_factory=dict)
    """Distinct identities stored, by topic."""
    gpu_samples: int = 0
    lost: int = 0
    """Given out, neither stored nor a dead letter."""
    duplicated: int = 0
    """Rows beyond one per identity."""
    dead_letters: int = 0


def given(folder: Path, run_id: int | None = None) -> list[Given]:
    """What the runs in a journal folder gave out; of one run when ``run_id`` is given."""
    if not folder.is_dir():
        return []
    return [entry for entry in reading.read(folder) if run_id is None or entry.run_id == run_id]


def by_topic(entries: Iterable[Given]) -> dict[str, int]:
    """Events by topic."""
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[entry.topic] += entry.given
    return dict(sorted(counts.items()))


def acknowledged(journal: Journal, beside: Path) -> dict[str, int]:
    """Events that the broker took, by topic: of an open journal, and of the runs that began after it.

    The journals of those (agents, replays, leases) lie in folders within ``beside``.
    """
    table = np.frombuffer(journal.table, "<i8").reshape(len(journal.producers), len(journal.topics), 2)
    totals = Counter(dict(zip(journal.topics, table[:, :, 1].sum(axis=0).tolist(), strict=True)))
    for folder in {path.parent for path in beside.glob("*/**/*.seq")}:
        for entry in reading.read(folder):
            if entry.run_id > journal.run_id:
                totals[entry.topic] += entry.acknowledged
    return dict(totals)


def close(client: Client, folder: Path, run_id: int) -> Accounts:
    """The accounts of one run, once everything it sent was drained."""
    accounts = Accounts(produced=by_topic(given(folder, run_id)))
    for topic, produced in accounts.produced.items():
        sql = STORED.format(table=KINDS[topic].table)
        rows, distinct = (int(n) for n in client.query(sql, parameters={"run": run_id}).result_rows[0])
        dead = int(client.query(DEAD, parameters={"run": run_id, "topic": topic}).result_rows[0][0])
        accounts.stored[topic] = distinct
        accounts.dead_letters += dead
        accounts.duplicated += rows - distinct
        accounts.lost += max(0, produced - distinct - dead)
    accounts.gpu_samples = int(client.query(SAMPLES, parameters={"run": run_id}).result_rows[0][0])
    return accounts


def recent(client: Client, run_id: int) -> tuple[int, int]:
    """Lost and doubled fast-lane events of the last two minutes."""
    lost, doubled = client.query(RECENT, parameters={"run": run_id}).result_rows[0]
    return int(lost), int(doubled)
