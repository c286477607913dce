-- Grain: one stretch of time in which a node (or asset without an agent) was made and placed the same.
CREATE OR REPLACE VIEW gpufleet.node_history
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node, or asset without an agent.',
    valid_from DateTime64(6, 'UTC') COMMENT 'First inventory event that said so, to the minute.',
    valid_until DateTime64(6, 'UTC') COMMENT 'Last microsecond, inclusive; 2299 = still so.',
    asset_kind LowCardinality(String) COMMENT 'node or switch_tray.',
    rack LowCardinality(String) COMMENT 'Rack.',
    slot LowCardinality(String) COMMENT 'Position in the rack.',
    feed LowCardinality(String) COMMENT 'Power feed of the rack.',
    pdu LowCardinality(String) COMMENT 'Rack PDU.',
    cdu LowCardinality(String) COMMENT 'Coolant distribution unit of its loop.',
    nvlink_domain LowCardinality(String) COMMENT 'NVLink domain; the node itself where it is its own domain.',
    lifecycle LowCardinality(String) COMMENT 'Lifecycle as the inventory says; node_lifecycle knows better.',
    gpu_model LowCardinality(String) COMMENT 'Model of the GPUs.',
    gpu_index Array(Int32) COMMENT 'GPUs by index.',
    gpu_uuid Array(FixedString(16)) COMMENT 'UUID of each GPU, 16 bytes.',
    gpu_nvlink_count Array(Int32) COMMENT 'NVLinks each GPU has.'
)
COMMENT 'What each node is and where it stands, as a history without the restatements.'
AS SELECT
    site,
    node_id,
    tupleElement(stretch, 1) AS valid_from,
    tupleElement(stretch, 2) AS valid_until,
    tupleElement(what, 1) AS asset_kind,
    tupleElement(what, 2) AS rack,
    tupleElement(what, 3) AS slot,
    tupleElement(what, 4) AS feed,
    tupleElement(what, 5) AS pdu,
    tupleElement(what, 6) AS cdu,
    if(tupleElement(what, 7) = '', node_id, tupleElement(what, 7)) AS nvlink_domain,
    tupleElement(what, 8) AS lifecycle,
    tupleElement(what, 9) AS gpu_model,
    tupleElement(what, 10) AS gpu_index,
    tupleElement(what, 11) AS gpu_uuid,
    tupleElement(what, 12) AS gpu_nvlink_count
FROM
(
    SELECT
        site,
        node_id,
        arraySort(x -> tupleElement(x, 1), groupArray(tuple(
            tuple(ts, run_id, seq),
            tuple(asset_kind, rack, slot, feed, pdu, coolant_loop, nvlink_domain, lifecycle, gpu_model, gpu_index,
                gpu_uuid, gpu_nvlink_count)))) AS told,
        arrayFilter((x, i) -> i = 1 OR tupleElement(x, 2) != tupleElement(told[i - 1], 2), told, arrayEnumerate(told))
            AS changes,
        arrayMap(x -> toDateTime64(toStartOfMinute(tupleElement(tupleElement(x, 1), 1)), 6, 'UTC'), changes) AS starts,
        arrayMap(x -> subtractMicroseconds(x, 1),
            arrayPushBack(arrayPopFront(starts), toDateTime64('2299-01-01 00:00:00', 6, 'UTC'))) AS ends,
        arrayJoin(arrayZip(arrayZip(starts, ends), arrayMap(x -> tupleElement(x, 2), changes))) AS joined,
        tupleElement(joined, 1) AS stretch,
        tupleElement(joined, 2) AS what
    FROM gpufleet.inventory
    WHERE flaws = 0
    GROUP BY site, node_id
)
WHERE valid_until > valid_from;

-- Grain: one node at a time: SELECT dictGet('gpufleet.node_at', 'rack', (site, node_id), ts).
CREATE DICTIONARY IF NOT EXISTS gpufleet.node_at
(
    site String,
    node_id String,
    valid_from DateTime64(6, 'UTC'),
    valid_until DateTime64(6, 'UTC'),
    asset_kind String DEFAULT '',
    rack String DEFAULT '',
    slot String DEFAULT '',
    feed String DEFAULT '',
    pdu String DEFAULT '',
    cdu String DEFAULT '',
    nvlink_domain String DEFAULT '',
    lifecycle String DEFAULT '',
    gpu_model String DEFAULT ''
)
PRIMARY KEY site, node_id
SOURCE(CLICKHOUSE({{dictionary_credentials}} DB 'gpufleet' TABLE 'node_history'
    INVALIDATE_QUERY 'SELECT count(), max(stored_at) FROM gpufleet.inventory'))
LAYOUT(COMPLEX_KEY_RANGE_HASHED())
RANGE(MIN valid_from MAX valid_until)
LIFETIME(MIN 120 MAX 300)
COMMENT 'Place and make of a node at a time.';

-- Grain: one GPU that should be there now: the starting point of anything that asks who is silent.
CREATE OR REPLACE VIEW gpufleet.gpu_inventory
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node.',
    gpu_index Int32 COMMENT 'Index of the GPU on the node.',
    gpu_uuid String COMMENT 'UUID as NVIDIA writes it.',
    gpu_model LowCardinality(String) COMMENT 'Model.',
    rack LowCardinality(String) COMMENT 'Rack.',
    slot LowCardinality(String) COMMENT 'Position in the rack.',
    feed LowCardinality(String) COMMENT 'Power feed of the rack.',
    pdu LowCardinality(String) COMMENT 'Rack PDU.',
    cdu LowCardinality(String) COMMENT 'Coolant distribution unit.',
    nvlink_domain LowCardinality(String) COMMENT 'NVLink domain.',
    nvlink_count Nullable(Int32) COMMENT 'NVLinks the GPU has.',
    since DateTime64(6, 'UTC') COMMENT 'In this place and form since.',
    tenant LowCardinality(String) COMMENT 'Customer that leases the node now; empty = nobody.'
)
COMMENT 'GPUs of the fleet as the newest inventory of each node has them.'
AS SELECT
    site,
    node_id,
    gpu_index,
    if(uuid = toFixedString('', 16), '', replaceRegexpOne(lower(hex(uuid)), '^(.{8})(.{4})(.{4})(.{4})(.{12})$', 'GPU-\\1-\\2-\\3-\\4-\\5')) AS gpu_uuid,
    gpu_model,
    rack,
    slot,
    feed,
    pdu,
    cdu,
    nvlink_domain,
    nullIf(nvlinks, -1) AS nvlink_count,
    since,
    tenant
FROM
(
    SELECT
        p.site AS site, p.node_id AS node_id, p.tenant AS tenant, p.gpu_model AS gpu_model, p.rack AS rack,
        p.slot AS slot, p.feed AS feed, p.pdu AS pdu, p.cdu AS cdu, p.nvlink_domain AS nvlink_domain, p.since AS since,
        p.gpu_index[place] AS gpu_index,
        if(place > length(p.gpu_uuid), toFixedString('', 16), p.gpu_uuid[place]) AS uuid,
        if(place > length(p.gpu_nvlink_count), -1, p.gpu_nvlink_count[place]) AS nvlinks
    FROM gpufleet.node_place AS p FINAL
    ARRAY JOIN arrayEnumerate(p.gpu_index) AS place
);
