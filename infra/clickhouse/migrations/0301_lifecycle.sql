-- Grain: one minute, of the time that minute rollups are kept. For views that must also show where nothing came in.
-- The last two minutes are left to the projector: they would look as if the fleet were silent.
CREATE OR REPLACE VIEW gpufleet.minutes
(
    ts DateTime('UTC') COMMENT 'Start of the minute.'
)
COMMENT 'Every UTC minute that is over for two minutes, of the time that minute rollups are kept, whether data came or not.'
AS SELECT toDateTime(arrayJoin(range(
    toUInt32(toUnixTimestamp(toStartOfMinute(now() - toIntervalDay({{minute_days}})))),
    toUInt32(toUnixTimestamp(toStartOfMinute(now() - 120))),
    60)), 'UTC') AS ts;

-- Grain: one stretch of time in which a GPU was in one state of its life.
-- The one definition of lifecycle: what the inventory says, then what lifecycle events say; maintenance begins and ends
-- by its own events and then gives way to what was before.
CREATE OR REPLACE VIEW gpufleet.gpu_lifecycle
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node.',
    gpu_index Int32 COMMENT 'GPU.',
    valid_from DateTime64(6, 'UTC') COMMENT 'Start.',
    valid_to DateTime64(6, 'UTC') COMMENT 'End, exclusive; 2299 = still so.',
    lifecycle String COMMENT 'racked, burn-in, accepted, leased, draining, maintenance or rma.',
    in_service Bool COMMENT 'Whether it counts as capacity: accepted, leased or draining.'
)
COMMENT 'Lifecycle of each GPU over time.'
AS WITH
    told AS
    (
        SELECT site, node_id, -1 AS gpu, ts, 1 AS rank, state
        FROM
        (
            SELECT
                site, node_id, valid_from AS ts, toString(lifecycle) AS state,
                lagInFrame(toString(lifecycle), 1, '') OVER (
                    PARTITION BY site, node_id ORDER BY valid_from
                    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS before
            FROM gpufleet.node_history
        )
        WHERE state != before
        UNION ALL
        SELECT
            site, node_id, ifNull(gpu_index, -1) AS gpu, ts, 2 AS rank,
            multiIf(event = 'maintenance_begin', 'maintenance', event = 'maintenance_end', '', toString(value)) AS state
        FROM gpufleet.node_events
        WHERE flaws = 0 AND event IN ('lifecycle', 'maintenance_begin', 'maintenance_end')
    ),
    by_node AS
    (
        SELECT site, node_id, groupArray(tuple(ts, rank, gpu, state)) AS words FROM told GROUP BY site, node_id
    ),
    gpus AS
    (
        SELECT DISTINCT site, node_id, arrayJoin(gpu_index) AS gpu_index FROM gpufleet.node_history WHERE asset_kind = 'node'
    )
SELECT
    site,
    node_id,
    gpu_index,
    tupleElement(stretch, 1) AS valid_from,
    tupleElement(stretch, 2) AS valid_to,
    tupleElement(stretch, 3) AS lifecycle,
    lifecycle IN ('accepted', 'leased', 'draining') AS in_service
FROM
(
    SELECT
        g.site AS site,
        g.node_id AS node_id,
        g.gpu_index AS gpu_index,
        arraySort(arrayFilter(w -> tupleElement(w, 3) IN (-1, g.gpu_index), n.words)) AS heard,
        arrayMap(w -> tupleElement(w, 4), heard) AS states,
        arrayMap(w -> tupleElement(w, 1), heard) AS starts,
        arrayPushBack(arrayPopFront(starts), toDateTime64('2299-01-01 00:00:00', 6, 'UTC')) AS ends,
        -- An end of maintenance brings back the last state before it; one never told of counts as accepted.
        arrayMap((s, i) -> if(s != '', s, coalesce(
            nullIf(arrayLast(x -> x NOT IN ('', 'maintenance'), arraySlice(states, 1, i - 1)), ''), 'accepted')),
            states, arrayEnumerate(states)) AS lived,
        arrayJoin(arrayZip(starts, ends, lived)) AS stretch
    FROM gpus AS g
    INNER JOIN by_node AS n ON n.site = g.site AND n.node_id = g.node_id
    WHERE notEmpty(heard)
)
WHERE valid_to > valid_from;

-- Grain: one stretch of time in which a GPU lies under a fault, its own or one whose blast radius holds it. Stretches of
-- a GPU do not overlap: time under two faults counts once, for the one that began first.
CREATE OR REPLACE VIEW gpufleet.gpu_fault_periods
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node.',
    gpu_index Int32 COMMENT 'GPU.',
    valid_from DateTime64(6, 'UTC') COMMENT 'Start.',
    valid_to DateTime64(6, 'UTC') COMMENT 'End, exclusive; 2299 = open.',
    fault String COMMENT 'xid_79, ecc_dbe, gpu_lost ...',
    action String COMMENT 'What to do.',
    scope String COMMENT 'Blast radius: gpu, node or nvlink_domain.',
    origin_node String COMMENT 'Node that the fault began on.'
)
COMMENT 'When each GPU lies under a fault, blast radius included.'
AS WITH
    nodes AS
    (
        SELECT
            site, node_id, argMax(nvlink_domain, valid_from) AS domain,
            arrayMap(i -> tuple(node_id, i), argMax(gpu_index, valid_from)) AS gpus
        FROM gpufleet.node_history
        GROUP BY site, node_id
    ),
    hit AS
    (
        SELECT
            f.site AS site, f.opened_at AS opened_at, f.cleared_at AS cleared_at, f.fault AS fault, f.action AS action,
            f.scope AS scope, f.node_id AS origin,
            -- A fault of one GPU needs no inventory.
            arrayJoin(multiIf(
                f.scope = 'gpu', [tuple(f.node_id, assumeNotNull(f.gpu_index))],
                f.scope = 'node', n.gpus,
                d.gpus)) AS target,
            tupleElement(target, 1) AS node_id,
            tupleElement(target, 2) AS gpu
        FROM gpufleet.gpu_faults AS f
        LEFT JOIN nodes AS n ON n.site = f.site AND n.node_id = f.node_id
        LEFT JOIN
        (
            SELECT site, domain, arrayFlatten(groupArray(gpus)) AS gpus FROM nodes GROUP BY site, domain
        ) AS d ON d.site = n.site AND d.domain = n.domain AND f.scope = 'nvlink_domain'
    )
SELECT
    site,
    node_id,
    gpu AS gpu_index,
    tupleElement(piece, 1) AS valid_from,
    tupleElement(piece, 2) AS valid_to,
    tupleElement(piece, 3) AS fault,
    tupleElement(piece, 4) AS action,
    tupleElement(piece, 5) AS scope,
    tupleElement(piece, 6) AS origin_node
FROM
(
    SELECT
        site,
        node_id,
        gpu,
        arraySort(groupArray(tuple(opened_at, cleared_at, toString(fault), toString(action), toString(scope), origin))) AS faults,
        arrayJoin(arrayMap(
            (f, i) -> tuple(
                if(i = 1, tupleElement(f, 1), greatest(
                    tupleElement(f, 1),
                    arrayMax(arrayMap(x -> tupleElement(x, 2), arraySlice(faults, 1, greatest(i - 1, 1)))))),
                tupleElement(f, 2), tupleElement(f, 3), tupleElement(f, 4), tupleElement(f, 5), tupleElement(f, 6)),
            faults, arrayEnumerate(faults))) AS piece
    FROM hit
    GROUP BY site, node_id, gpu
)
WHERE valid_to > valid_from;

-- Grain: one stretch of time in which a node's agent was off because its tenant may switch it off.
CREATE OR REPLACE VIEW gpufleet.agent_opt_outs
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node.',
    valid_from DateTime64(6, 'UTC') COMMENT 'Start.',
    valid_to DateTime64(6, 'UTC') COMMENT 'End, exclusive; 2299 = still off.'
)
COMMENT 'When the agent of a node was opted out: its silence is neither health nor sickness.'
AS SELECT
    site,
    node_id,
    tupleElement(stretch, 1) AS valid_from,
    tupleElement(stretch, 2) AS valid_to
FROM
(
    SELECT
        site,
        node_id,
        groupArrayIf(ts, event = 'source_down') AS downs,
        groupArrayIf(ts, event != 'source_down') AS ups,
        arrayJoin(arrayMap(d -> tuple(d, arrayMin(arrayPushBack(
            arrayFilter(u -> u > d, ups), toDateTime64('2299-01-01 00:00:00', 6, 'UTC')))), downs)) AS stretch
    FROM gpufleet.node_events
    WHERE flaws = 0 AND (
        event = 'source_down' AND value = 'agent' AND attributes['reason'] = 'opted_out'
        OR event = 'source_up' AND value = 'agent'
        OR event = 'agent_start')
    GROUP BY site, node_id
);
