"""Leases that get less than was promised, and a customer's own caps. Usage rules live in the customer's organisation:
the operator reads no tokens."""

from __future__ import annotations

from dataclasses import replace

from infra.grafana.alerts.rule import Audience, Owner, Rule, Severity
from infra.grafana.alerts.sql import answer
from infra.grafana.boards.ids import Capacity, Delivered, Usage

_UNDER = """    SELECT toString(l.site) AS site, toString(l.tenant) AS tenant, l.lease_id AS lease,
        concat(toString(round(l.sla_target * 100, 3)), ' %') AS target,
        -- A lease of which nothing at all is known was not delivered.
        greatest(l.sla_target - if(d.owed > 0, d.delivered / d.owed, 0), 0) AS value
    FROM gpufleet.lease_current AS l
    LEFT JOIN
    (
        SELECT site, lease_id, sum(healthy_s) AS delivered,
            sum(healthy_s) + sum(unhealthy_s) + sum(unknown_s) + sum(not_in_service_s) AS owed
        FROM gpufleet.health_1m FINAL
        WHERE ts > $__toTime - 86400 AND ts <= $__toTime - 60 AND lease_id != ''
        GROUP BY site, lease_id
    ) AS d ON d.site = l.site AND d.lease_id = l.lease_id
    WHERE l.valid_from <= $__toTime - 7200 AND l.valid_to > $__toTime AND notEmpty(l.nodes) AND l.sla_target > 0
        AND l.site IN (SELECT site FROM newest)"""

_LIMITS = """limits AS
(
    -- Limits in force at that time.
    SELECT site, tenant, limit_name, window_s, product, model, tier, tupleElement(latest, 1) AS limit_value
    FROM
    (
        SELECT site, tenant, limit_name, window_s, product, model, tier,
            argMax(tuple(l.limit_value, toString(l.action)), tuple(l.valid_from, l.ts, l.run_id, l.seq)) AS latest
        FROM gpufleet.tenant_limits AS l
        WHERE flaws = 0 AND l.valid_from <= $__toTime
            AND (limit_name IN ('requests', 'messages', 'input_tokens', 'output_tokens') AND window_s > 0
                OR limit_name IN ('gpu_quota', 'power_cap'))
        GROUP BY site, tenant, limit_name, window_s, product, model, tier
    )
    WHERE tupleElement(latest, 2) != 'removed' AND limit_value > 0
)"""
_CAPS = """    SELECT toString(l.site) AS site, toString(l.tenant) AS tenant,
        concat(toString(l.limit_name), ' in ', multiIf(
            l.window_s % 86400 = 0, concat(toString(intDiv(l.window_s, 86400)), ' d'),
            l.window_s % 3600 = 0, concat(toString(intDiv(l.window_s, 3600)), ' h'),
            concat(toString(l.window_s), ' s'))) AS cap,
        arrayStringConcat([
            if(l.product = '', 'all products', toString(l.product)),
            if(l.model = '', 'all models', toString(l.model)),
            if(l.tier = '', 'all tiers', toString(l.tier))], ', ') AS of,
        sum(toFloat64(multiIf(
            l.limit_name IN ('requests', 'messages'), u.requests,
            l.limit_name = 'input_tokens', u.input_tokens,
            u.output_tokens))) / any(l.limit_value) AS value
    FROM limits AS l
    INNER JOIN
    (
        SELECT site, tenant, ts, product, model, tier, requests, input_tokens, output_tokens
        FROM gpufleet.usage_1m FINAL
        -- Gateways close their windows a minute late.
        WHERE ts > $__toTime - 691200 AND ts <= $__toTime - 120
    ) AS u ON u.site = l.site AND u.tenant = l.tenant
    WHERE l.window_s > 0 AND (l.product = '' OR l.product = u.product) AND (l.model = '' OR l.model = u.model)
        AND (l.tier = '' OR l.tier = u.tier) AND u.ts > toStartOfMinute($__toTime) - 120 - l.window_s
    GROUP BY site, tenant, cap, of
    UNION ALL
    -- Levels, of the newest minute. GPUs up to the quota are what was leased: only more than it is near no more.
    SELECT toString(l.site) AS site, toString(l.tenant) AS tenant,
        if(l.limit_name = 'gpu_quota', 'GPUs', 'power') AS cap, 'all of them' AS of,
        if(l.limit_name = 'gpu_quota' AND h.gpus <= l.limit_value, least(h.gpus / l.limit_value, 0.9),
            if(l.limit_name = 'gpu_quota', h.gpus, h.power) / l.limit_value) AS value
    FROM limits AS l
    INNER JOIN
    (
        SELECT site, tenant, sum(gpus) AS gpus, sum(energy_j) / 60 AS power
        FROM gpufleet.health_1m FINAL
        WHERE ts > $__toTime - 900 AND ts <= $__toTime - 60 AND (site, ts) IN (SELECT site, minute FROM newest)
        GROUP BY site, tenant
    ) AS h ON h.site = l.site AND h.tenant = l.tenant
    WHERE l.limit_name IN ('gpu_quota', 'power_cap')"""
_THROTTLED = """    SELECT toString(site) AS site, toString(tenant) AS tenant, toString(product) AS product,
        if(sumIf(requests, ts > $__toTime - 1020) >= 100,
            sumIf(throttled_requests, ts > $__toTime - 1020) / sumIf(requests, ts > $__toTime - 1020), 0) AS value
    FROM gpufleet.usage_1m FINAL
    WHERE ts > $__toTime - 3600 AND ts <= $__toTime - 120
    GROUP BY site, tenant, product"""

_LEASE_LABELS = ("site", "tenant", "lease", "target")

_UNDER_DELIVERY = Rule(
    "lease_under_delivery",
    "A lease gets less than was promised",
    "leases",
    Severity.TICKET,
    Owner.CAPACITY,
    answer(_UNDER, _LEASE_LABELS),
    _LEASE_LABELS,
    "Lease {{ .Labels.lease }} of {{ .Labels.tenant }}: delivered over the last 24 h is"
    " {{ .Values.B.Value | humanizePercentage }} of the leased GPU time below its target of {{ .Labels.target }}.",
    (Capacity.UID, Capacity.DELIVERY),
    for_s=600,
    keep_s=3600,
    interval_s=300,
    board="tenant={{ .Labels.tenant }}",
)

RULES = (
    _UNDER_DELIVERY,
    replace(
        _UNDER_DELIVERY,
        name="customer_under_delivery",
        title="Our lease gets less than was promised",
        pack="customer",
        owner=Owner.TENANT,
        panel=(Delivered.UID, Delivered.DELIVERED_SHARE),
        audience=Audience.CUSTOMER,
        board="",
    ),
    Rule(
        "customer_near_cap",
        "A cap is nearly reached",
        "customer",
        Severity.TICKET,
        Owner.TENANT,
        answer(_CAPS, ("site", "tenant", "cap", "of"), _LIMITS),
        ("site", "tenant", "cap", "of"),
        "{{ .Values.B.Value | humanizePercentage }} of the cap on {{ .Labels.cap }} ({{ .Labels.of }}) is used.",
        (Usage.UID, Usage.HEADROOM),
        above=0.9,
        for_s=300,
        keep_s=600,
        interval_s=60,
        audience=Audience.CUSTOMER,
    ),
    Rule(
        "customer_throttled",
        "Users are being throttled",
        "customer",
        Severity.PAGE,
        Owner.TENANT,
        answer(_THROTTLED, ("site", "tenant", "product")),
        ("site", "tenant", "product"),
        "{{ .Values.B.Value | humanizePercentage }} of the requests of {{ .Labels.product }} were refused with 429 in"
        " the last fifteen minutes.",
        (Usage.UID, Usage.THROTTLED),
        above=0.05,
        for_s=300,
        keep_s=600,
        audience=Audience.CUSTOMER,
    ),
)
