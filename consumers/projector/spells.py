"""What holds for a time: which GPUs are under a fault, out of service or opted out in a range of minutes.

The views gpu_fault_periods, gpu_lifecycle and agent_opt_outs say what each of these means. Asked for a whole fleet they
derive every node's history anew, and planning them inside a larger statement alone takes half a second; so they are
read here once per range, for the nodes that can matter, and handed to the statements as values: few GPUs are sick at
a time. A test keeps the outcome equal to the views'.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from consumers.projector.store import Store, rows
from consumers.projector.windows import MINUTE_S, Range, instant64, one_of

IN_SERVICE = ("accepted", "leased", "draining")
_US = 1_000_000


class Stretch(NamedTuple):
    """A GPU from ``start`` to ``end`` (exclusive), microseconds since 1970."""

    site: str
    node_id: str
    gpu_index: int
    start: int
    end: int


class Fault(NamedTuple):
    """A fault over one GPU of its blast radius."""

    where: Stretch
    fault: str
    action: str
    scope: str
    origin: str


@dataclass(frozen=True, slots=True)
class Spells:
    """What holds in a range of minutes."""

    faults: tuple[Fault, ...] = ()
    absent: tuple[Stretch, ...] = ()
    """Not in service."""
    opted: tuple[Stretch, ...] = ()
    """The agent switched off by a tenant who may."""

    def faulty(self) -> list[Stretch]:
        """Stretches under a fault that do not overlap: time under two faults counts once."""
        by_gpu: dict[tuple[str, str, int], list[Stretch]] = defaultdict(list)
        for fault in self.faults:
            by_gpu[fault.where[:3]].append(fault.where)
        found = []
        for stretches in by_gpu.values():
            past = 0
            for stretch in sorted(stretches):
                if stretch.end > past:
                    found.append(stretch._replace(start=max(stretch.start, past)))
                    past = stretch.end
        return found

    def within(self, window: Range, nodes: Collection[str] | None = None) -> Spells:
        """What of it touches a range, for some nodes or all."""
        begin, end = window.start * _US, window.end * _US

        def here(stretch: Stretch) -> bool:
            return stretch.start < end and stretch.end > begin and (nodes is None or stretch.node_id in nodes)

        return Spells(
            tuple(f for f in self.faults if here(f.where)),
            tuple(filter(here, self.absent)),
            tuple(filter(here, self.opted)),
        )


def load(store: Store, window: Range, nodes: Sequence[str] | None = None) -> Spells:
    """Read what holds in the range, for some nodes or all."""
    only = one_of("node_id", nodes)
    faults = tuple(
        Fault(_stretch(row), str(row[5]), str(row[6]), str(row[7]), str(row[8]))
        for row in rows(store, _faults_sql(window, only))
    )
    suspects = sorted({str(row[0]) for row in rows(store, _suspects_sql(window, only))})
    absent = rows(store, _out_of_service_sql(window, suspects)) if suspects else []
    opted = rows(store, _opt_outs_sql(window, only))
    return Spells(faults, tuple(map(_stretch, absent)), tuple(map(_stretch, opted)))


def values_sql(kinds: Sequence[tuple[int, Iterable[Stretch]]]) -> str:
    """Stretches as a table (site, node_id, gpu_index, kind, start, end); an empty one for none."""
    found = [
        f"({_quoted(s.site)},{_quoted(s.node_id)},{s.gpu_index},{kind},{s.start},{s.end})"
        for kind, stretches in kinds
        for s in stretches
    ]
    return _table("site String, node_id String, gpu_index Int32, kind UInt8, start Int64, end Int64", found)


def faults_values_sql(faults: Iterable[Fault]) -> str:
    """Faults as a table (site, node_id, gpu_index, start, end, fault, action, scope, origin)."""
    found = [
        f"({_quoted(f.where.site)},{_quoted(f.where.node_id)},{f.where.gpu_index},{f.where.start},{f.where.end},"
        f"{_quoted(f.fault)},{_quoted(f.action)},{_quoted(f.scope)},{_quoted(f.origin)})"
        for f in faults
    ]
    shape = "site String, node_id String, gpu_index Int32, start Int64, end Int64, fault String, action String"
    return _table(f"{shape}, scope String, origin String", found)


def minutes_sql(window: Range) -> str:
    """The minutes of the range that the row's [start, end) touches, as an array of DateTime."""
    first = f"greatest(toInt64({window.start}), intDiv(start, {MINUTE_S * _US}) * {MINUTE_S})"
    last = f"least(toInt64({window.end}), intDiv(end + {_US - 1}, {_US}))"
    return f"arrayMap(m -> toDateTime(m, 'UTC'), range({first}, greatest({first}, {last}), {MINUTE_S}))"


def seconds_sql() -> str:
    """Seconds of the minute ``ts`` that lie in the row's [start, end)."""
    begin = f"toInt64(toUnixTimestamp(ts)) * {_US}"
    return f"(least({begin} + {MINUTE_S * _US}, end) - greatest({begin}, start)) / {_US}"


def _table(shape: str, found: Sequence[str]) -> str:
    return f"values({_quoted(shape)}, {','.join(found)})" if found else f"null({_quoted(shape)})"


def _stretch(row: Sequence[object]) -> Stretch:
    return Stretch(str(row[0]), str(row[1]), int(str(row[2])), int(str(row[3])), int(str(row[4])))


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _overlapping(window: Range) -> str:
    return f"valid_from < {instant64(window.end)} AND valid_to > {instant64(window.start)}"


_STRETCH = "toUnixTimestamp64Micro(valid_from), toUnixTimestamp64Micro(valid_to)"


def _faults_sql(window: Range, only: str) -> str:
    """Each GPU that a fault of the range hits, its own or by its blast radius (by the newest inventory)."""
    return f"""SELECT site, target.1 AS node_id, target.2, {_STRETCH}, fault, action, scope, origin
FROM
(
    SELECT
        f.site AS site, f.opened_at AS valid_from, f.cleared_at AS valid_to, toString(f.fault) AS fault,
        toString(f.action) AS action, toString(f.scope) AS scope, f.node_id AS origin,
        arrayJoin(multiIf(
            f.scope = 'gpu', [tuple(f.node_id, assumeNotNull(f.gpu_index))],
            f.scope = 'node', n.gpus,
            d.gpus)) AS target
    FROM
    (
        SELECT * FROM gpufleet.gpu_faults
        WHERE opened_at < {instant64(window.end)} AND cleared_at > {instant64(window.start)}
    ) AS f
    LEFT JOIN
    (
        SELECT site, node_id, nvlink_domain, arrayMap(i -> tuple(node_id, i), gpu_index) AS gpus
        FROM gpufleet.node_place FINAL
    ) AS n ON n.site = f.site AND n.node_id = f.node_id
    LEFT JOIN
    (
        SELECT site, nvlink_domain, groupArrayArray(arrayMap(i -> tuple(node_id, i), gpu_index)) AS gpus
        FROM gpufleet.node_place FINAL GROUP BY site, nvlink_domain
    ) AS d ON d.site = n.site AND d.nvlink_domain = n.nvlink_domain AND f.scope = 'nvlink_domain'
)
WHERE 1{only}"""


_IN_SERVICE = "('accepted', 'leased', 'draining')"
_WORDS = "flaws = 0 AND event IN ('lifecycle', 'maintenance_begin', 'maintenance_end')"


def _suspects_sql(window: Range, only: str) -> str:
    """Nodes that can be out of service in the range: the last word that took one out came after the last one that put
    all of it back in service."""
    until, start = instant64(window.end), instant64(window.start)
    never = "toDateTime64(0, 6, 'UTC')"
    bad = f"event = 'maintenance_begin' OR event = 'lifecycle' AND value NOT IN ('', {_IN_SERVICE[1:]}"
    good = f"event = 'lifecycle' AND value IN {_IN_SERVICE} AND isNull(gpu_index) AND ts < {start}"
    return f"""SELECT node_id FROM
(
    SELECT site, node_id, maxIf(ts, {bad}) AS worst, maxIf(ts, {good}) AS best
    FROM gpufleet.node_events WHERE {_WORDS} AND ts < {until}{only} GROUP BY site, node_id
    UNION ALL
    SELECT site, node_id, max(ts) AS worst, {never} AS best
    FROM gpufleet.inventory
    WHERE flaws = 0 AND lifecycle NOT IN ('', {_IN_SERVICE[1:]} AND ts < {until}{only}
    GROUP BY site, node_id
)
GROUP BY site, node_id
HAVING max(worst) > {never} AND max(worst) >= max(best)"""


def _out_of_service_sql(window: Range, suspects: Sequence[str]) -> str:
    """gpu_lifecycle of some nodes, without what is in service."""
    among = f"flaws = 0{one_of('node_id', suspects)}"
    return f"""SELECT site, node_id, gpu_index, {_STRETCH}
FROM
(
    SELECT site, node_id, gpu_index, stretch.1 AS valid_from, stretch.2 AS valid_to, stretch.3 AS state
    FROM
    (
        SELECT
            g.site AS site, g.node_id AS node_id, g.gpu_index AS gpu_index,
            arraySort(arrayFilter(w -> w.3 IN (-1, g.gpu_index), n.words)) AS heard,
            arrayMap(w -> w.4, heard) AS states,
            arrayMap(w -> w.1, heard) AS starts,
            arrayPushBack(arrayPopFront(starts), toDateTime64('2299-01-01 00:00:00', 6, 'UTC')) AS ends,
            -- An end of maintenance brings back the last state before it; one never told of counts as accepted.
            arrayMap((s, i) -> if(s != '', s, coalesce(
                nullIf(arrayLast(x -> x NOT IN ('', 'maintenance'), arraySlice(states, 1, i - 1)), ''),
                'accepted')), states, arrayEnumerate(states)) AS lived,
            arrayJoin(arrayZip(starts, ends, lived)) AS stretch
        FROM
        (
            SELECT DISTINCT site, node_id, arrayJoin(gpu_index) AS gpu_index
            FROM gpufleet.inventory WHERE asset_kind = 'node' AND {among}
        ) AS g
        INNER JOIN
        (
            SELECT site, node_id, groupArray(tuple(ts, rank, gpu, state)) AS words
            FROM
            (
                SELECT site, node_id, -1 AS gpu, ts, 1 AS rank, state
                FROM
                (
                    -- The inventory's word of a minute is the last one in it; a restatement is none.
                    SELECT site, node_id, ts, state, lagInFrame(state, 1, '') OVER (
                        PARTITION BY site, node_id ORDER BY ts
                        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS before
                    FROM
                    (
                        SELECT site, node_id, toDateTime64(toStartOfMinute(i.ts), 6, 'UTC') AS ts,
                            argMax(toString(i.lifecycle), tuple(i.ts, i.run_id, i.seq)) AS state
                        FROM gpufleet.inventory AS i WHERE {among}
                        GROUP BY site, node_id, ts
                    )
                )
                WHERE state != before
                UNION ALL
                SELECT
                    site, node_id, ifNull(gpu_index, -1) AS gpu, ts, 2 AS rank,
                    multiIf(event = 'maintenance_begin', 'maintenance', event = 'maintenance_end', '',
                        toString(value)) AS state
                FROM gpufleet.node_events WHERE {_WORDS} AND {among}
            )
            GROUP BY site, node_id
        ) AS n ON n.site = g.site AND n.node_id = g.node_id
        WHERE notEmpty(heard)
    )
)
WHERE state NOT IN {_IN_SERVICE} AND valid_to > valid_from AND {_overlapping(window)}"""


def _opt_outs_sql(window: Range, only: str) -> str:
    """Stretches in which a node's agent was off, for every GPU that the node ever had."""
    return f"""SELECT o.site, o.node_id, arrayJoin(i.gpus) AS gpu_index, {_STRETCH}
FROM
(
    SELECT * FROM gpufleet.agent_opt_outs WHERE {_overlapping(window)}{only}
) AS o
INNER JOIN
(
    SELECT site, node_id, groupUniqArrayArray(gpu_index) AS gpus
    FROM gpufleet.inventory WHERE flaws = 0 AND asset_kind = 'node'{only} GROUP BY site, node_id
) AS i ON i.site = o.site AND i.node_id = o.node_id"""
