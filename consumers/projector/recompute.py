"""Recomputes windows of a range of time: what to run, in which order, in statements of bounded size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from consumers.failpoints import failpoint
from consumers.projector import gpu_windows, health_windows, hours, usage_windows
from consumers.projector.rack_windows import doubled_sql, fleet_10s_sql, rack_1m_sql, rack_10s_sql
from consumers.projector.store import WRITE_SETTINGS, Store, rows, scalar
from consumers.projector.windows import (
    FACILITY_1H,
    FLEET_1H,
    FLEET_10S,
    GPU_1H,
    GPU_1M,
    HEALTH_1H,
    HOUR_S,
    MINUTE_S,
    RACK_1H,
    RACK_1M,
    RACK_10S,
    SICK_1H,
    USAGE_1D,
    USAGE_1H,
    USAGE_1M,
    Range,
    Table,
    covering,
    insert_sql,
    instant64,
    one_of,
    scope,
    tombstones_sql,
    version_sql,
)

log = logging.getLogger(__name__)

Nodes = frozenset[str] | None
"""The nodes a recomputation is about; None = all."""

MAX_NODES = 500
"""More nodes than this are recomputed as the whole fleet: the statement would only grow."""


@dataclass(slots=True)
class Limits:
    """How far a recomputation reaches, and how much one statement takes."""

    energy_lookback_s: int = 86_400
    """How far back the last energy counter before a window is looked for."""
    node_minutes: int = 60_000
    """Nodes times minutes of one statement: bounds the store's memory (about 1 KB per GPU and minute)."""
    max_minutes: int = 240
    statement_timeout_s: int = 40
    """Less than what is left of the projector's claim when a statement begins: three quarters of ``lock_ttl_s``."""
    threads: int = 2
    """Of the store, for one statement."""


@dataclass(slots=True)
class Done:
    """What was written, for logs and metrics."""

    statements: int = 0
    windows: dict[str, int] = field(default_factory=dict)
    """Windows recomputed, by table."""


def narrowed(nodes: Iterable[str] | None) -> Nodes:
    """The nodes as a scope: all of them when they are too many to name."""
    if nodes is None:
        return None
    named = frozenset(nodes)
    return named if len(named) <= MAX_NODES else None


class Recomputer:
    """Runs the statements. ``before`` is called ahead of each and may raise to stop (ownership lost, stop asked)."""

    def __init__(self, store: Store, limits: Limits | None = None, before: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._limits = limits or Limits()
        self._before = before
        self.done = Done()

    def gpu_minutes(self, window: Range, nodes: Nodes) -> dict[int, set[str]]:
        """gpu_1m of whole minutes. Later minutes whose energy counted from these: minute -> nodes, to recompute too."""
        later: dict[int, set[str]] = {}
        for part in self.batches(window, nodes):
            self._gpu_minutes(part, nodes)
        until = window.end + self._limits.energy_lookback_s
        if self._any(GPU_1M, Range(window.end, until)):
            for minute, node in rows(self._store, gpu_windows.stale_energy_sql(window, until, _list(nodes))):
                later.setdefault(int(minute), set()).add(str(node))
        return later

    def energy_again(self, minute: int, nodes: Nodes) -> None:
        """gpu_1m of a minute whose energy has another base now; nothing after it changes."""
        self._gpu_minutes(Range(minute, minute + MINUTE_S), nodes)

    def slots(self, window: Range, nodes: Nodes = None, racks: Sequence[str] | None = None) -> None:
        """rack_10s and fleet_10s of whole 10-second windows. ``nodes`` are all the nodes of ``racks``."""
        for part in self.batches(window, nodes):
            final = self.doubled(part, nodes)
            self.write(RACK_10S, part, rack_10s_sql(part, _list(nodes), final=final), one_of("rack", racks))
            self.write(FLEET_10S, part, fleet_10s_sql(part))

    def rack_minutes(self, window: Range, nodes: Nodes = None, racks: Sequence[str] | None = None) -> None:
        """rack_1m of whole minutes."""
        for part in self.batches(window, nodes):
            self.write(RACK_1M, part, rack_1m_sql(part, racks, _list(nodes)), one_of("rack", racks))

    def hour(self, hour: int, nodes: Nodes) -> None:
        """gpu_1h of one hour, for all or some nodes, and the hour of fleet, racks, health, sick GPUs and facility."""
        window = Range(hour, hour + HOUR_S)
        only = _list(nodes)
        self.write(GPU_1H, window, gpu_windows.gpu_1h_sql(window, only), one_of("node_id", only))
        self.write(FLEET_1H, window, hours.fleet_1h_sql(window))
        self.write(RACK_1H, window, hours.rack_1h_sql(window))
        self.write(HEALTH_1H, window, health_windows.health_1h_sql(window))
        self.write(SICK_1H, window, hours.sick_1h_sql(window))
        self.write(FACILITY_1H, window, hours.facility_1h_sql(window))

    def usage(self, window: Range) -> None:
        """usage_1m, usage_1h and usage_1d of the windows that hold the range."""
        for table in (USAGE_1M, USAGE_1H, USAGE_1D):
            whole = covering(table, window)
            self.write(table, whole, usage_windows.usage_sql(table, whole))

    def racks_of(self, window: Range, nodes: frozenset[str]) -> list[str]:
        """Racks in which the nodes stood in the window, as gpu_1m has it."""
        sql = f"SELECT DISTINCT rack FROM gpufleet.gpu_1m FINAL WHERE {scope(window, one_of('node_id', sorted(nodes)))}"
        return sorted(str(row[0]) for row in rows(self._store, sql))

    def nodes_of(self, window: Range, racks: Sequence[str]) -> set[str]:
        """Nodes that stood in the racks in the window, as gpu_1m has it."""
        sql = f"SELECT DISTINCT node_id FROM gpufleet.gpu_1m FINAL WHERE {scope(window, one_of('rack', racks))}"
        return {str(row[0]) for row in rows(self._store, sql)}

    def batches(self, window: Range, nodes: Nodes) -> Iterator[Range]:
        """The range in parts that one statement may take, oldest first."""
        step = MINUTE_S * self._limits.max_minutes
        if window.end - window.start > MINUTE_S:
            found = len(nodes) if nodes is not None else self._nodes_in(window)
            step = MINUTE_S * max(1, min(self._limits.max_minutes, self._limits.node_minutes // max(1, found)))
        start = window.start
        while start < window.end:
            end = min(window.end, start // MINUTE_S * MINUTE_S + step)
            yield Range(start, end)
            start = end

    def _nodes_in(self, window: Range) -> int:
        span = f"ts >= {instant64(window.start)} AND ts < {instant64(window.end)}"
        return int(scalar(self._store, f"SELECT uniq(node_id) FROM gpufleet.node_telemetry WHERE {span}"))

    def _gpu_minutes(self, window: Range, nodes: Nodes) -> None:
        only = _list(nodes)
        final = self.doubled(window, nodes)
        sql = gpu_windows.gpu_1m_sql(window, window.start - MINUTE_S, only, final=final)
        self.write(GPU_1M, window, sql, one_of("node_id", only))
        # Counters without one in the minute before: their base may lie further back.
        alone = {str(row[0]) for row in rows(self._store, gpu_windows.without_base_sql(window, only))}
        deep = window.start - self._limits.energy_lookback_s
        before = Range(deep, window.start - MINUTE_S)
        if alone and self._any(GPU_1M, before, one_of("node_id", _list(narrowed(alone)))):
            again = narrowed(alone) if len(alone) <= MAX_NODES else nodes
            only = _list(again)
            sql = gpu_windows.gpu_1m_sql(window, deep, only, final=final)
            self.write(GPU_1M, window, sql, one_of("node_id", only))

    def doubled(self, window: Range, nodes: Nodes) -> bool:
        """Whether doubles must be merged while reading. One that comes later brings its own ledger row."""
        return bool(scalar(self._store, doubled_sql(window, _list(nodes))))

    def _any(self, table: Table, window: Range, narrowing: str = "") -> bool:
        return bool(rows(self._store, f"SELECT 1 FROM gpufleet.{table.name} WHERE {scope(window, narrowing)} LIMIT 1"))

    def write(self, table: Table, window: Range, select: str, narrowing: str = "") -> None:
        """Replace the windows of a range (of those that ``narrowing`` holds) with what ``select`` yields."""
        self._before()
        version = int(scalar(self._store, version_sql([table], window)))
        self._run(insert_sql(table, select, version))
        failpoint("window inserted")
        self._run(tombstones_sql(table, window, version, narrowing))
        failpoint("window written")
        count = (window.end - window.start) // table.window_s
        self.done.windows[table.name] = self.done.windows.get(table.name, 0) + count

    def _run(self, sql: str) -> None:
        self._before()
        settings = {**WRITE_SETTINGS, "max_execution_time": self._limits.statement_timeout_s}
        settings["max_threads"] = self._limits.threads
        self._store.command(sql, settings=settings)
        self.done.statements += 1


def _list(nodes: Nodes) -> list[str] | None:
    return None if nodes is None else sorted(nodes)


def runs(minutes: Mapping[int, Nodes]) -> Iterator[tuple[Range, Nodes]]:
    """Neighbouring minutes of the same scope as one range, oldest first."""
    start = end = None
    held: Nodes = None
    for minute in sorted(minutes):
        nodes = minutes[minute]
        if start is not None and end == minute and nodes == held:
            end = minute + MINUTE_S
            continue
        if start is not None and end is not None:
            yield Range(start, end), held
        start, end, held = minute, minute + MINUTE_S, nodes
    if start is not None and end is not None:
        yield Range(start, end), held
