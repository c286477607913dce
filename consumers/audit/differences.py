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
    values = ", ".join(f"toFloat64({name}) AS {name}" for name in columns)
    differ = ", ".join(f"if({_differs(name)}, '{name}', '')" for name in columns)
    found = rows(
        store,
        f"""SELECT toString(({key})), toUnixTimestamp(ts), countIf(fresh) AS computed, countIf(NOT fresh) AS stored,
    arrayFilter(name -> name != '', [{differ}]) AS different
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


def _differs(name: str) -> str:
    one, other = f"sumIf(ifNull({name}, -1), fresh)", f"sumIf(ifNull({name}, -1), NOT fresh)"
    return f"abs({one} - {other}) > {_TOLERANCE} * greatest(1, abs({one}), abs({other}))"
