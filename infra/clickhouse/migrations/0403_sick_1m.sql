-- Grain: site, GPU, minute and reason: only GPUs that had something wrong in the minute. Read it with FINAL.
CREATE TABLE IF NOT EXISTS gpufleet.sick_1m
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the minute, UTC' CODEC(DoubleDelta, ZSTD(1)),
    node_id LowCardinality(String) COMMENT 'Node' CODEC(ZSTD(1)),
    gpu_index Int32 COMMENT 'Index of the GPU on the node' CODEC(ZSTD(1)),
    reason LowCardinality(String) COMMENT 'A fault (xid_79, ecc_dbe, gpu_lost, link_down ...), silent, opted_out, slowdown, temp_high, row_remap_failure, row_remap_pending, sram_ecc_threshold, recovery_action, pcie_downtrained, nvlink_inactive, clock_offset or straggler' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Tenant that leased the node then; empty = nobody' CODEC(ZSTD(1)),
    rack LowCardinality(String) COMMENT 'Rack' CODEC(ZSTD(1)),
    feed LowCardinality(String) COMMENT 'Power feed of the rack' CODEC(ZSTD(1)),
    pdu LowCardinality(String) COMMENT 'Rack PDU' CODEC(ZSTD(1)),
    cdu LowCardinality(String) COMMENT 'Coolant distribution unit' CODEC(ZSTD(1)),
    nvlink_domain LowCardinality(String) COMMENT 'NVLink domain; the node itself where it is its own domain' CODEC(ZSTD(1)),
    gpu_model LowCardinality(String) COMMENT 'Model of the GPUs' CODEC(ZSTD(1)),
    gpu_uuid String COMMENT 'UUID as NVIDIA writes it' CODEC(ZSTD(1)),
    job_id LowCardinality(String) COMMENT 'Job that the GPU belonged to for most of the minute; empty = none' CODEC(ZSTD(1)),
    action LowCardinality(String) COMMENT 'What to do' CODEC(ZSTD(1)),
    scope LowCardinality(String) COMMENT 'Blast radius that it lies in: gpu, node or nvlink_domain' CODEC(ZSTD(1)),
    origin_node LowCardinality(String) COMMENT 'Node that the fault began on; otherwise the node itself' CODEC(ZSTD(1)),
    since DateTime64(6, 'UTC') COMMENT 'Since when, as far as that is known' CODEC(Delta, ZSTD(1)),
    in_service Bool COMMENT 'False = not in service at the end of the minute, e.g. in maintenance: nobody needs to be woken' CODEC(ZSTD(1)),
    detail String COMMENT 'More about it' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = the window no longer has this key' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMMDD(ts)
ORDER BY (site, toStartOfHour(ts), node_id, gpu_index, reason, toMinute(ts))
TTL ts + toIntervalDay({{minute_days}})
COMMENT 'What was wrong with which GPU, minute by minute, with the action to take';
