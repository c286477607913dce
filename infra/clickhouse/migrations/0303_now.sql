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
    tenant LowCardinality(String) COMMENT 'Customer; empty = nobody, or silent.',
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
    n.tenant AS tenant,
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
        argMax(toString(s.tenant), s.event_ts) AS tenant,
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

-- Grain: one site and model, now: the newest 10 seconds that the projector has made, at most 5 minutes old.
CREATE OR REPLACE VIEW gpufleet.fleet_now
(
    site LowCardinality(String) COMMENT 'Data centre.',
    gpu_model LowCardinality(String) COMMENT 'Model.',
    ts Nullable(DateTime('UTC')) COMMENT 'Start of the 10 seconds; NULL = nothing in 5 minutes.',
    gpus UInt64 COMMENT 'GPUs in the inventory.',
    gpus_in_service UInt64 COMMENT 'Of them in service.',
    gpus_reporting UInt64 COMMENT 'GPUs that reported.',
    gpus_leased UInt64 COMMENT 'GPUs on leased nodes.',
    gpus_faulty UInt64 COMMENT 'GPUs in service under an open fault.',
    power_w Float64 COMMENT 'Power of the GPUs that reported. [W]',
    gr_engine_active Nullable(Float64) COMMENT 'Mean share of time the compute engine was busy. [ratio]',
    completeness Nullable(Float64) COMMENT 'GPU-seconds reported of those in service: low = late or silent. [ratio]'
)
COMMENT 'The fleet now, per site and model: there, reporting, leased, faulty, power.'
AS SELECT
    i.site AS site,
    i.gpu_model AS gpu_model,
    nullIf(w.newest, toDateTime(0, 'UTC')) AS ts,
    i.gpus AS gpus,
    i.in_service AS gpus_in_service,
    w.gpus AS gpus_reporting,
    i.leased AS gpus_leased,
    i.faulty AS gpus_faulty,
    w.power AS power_w,
    if(w.active_s > 0, w.active / w.active_s, NULL) AS gr_engine_active,
    if(i.in_service > 0, least(w.seconds / (10 * i.in_service), 1.), NULL) AS completeness
FROM
(
    SELECT
        g.site AS site,
        g.gpu_model AS gpu_model,
        count() AS gpus,
        countIf(g.in_service) AS in_service,
        countIf(g.faulty AND g.in_service) AS faulty,
        countIf(g.leased) AS leased
    FROM
    (
        SELECT
            site, gpu_model,
            (site, node_id, gpu_index) NOT IN (
                SELECT site, node_id, gpu_index FROM gpufleet.gpu_lifecycle
                WHERE NOT in_service AND valid_from <= now64(6) AND valid_to > now64(6)) AS in_service,
            (site, node_id, gpu_index) IN (
                SELECT site, node_id, gpu_index FROM gpufleet.gpu_fault_periods
                WHERE valid_from <= now64(6) AND valid_to > now64(6)) AS faulty,
            (site, node_id) IN (
                SELECT site, node_id FROM gpufleet.lease_segments
                WHERE valid_from <= now64(6) AND valid_until >= now64(6)) AS leased
        FROM gpufleet.gpu_inventory
    ) AS g
    GROUP BY site, gpu_model
) AS i
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

-- Grain: one GPU and one reason why it is sick, now. Starts from the inventory, so that silence is a reason.
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
    reason String COMMENT 'xid_79, gpu_lost, silent, opted_out, slowdown, row_remap_failure, pcie_downtrained ...',
    action String COMMENT 'What to do.',
    scope String COMMENT 'Blast radius that it lies in: gpu, node or nvlink_domain.',
    since DateTime64(6, 'UTC') COMMENT 'Since when, as far as that is known.',
    in_service Bool COMMENT 'False = not in service, e.g. in maintenance: nobody needs to be woken.',
    detail String COMMENT 'More about it.'
)
COMMENT 'What is wrong now, GPU by GPU, with the action to take.'
AS WITH
    reasons AS
    (
        SELECT site, node_id, gpu_index, fault AS reason, action, scope, valid_from AS since,
            if(origin_node = node_id, '', concat('began on ', origin_node)) AS detail
        FROM gpufleet.gpu_fault_periods
        WHERE valid_from <= now64(6) AND valid_to > now64(6)
        UNION ALL
        SELECT
            i.site, i.node_id, i.gpu_index, if(o.node_id = '', 'silent', 'opted_out') AS reason,
            if(o.node_id = '', 'check_agent', 'none') AS action, 'gpu' AS scope,
            if(o.node_id = '', ifNull(l.last_ts, i.since), o.valid_from) AS since, '' AS detail
        FROM gpufleet.gpu_inventory AS i
        LEFT JOIN
        (
            -- The newest minute that the GPU has: how long it is silent.
            SELECT site, node_id, gpu_index, toNullable(toDateTime64(max(ts) + 60, 6, 'UTC')) AS last_ts
            FROM gpufleet.gpu_1m WHERE ts > now() - toIntervalDay(1) AND NOT is_deleted GROUP BY site, node_id, gpu_index
        ) AS l ON l.site = i.site AND l.node_id = i.node_id AND l.gpu_index = i.gpu_index
        LEFT JOIN
        (
            SELECT site, node_id, valid_from FROM gpufleet.agent_opt_outs WHERE valid_to > now64(6)
        ) AS o ON o.site = i.site AND o.node_id = i.node_id
        WHERE (i.site, i.node_id, i.gpu_index) NOT IN (
            SELECT site, node_id, arrayJoin(gpu_index) FROM gpufleet.node_telemetry
            WHERE ts > now64(6) - toIntervalSecond(120) AND flaws = 0)
        UNION ALL
        SELECT
            site, node_id, gpu_index, 'slowdown', 'check_cooling_and_power', 'gpu', toDateTime64(min(ts), 6, 'UTC'),
            concat(toString(round(sum(throttle_slowdown_s))), ' s of the last minutes held back by heat, hardware or power brake')
        FROM gpufleet.gpu_1m FINAL
        WHERE ts > now() - 300 AND throttle_slowdown_s > 0
        GROUP BY site, node_id, gpu_index
        UNION ALL
        SELECT site, node_id, gpu_index, tupleElement(state, 1), tupleElement(state, 2), 'gpu', told, ''
        FROM
        (
            SELECT
                site, node_id, gpu_index, max(sample_ts) AS told,
                argMax(tuple(row_remap_failure, row_remap_pending, ecc_sram_threshold, recovery_action,
                    pcie_link_width < pcie_link_width_max), sample_ts) AS newest,
                arrayJoin(arrayFilter(s -> tupleElement(s, 1) != '', [
                    (if(ifNull(newest.1, 0) = 1, 'row_remap_failure', ''), 'replace_gpu'),
                    (if(ifNull(newest.2, 0) = 1, 'row_remap_pending', ''), 'reset_gpu'),
                    (if(ifNull(newest.3, 0) = 1, 'sram_ecc_threshold', ''), 'replace_gpu'),
                    (if(ifNull(newest.4, 0) > 0, 'recovery_action', ''),
                        ['', 'reset_gpu', 'reboot_node', 'drain_p2p', 'drain_and_reset'][ifNull(newest.4, 0) + 1]),
                    (if(ifNull(newest.5, 0) = 1, 'pcie_downtrained', ''), 'reseat_or_replace')])) AS state
            FROM gpufleet.gpu_counters
            WHERE event_ts > now64(6) - toIntervalSecond(180)
            GROUP BY site, node_id, gpu_index
        )
    )
SELECT
    r.site AS site, r.node_id AS node_id, r.gpu_index AS gpu_index,
    i.gpu_uuid AS gpu_uuid, i.gpu_model AS gpu_model, i.rack AS rack, i.feed AS feed, i.cdu AS cdu,
    r.reason AS reason, r.action AS action, r.scope AS scope, r.since AS since,
    (r.site, r.node_id, r.gpu_index) NOT IN (
        SELECT site, node_id, gpu_index FROM gpufleet.gpu_lifecycle
        WHERE NOT in_service AND valid_from <= now64(6) AND valid_to > now64(6)) AS in_service,
    r.detail AS detail
FROM reasons AS r
LEFT JOIN gpufleet.gpu_inventory AS i ON i.site = r.site AND i.node_id = r.node_id AND i.gpu_index = r.gpu_index;
