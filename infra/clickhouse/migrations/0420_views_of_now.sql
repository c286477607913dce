-- Views of what is now, and of what leases delivered, from the projections: cheap for a whole fleet.

-- Grain: one GPU of the inventory, with its newest tick of the last minute. Starts from the inventory, so that a silent
-- GPU has a row. For a fleet of thousands of nodes filter by node, rack or feed: it reads the last minute's raw events.
CREATE OR REPLACE VIEW gpufleet.gpu_now
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node.',
    gpu_index Int32 COMMENT 'GPU.',
    gpu_uuid String COMMENT 'UUID as NVIDIA writes it.',
    gpu_model LowCardinality(String) COMMENT 'Model.',
    rack LowCardinality(String) COMMENT 'Rack.',
    feed LowCardinality(String) COMMENT 'Power feed.',
    cdu LowCardinality(String) COMMENT 'Coolant distribution unit.',
    nvlink_domain LowCardinality(String) COMMENT 'NVLink domain.',
    tenant LowCardinality(String) COMMENT 'Customer that leases the node now; empty = nobody.',
    reporting Bool COMMENT 'Whether a tick of the last minute is here.',
    sample_ts Nullable(DateTime64(6, 'UTC')) COMMENT 'Time of that tick.',
    gr_engine_active Nullable(Float32) COMMENT 'Share of time the compute engine was busy. [ratio]',
    tensor_active Nullable(Float32) COMMENT 'Share of cycles a tensor pipe was active. [ratio]',
    power_w Nullable(Float32) COMMENT 'Board power. [W]',
    temp_gpu_c Nullable(Int32) COMMENT 'Core temperature. [Cel]',
    temp_mem_c Nullable(Int32) COMMENT 'Memory temperature. [Cel]',
    clock_sm_mhz Nullable(Int32) COMMENT 'SM clock. [MHz]',
    clock_event_reasons Nullable(Int32) COMMENT 'Why clocks are held down. [bitmask]',
    fb_used_bytes Nullable(Int64) COMMENT 'Device memory in use. [By]'
)
COMMENT 'Every GPU of the inventory as it is now.'
AS SELECT
    i.site AS site, i.node_id AS node_id, i.gpu_index AS gpu_index, i.gpu_uuid AS gpu_uuid, i.gpu_model AS gpu_model,
    i.rack AS rack, i.feed AS feed, i.cdu AS cdu, i.nvlink_domain AS nvlink_domain,
    i.tenant AS tenant,
    n.seen = 1 AS reporting,
    if(n.seen = 1, n.sample_ts, NULL) AS sample_ts,
    n.gr_engine_active AS gr_engine_active, n.tensor_active AS tensor_active, n.power_w AS power_w,
    n.temp_gpu_c AS temp_gpu_c, n.temp_mem_c AS temp_mem_c, n.clock_sm_mhz AS clock_sm_mhz,
    n.clock_event_reasons AS clock_event_reasons, n.fb_used_bytes AS fb_used_bytes
FROM gpufleet.gpu_inventory AS i
LEFT JOIN
(
    SELECT
        site, node_id, gpu_index,
        1 AS seen,
        max(s.sample_ts) AS sample_ts,
        argMax(tuple(s.gr_engine_active), s.sample_ts).1 AS gr_engine_active,
        argMax(tuple(s.tensor_active), s.sample_ts).1 AS tensor_active,
        argMax(tuple(s.power_w), s.sample_ts).1 AS power_w,
        argMax(tuple(s.temp_gpu_c), s.sample_ts).1 AS temp_gpu_c,
        argMax(tuple(s.temp_mem_c), s.sample_ts).1 AS temp_mem_c,
        argMax(tuple(s.clock_sm_mhz), s.sample_ts).1 AS clock_sm_mhz,
        argMax(tuple(s.clock_event_reasons), s.sample_ts).1 AS clock_event_reasons,
        argMax(tuple(s.fb_used_bytes), s.sample_ts).1 AS fb_used_bytes
    FROM gpufleet.gpu_samples AS s
    WHERE s.event_ts > now64(6) - toIntervalSecond(60) AND s.event_ts < now64(6) + toIntervalSecond(600)
    GROUP BY site, node_id, gpu_index
) AS n ON n.site = i.site AND n.node_id = i.node_id AND n.gpu_index = i.gpu_index;

-- Grain: one site and model, now: the newest 10 seconds that the projector has made, at most 5 minutes old, beside the
-- newest minute of health, at most an hour old.
CREATE OR REPLACE VIEW gpufleet.fleet_now
(
    site LowCardinality(String) COMMENT 'Data centre.',
    gpu_model LowCardinality(String) COMMENT 'Model.',
    ts Nullable(DateTime('UTC')) COMMENT 'Start of the 10 seconds; NULL = nothing in 5 minutes.',
    gpus UInt64 COMMENT 'GPUs in the inventory, in the newest minute that the projector has closed; leased and faulty ones too.',
    gpus_in_service UInt64 COMMENT 'Of them in service.',
    gpus_reporting UInt64 COMMENT 'GPUs that reported in the 10 seconds.',
    gpus_leased UInt64 COMMENT 'GPUs on leased nodes.',
    gpus_faulty UInt64 COMMENT 'GPUs in service under a fault.',
    power_w Float64 COMMENT 'Power of the GPUs that reported. [W]',
    gr_engine_active Nullable(Float64) COMMENT 'Mean share of time the compute engine was busy. [ratio]',
    completeness Nullable(Float64) COMMENT 'GPU-seconds reported of those in service: low = late or silent. [ratio]'
)
COMMENT 'The fleet now, per site and model: there, reporting, leased, faulty, power.'
AS SELECT
    i.site AS site,
    i.gpu_model AS gpu_model,
    nullIf(w.newest, toDateTime(0, 'UTC')) AS ts,
    i.all AS gpus,
    i.in_service AS gpus_in_service,
    w.gpus AS gpus_reporting,
    i.leased AS gpus_leased,
    f.faulty AS gpus_faulty,
    w.power AS power_w,
    if(w.active_s > 0, w.active / w.active_s, NULL) AS gr_engine_active,
    if(i.in_service > 0, least(w.seconds / (10 * i.in_service), 1.), NULL) AS completeness
FROM
(
    SELECT
        h.site AS site,
        h.gpu_model AS gpu_model,
        sum(h.gpus) AS all,
        sum(h.gpus_in_service) AS in_service,
        sumIf(h.gpus, h.tenant != '') AS leased
    FROM gpufleet.health_1m AS h FINAL
    WHERE (h.site, h.ts) IN (SELECT site, max(ts) FROM gpufleet.health_1m WHERE ts > now() - 3600 GROUP BY site)
    GROUP BY site, gpu_model
) AS i
LEFT JOIN
(
    SELECT s.site AS site, s.gpu_model AS gpu_model, uniqExact(s.node_id, s.gpu_index) AS faulty
    FROM gpufleet.sick_1m AS s FINAL
    WHERE s.in_service AND s.reason NOT IN ('silent', 'opted_out', 'slowdown', 'temp_high', 'row_remap_failure',
            'row_remap_pending', 'sram_ecc_threshold', 'recovery_action', 'pcie_downtrained', 'nvlink_inactive',
            'clock_offset', 'straggler')
        AND (s.site, s.ts) IN (SELECT site, max(ts) FROM gpufleet.health_1m WHERE ts > now() - 3600 GROUP BY site)
    GROUP BY site, gpu_model
) AS f ON f.site = i.site AND f.gpu_model = i.gpu_model
LEFT JOIN
(
    SELECT
        site,
        gpu_model,
        max(f.ts) AS newest,
        sum(f.gpus) AS gpus,
        sum(f.seconds) AS seconds,
        sum(if(f.power_w_s > 0, f.power_w_sum / f.power_w_s * f.gpus, 0)) AS power,
        sum(f.gr_engine_active_sum) AS active,
        sum(f.gr_engine_active_s) AS active_s
    FROM gpufleet.fleet_10s AS f FINAL
    WHERE (f.site, f.ts) IN (
        -- The last window but one: the newest is still filling.
        SELECT site, max(ts) FROM gpufleet.fleet_10s
        WHERE ts > now() - 300 AND ts <= now() - 15 GROUP BY site)
    GROUP BY site, gpu_model
) AS w ON w.site = i.site AND w.gpu_model = i.gpu_model;

-- Grain: one GPU and one reason why it is sick, in the newest closed minute, at most an hour old.
CREATE OR REPLACE VIEW gpufleet.sick_gpus
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node.',
    gpu_index Int32 COMMENT 'GPU.',
    gpu_uuid String COMMENT 'UUID as NVIDIA writes it.',
    gpu_model LowCardinality(String) COMMENT 'Model.',
    rack LowCardinality(String) COMMENT 'Rack.',
    feed LowCardinality(String) COMMENT 'Power feed.',
    cdu LowCardinality(String) COMMENT 'Coolant distribution unit.',
    reason String COMMENT 'xid_79, gpu_lost, silent, opted_out, slowdown, row_remap_failure, pcie_downtrained, straggler ...',
    action String COMMENT 'What to do.',
    scope String COMMENT 'Blast radius that it lies in: gpu, node or nvlink_domain.',
    since DateTime64(6, 'UTC') COMMENT 'Since when, as far as that is known.',
    in_service Bool COMMENT 'False = not in service, e.g. in maintenance: nobody needs to be woken.',
    detail String COMMENT 'More about it.'
)
COMMENT 'What is wrong now, GPU by GPU, with the action to take: sick_1m of the newest minute that the projector has closed.'
AS SELECT
    s.site AS site, s.node_id AS node_id, s.gpu_index AS gpu_index, s.gpu_uuid AS gpu_uuid, s.gpu_model AS gpu_model,
    s.rack AS rack, s.feed AS feed, s.cdu AS cdu, s.reason AS reason, s.action AS action, s.scope AS scope,
    s.since AS since, s.in_service AS in_service, s.detail AS detail
FROM gpufleet.sick_1m AS s FINAL
-- A minute of health is written after the sick GPUs of the minute; it has rows even when nothing is wrong.
WHERE (s.site, s.ts) IN (SELECT site, max(ts) FROM gpufleet.health_1m WHERE ts > now() - 3600 GROUP BY site);

-- Grain: one lease, model and hour, in GPU-seconds: closed hours from health_1h, the others from the minutes so far.
CREATE OR REPLACE VIEW gpufleet.lease_delivery
(
    site LowCardinality(String) COMMENT 'Data centre.',
    hour DateTime('UTC') COMMENT 'Start of the hour.',
    tenant LowCardinality(String) COMMENT 'Customer.',
    lease_id String COMMENT 'Lease.',
    gpu_model LowCardinality(String) COMMENT 'Model.',
    gpus UInt64 COMMENT 'GPUs leased, the most of any minute.',
    leased_s Float64 COMMENT 'GPU-seconds leased. [s]',
    delivered_s Float64 COMMENT 'GPU-seconds leased and healthy. [s]',
    used_s Float64 COMMENT 'GPU-seconds delivered and used. [s]',
    unhealthy_s Float64 COMMENT 'GPU-seconds unhealthy. [s]',
    unknown_s Float64 COMMENT 'GPU-seconds unknown: no data. [s]',
    opted_out_s Float64 COMMENT 'GPU-seconds opted out. [s]',
    not_in_service_s Float64 COMMENT 'GPU-seconds not in service. [s]',
    delivered_share Float64 COMMENT 'Delivered of what was leased, what the tenant opted out of left aside. [ratio]',
    sla_target Float64 COMMENT 'Share promised. [ratio]'
)
COMMENT 'What was leased, delivered, used and owed, per lease, model and hour.'
AS SELECT
    d.site AS site,
    d.hour AS hour,
    d.tenant AS tenant,
    d.lease_id AS lease_id,
    d.gpu_model AS gpu_model,
    d.most AS gpus,
    d.healthy + d.unhealthy + d.unknown + d.opted_out + d.not_in_service AS leased_s,
    d.healthy AS delivered_s,
    d.used AS used_s,
    d.unhealthy AS unhealthy_s,
    d.unknown AS unknown_s,
    d.opted_out AS opted_out_s,
    d.not_in_service AS not_in_service_s,
    if(leased_s > d.opted_out, d.healthy / (leased_s - d.opted_out), 1.) AS delivered_share,
    l.sla_target AS sla_target
FROM
(
    SELECT
        site, ts AS hour, tenant, lease_id, gpu_model, toUInt64(h.gpus) AS most, h.healthy_s AS healthy,
        h.used_s AS used, h.unhealthy_s AS unhealthy, h.unknown_s AS unknown, h.opted_out_s AS opted_out,
        h.not_in_service_s AS not_in_service
    FROM gpufleet.health_1h AS h FINAL
    WHERE tenant != ''
    UNION ALL
    SELECT
        site, hour, tenant, lease_id, gpu_model, max(m.gpus) AS most, sum(m.healthy) AS healthy, sum(m.used) AS used,
        sum(m.unhealthy) AS unhealthy, sum(m.unknown) AS unknown, sum(m.opted_out) AS opted_out,
        sum(m.not_in_service) AS not_in_service
    FROM
    (
        SELECT
            site, toStartOfHour(ts) AS hour, tenant, lease_id, gpu_model, sum(r.gpus) AS gpus,
            sum(r.healthy_s) AS healthy, sum(r.used_s) AS used, sum(r.unhealthy_s) AS unhealthy,
            sum(r.unknown_s) AS unknown, sum(r.opted_out_s) AS opted_out, sum(r.not_in_service_s) AS not_in_service
        FROM gpufleet.health_1m AS r FINAL
        WHERE ts >= toStartOfHour(now()) - 10800 AND tenant != ''
            AND (site, toStartOfHour(ts)) NOT IN (
                SELECT site, ts FROM gpufleet.health_1h FINAL WHERE ts >= toStartOfHour(now()) - 10800)
        GROUP BY site, ts, tenant, lease_id, gpu_model
    ) AS m
    GROUP BY site, hour, tenant, lease_id, gpu_model
) AS d
LEFT JOIN gpufleet.lease_current AS l ON l.site = d.site AND l.lease_id = d.lease_id;
