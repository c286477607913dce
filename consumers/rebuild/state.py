"""How far a rebuild has come, kept in the store beside what it has filled: a rebuild that was killed goes on there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from consumers.projector.store import Store, rows
from consumers.rebuild.tables import quoted

JOB, WINDOWS = "job", "windows"
_SETTINGS = {"async_insert": 0, "insert_deduplicate": 0}


@dataclass(slots=True)
class Job:
    """One rebuild of a table. Times of the range in seconds since 1970, of the store's clock in microseconds."""

    table: str
    beside: str
    """uuid of the table that is filled: with another one there, the positions mean nothing."""
    start: int | None
    """First hour; None = as far back as there is anything."""
    end: int | None
    """End of the last hour; None = open: what arrives is followed."""
    owner: str
    """HOST/PID of the process that works on it."""
    topic_id: str = ""
    began_us: int = 0
    swapping: dict[str, int] = field(default_factory=dict)
    """While a partition is exchanged: offset by log partition from which rows may have to be put back."""
    partition: str = ""
    """The partition of the table that is exchanged."""


@dataclass(slots=True)
class Position:
    """Where reading one partition of the log stands."""

    first: int
    """The log began here when the rebuild did: what was below is gone."""
    next: int
    """Everything below is in the table beside, is no event of the range, or was lost."""
    start: int = 0
    """Where reading began: everything between ``first`` and it was appended before the range."""
    lost: list[tuple[int, int]] = field(default_factory=list)
    """[from, to) that retention took while the rebuild was reading."""
    first_append_us: int = 0
    """When the broker appended the first message that was read; 0 = not known."""


def load_job(store: Store, table: str) -> Job | None:
    """The rebuild of a table that is under way, or was when its process died."""
    found = _load(store, table, f"part = {quoted(JOB)}")
    return Job(**found[JOB]) if found else None


def save_job(store: Store, job: Job) -> None:
    """Remember range and phase."""
    _save(store, job.table, {JOB: asdict(job)})


def load_positions(store: Store, table: str) -> dict[int, Position]:
    """Where reading stands, by partition of the log."""
    found = _load(store, table, "part LIKE 'log/%'")
    positions = {int(part.removeprefix("log/")): Position(**state) for part, state in found.items()}
    for position in positions.values():
        position.lost = [(int(a), int(b)) for a, b in position.lost]
    return positions


def save_positions(store: Store, table: str, positions: Mapping[int, Position]) -> None:
    """Remember where reading stands; nothing of it may be ahead of what the store has acknowledged."""
    if positions:
        _save(store, table, {f"log/{number}": asdict(position) for number, position in positions.items()})


def load_windows(store: Store, table: str) -> dict[str, int] | None:
    """{"start", "next", "end", "opened_us"} of a projection's rebuild; None before its first step."""
    return _load(store, table, f"part = {quoted(WINDOWS)}").get(WINDOWS)


def save_windows(store: Store, table: str, position: Mapping[str, int]) -> None:
    """Remember up to where windows were computed."""
    _save(store, table, {WINDOWS: dict(position)})


def forget(store: Store, table: str) -> None:
    """The rebuild is over."""
    store.command(
        "INSERT INTO gpufleet.rebuild_state (name, part, state, is_deleted)"
        f" SELECT name, part, '', 1 FROM gpufleet.rebuild_state FINAL WHERE name = {quoted(table)}",
        settings=dict(_SETTINGS),
    )


def _load(store: Store, table: str, where: str) -> dict[str, Any]:
    found = rows(
        store, f"SELECT part, state FROM gpufleet.rebuild_state FINAL WHERE name = {quoted(table)} AND {where}"
    )
    return {str(part): json.loads(state) for part, state in found}


def _save(store: Store, table: str, states: Mapping[str, Any]) -> None:
    values = ", ".join(f"({quoted(table)}, {quoted(part)}, {quoted(json.dumps(s))})" for part, s in states.items())
    store.command(f"INSERT INTO gpufleet.rebuild_state (name, part, state) VALUES {values}", settings=dict(_SETTINGS))
