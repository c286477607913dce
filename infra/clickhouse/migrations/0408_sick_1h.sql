-- Grain: site, GPU, reason, its begin, tenant, in service or not, and hour: only what was wrong. Read it with FINAL.
CREATE TABLE IF NOT EXISTS gpufleet.sick_1h
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the hour, UTC' CODEC(DoubleDelta, ZSTD(1)),
    node_id LowCardinality(String) COMMENT 'Node' CODEC(ZSTD(1)),
    gpu_index Int32 COMMENT 'Index of the GPU on the node' CODEC(ZSTD(1)),
    reason LowCardinality(String) COMMENT 'A fault (xid_79, ecc_dbe, gpu_lost, link_down ...), silent, opted_out, slowdown, temp_high, row_remap_failure, row_remap_pending, sram_ecc_threshold, recovery_action, pcie_downtrained, nvlink_inactive, clock_offset or straggler' CODEC(ZSTD(1)),
    since DateTime64(6, 'UTC') COMMENT 'Since when, as far as that is known' CODEC(Delta, ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Tenant that leased the node then; empty = nobody' CODEC(ZSTD(1)),
    in_service Bool COMMENT 'False = minutes in which it was not in service, e.g. in maintenance' CODEC(ZSTD(1)),
    rack LowCardinality(String) COMMENT 'Rack' CODEC(ZSTD(1)),
    feed LowCardinality(String) COMMENT 'Power feed of the rack' CODEC(ZSTD(1)),
    cdu LowCardinality(String) COMMENT 'Coolant distribution unit' CODEC(ZSTD(1)),
    nvlink_domain LowCardinality(String) COMMENT 'NVLink domain; the node itself where it is its own domain' CODEC(ZSTD(1)),
    gpu_model LowCardinality(String) COMMENT 'Model of the GPUs' CODEC(ZSTD(1)),
    action LowCardinality(String) COMMENT 'What to do' CODEC(ZSTD(1)),
    scope LowCardinality(String) COMMENT 'Blast radius that it lies in: gpu, node or nvlink_domain' CODEC(ZSTD(1)),
    origin_node LowCardinality(String) COMMENT 'Node that the fault began on; otherwise the node itself' CODEC(ZSTD(1)),
    minutes UInt8 COMMENT 'Minutes of the hour in which it held' CODEC(ZSTD(1)),
    first_minute DateTime('UTC') COMMENT 'First of them' CODEC(DoubleDelta, ZSTD(1)),
    last_minute DateTime('UTC') COMMENT 'Last of them' CODEC(DoubleDelta, ZSTD(1)),
    detail String COMMENT 'More about it' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = the window no longer has this key' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(ts)
ORDER BY (site, toStartOfDay(ts), node_id, gpu_index, reason, since, tenant, in_service, toHour(ts))
TTL ts + toIntervalDay({{hour_days}})
COMMENT 'What was wrong with which GPU, hour by hour; counted from sick_1m';
