-- Grain: one lease, as its highest sound revision has it.
CREATE OR REPLACE VIEW gpufleet.lease_current
(
    site LowCardinality(String) COMMENT 'Data centre.',
    lease_id String COMMENT 'Lease.',
    revision Int32 COMMENT 'The revision that holds.',
    action LowCardinality(String) COMMENT 'granted, changed, ended or corrected.',
    tenant LowCardinality(String) COMMENT 'Customer.',
    nodes Array(String) COMMENT 'Whole nodes leased; empty = the lease was withdrawn.',
    valid_from DateTime64(6, 'UTC') COMMENT 'Start, a whole minute.',
    valid_to DateTime64(6, 'UTC') COMMENT 'End, exclusive; the year 2299 = open.',
    lease_kind LowCardinality(String) COMMENT 'reserved, on-demand or spot.',
    price_per_gpu_hour Float64 COMMENT 'Price of one GPU-hour. [currency]',
    currency LowCardinality(String) COMMENT 'ISO 4217 code of the price.',
    sla_target Float64 COMMENT 'Promised share of leased GPU-seconds that are delivered. [ratio]',
    operator_reads_usage Bool COMMENT 'Whether the operator may read the tenant''s usage while it holds.',
    changed_at DateTime64(6, 'UTC') COMMENT 'Event time of that revision.'
)
COMMENT 'Leases as they stand: the highest revision of each, unsound ones left out.'
AS SELECT
    site,
    lease_id,
    tupleElement(latest, 1) AS revision,
    tupleElement(latest, 2) AS action,
    tupleElement(latest, 3) AS tenant,
    tupleElement(latest, 4) AS nodes,
    tupleElement(latest, 5) AS valid_from,
    tupleElement(latest, 6) AS valid_to,
    tupleElement(latest, 7) AS lease_kind,
    tupleElement(latest, 8) AS price_per_gpu_hour,
    tupleElement(latest, 9) AS currency,
    tupleElement(latest, 10) AS sla_target,
    tupleElement(latest, 11) AS operator_reads_usage,
    tupleElement(latest, 12) AS changed_at
FROM
(
    SELECT
        site,
        lease_id,
        argMax(
            tuple(
                revision,
                action,
                tenant,
                nodes,
                valid_from,
                -- A lease that is ended without saying when ends at the minute it was said.
                multiIf(
                    isNotNull(valid_to), assumeNotNull(valid_to),
                    action = 'ended', greatest(valid_from, toDateTime64(toStartOfMinute(ts), 6, 'UTC')),
                    toDateTime64('2299-01-01 00:00:00', 6, 'UTC')),
                lease_kind,
                price_per_gpu_hour,
                currency,
                sla_target,
                operator_reads_usage,
                ts),
            tuple(revision, ts, producer_id, run_id, seq)) AS latest
    FROM gpufleet.leases
    WHERE flaws = 0
    GROUP BY site, lease_id
);

-- Grain: one stretch of time in which one lease holds one node. Stretches of a node do not overlap.
-- Where leases overlap, the one that started later holds (a tie goes to the greater lease_id), and the earlier one
-- holds again when it has ended: lease_overlaps names them.
CREATE OR REPLACE VIEW gpufleet.lease_segments
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node.',
    valid_from DateTime64(6, 'UTC') COMMENT 'Start, inclusive.',
    valid_until DateTime64(6, 'UTC') COMMENT 'Last microsecond, inclusive: a range of the dictionary.',
    tenant LowCardinality(String) COMMENT 'Customer.',
    lease_id String COMMENT 'Lease that holds.',
    lease_kind LowCardinality(String) COMMENT 'reserved, on-demand or spot.',
    sla_target Float64 COMMENT 'Promised share of leased GPU-seconds that are delivered. [ratio]'
)
COMMENT 'Which lease holds a node when: the source of the dictionary lease_by_node.'
AS WITH by_node AS
(
    SELECT
        site,
        node_id,
        arraySort(groupArray(tuple(valid_from, lease_id, valid_to, tenant, lease_kind, sla_target))) AS leases,
        -- Starts that lie before the end of what came before.
        arrayExists(
            (lease, place) -> place > 1
                AND tupleElement(lease, 1) < arrayMax(l -> tupleElement(l, 3), arraySlice(leases, 1, place - 1)),
            leases, arrayEnumerate(leases)) AS overlapping
    FROM gpufleet.lease_current
    ARRAY JOIN arrayDistinct(nodes) AS node_id
    WHERE valid_to > valid_from
    GROUP BY site, node_id
)
SELECT
    site,
    node_id,
    tupleElement(segment, 1) AS valid_from,
    subtractMicroseconds(tupleElement(segment, 3), 1) AS valid_until,
    tupleElement(segment, 4) AS tenant,
    tupleElement(segment, 2) AS lease_id,
    tupleElement(segment, 5) AS lease_kind,
    tupleElement(segment, 6) AS sla_target
FROM
(
    SELECT site, node_id, arrayJoin(leases) AS segment
    FROM by_node
    WHERE NOT overlapping
    UNION ALL
    SELECT
        site,
        node_id,
        tuple(from, tupleElement(holder, 2), to, tupleElement(holder, 4), tupleElement(holder, 5), tupleElement(holder, 6)) AS segment
    FROM
    (
        SELECT
            site,
            node_id,
            arraySort(arrayDistinct(arrayConcat(
                arrayMap(l -> tupleElement(l, 1), leases), arrayMap(l -> tupleElement(l, 3), leases)))) AS bounds,
            arrayJoin(arrayZip(arrayPopBack(bounds), arrayPopFront(bounds))) AS period,
            tupleElement(period, 1) AS from,
            tupleElement(period, 2) AS to,
            arrayFilter(l -> tupleElement(l, 1) <= from AND tupleElement(l, 3) > from, leases) AS holders,
            holders[-1] AS holder
        FROM by_node
        WHERE overlapping
    )
    WHERE notEmpty(holders)
);

-- Grain: one pair of leases that claim one node at one time.
CREATE OR REPLACE VIEW gpufleet.lease_overlaps
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node claimed twice.',
    holds String COMMENT 'Lease that holds the node meanwhile: the one that started later.',
    holds_tenant LowCardinality(String) COMMENT 'Its customer.',
    yields String COMMENT 'Lease that yields.',
    yields_tenant LowCardinality(String) COMMENT 'Its customer.',
    overlap_from DateTime64(6, 'UTC') COMMENT 'Start of the overlap.',
    overlap_to DateTime64(6, 'UTC') COMMENT 'End of the overlap, exclusive; 2299 = open.'
)
COMMENT 'Leases that claim the same node at the same time: a mistake to correct; says which one holds meanwhile.'
AS WITH claims AS
(
    SELECT site, node_id, lease_id, tenant, valid_from, valid_to
    FROM gpufleet.lease_current
    ARRAY JOIN arrayDistinct(nodes) AS node_id
    WHERE valid_to > valid_from
)
SELECT
    a.site AS site,
    a.node_id AS node_id,
    a.lease_id AS holds,
    a.tenant AS holds_tenant,
    b.lease_id AS yields,
    b.tenant AS yields_tenant,
    a.valid_from AS overlap_from,
    least(a.valid_to, b.valid_to) AS overlap_to
FROM claims AS a
INNER JOIN claims AS b ON a.site = b.site AND a.node_id = b.node_id
WHERE (a.valid_from, a.lease_id) > (b.valid_from, b.lease_id) AND a.valid_from < b.valid_to;

-- Asked at every insert of node events (DEFAULT of their column tenant). Reloaded after each change to the leases;
-- by itself it looks every few minutes whether there was one.
CREATE DICTIONARY IF NOT EXISTS gpufleet.lease_by_node
(
    site String,
    node_id String,
    valid_from DateTime64(6, 'UTC'),
    valid_until DateTime64(6, 'UTC'),
    tenant String DEFAULT '',
    lease_id String DEFAULT '',
    lease_kind String DEFAULT '',
    sla_target Float64 DEFAULT 0
)
PRIMARY KEY site, node_id
SOURCE(CLICKHOUSE({{dictionary_credentials}} DB 'gpufleet' TABLE 'lease_segments'
    INVALIDATE_QUERY 'SELECT count(), max(stored_at) FROM gpufleet.leases'))
LAYOUT(COMPLEX_KEY_RANGE_HASHED())
RANGE(MIN valid_from MAX valid_until)
LIFETIME(MIN 120 MAX 300)
COMMENT 'Tenant and lease of a node at a time.';
