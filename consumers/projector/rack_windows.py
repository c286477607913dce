"""The SQL of the windows per rack and of the fleet: rack_10s from the events, fleet_10s and rack_1m from it."""

from __future__ import annotations

from collections.abc import Sequence

from consumers.projector.measures import ARRAYS, aggregates, neutral, rolled_up
from consumers.projector.windows import SLOT_S, Range, instant64, one_of, scope

# --- grain: site, rack, model, tenant and 10 seconds; the one pass over the events ----------------------------------

_EVENT = "site, rack, gpu_model, tenant, node_id, gpu_index"
_SLOT_US = SLOT_S * 1_000_000


def _sliced() -> str:
    """The arrays, cut to the ticks [lo, hi). Element i of an array is tick i % ticks."""
    inside = "(i - 1) % ticks >= lo AND (i - 1) % ticks < hi"
    cut = "arrayFilter((x, i) -> {1}, cut_from.{0}, arrayEnumerate(cut_from.{0})) AS {0}"
    return ",\n        ".join(cut.format(name, inside) for name in ARRAYS)


def doubled_sql(window: Range, nodes: Sequence[str] | None = None) -> str:
    """Whether an event of the window is stored twice and not merged yet (or two share a hash, which does no harm)."""
    return f"""SELECT count() != uniqExact(cityHash64(site, producer_id, run_id, seq))
FROM gpufleet.node_telemetry
PREWHERE ts >= {instant64(window.start // 60 * 60)} AND ts < {instant64(window.end)}{one_of("node_id", nodes)}"""


def rack_10s_sql(window: Range, nodes: Sequence[str] | None = None, *, final: bool = True) -> str:
    """rack_10s from node_telemetry.

    A tick of up to 10 s counts where it starts. A longer one (back-fill) counts in every 10 seconds it covers, for
    as long as it covers them; the last one of the minute takes what reaches beyond. Seconds are conserved either way.

    Without ``final`` the window must hold no doubles; it saves reading all columns of the rows that PREWHERE drops.
    """
    source = f"""FROM gpufleet.node_telemetry{" FINAL" if final else ""}
        PREWHERE ts >= {instant64(window.start // 60 * 60)} AND ts < {instant64(window.end)} AND flaws = 0
            AND {{which}}"""
    wanted = f"notEmpty(gpu_index){one_of('node_id', nodes)}"
    t0, tick = "toUnixTimestamp64Micro(ts)", "toInt64(interval_ms) * 1000"
    one_slot = f"{tick} <= {_SLOT_US} AND intDiv({t0}, {_SLOT_US}) = intDiv({t0} + (ticks - 1) * {tick}, {_SLOT_US})"
    columns = f"{_EVENT}, ts, interval_ms, ticks, {', '.join(ARRAYS)}"
    return f"""SELECT
    site,
    toDateTime(slot * {SLOT_S}, 'UTC') AS ts,
    rack,
    gpu_model,
    tenant,
    uniqExact(node_id) AS nodes,
    uniqExactArray(arrayMap(g -> cityHash64(node_id, g), gpu_index)) AS gpus,
    {aggregates("    ")}
FROM
(
    -- All ticks lie in one slot: the arrays serve as they are.
    SELECT
        {_EVENT},
        intDiv({t0}, {_SLOT_US}) AS slot,
        interval_ms / 1000 AS w,
        ticks * length(gpu_index) AS started,
        ticks * length(gpu_index) AS covered,
        {", ".join(ARRAYS)}
    {source.format(which=f"ts >= {instant64(window.start)} AND {one_slot}")}
    WHERE {wanted}
    UNION ALL
    -- The rest: one row per slot, or per slot and tick when a tick is longer than a slot.
    SELECT
        {_EVENT},
        slot,
        (if(coarse, piece_to - piece_from, tick) / 1000000) AS w,
        if(coarse AND lo_at < slot * {_SLOT_US}, 0, hi - lo) * length(gpu_index) AS started,
        (hi - lo) * length(gpu_index) AS covered,
        {_sliced()}
    FROM
    (
        SELECT
            {columns},
            {t0} AS t0,
            {tick} AS tick,
            tick > {_SLOT_US} AS coarse,
            intDiv(t0, 60000000) * {60 // SLOT_S} + {60 // SLOT_S - 1} AS last_of_minute,
            -- (first, past) tick of each piece: all ticks for the fine ones, each alone for the coarse ones.
            arrayJoin(if(coarse, arrayMap(i -> (i, i + 1), range(toUInt64(ticks))), [(0, toUInt64(ticks))])) AS run,
            toInt64(run.1) AS run_lo,
            toInt64(run.2) AS run_hi,
            t0 + run_lo * tick AS lo_at,
            t0 + run_hi * tick AS past,
            intDiv(lo_at, {_SLOT_US}) AS first_slot,
            least(intDiv(past - 1, {_SLOT_US}), last_of_minute) AS last_slot,
            toInt64(arrayJoin(range(toUInt64(first_slot), toUInt64(last_slot + 1)))) AS slot,
            if(coarse, run_lo, greatest(0, intDiv(slot * {_SLOT_US} - t0 + tick - 1, tick))) AS lo,
            if(coarse, run_hi, least(ticks, intDiv((slot + 1) * {_SLOT_US} - t0 + tick - 1, tick))) AS hi,
            greatest(slot * {_SLOT_US}, lo_at) AS piece_from,
            if(slot = last_slot, past, (slot + 1) * {_SLOT_US}) AS piece_to
        {source.format(which=f"NOT ({one_slot})")}
        WHERE {wanted}
    ) AS cut_from
    WHERE slot >= {window.start // SLOT_S} AND slot < {window.end // SLOT_S} AND hi > lo
)
GROUP BY site, slot, rack, gpu_model, tenant"""


# --- grain: site, model, tenant and 10 seconds; from rack_10s -------------------------------------------------------


def fleet_10s_sql(window: Range) -> str:
    """fleet_10s from rack_10s. A GPU stands in one rack, so counts add up."""
    return f"""SELECT
    site,
    ts,
    gpu_model,
    tenant,
    sum(nodes) AS nodes,
    sum(gpus) AS gpus,
    {rolled_up("    ")}
FROM gpufleet.rack_10s FINAL
WHERE {scope(window)}
GROUP BY site, ts, gpu_model, tenant"""


# --- grain: site, rack, model, tenant and minute; from rack_10s, energy from gpu_1m ---------------------------------


def rack_1m_sql(window: Range, racks: Sequence[str] | None = None, nodes: Sequence[str] | None = None) -> str:
    """rack_1m from rack_10s, and energy from the minutes of gpu_1m that are there. ``nodes`` holds all of ``racks``."""
    return f"""SELECT
    site,
    minute AS ts,
    rack,
    gpu_model,
    tenant,
    max(nodes) AS nodes,
    max(gpus) AS gpus,
    {rolled_up("    ")},
    sum(energy_j) AS energy_j,
    sum(energy_gpus) AS energy_gpus
FROM
(
    SELECT
        site, toStartOfMinute(ts) AS minute, rack, gpu_model, tenant,
        -- Per slot the racks' rows are one; the most of any slot is the minute's.
        max(nodes) AS nodes, max(gpus) AS gpus,
        {rolled_up("        ")},
        0 AS energy_j,
        0 AS energy_gpus
    FROM gpufleet.rack_10s FINAL
    WHERE {scope(window, one_of("rack", racks))}
    GROUP BY site, minute, rack, gpu_model, tenant
    UNION ALL
    SELECT
        site, ts AS minute, rack, gpu_model, tenant,
        0 AS nodes, 0 AS gpus,
        {neutral("        ")},
        sum(energy_j) AS energy_j,
        uniqExactIf((node_id, gpu_index), energy_last_j >= 0) AS energy_gpus
    FROM gpufleet.gpu_1m FINAL
    WHERE {scope(window, one_of("rack", racks) + one_of("node_id", nodes))}
    GROUP BY site, minute, rack, gpu_model, tenant
)
GROUP BY site, minute, rack, gpu_model, tenant
HAVING samples > 0 OR nodes > 0"""
