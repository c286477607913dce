"""Live table against rebuilt table, hour by hour: first by count and checksum, then, where they differ, row by row.

A checksum is a sum of hashes, so the order of rows does not matter and a doubled row shows. Both tables grow while they
are compared, so each row is judged only when the other table must have its like: ``Settled`` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from consumers.projector.store import Store, rows
from consumers.projector.windows import Table, instant, instant64
from consumers.rebuild.tables import BESIDE, HOUR_S, Column, Layout, hour_of, numbers

SUM_ROWS = 5_000_000
"""Rows of one side after which a statement over whole hours takes no further hour."""
SLICE_ROWS = 500_000
"""Rows of one side that one row-by-row statement takes."""
EXAMPLES = 3
TOLERANCE = 1e-9
"""Relative: sums of floats depend on the order of adding in their last bits."""
IDENTITY = ("producer_id", "run_id", "seq")
NOT_COMPARED = {"stored_at", "version", "is_deleted"}
"""When and by which computation a row was written is no part of what it says."""
NOT_COMPARED_OF = {"sick_1m": {"since"}}
"""Since when something holds is as far as was known when the minute was computed."""


@dataclass(slots=True)
class Hour:
    """One hour of both tables."""

    start: int
    """Seconds since 1970."""
    live: int = 0
    rebuilt: int = 0
    live_sum: int = 0
    rebuilt_sum: int = 0
    missing: int = 0
    """Rows that the live table should hold and does not."""
    extra: int = 0
    """Rows that it should not hold."""
    doubled: int = 0
    """Rows beyond one per event."""
    different: int = 0
    """Rows that are there and say something else."""
    columns: list[str] = field(default_factory=list)
    """In which columns they differ."""
    examples: list[str] = field(default_factory=list)
    gone: bool = False
    """The log no longer holds all of its events: not judged, and left as it is."""

    @property
    def differs(self) -> bool:
        return not self.gone and bool(self.missing or self.extra or self.doubled or self.different)

    def to_dict(self) -> dict[str, Any]:
        sums = {"live_sum": f"{self.live_sum:016x}", "rebuilt_sum": f"{self.rebuilt_sum:016x}"}
        return {**asdict(self), **sums, "differs": self.differs}


@dataclass(frozen=True, slots=True)
class Settled:
    """Store times (microseconds) up to which rows are judged."""

    live_us: int
    """What the live table held then, the rebuild has read since."""
    beside_us: int
    """What the rebuild had stored then, the live consumer has stored since."""


@dataclass(frozen=True, slots=True)
class Range:
    """Hours [start, end), seconds since 1970; None = no bound."""

    start: int | None = None
    end: int | None = None

    def sql(self, layout: Layout, start: int | None = None, end: int | None = None) -> str:
        """Condition on ``ts`` for the range, or what of it lies in [start, end)."""
        literal = instant64 if _is_precise(layout) else instant
        low = max((at for at in (self.start, start) if at is not None), default=None)
        high = min((at for at in (self.end, end) if at is not None), default=None)
        given = [
            f"ts >= {literal(low)}" if low is not None else "",
            f"ts < {literal(high)}" if high is not None else "",
        ]
        return " AND ".join(filter(None, given)) or "1"


def events(
    store: Store,
    layout: Layout,
    span: Range,
    settled: Settled,
    gone: Callable[[int], bool] = lambda hour: False,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Hour]:
    """Compare an event table with the one beside it."""
    content = _hash(_compared(layout))
    hours = _sums(store, layout, span, content, "")
    for hour in hours:
        hour.gone = gone(hour.start)
        if not hour.gone and (hour.live, hour.live_sum) != (hour.rebuilt, hour.rebuilt_sum):
            tell(f"comparing {instant(hour.start)[12:25]} row by row")
            for low, high in _slices(hour):
                _events_of(store, layout, hour, span.sql(layout, low, high), content, settled)
            if hour.different:
                hour.columns = _columns(store, layout, hour, span.sql(layout, hour.start, hour.start + HOUR_S))
    return hours


def windows(
    store: Store,
    layout: Layout,
    table: Table,
    span: Range,
    unsettled: Iterable[int] = (),
    gone: Callable[[int], bool] = lambda hour: False,
) -> list[Hour]:
    """Compare a projection with the one beside it; ``unsettled`` windows (their starts) are still to be computed."""
    open_windows = numbers(sorted(unsettled))
    outside = f" AND intDiv(toUnixTimestamp(ts), {table.window_s}) * {table.window_s} NOT IN {open_windows}"
    compared = _compared(layout)
    hours = _sums(store, layout, span, _hash(compared), outside, " FINAL")
    for hour in hours:
        hour.gone = gone(hour.start)
        if not hour.gone and (hour.live, hour.live_sum) != (hour.rebuilt, hour.rebuilt_sum):
            for low, high in _slices(hour):
                _windows_of(store, layout, table, hour, span.sql(layout, low, high) + outside)
    return hours


def _compared(layout: Layout) -> list[Column]:
    left_out = NOT_COMPARED | NOT_COMPARED_OF.get(layout.name, set())
    return [c for c in layout.columns if c.name not in left_out]


def _is_precise(layout: Layout) -> bool:
    return next(c for c in layout.columns if c.name == "ts").type.startswith("DateTime64")


def _value(column: Column) -> str:
    """A column as the hash takes it: NULL would make the whole hash NULL, and floats lose their last bits."""
    if column.floating and column.type.startswith("Nullable("):
        return f"ifNull(toString(toFloat32({column.name})), 'null')"
    if column.type == "Float64":
        return f"toFloat32({column.name})"
    if column.type.startswith("Nullable("):
        return f"ifNull(toString({column.name}), 'null')"
    if column.type.startswith(("Map(", "Array(Nullable")):
        return f"toString({column.name})"
    return column.name


def _hash(columns: Sequence[Column]) -> str:
    return f"cityHash64({', '.join(_value(c) for c in columns)})"


def _sums(store: Store, layout: Layout, span: Range, content: str, more: str, final: str = "") -> list[Hour]:
    """Count and checksum of every hour on both sides, in statements of bounded size."""
    hours: dict[int, Hour] = {}

    def each(select: str, where: str) -> Iterator[tuple[Hour, bool, int]]:
        for name in (layout.name, layout.name + BESIDE):
            for start, value in rows(
                store,
                f"SELECT {hour_of()} AS hour, {select} FROM gpufleet.{name}{final} WHERE {where}{more} GROUP BY hour",
            ):
                yield hours.setdefault(int(start), Hour(int(start))), name == layout.name, int(value)

    for hour, is_live, count in each("count()", span.sql(layout)):
        if is_live:
            hour.live = count
        else:
            hour.rebuilt = count
    found = [hours[start] for start in sorted(hours)]
    for low, high in _batches(found):
        for hour, is_live, total in each(f"sum({content})", span.sql(layout, low, high)):
            if is_live:
                hour.live_sum = total
            else:
                hour.rebuilt_sum = total
    return [hours[start] for start in sorted(hours)]


def _batches(hours: Sequence[Hour]) -> Iterator[tuple[int, int]]:
    """Ranges of hours that hold few enough rows for one statement; an hour is never cut."""
    first, held = None, 0
    for at, hour in enumerate(hours):
        first = hour.start if first is None else first
        held += max(hour.live, hour.rebuilt)
        if held >= SUM_ROWS or at == len(hours) - 1:
            yield first, hour.start + HOUR_S
            first, held = None, 0


def _slices(hour: Hour) -> list[tuple[int, int]]:
    """The hour in minutes that hold few enough rows each."""
    count = max(1, -(-max(hour.live, hour.rebuilt) // SLICE_ROWS))
    step = max(60, HOUR_S // count // 60 * 60)
    end = hour.start + HOUR_S
    return [(at, min(end, at + step)) for at in range(hour.start, end, step)]


def _events_of(store: Store, layout: Layout, hour: Hour, where: str, content: str, settled: Settled) -> None:
    key = f"site, {', '.join(IDENTITY)}, ts"

    def side(name: str, mark: int, until: int) -> str:
        return (
            f"SELECT {key}, {mark} AS live, stored_at <= fromUnixTimestamp64Micro({until}, 'UTC') AS settled,"
            f" {content} AS content FROM gpufleet.{name} WHERE {where}"
        )

    missing, extra = "NOT l AND r_settled", "NOT r AND l_settled"
    different = "l AND r AND (one != other OR one != last)"
    named = f"tuple({', '.join(IDENTITY)})"
    [(lost, more, twice, unlike, *shown)] = rows(
        store,
        f"""SELECT countIf({missing}), countIf({extra}), sum(if(l > 1, l - 1, 0)), countIf({different}),
    {", ".join(f"groupArraySortedIf({EXAMPLES})({named}, {w})" for w in (missing, extra, "l > 1", different))}
FROM
(
    SELECT {key}, countIf(live = 1) AS l, countIf(live = 0) AS r, max(live = 1 AND settled) AS l_settled,
        max(live = 0 AND settled) AS r_settled, minIf(content, live = 1) AS one, maxIf(content, live = 1) AS last,
        anyIf(content, live = 0) AS other
    FROM
    (
        {side(layout.name, 1, settled.live_us)}
        UNION ALL
        {side(layout.name + BESIDE, 0, settled.beside_us)}
    )
    GROUP BY {key}
)""",
    )
    hour.missing += int(lost)
    hour.extra += int(more)
    hour.doubled += int(twice)
    hour.different += int(unlike)
    for what, some in zip(("missing", "extra", "doubled", "different"), shown, strict=True):
        _exemplify(hour, what, [f"{producer} run {run} seq {seq}" for producer, run, seq in some])


def _exemplify(hour: Hour, what: str, some: Iterable[Any]) -> None:
    room = EXAMPLES - sum(e.startswith(what) for e in hour.examples)
    hour.examples += [f"{what}: {one}" for one in list(some)[:room]]


def _columns(store: Store, layout: Layout, hour: Hour, where: str) -> list[str]:
    """In which columns the events named as different differ."""
    wanted = []
    for example in hour.examples:
        what, _, named = example.partition(": ")
        if what == "different":
            head, _, seq = named.rpartition(" seq ")
            producer, _, run = head.rpartition(" run ")
            wanted.append((producer, int(run), int(seq)))
    columns = _compared(layout)
    hashes = ", ".join(f"cityHash64({_value(c)}) AS `{c.name}`" for c in columns if c.name not in (*IDENTITY, "ts"))
    names = [c.name for c in columns if c.name not in (*IDENTITY, "ts")]
    quoted = ", ".join("('" + p.replace("\\", "\\\\").replace("'", "\\'") + f"', {r}, {s})" for p, r, s in wanted)
    differ = ", ".join(f"if(uniqExact(`{n}`) > 1, '{n}', '')" for n in names)
    found = rows(
        store,
        f"""SELECT groupUniqArrayArray(found) FROM
(
    SELECT arrayFilter(n -> n != '', [{differ}]) AS found
    FROM
    (
        SELECT {", ".join(IDENTITY)}, {hashes} FROM gpufleet.{layout.name}
        WHERE {where} AND ({", ".join(IDENTITY)}) IN ({quoted})
        UNION ALL
        SELECT {", ".join(IDENTITY)}, {hashes} FROM gpufleet.{layout.name}{BESIDE}
        WHERE {where} AND ({", ".join(IDENTITY)}) IN ({quoted})
    )
    GROUP BY {", ".join(IDENTITY)}
)""",
    )
    return sorted(str(name) for name in found[0][0])


def _windows_of(store: Store, layout: Layout, table: Table, hour: Hour, where: str) -> None:
    key = ", ".join(table.key)
    values = [c for c in _compared(layout) if c.name not in table.key]
    differ = ", ".join(f"if({_differs(c)}, '{c.name}', '')" for c in values)
    columns = ", ".join((key, *(c.name for c in values)))
    found = rows(
        store,
        f"""SELECT l, r, count(), groupUniqArrayArray(found), groupArraySorted({EXAMPLES})(named) FROM
(
    SELECT countIf(live = 1) > 0 AS l, countIf(live = 0) > 0 AS r,
        if(l AND r, arrayFilter(n -> n != '', [{differ}]), []) AS found, toString(tuple({key})) AS named
    FROM
    (
        SELECT {columns}, 1 AS live FROM gpufleet.{layout.name} FINAL WHERE {where}
        UNION ALL
        SELECT {columns}, 0 AS live FROM gpufleet.{layout.name}{BESIDE} FINAL WHERE {where}
    )
    GROUP BY {key}
    HAVING NOT (l AND r) OR notEmpty(found)
)
GROUP BY l, r""",
    )
    for live, rebuilt, count, unlike, some in found:
        what = "different" if live and rebuilt else "extra" if live else "missing"
        setattr(hour, what, getattr(hour, what) + int(count))
        hour.columns = sorted({*hour.columns, *map(str, unlike)})
        _exemplify(hour, what, some)


def _differs(column: Column) -> str:
    if not column.number:
        one, other = (f"anyIf(cityHash64({_value(column)}), live = {mark})" for mark in (1, 0))
        return f"{one} != {other}"
    value = f"ifNull(toFloat64({column.name}), -1)"
    one, other = f"sumIf({value}, live = 1)", f"sumIf({value}, live = 0)"
    return f"abs({one} - {other}) > {TOLERANCE} * greatest(1, abs({one}), abs({other}))"
