-- Grain: one node, as it is made and placed now, with the tenant of now. Inventory rows keep the tenant of their own
-- time; who leases a node today must see what it is made of today. Read it with FINAL.
CREATE TABLE IF NOT EXISTS gpufleet.node_place
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    node_id String COMMENT 'Node' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Tenant that leases the node now; empty = nobody' CODEC(ZSTD(1)),
    lease_id String COMMENT 'Lease that holds it now; empty = none' CODEC(ZSTD(1)),
    rack LowCardinality(String) COMMENT 'Rack' CODEC(ZSTD(1)),
    slot LowCardinality(String) COMMENT 'Position in the rack' CODEC(ZSTD(1)),
    feed LowCardinality(String) COMMENT 'Power feed of the rack' CODEC(ZSTD(1)),
    pdu LowCardinality(String) COMMENT 'Rack PDU' CODEC(ZSTD(1)),
    cdu LowCardinality(String) COMMENT 'Coolant distribution unit' CODEC(ZSTD(1)),
    nvlink_domain LowCardinality(String) COMMENT 'NVLink domain; the node itself where it is its own domain' CODEC(ZSTD(1)),
    gpu_model LowCardinality(String) COMMENT 'Model of the GPUs' CODEC(ZSTD(1)),
    gpu_index Array(Int32) COMMENT 'GPUs by index' CODEC(ZSTD(1)),
    gpu_uuid Array(FixedString(16)) COMMENT 'UUID of each GPU, 16 bytes' CODEC(ZSTD(1)),
    gpu_nvlink_count Array(Int32) COMMENT 'NVLinks each GPU has' CODEC(ZSTD(1)),
    gpu_power_limit_w Array(Float32) COMMENT 'Power limit of each GPU; W' CODEC(ZSTD(1)),
    since DateTime64(6, 'UTC') COMMENT 'In this place and form since' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every rewrite' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = the inventory no longer has the node' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
ORDER BY (site, node_id)
COMMENT 'Every node as it is now, with the tenant of now';
