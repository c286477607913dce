"""Rows of a window table beside what they are computed from, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from consumers.audit.report import Finding, Kind
from consumers.projector.store import Store, rows
from consumers.projector.windows import MINUTE_S, Range, Table
from consumers.projector.windows import scope as rows_of

_TOLERANCE = 1e-9
"""Relative: sums of floats depend on the order of adding in their last bits."""


def differences(
    store: Store,
    table: Table,
    window: Range,
    select: str,
    columns: Sequence[str],
    narrowing: str = "",
    origin: str = "events",
) -> Iterator[Finding]:
    """Findings for the rows of ``table`` that are not what ``select`` yields for the windows; at most 100.

    ``columns`` are compared as numbers, each by the sum over its key. ``narrowing`` is more condition on what is
    stored, ``origin`` says in the findings what ``select`` reads: events or minutes.
    """
    key = ", ".join(table.key)
    # One array of all columns, not an expression for each: so the store is not busy with the statement's analysis.
    values = f"[{', '.join(f'ifNull(toFloat64({name}), -1)' for name in columns)}] AS row"
    found = rows(
        store,
        f"""SELECT toString(({key})), toUnixTimestamp(ts), countIf(fresh) AS computed, countIf(NOT fresh) AS stored,
    arrayFilter(
        (name, one, other) -> abs(one - other) > {_TOLERANCE} * greatest(1, abs(one), abs(other)),
        [{", ".join(f"'{name}'" for name in columns)}],
        arrayResize(sumForEachIf(row, fresh), {len(columns)}, 0.0),
        arrayResize(sumForEachIf(row, NOT fresh), {len(columns)}, 0.0)
    ) AS different
FROM
(
    SELECT {key}, {values}, true AS fresh FROM ({select})
    UNION ALL
    SELECT {key}, {values}, false AS fresh FROM gpufleet.{table.name} FINAL WHERE {rows_of(window, narrowing)}
)
GROUP BY {key}
HAVING computed != stored OR notEmpty(different)
ORDER BY {key}
LIMIT 100""",
    )
    for where, start, computed, stored, different in found:
        if computed and stored:
            what = f"{', '.join(different)} not as the {origin} say"
        else:
            what = f"not there, though {origin} are" if computed else f"there, though no {origin[:-1]} is"
        first = int(start) // MINUTE_S * MINUTE_S
        last = first + max(MINUTE_S, table.window_s)
        yield Finding(Kind.WINDOW, table.name, f"window {where}: {what}", count=1, first=first, last=last)
