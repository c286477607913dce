"""Feeds and coolant loops: one page each, naming the racks, however many GPUs it slows, silences or breaks."""

from __future__ import annotations

from infra.grafana.alerts.packs.heat_and_power import METERS
from infra.grafana.alerts.rule import Owner, Rule, Severity
from infra.grafana.alerts.sql import PLACES, SICK_CDUS, answer
from infra.grafana.boards.ids import Power


def _named(column: str) -> str:
    """The racks by name; of more than forty the first, and how many more."""
    return (
        f"concat(arrayStringConcat(arraySlice({column}, 1, 40), ', '),"
        f" if(length({column}) > 40, concat(' and ', toString(length({column}) - 40), ' more'), ''))"
    )


_FEEDS = f"""    SELECT toString(p.site) AS site, p.feed AS feed, {_named("p.racks")} AS racks,
        if(m.state_now = 'tripped', length(p.racks), 0) AS value
    FROM
    (
        SELECT site, feed, arraySort(groupArray(rack)) AS racks FROM places WHERE feed != '' GROUP BY site, feed
    ) AS p
    LEFT JOIN meters AS m ON m.site = p.site AND m.asset = p.feed"""


def _loops(value: str) -> str:
    """Every loop of the topology with what it does; ``value`` over l (loops) and p (its racks)."""
    return f"""    SELECT toString(p.site) AS site, p.cdu AS cdu, {_named("p.racks")} AS racks, {value} AS value
    FROM
    (
        SELECT site, cdu, arraySort(groupArray(rack)) AS racks FROM places WHERE cdu != '' GROUP BY site, cdu
    ) AS p
    LEFT JOIN loops AS l ON l.site = p.site AND l.cdu = p.cdu"""


_LEAKS = "(l.leaks = 1 OR l.state_now = 'leak')"
_LOW = "(l.state_now IN ('degraded', 'tripped') OR l.usual_flow > 0 AND l.flow < 0.7 * l.usual_flow)"
_LOST_FLOW = "if(l.usual_flow > 0, greatest(1 - l.flow / l.usual_flow, 0.01), 1)"
_WAS_ILL = "greatest(l.leaked_at, l.ill_at) > $__toTime - 1260"

_SILENT = """    SELECT toString(site) AS site, if(missing > 3, 'many', asset) AS asset, countIf(silent) AS value
    FROM
    (
        SELECT t.site AS site, t.asset AS asset, m.asset = '' AS silent,
            countIf(m.asset = '') OVER (PARTITION BY t.site) AS missing
        FROM
        (
            SELECT DISTINCT site, arrayJoin(arrayFilter(a -> a != '', [feed, cdu])) AS asset FROM places
        ) AS t
        LEFT JOIN meters AS m ON m.site = t.site AND m.asset = t.asset
        WHERE t.site IN (SELECT site FROM gpufleet.facility_1m WHERE ts > $__toTime - 86400 AND ts <= $__toTime - 60)
    )
    GROUP BY site, asset"""

_LABELS = ("site", "cdu", "racks")
_BOARD = "site={{ .Labels.site }}"

RULES = (
    Rule(
        "feed_trip",
        "A power feed has tripped",
        "facility",
        Severity.PAGE,
        Owner.FACILITIES,
        answer(_FEEDS, ("site", "feed", "racks"), PLACES, METERS),
        ("site", "feed", "racks"),
        "Feed {{ .Labels.feed }} of {{ .Labels.site }} has tripped: {{ .Values.B.Value | humanize }} racks lose it"
        " ({{ .Labels.racks }}).",
        (Power.UID, Power.FEEDS),
        keep_s=300,
        board=_BOARD,
    ),
    Rule(
        "cdu_leak",
        "A coolant loop leaks",
        "coolant",
        Severity.PAGE,
        Owner.FACILITIES,
        answer(_loops(f"if({_LEAKS}, length(p.racks), 0)"), _LABELS, PLACES, SICK_CDUS),
        _LABELS,
        "Coolant unit {{ .Labels.cdu }} of {{ .Labels.site }} reports a leak: {{ .Values.B.Value | humanize }} racks"
        " hang on it ({{ .Labels.racks }}).",
        (Power.UID, Power.CDUS),
        keep_s=600,
        board=_BOARD,
    ),
    Rule(
        "cdu_flow",
        "A coolant loop has lost flow",
        "coolant",
        Severity.PAGE,
        Owner.FACILITIES,
        answer(_loops(f"if({_LOW} AND NOT {_LEAKS}, {_LOST_FLOW}, 0)"), _LABELS, PLACES, SICK_CDUS),
        _LABELS,
        "Coolant unit {{ .Labels.cdu }} of {{ .Labels.site }} has lost {{ .Values.B.Value | humanizePercentage }} of"
        " its flow: racks {{ .Labels.racks }} will warm up and slow down.",
        (Power.UID, Power.COOLANT_FLOW),
        for_s=60,
        keep_s=600,
        board=_BOARD,
    ),
    Rule(
        "cdu_hot",
        "A coolant loop supplies warm coolant",
        "coolant",
        Severity.PAGE,
        Owner.FACILITIES,
        answer(
            _loops(f"if(l.state_now = 'maintenance' OR {_LOW} OR {_LEAKS} OR {_WAS_ILL}, 0, ifNull(l.supply, 0))"),
            _LABELS,
            PLACES,
            SICK_CDUS,
        ),
        _LABELS,
        "Coolant unit {{ .Labels.cdu }} of {{ .Labels.site }} supplies {{ .Values.B.Value | humanize }} C with its flow"
        " in order: racks {{ .Labels.racks }}.",
        (Power.UID, Power.COOLANT_TEMPERATURE),
        above=45,
        for_s=300,
        keep_s=600,
        board=_BOARD,
    ),
    Rule(
        "facility_silent",
        "A feed or coolant unit does not report",
        "facility",
        Severity.TICKET,
        Owner.FACILITIES,
        answer(_SILENT, ("site", "asset"), PLACES, METERS),
        ("site", "asset"),
        "Site {{ .Labels.site }}: no reading from {{ .Labels.asset }} for ten minutes ({{ .Values.B.Value | humanize }}"
        " feeds or coolant units). A trip or leak there would go unseen.",
        (Power.UID, Power.COMPLETENESS),
        for_s=300,
        board=_BOARD,
    ),
)
