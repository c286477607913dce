"""Thinning the fast lane: ticks of 1 s become ticks of 10 s, with sound identities and no second counted twice.

A run of events that follow each other without a gap (same producer, run and shape, consecutive sequence numbers,
consecutive ticks, one UTC minute) becomes one event. Of every ``interval_ms`` the first tick survives, as it was read,
and from then on stands for the whole interval. The new event takes sequence number and time of the event whose first
tick survives first, so that within a run sequence numbers still grow with time; the other numbers are accounted for.

Only whole intervals on the wall clock's grid are thinned. What lies ahead of the first one and behind the last one of
such a run stays as it is: 57 s of readings never become six ticks that claim 60.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fastavro

from producers.encode import Message
from producers.spool.record import MOST_MERGED, Record
from schemas import catalogue, framing, identity
from schemas.catalogue import Schema
from schemas.identity import Identity

TOPIC = "node-telemetry"
MINUTE_US = 60_000_000
SchemaOf = Callable[[bytes], Schema | None]
"""The schema behind a framed value; None when it is not known, and the event must stay as it is."""


@dataclass(slots=True)
class Thinned:
    """What a pass made of some records."""

    records: list[Record]
    """What stays, in order."""
    gone: dict[tuple[str, int], list[int]]
    """(producer_id, run_id) -> sequence numbers that are no longer there, each a part of a kept event."""
    kept: dict[tuple[str, int], int]
    """(producer_id, run_id) -> events that were made of several."""
    span_us: dict[tuple[str, int], tuple[int, int]]
    """(producer_id, run_id) -> event times of the first and the last event that went in."""


def schema_of(ids: Mapping[str, int]) -> SchemaOf:
    """Looks schemas up as the encoder names them: ``ids`` of a registry by topic, else the catalogue's."""
    if ids.get(TOPIC):
        newest = catalogue.latest(TOPIC)
        known = {ids[TOPIC]: newest}
    else:
        known = {schema.id: schema for schema in catalogue.versions(TOPIC)}

    def find(value: bytes) -> Schema | None:
        return known.get(framing.schema_id(value))

    return find


def thin(records: Sequence[Record], interval_ms: int, untouched: Callable[[Record], bool], schema: SchemaOf) -> Thinned:
    """Thin what may be thinned. ``untouched`` says that nobody can have seen a record: only such ones change."""
    result = Thinned([], {}, {}, {})
    open_runs: dict[tuple[str, int], list[_Event]] = {}
    merged: dict[int, Record | None] = {}
    """Ordinal -> what it became; None = part of another."""

    def close(key: tuple[str, int]) -> None:
        events = open_runs.pop(key, [])
        chosen = _whole_intervals(events, interval_ms)
        if sum(event.record.merged + 1 for event in chosen) > MOST_MERGED:
            return  # more than one event a second: not what thinning is for
        if len(chosen) < 2 and not (chosen and chosen[0].ticks > _ticks_kept(chosen, interval_ms)):
            return
        new = _merge(chosen, interval_ms)
        for event in chosen:
            merged[event.record.ordinal] = None
            if event.who.seq != identity.unpack(new.message.header).seq:
                result.gone.setdefault(key, []).append(event.who.seq)
        merged[new.ordinal] = new
        result.kept[key] = result.kept.get(key, 0) + 1
        first, last = result.span_us.get(key, (chosen[0].who.ts, 0))
        result.span_us[key] = (min(first, chosen[0].who.ts), max(last, chosen[-1].end_us))

    for record in records:
        if record.message.topic != TOPIC:
            continue
        who = identity.unpack(record.message.header)
        key = (who.producer_id, who.run_id)
        event = _decode(record, who, interval_ms, schema) if untouched(record) else None
        before = open_runs.get(key)
        if before and (event is None or not event.follows(before[-1])):
            close(key)
        if event is not None:
            open_runs.setdefault(key, []).append(event)
    for key in list(open_runs):
        close(key)
    for record in records:
        became = merged.get(record.ordinal, record)
        if became is not None:
            result.records.append(became)
    return result


@dataclass(slots=True)
class _Event:
    """A fast-lane event that can be thinned."""

    record: Record
    who: Identity
    fields: dict[str, Any]
    schema: Schema
    shape: tuple[Any, ...]

    @property
    def ticks(self) -> int:
        return int(self.fields["ticks"])

    @property
    def tick_us(self) -> int:
        return int(self.fields["interval_ms"]) * 1000

    @property
    def end_us(self) -> int:
        """Event time after its last tick."""
        return self.who.ts + self.ticks * self.tick_us

    def follows(self, other: _Event) -> bool:
        return (
            self.who.seq == other.who.seq + 1
            and self.who.ts == other.end_us
            and self.who.ts // MINUTE_US == other.who.ts // MINUTE_US
            and self.shape == other.shape
        )


def _decode(record: Record, who: Identity, interval_ms: int, schema_of_value: SchemaOf) -> _Event | None:
    """The event, unless it is of an unknown schema, coarse already, or odd."""
    value = record.message.value
    schema = schema_of_value(value)
    if schema is None:
        return None
    datum = io.BytesIO(value)
    datum.seek(framing.PREFIX_BYTES)
    try:
        fields: Any = fastavro.schemaless_reader(datum, schema.parsed, None)
    except (ValueError, EOFError, IndexError, TypeError, KeyError):
        return None  # not what its schema says: for the consumer to judge
    tick_ms, ticks = fields["interval_ms"], fields["ticks"]
    if tick_ms < 1 or tick_ms >= interval_ms or interval_ms % tick_ms or ticks < 1:
        return None
    gpus = len(fields["gpu_index"])
    lengths = []
    for field in schema.fields:
        shape = field.get("shape")
        if shape in ("gpu_tick", "tick"):
            size = len(fields[field["name"]])
            whole = ticks * (gpus if shape == "gpu_tick" else 1)
            if size not in (0, whole) and not (shape == "tick" and size == 1):
                return None
            lengths.append(0 if size == 0 else 1 if size == whole else 2)
    same = (
        value[: framing.PREFIX_BYTES],
        record.message.key,
        tick_ms,
        tuple(lengths),
        *(_hashable(fields[name]) for name in _ALIKE),
    )
    return _Event(record, who, fields, schema, same)


_ALIKE = ("site", "node_id", "rack", "host_boot_id", "gpu_model", "gpu_index", "gpu_uuid", "driver_epoch")
"""Fields of an event that hold for all of its ticks."""


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _whole_intervals(events: list[_Event], interval_ms: int) -> list[_Event]:
    """The events from the first that starts on the grid to the last that ends on it."""
    grid = interval_ms * 1000
    start = next((i for i, event in enumerate(events) if event.who.ts % grid == 0), len(events))
    end = next((i for i in range(len(events), start, -1) if events[i - 1].end_us % grid == 0), start)
    return events[start:end]


def _ticks_kept(events: list[_Event], interval_ms: int) -> int:
    return (events[-1].end_us - events[0].who.ts) // (interval_ms * 1000)


def _merge(events: list[_Event], interval_ms: int) -> Record:
    """One event of the first tick of every interval."""
    first, last = events[0], events[-1]
    step = interval_ms * 1000 // first.tick_us
    gpus = len(first.fields["gpu_index"])
    fields = dict(first.fields)
    fields["interval_ms"], fields["ticks"] = interval_ms, _ticks_kept(events, interval_ms)
    for field in first.schema.fields:
        name, shape = field["name"], field.get("shape")
        if shape == "gpu_tick" and first.fields[name]:
            fields[name] = [value for gpu in range(gpus) for value in _series(events, name, gpu)[::step]]
        elif shape == "tick" and first.fields[name]:
            fields[name] = _series(events, name, 0)[::step]
    fields["clock_offset_s"], fields["clock_synced"] = _clock(events), last.fields["clock_synced"]
    who = first.who._replace(ticks=fields["ticks"])
    message = first.record.message
    value = io.BytesIO()
    value.write(message.value[: framing.PREFIX_BYTES])
    fastavro.schemaless_writer(value, first.schema.parsed, fields)
    new = Message(message.topic, message.key, value.getvalue(), identity.pack(who), message.row)
    merged = sum(event.record.merged + 1 for event in events) - 1
    return Record(first.record.ordinal, first.record.offered, new, merged)


def _series(events: list[_Event], name: str, place: int) -> list[Any]:
    """One GPU's values (or the node's), tick after tick over all events. A broadcast value counts for every tick."""
    values: list[Any] = []
    for event in events:
        array = event.fields[name]
        if len(array) == 1 and event.ticks > 1:
            values += array * event.ticks
        else:
            values += array[place * event.ticks : (place + 1) * event.ticks]
    return values


def _clock(events: list[_Event]) -> float:
    """The newest clock offset that is known."""
    known = [event.fields["clock_offset_s"] for event in events if math.isfinite(event.fields["clock_offset_s"])]
    return float(known[-1]) if known else math.nan


def flattened(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Sorted numbers as ranges, both ends inclusive."""
    start = previous = None
    for number in numbers:
        if start is not None and previous is not None and number == previous + 1:
            previous = number
            continue
        if start is not None and previous is not None:
            yield start, previous
        start = previous = number
    if start is not None and previous is not None:
        yield start, previous
