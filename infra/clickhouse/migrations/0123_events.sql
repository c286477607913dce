-- Grain: one XID.
CREATE OR REPLACE VIEW gpufleet.xids
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node.',
    rack LowCardinality(String) COMMENT 'Rack.',
    tenant LowCardinality(String) COMMENT 'Customer that leased the node then.',
    ts DateTime64(6, 'UTC') COMMENT 'When.',
    gpu_index Nullable(Int32) COMMENT 'GPU.',
    gpu_uuid String COMMENT 'UUID as NVIDIA writes it.',
    code Nullable(Int32) COMMENT 'XID.',
    meaning String COMMENT 'What the code says.',
    action LowCardinality(String) COMMENT 'What to do.',
    action_from LowCardinality(String) COMMENT 'driver, table or nobody.',
    occurrences Int32 COMMENT 'Like XIDs folded into one within 5 s.',
    message String COMMENT 'What happened, in a sentence.',
    raw String COMMENT 'The kernel''s own line.'
)
COMMENT 'XIDs with the action to take.'
AS SELECT site, node_id, rack, tenant, ts, gpu_index, gpu_uuid, code, meaning, action, action_from, occurrences, message, raw
FROM gpufleet.gpu_alarms
WHERE event = 'xid';

-- Grain: one fault, from the alarm that opened it to what cleared it. A lost GPU is cleared when it is found, a link
-- when it is up; anything by a reload of the driver (ECC, XID, remap), a reboot, the end of maintenance or by being
-- accepted again.
CREATE OR REPLACE VIEW gpufleet.gpu_faults
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node.',
    rack LowCardinality(String) COMMENT 'Rack.',
    tenant LowCardinality(String) COMMENT 'Customer that leased the node when it began.',
    gpu_index Nullable(Int32) COMMENT 'GPU; NULL = the whole node.',
    fault LowCardinality(String) COMMENT 'xid_79, ecc_dbe, gpu_lost ...',
    action LowCardinality(String) COMMENT 'What to do.',
    scope LowCardinality(String) COMMENT 'Blast radius: gpu, node or nvlink_domain.',
    opened_at DateTime64(6, 'UTC') COMMENT 'Start.',
    cleared_at DateTime64(6, 'UTC') COMMENT 'End, exclusive; 2299 = open.',
    is_open Bool COMMENT 'Whether nothing has cleared it.',
    message String COMMENT 'What happened, in a sentence.'
)
COMMENT 'Faults of GPUs and nodes from begin to end.'
AS WITH closers AS
(
    SELECT
        site,
        node_id,
        groupArray(tuple(
            ts,
            multiIf(event = 'gpu_found', 'gpu_lost', event = 'link_up', 'link_down', event = 'driver_reload', 'reload',
                event = 'agent_start', 'boot', 'all'),
            ifNull(gpu_index, -1),
            toString(host_boot_id))) AS ends
    FROM gpufleet.node_events
    WHERE flaws = 0 AND (event IN ('gpu_found', 'link_up', 'driver_reload', 'agent_start', 'maintenance_end')
        OR (event = 'lifecycle' AND value = 'accepted'))
    GROUP BY site, node_id
)
SELECT
    a.site AS site,
    a.node_id AS node_id,
    a.rack AS rack,
    a.tenant AS tenant,
    a.gpu_index AS gpu_index,
    if(isNull(a.code), toString(a.event), concat(toString(a.event), '_', toString(assumeNotNull(a.code)))) AS fault,
    a.action AS action,
    a.scope AS scope,
    a.ts AS opened_at,
    arrayMin(arrayConcat(
        [ifNull(a.ended_at, toDateTime64('2299-01-01 00:00:00', 6, 'UTC'))],
        arrayMap(c -> tupleElement(c, 1), arrayFilter(
            c -> tupleElement(c, 1) > a.ts
                AND (tupleElement(c, 3) = -1 OR tupleElement(c, 3) = ifNull(a.gpu_index, -1))
                AND multiIf(
                    tupleElement(c, 2) = 'all', 1,
                    tupleElement(c, 2) = 'boot', tupleElement(c, 4) != '' AND tupleElement(c, 4) != a.host_boot_id,
                    tupleElement(c, 2) = 'reload', a.event IN ('xid', 'sxid', 'ecc_dbe', 'row_remap'),
                    tupleElement(c, 2) = a.event),
            c.ends)))) AS cleared_at,
    cleared_at >= toDateTime64('2299-01-01 00:00:00', 6, 'UTC') AS is_open,
    a.message AS message
FROM gpufleet.gpu_alarms AS a
LEFT JOIN closers AS c ON c.site = a.site AND c.node_id = a.node_id
WHERE a.is_fault;

-- Grain: one job.
CREATE OR REPLACE VIEW gpufleet.jobs
(
    site LowCardinality(String) COMMENT 'Data centre.',
    job_id String COMMENT 'Job.',
    state LowCardinality(String) COMMENT 'started, running or ended.',
    job_kind LowCardinality(String) COMMENT 'training, serving or other.',
    name String COMMENT 'Name as its owner gave it.',
    scheduler LowCardinality(String) COMMENT 'simulator, slurm or kubernetes.',
    started_at DateTime64(6, 'UTC') COMMENT 'Start.',
    ended_at Nullable(DateTime64(6, 'UTC')) COMMENT 'End; NULL = runs.',
    nodes Array(String) COMMENT 'Nodes.',
    gpu_mask Array(Int64) COMMENT 'Per node: bit i set = GPU i belongs to the job.',
    gpus UInt64 COMMENT 'GPUs in all.',
    exit_reason LowCardinality(String) COMMENT 'Why it ended.',
    told_at DateTime64(6, 'UTC') COMMENT 'Time of the newest word about it.'
)
COMMENT 'Jobs as the newest word about each has them.'
AS SELECT
    site,
    job_id,
    tupleElement(latest, 1) AS state,
    tupleElement(latest, 2) AS job_kind,
    tupleElement(latest, 3) AS name,
    tupleElement(latest, 4) AS scheduler,
    tupleElement(latest, 5) AS started_at,
    tupleElement(latest, 6) AS ended_at,
    tupleElement(latest, 7) AS nodes,
    tupleElement(latest, 8) AS gpu_mask,
    arraySum(mask -> bitCount(mask), tupleElement(latest, 8)) AS gpus,
    tupleElement(latest, 9) AS exit_reason,
    tupleElement(latest, 10) AS told_at
FROM
(
    SELECT
        site,
        job_id,
        argMax(
            tuple(state, job_kind, name, scheduler, started_at, ended_at, nodes, gpu_mask, exit_reason, ts),
            tuple(ts, state = 'ended', run_id, seq)) AS latest
    FROM gpufleet.allocations
    WHERE flaws = 0
    GROUP BY site, job_id
);

-- Grain: one GPU of one job.
CREATE OR REPLACE VIEW gpufleet.job_gpus
(
    site LowCardinality(String) COMMENT 'Data centre.',
    job_id String COMMENT 'Job.',
    job_kind LowCardinality(String) COMMENT 'training, serving or other.',
    node_id String COMMENT 'Node.',
    gpu_index Int32 COMMENT 'GPU on the node.',
    started_at DateTime64(6, 'UTC') COMMENT 'Start.',
    ended_at Nullable(DateTime64(6, 'UTC')) COMMENT 'End; NULL = runs.'
)
COMMENT 'Which GPU belongs to which job from when to when.'
AS SELECT
    site,
    job_id,
    job_kind,
    node_id,
    toInt32(arrayJoin(bitPositionsToArray(mask))) AS gpu_index,
    started_at,
    ended_at
FROM gpufleet.jobs
ARRAY JOIN nodes AS node_id, arrayResize(gpu_mask, length(nodes), toInt64(0)) AS mask;
