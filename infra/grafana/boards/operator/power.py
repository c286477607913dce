"""Power and cooling: feed -> PDU -> rack, and the coolant that carries it away."""

from __future__ import annotations

from typing import Final

from infra.grafana import colours, links, marks, thresholds, units, variables
from infra.grafana.board import Board, Row
from infra.grafana.boards.ids import Fleet, Power
from infra.grafana.boards.operator import coolant
from infra.grafana.panels import HIDDEN, Column, Panel, bargauge, stat, table, timeseries
from infra.grafana.query import FACILITY, FLEET, HEALTH, Windows, last, only, recent, share
from infra.grafana.target import OPERATOR

SCOPE: Final = only("site")
_NOT_OK: Final = Windows("facility_1m", 60, "facility_1h", 6)
"""For a list of all assets that were not ok: their minutes are many."""


def board() -> Board:
    return Board(
        uid=Power.UID,
        title="Power and cooling",
        description="From the feed by PDU and rack to the GPU, and the coolant back: load, headroom, trips, leaks.",
        datasource=OPERATOR,
        variables=(variables.SITE, variables.FEED),
        annotations=(marks.MAINTENANCE, _trips()),
        links=(links.board("Fleet", Fleet.UID, {"site": links.variable("site")}),),
        time_from="now-6h",
        rows=(
            Row("", _now()),
            Row("Site and feeds", (_site(), _feed_load(), _feeds())),
            Row("Racks and PDUs", (_pdus(), _racks())),
            Row("Coolant", (_cdus(), coolant.temperatures(_ids("cdu")), coolant.flow(_ids("cdu")))),
            Row("What the power is for", (_by_model(), _energy(), _states())),
        ),
    )


def _kind(kind: str) -> str:
    return f"asset_kind = '{kind}' AND {SCOPE}"


def _newest(kind: str) -> str:
    return f"FROM gpufleet.facility_1m FINAL\nWHERE {recent('facility_1m', where=_kind(kind))} AND {_kind(kind)}"


def _newest_ids(which: str) -> str:
    return f"SELECT asset_id FROM gpufleet.facility_1m WHERE ts > $__toTime - 7200 AND ts <= $__toTime AND {which}"


def _ids(kind: str) -> str:
    """Assets of a kind: read by id, which is what the table is ordered by."""
    return f"{_kind(kind)} AND asset_id IN ({_newest_ids(_kind(kind))})"


def _trips() -> marks.Annotation:
    return marks.Annotation(
        "Trips and leaks",
        colours.BAD,
        f"""SELECT time, concat(asset, ' ', state) AS title, concat('fed by ', parent) AS text, state AS tags
FROM
(
    SELECT ts AS time, toString(asset_id) AS asset, toString(parent_id) AS parent, toString(state) AS state,
        lagInFrame(toString(state), 1, 'ok') OVER (PARTITION BY site, asset_id ORDER BY ts
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before
    FROM gpufleet.facility_1m FINAL
    WHERE {last(24)} AND asset_id IN ({_newest_ids("asset_kind IN ('feed', 'cdu')")}) AND {SCOPE}
)
WHERE state != before AND state IN ('tripped', 'leak')
ORDER BY time LIMIT 100""",
    )


def _now() -> tuple[Panel, ...]:
    return (
        stat(
            Power.SITE_POWER,
            "Site power",
            f'SELECT sum(power_w_avg) AS "Power"\n{_newest("site")}\nHAVING count() > 0',
            unit=units.of("facility-telemetry", "power_w"),
            decimals=1,
            means="Power at the site's meter, mean of the newest minute.",
            do="Compare with the GPUs' own: the rest is hosts, network, cooling and losses.",
        ),
        stat(
            Power.SITE_HEADROOM,
            "Headroom",
            f"""SELECT {share("sum(power_cap_w) - sum(power_w_avg)", "sum(power_cap_w)")} AS "Headroom"
{_newest("site")}
HAVING count() > 0""",
            unit=units.RATIO,
            decimals=1,
            steps=thresholds.HEADROOM_SHARE,
            means="What is left of the power that the site may draw.",
            do="Below 3 %: no new jobs, lower power limits of the least urgent; ask the utility before it asks you.",
        ),
        stat(
            Power.FEEDS_DOWN,
            "Feeds not ok",
            f"SELECT countIf(state != 'ok') AS \"Feeds\"\n{_newest('feed')}\nHAVING count() > 0",
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_BAD,
            means="Feeds whose worst state in the newest minute was not ok.",
            do="Tripped: everything below is one incident; the table Feeds says how many racks and GPUs.",
        ),
        stat(
            Power.LEAKS,
            "Loops with trouble",
            f"SELECT countIf(state != 'ok' OR ifNull(leak, false)) AS \"Loops\"\n{_newest('cdu')}\nHAVING count() > 0",
            unit=units.WHOLE,
            steps=thresholds.ANY_IS_BAD,
            means="Coolant distribution units with a leak or a state other than ok in the newest minute.",
            do="Leak: stop the pump, drain its racks' jobs, send somebody; water and 132 kW racks do not wait.",
        ),
        stat(
            Power.HOTTEST_SUPPLY,
            "Warmest supply",
            f'SELECT max(supply_temp_c_max) AS "Supply"\n{_newest("cdu")}\nHAVING count() > 0',
            unit=units.of("facility-telemetry", "supply_temp_c"),
            decimals=1,
            steps=thresholds.SUPPLY_TEMPERATURE,
            means="Highest supply temperature of any coolant loop in the newest minute.",
            do="One loop: its heat exchanger or pump. All: the plant.",
        ),
        stat(
            Power.COMPLETENESS,
            "Assets that report",
            f"""SELECT {share("now_", "seen")} AS "Report"
FROM (SELECT uniqExact(site, asset_id) AS now_ FROM gpufleet.facility_1m FINAL
    WHERE {recent("facility_1m", where=SCOPE)} AND {SCOPE}) AS n,
    (SELECT uniqExact(site, asset_id) AS seen FROM gpufleet.facility_1m FINAL
    WHERE ts > $__toTime - 86400 AND ts <= $__toTime AND toStartOfHour(ts) = ts AND {SCOPE}) AS d""",
            unit=units.RATIO,
            decimals=1,
            steps=thresholds.COMPLETENESS,
            means="Assets heard in the newest minute, of those heard on any full hour of the day before. A meter "
            "that is silent is not at zero watts.",
            do="A missing feed or CDU is watched by nobody: restore its readings before trusting the sums here.",
        ),
    )


def _site() -> Panel:
    facility = f"""SELECT {FACILITY.time},
    sum(power_w_avg) / uniqExact(ts) AS "site", sum(power_cap_w) / uniqExact(ts) AS "cap"
FROM {FACILITY.rows("power_w_avg, power_cap_w", _ids("site"))}
GROUP BY time
{FACILITY.gaps}"""
    return timeseries(
        Power.SITE,
        "Site power against cap",
        facility,
        unit=units.WATT,
        colours={"site": colours.NEUTRAL, "cap": colours.BAD},
        dashed=("cap",),
        means="The site's meter against what it may draw.",
        do="A cliff: a trip, see the annotations. A saw-tooth of seconds inside the minute: synchronous training jobs.",
    )


def _feed_load() -> Panel:
    sql = FACILITY.by_series(f"""SELECT {FACILITY.time}, toString(asset_id) AS series,
    {share("sum(power_w_avg)", "sum(power_cap_w)")} AS "Value"
FROM {FACILITY.rows("asset_id, power_w_avg, power_cap_w", _ids("feed"))}
GROUP BY time, series""")
    return timeseries(
        Power.FEED_LOAD,
        "Load of feeds",
        sql,
        unit=units.RATIO,
        steps=thresholds.FEED_SHARE,
        means="Power of each feed over what it may carry.",
        do="One at zero and another risen: a trip that was taken over; mind the one that carries both.",
    )


def _feeds() -> Panel:
    sql = f"""SELECT f.site AS site, f.asset_id AS feed, f.state AS state, f.power_w_avg AS power, f.power_cap_w AS cap,
    {share("f.power_w_avg", "f.power_cap_w")} AS load, h.racks AS racks, h.gpus AS gpus, h.silent AS silent
FROM
(
    SELECT site, toString(asset_id) AS asset_id, toString(state) AS state, power_w_avg, power_cap_w
    {_newest("feed")}
) AS f
LEFT JOIN
(
    SELECT site, toString(feed) AS feed, uniqExact(rack) AS racks, sum(gpus) AS gpus, sum(gpus_unknown) AS silent
    FROM gpufleet.health_1m FINAL
    WHERE {recent("health_1m", where=SCOPE)} AND {SCOPE}
    GROUP BY site, feed
) AS h ON h.site = f.site AND h.feed = f.asset_id
ORDER BY state = 'ok', load DESC LIMIT 100"""
    return table(
        Power.FEEDS,
        "Feeds",
        sql,
        {
            "site": HIDDEN,
            "feed": Column("Feed", links=(_here("feed", "Its racks"),)),
            "state": Column("State", width=90, colours={"ok": colours.GOOD, "tripped": colours.BAD}),
            "power": Column("Power", units.WATT, 1),
            "cap": Column("May carry", units.WATT, 1),
            "load": Column("Load", units.RATIO, 0, steps=thresholds.FEED_SHARE),
            "racks": Column("Racks"),
            "gpus": Column("GPUs"),
            "silent": Column("Silent GPUs", steps=thresholds.ANY_IS_NOTICE),
        },
        width=24,
        height=6,
        means="Each feed in the newest minute, with the racks and GPUs behind it by the inventory.",
        do="Choose a feed to see its PDUs and racks below.",
    )


def _here(variable: str, title: str) -> links.Link:
    return links.board(title, Power.UID, {"site": links.field("site"), variable: links.field(variable)})


def _pdus() -> Panel:
    sql = f"""SELECT site, asset_id AS pdu, rack, parent_id AS feed, state, power_w_avg AS power, power_cap_w AS cap,
    {share("power_w_avg", "power_cap_w")} AS load
{_newest("pdu")} AND {only("feed", "parent_id")}
ORDER BY state = 'ok', load DESC LIMIT 50"""
    return table(
        Power.PDUS,
        "PDUs, the fullest first",
        sql,
        {
            "site": HIDDEN,
            "pdu": Column("PDU"),
            "rack": Column("Rack", links=(links.to_rack(),)),
            "feed": Column("Feed"),
            "state": Column("State", width=90, colours={"ok": colours.GOOD, "tripped": colours.BAD}),
            "power": Column("Power", units.WATT, 1),
            "cap": Column("May carry", units.WATT, 1),
            "load": Column("Load", units.RATIO, 0, steps=thresholds.FEED_SHARE),
        },
        width=12,
        height=10,
        means="The 50 PDUs nearest to what they may carry, newest minute, of the chosen feed or all; those not ok "
        "first.",
        do="Above 95 %: the breaker will decide; move or cap a node of the rack.",
    )


def _racks() -> Panel:
    sql = f"""SELECT site, rack, any(feed) AS feed_, any(cdu) AS cdu_, sum(energy_j) / 60 AS power,
    {share("power", "sum(gpus_reporting)")} AS per_gpu, sum(gpus_reporting) AS reporting, sum(gpus_unknown) AS silent
FROM gpufleet.health_1m FINAL
WHERE {recent("health_1m", where=SCOPE)} AND {SCOPE} AND {only("feed")}
GROUP BY site, rack
ORDER BY power DESC LIMIT 50"""
    return table(
        Power.RACKS,
        "Racks by GPU power",
        sql,
        {
            "site": HIDDEN,
            "rack": Column("Rack", links=(links.to_rack(),)),
            "feed_": Column("Feed"),
            "cdu_": Column("CDU"),
            "power": Column("GPU power", units.WATT, 1),
            "per_gpu": Column("A GPU", units.WATT, 0),
            "reporting": Column("Reporting"),
            "silent": Column("Silent", steps=thresholds.ANY_IS_NOTICE),
        },
        width=12,
        height=10,
        means="The 50 racks whose GPUs draw most, by their energy counters, newest minute.",
        do="Open the rack for its nodes and GPUs.",
    )


def _cdus() -> Panel:
    sql = f"""SELECT c.site AS site, c.asset_id AS cdu, c.state AS state, c.leak AS leak, c.supply AS supply,
    c.return_ AS return_, c.flow AS flow, c.pressure AS pressure, h.racks AS racks, h.slowed AS slowed
FROM
(
    SELECT site, toString(asset_id) AS asset_id, toString(state) AS state, if(ifNull(leak, false), 'leak', '') AS leak,
        supply_temp_c_max AS supply, return_temp_c_max AS return_, flow_lpm_min AS flow, pressure_kpa_min AS pressure
    {_newest("cdu")}
) AS c
LEFT JOIN
(
    SELECT site, toString(cdu) AS cdu, uniqExact(rack) AS racks, sum(slowdown_s) / 60 AS slowed
    FROM gpufleet.health_1m FINAL
    WHERE {recent("health_1m", where=SCOPE)} AND {SCOPE}
    GROUP BY site, cdu
) AS h ON h.site = c.site AND h.cdu = c.asset_id
ORDER BY c.state = 'ok', supply DESC LIMIT 50"""
    return table(
        Power.CDUS,
        "Coolant distribution units, the worst first",
        sql,
        {
            "site": HIDDEN,
            "cdu": Column("CDU"),
            "state": Column(
                "State", width=90, colours={"ok": colours.GOOD, "leak": colours.BAD, "degraded": colours.WARN}
            ),
            "leak": Column("Leak", width=70, colours={"leak": colours.BAD}),
            "supply": Column("Supply", units.CELSIUS, 1, steps=thresholds.SUPPLY_TEMPERATURE),
            "return_": Column("Return", units.CELSIUS, 1),
            "flow": Column("Lowest flow", units.LITRES_PER_MINUTE, 0),
            "pressure": Column("Lowest pressure", units.KILOPASCAL, 0),
            "racks": Column("Racks"),
            "slowed": Column("GPUs slowed", decimals=1, steps=thresholds.ANY_IS_NOTICE),
        },
        height=7,
        means="Each unit in the newest minute, with the racks it cools and how many of their GPUs are slowed down.",
        do="Little flow and warm return: pump or valve. Leak: see the runbook, at once.",
    )


def _by_model() -> Panel:
    sql = FLEET.by_series(f"""SELECT {FLEET.time}, gpu_model AS series, sum(power_w_sum) / {FLEET.covered_s} AS "Value"
FROM {FLEET.rows("gpu_model, power_w_sum", SCOPE)}
GROUP BY time, series""")
    return timeseries(
        Power.POWER_BY_MODEL,
        "GPU power by model",
        sql,
        unit=units.WATT,
        stack=True,
        colours=colours.MODELS,
        means="Sum of the GPUs' own power, per model.",
        do="Falling without the site's falling: missing data; see completeness on Fleet.",
    )


def _energy() -> Panel:
    sql = f"""SELECT if(tenant = '', 'nobody', toString(tenant)) AS holder, sum(energy_j) / 3600 AS "Energy"
FROM {HEALTH.rows("tenant, energy_j", SCOPE)}
GROUP BY holder
ORDER BY "Energy" DESC LIMIT 20"""
    return bargauge(
        Power.ENERGY,
        "GPU energy of the range, by customer",
        sql,
        unit=units.WATT_HOUR,
        width=12,
        decimals=1,
        means="Energy by the GPUs' counters over the range, per holder of the lease; nobody = free GPUs.",
        do="Free GPUs that draw a lot: power them down or find out who uses them.",
    )


def _states() -> Panel:
    sql = f"""SELECT site, asset_id, asset_kind, parent_id, rack, state,
    min(ts) AS first_, max(ts) + any(window_s) AS last_, count() AS windows
FROM {_NOT_OK.rows("site, asset_id, asset_kind, parent_id, rack, state", f"state != 'ok' AND {SCOPE}")}
GROUP BY site, asset_id, asset_kind, parent_id, rack, state
ORDER BY last_ DESC LIMIT 100"""
    return table(
        Power.FACILITY_EVENTS,
        "Assets that were not ok",
        sql,
        {
            "site": HIDDEN,
            "asset_id": Column("Asset"),
            "asset_kind": Column("Kind", width=70),
            "parent_id": Column("Fed by"),
            "rack": Column("Rack", links=(links.to_rack(),)),
            "state": Column("State", width=110, colours={"tripped": colours.BAD, "leak": colours.BAD}),
            "first_": Column("From", units.TIME, width=170),
            "last_": Column("Until", units.TIME, width=170),
            "windows": Column("Minutes or hours", width=120),
        },
        none="no such asset known in the range",
        means="Feeds, PDUs, coolant units and others that were tripped, leaking, degraded or in maintenance in the "
        "range: minute by minute up to six hours, else by whole hours.",
        do="Several with one parent and one first minute: the parent is the cause.",
    )
