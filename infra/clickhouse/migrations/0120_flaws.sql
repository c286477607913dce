-- Made from schemas/flaws.py by python -m infra.clickhouse.generate. Grain: one bit of the column flaws.
CREATE OR REPLACE VIEW gpufleet.flaw_bits
(
    bit UInt32 COMMENT 'Value of the bit.',
    flaw String COMMENT 'Its name.',
    meaning String COMMENT 'What is absurd about such an event.'
)
COMMENT 'What the bits of the column flaws mean.'
AS SELECT
    tupleElement(row, 1) AS bit,
    tupleElement(row, 2) AS flaw,
    tupleElement(row, 3) AS meaning
FROM (SELECT arrayJoin([
        (1, 'ragged_gpu', 'A per-GPU array is neither empty nor as long as gpu_index (times ticks) says.'),
        (2, 'ragged_tick', 'A per-tick array has neither 0, 1 nor ticks values.'),
        (4, 'ragged_nic', 'A per-NIC array is neither empty nor as long as nic_name (times ticks) says.'),
        (8, 'ragged_list', 'Two lists that belong together differ in length.'),
        (16, 'gpu_count', 'More than 128 GPUs in one event.'),
        (32, 'tick_count', 'ticks is not in 1..60.'),
        (64, 'interval', 'interval_ms is not in 1..60000 (facility: not positive).'),
        (128, 'crosses_minute', 'The last tick lies in another UTC minute than the first.'),
        (256, 'not_finite', 'A single value is infinite, or not finite where a number is needed.'),
        (512, 'gpu_index', 'gpu_index holds a value twice or one outside 0..1023.'),
        (1024, 'validity', 'A period is not on whole minutes where it must be, or ends before it starts.'),
        (2048, 'negative_count', 'A count, length or number of an order is negative (or zero where it starts at 1).'),
        (4096, 'nic_count', 'More than 256 NIC ports in one event.'),
        (8192, 'identity', 'site, producer_id or the key is empty, run_id is not positive or seq is negative.')]) AS row);

-- Grain: one event that is stored but left out of every other view, since it is absurd.
CREATE OR REPLACE VIEW gpufleet.flawed_events
(
    topic String COMMENT 'Topic.',
    site String COMMENT 'Data centre.',
    producer_id String COMMENT 'Producer.',
    run_id Int64 COMMENT 'Its run.',
    seq Int64 COMMENT 'Number of the event.',
    ts DateTime64(6, 'UTC') COMMENT 'Event time.',
    stored_at DateTime64(6, 'UTC') COMMENT 'When it was stored.',
    tenant String COMMENT 'Customer; empty = nobody.',
    flaws UInt32 COMMENT 'Bits of gpufleet.flaw_bits.',
    flaw Array(String) COMMENT 'Their names.'
)
COMMENT 'Events that parse and are absurd: stored as they came, left out of views and projections.'
AS SELECT
    topic, site, producer_id, run_id, seq, ts, stored_at, tenant, flaws,
    arrayMap(bit -> ['ragged_gpu', 'ragged_tick', 'ragged_nic', 'ragged_list', 'gpu_count', 'tick_count', 'interval', 'crosses_minute', 'not_finite', 'gpu_index', 'validity', 'negative_count', 'nic_count', 'identity'][bit + 1], bitPositionsToArray(flaws)) AS flaw
FROM
(
    SELECT 'node-telemetry' AS topic, site, producer_id, run_id, seq, ts, stored_at,
        toString(tenant) AS tenant, flaws
    FROM gpufleet.node_telemetry WHERE flaws != 0
    UNION ALL
    SELECT 'node-counters' AS topic, site, producer_id, run_id, seq, ts, stored_at,
        toString(tenant) AS tenant, flaws
    FROM gpufleet.node_counters WHERE flaws != 0
    UNION ALL
    SELECT 'node-events' AS topic, site, producer_id, run_id, seq, ts, stored_at,
        toString(tenant) AS tenant, flaws
    FROM gpufleet.node_events WHERE flaws != 0
    UNION ALL
    SELECT 'inventory' AS topic, site, producer_id, run_id, seq, ts, stored_at,
        toString(tenant) AS tenant, flaws
    FROM gpufleet.inventory WHERE flaws != 0
    UNION ALL
    SELECT 'allocations' AS topic, site, producer_id, run_id, seq, ts, stored_at,
        '' AS tenant, flaws
    FROM gpufleet.allocations WHERE flaws != 0
    UNION ALL
    SELECT 'leases' AS topic, site, producer_id, run_id, seq, ts, stored_at,
        toString(tenant) AS tenant, flaws
    FROM gpufleet.leases WHERE flaws != 0
    UNION ALL
    SELECT 'tenant-usage' AS topic, site, producer_id, run_id, seq, ts, stored_at,
        toString(tenant) AS tenant, flaws
    FROM gpufleet.tenant_usage WHERE flaws != 0
    UNION ALL
    SELECT 'tenant-limits' AS topic, site, producer_id, run_id, seq, ts, stored_at,
        toString(tenant) AS tenant, flaws
    FROM gpufleet.tenant_limits WHERE flaws != 0
    UNION ALL
    SELECT 'facility-telemetry' AS topic, site, producer_id, run_id, seq, ts, stored_at,
        '' AS tenant, flaws
    FROM gpufleet.facility_telemetry WHERE flaws != 0
    UNION ALL
    SELECT 'dead-letters' AS topic, site, producer_id, run_id, seq, ts, stored_at,
        '' AS tenant, flaws
    FROM gpufleet.dead_letters WHERE flaws != 0
);
