-- Grain: one GPU and minute. The one definition of health: each of the minute's 60 seconds belongs to one class.
--   not in service  by gpu_lifecycle
--   unhealthy       under a fault (its own or of its node or NVLink domain; links that are down are faults), or
--                   reporting with a hardware or thermal slowdown or power brake (mask 0xE8; a power cap is normal)
--   healthy         reporting, and none of that
--   opted out       silent, its agent switched off by a tenant who may
--   unknown         silent, and nobody knows why
-- A GPU that reports in part of a minute is taken to do so outside of the fault. Filter by ts, and by node where you can.
CREATE OR REPLACE VIEW gpufleet.gpu_health
(
    site LowCardinality(String) COMMENT 'Data centre.',
    ts DateTime('UTC') COMMENT 'Start of the minute.',
    node_id String COMMENT 'Node.',
    gpu_index Int32 COMMENT 'GPU.',
    gpu_model LowCardinality(String) COMMENT 'Model.',
    rack LowCardinality(String) COMMENT 'Rack.',
    class LowCardinality(String) COMMENT 'What most of the minute was: healthy, unhealthy, unknown, opted_out or not_in_service.',
    healthy_s Float64 COMMENT 'Seconds healthy. [s]',
    unhealthy_s Float64 COMMENT 'Seconds unhealthy. [s]',
    unknown_s Float64 COMMENT 'Seconds unknown. [s]',
    opted_out_s Float64 COMMENT 'Seconds opted out. [s]',
    not_in_service_s Float64 COMMENT 'Seconds not in service. [s]',
    reported_s Float64 COMMENT 'Seconds that samples stand for. [s]',
    slowdown_s Float64 COMMENT 'Seconds of samples with a slowdown. [s]',
    fault_s Float64 COMMENT 'Seconds under a fault. [s]',
    active_s Float64 COMMENT 'Seconds of samples with gr_engine_active of at least 0.05. [s]',
    fault String COMMENT 'Fault it lay under; empty = none.'
)
COMMENT 'Health of each GPU, minute by minute, in seconds of five classes that sum to 60.'
AS WITH known AS
(
    SELECT
        site,
        ts,
        node_id,
        gpu_index,
        argMax(gpu_model, rank) AS gpu_model,
        argMax(rack, rank) AS rack,
        least(sum(reported), 60.) AS reported_s,
        least(sum(slowdown), 60.) AS slowdown_s,
        least(sum(active), 60.) AS active_s,
        least(sum(fault), 60.) AS fault_s,
        least(sum(absent), 60.) AS absent_s,
        least(sum(opted), 60.) AS opted_s,
        max(expected) AS expected,
        max(fault_name) AS fault_name
    FROM
    (
        SELECT
            h.site AS site, m.ts AS ts, h.node_id AS node_id, arrayJoin(h.gpu_index) AS gpu_index,
            toString(h.gpu_model) AS gpu_model, toString(h.rack) AS rack, 1 AS rank, 1 AS expected,
            0. AS reported, 0. AS slowdown, 0. AS active, 0. AS fault, 0. AS absent, 0. AS opted, '' AS fault_name
        FROM gpufleet.minutes AS m
        CROSS JOIN gpufleet.node_history AS h
        WHERE h.asset_kind = 'node' AND m.ts >= h.valid_from AND m.ts < h.valid_until
        UNION ALL
        SELECT
            site, ts, node_id, gpu_index, toString(gpu_model), toString(rack), 2, 1,
            seconds, throttle_slowdown_s, active_s, 0., 0., 0., ''
        FROM gpufleet.gpu_1m FINAL
        UNION ALL
        SELECT
            f.site, m.ts, f.node_id, f.gpu_index, '', '', 0, 0,
            0., 0., 0., (toUnixTimestamp64Micro(least(toDateTime64(m.ts + 60, 6, 'UTC'), f.valid_to))
                - toUnixTimestamp64Micro(greatest(toDateTime64(m.ts, 6, 'UTC'), f.valid_from))) / 1e6, 0., 0., f.fault
        FROM gpufleet.minutes AS m
        CROSS JOIN gpufleet.gpu_fault_periods AS f
        WHERE m.ts + 60 > f.valid_from AND m.ts < f.valid_to
        UNION ALL
        SELECT
            l.site, m.ts, l.node_id, l.gpu_index, '', '', 0, 0,
            0., 0., 0., 0., (toUnixTimestamp64Micro(least(toDateTime64(m.ts + 60, 6, 'UTC'), l.valid_to))
                - toUnixTimestamp64Micro(greatest(toDateTime64(m.ts, 6, 'UTC'), l.valid_from))) / 1e6, 0., ''
        FROM gpufleet.minutes AS m
        CROSS JOIN gpufleet.gpu_lifecycle AS l
        WHERE NOT l.in_service AND m.ts + 60 > l.valid_from AND m.ts < l.valid_to
        UNION ALL
        SELECT
            h.site, m.ts, h.node_id, arrayJoin(h.gpu_index), '', '', 0, 0,
            0., 0., 0., 0., 0., (toUnixTimestamp64Micro(least(toDateTime64(m.ts + 60, 6, 'UTC'), o.valid_to))
                - toUnixTimestamp64Micro(greatest(toDateTime64(m.ts, 6, 'UTC'), o.valid_from))) / 1e6, ''
        FROM gpufleet.minutes AS m
        CROSS JOIN gpufleet.agent_opt_outs AS o
        INNER JOIN gpufleet.node_history AS h ON h.site = o.site AND h.node_id = o.node_id
        WHERE m.ts + 60 > o.valid_from AND m.ts < o.valid_to AND m.ts >= h.valid_from AND m.ts < h.valid_until
    )
    GROUP BY site, ts, node_id, gpu_index
)
SELECT
    site,
    ts,
    node_id,
    gpu_index,
    gpu_model,
    rack,
    ['healthy', 'unhealthy', 'unknown', 'opted_out', 'not_in_service'][indexOf(
        [k.healthy, k.unhealthy, k.unknown, k.opted, k.absent],
        arrayMax([k.healthy, k.unhealthy, k.unknown, k.opted, k.absent]))] AS class,
    k.healthy AS healthy_s,
    k.unhealthy AS unhealthy_s,
    k.unknown AS unknown_s,
    k.opted AS opted_out_s,
    k.absent AS not_in_service_s,
    reported_s,
    slowdown_s,
    k.faulty AS fault_s,
    active_s,
    fault_name AS fault
FROM
(
    SELECT
        *,
        absent_s AS absent,
        60. - absent AS in_service,
        least(fault_s, in_service) AS faulty,
        least(reported_s, in_service - faulty) AS clear,
        least(slowdown_s, clear) AS slow,
        clear - slow AS healthy,
        faulty + slow AS unhealthy,
        in_service - faulty - clear AS silent,
        least(opted_s, silent) AS opted,
        silent - opted AS unknown
    FROM known
    WHERE expected
) AS k;

-- Grain: one leased GPU, minute and lease. The one definition of delivered: leased and healthy.
CREATE OR REPLACE VIEW gpufleet.gpu_delivered
(
    site LowCardinality(String) COMMENT 'Data centre.',
    ts DateTime('UTC') COMMENT 'Start of the minute.',
    node_id String COMMENT 'Node.',
    gpu_index Int32 COMMENT 'GPU.',
    gpu_model LowCardinality(String) COMMENT 'Model.',
    rack LowCardinality(String) COMMENT 'Rack.',
    tenant LowCardinality(String) COMMENT 'Customer.',
    lease_id String COMMENT 'Lease.',
    leased_s Float64 COMMENT 'Seconds leased: 60, since leases change on whole minutes. [s]',
    delivered_s Float64 COMMENT 'Seconds leased and healthy. [s]',
    unhealthy_s Float64 COMMENT 'Seconds leased and unhealthy. [s]',
    unknown_s Float64 COMMENT 'Seconds leased and unknown. [s]',
    opted_out_s Float64 COMMENT 'Seconds leased, the agent switched off by the tenant. [s]',
    not_in_service_s Float64 COMMENT 'Seconds leased and not in service, e.g. in maintenance. [s]',
    active_s Float64 COMMENT 'Seconds of samples with gr_engine_active of at least 0.05. [s]',
    fault String COMMENT 'Fault it lay under; empty = none.'
)
COMMENT 'What leases delivered, per GPU and minute.'
AS SELECT
    h.site AS site,
    h.ts AS ts,
    h.node_id AS node_id,
    h.gpu_index AS gpu_index,
    h.gpu_model AS gpu_model,
    h.rack AS rack,
    s.tenant AS tenant,
    s.lease_id AS lease_id,
    60. AS leased_s,
    h.healthy_s AS delivered_s,
    h.unhealthy_s AS unhealthy_s,
    h.unknown_s AS unknown_s,
    h.opted_out_s AS opted_out_s,
    h.not_in_service_s AS not_in_service_s,
    h.active_s AS active_s,
    h.fault AS fault
FROM gpufleet.gpu_health AS h
INNER JOIN gpufleet.lease_segments AS s ON s.site = h.site AND s.node_id = h.node_id
WHERE h.ts >= s.valid_from AND h.ts < s.valid_until;

-- Grain: one leased GPU, minute and lease. The one definition of used: delivered, and the compute engine busy (samples
-- with gr_engine_active of at least 0.05). A GPU held by a job that idles is delivered and not used.
CREATE OR REPLACE VIEW gpufleet.gpu_used
(
    site LowCardinality(String) COMMENT 'Data centre.',
    ts DateTime('UTC') COMMENT 'Start of the minute.',
    node_id String COMMENT 'Node.',
    gpu_index Int32 COMMENT 'GPU.',
    gpu_model LowCardinality(String) COMMENT 'Model.',
    rack LowCardinality(String) COMMENT 'Rack.',
    tenant LowCardinality(String) COMMENT 'Customer.',
    lease_id String COMMENT 'Lease.',
    leased_s Float64 COMMENT 'Seconds leased. [s]',
    delivered_s Float64 COMMENT 'Seconds leased and healthy. [s]',
    used_s Float64 COMMENT 'Seconds of them that were used. [s]',
    unhealthy_s Float64 COMMENT 'Seconds leased and unhealthy. [s]',
    unknown_s Float64 COMMENT 'Seconds leased and unknown. [s]',
    opted_out_s Float64 COMMENT 'Seconds leased, the agent switched off by the tenant. [s]',
    not_in_service_s Float64 COMMENT 'Seconds leased and not in service, e.g. in maintenance. [s]'
)
COMMENT 'What was used of what leases delivered, per GPU and minute.'
AS SELECT
    site, ts, node_id, gpu_index, gpu_model, rack, tenant, lease_id, leased_s, delivered_s,
    least(delivered_s, active_s) AS used_s,
    unhealthy_s, unknown_s, opted_out_s, not_in_service_s
FROM gpufleet.gpu_delivered;
