-- Made from schemas/avsc/tenant-limits/v1.avsc by python -m infra.clickhouse.generate. Grain: one event.
CREATE TABLE IF NOT EXISTS gpufleet.tenant_limits
(
    site LowCardinality(String) COMMENT 'Data centre the producer belongs to.' CODEC(ZSTD(1)),
    producer_id String COMMENT 'Process that made the event; for a node agent the node id. With run_id and seq it is the event\'s identity.' CODEC(ZSTD(1)),
    run_id Int64 COMMENT 'One start of the producer: microseconds since 1970 at that start, strictly larger than any earlier run of the same producer. [us]' CODEC(Delta, ZSTD(1)),
    seq Int64 COMMENT '0, 1, 2 ... per run and topic, without gaps.' CODEC(Delta, ZSTD(1)),
    ts DateTime64(6, 'UTC') COMMENT 'Event time, UTC. For an event with ticks: the first tick. [us]' CODEC(DoubleDelta, ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Customer the limit binds.' CODEC(ZSTD(1)),
    limit_name LowCardinality(String) COMMENT 'requests, input_tokens, output_tokens, messages, gpu_quota or power_cap.' CODEC(ZSTD(1)),
    window_s Int32 COMMENT 'Window the limit counts over: 60, 18000 (5 h), 604800 (week); 0 = a level, not a rate. [s]' CODEC(ZSTD(1)),
    product LowCardinality(String) COMMENT 'Product it binds; empty = all.' CODEC(ZSTD(1)),
    model LowCardinality(String) COMMENT 'Model it binds; empty = all.' CODEC(ZSTD(1)),
    tier LowCardinality(String) COMMENT 'Service tier it binds; empty = all.' CODEC(ZSTD(1)),
    limit_value Float64 COMMENT 'The limit, in its own unit (requests, tokens, GPUs, W).' CODEC(ZSTD(1)),
    previous_value Nullable(Float64) COMMENT 'The value before; null when it is new.' CODEC(ZSTD(1)),
    valid_from DateTime64(6, 'UTC') COMMENT 'When it holds from. [us]' CODEC(ZSTD(1)),
    action LowCardinality(String) COMMENT 'set, raised, lowered or removed.' CODEC(ZSTD(1)),
    reason String COMMENT 'Why it changed.' CODEC(ZSTD(1)),
    flaws UInt32 MATERIALIZED toUInt32(if(NOT isFinite(limit_value) OR NOT isFinite(ifNull(previous_value, 0)), 256, 0) + if(limit_value < 0 OR window_s < 0, 2048, 0) + if(site = '' OR producer_id = '' OR tenant = '' OR run_id <= 0 OR seq < 0, 8192, 0)) COMMENT 'What is absurd about the event, as bits (gpufleet.flaw_bits names them); 0 = sound.' CODEC(ZSTD(1)),
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When the store took the row in: its age is the freshness of the data. [us]' CODEC(Delta, ZSTD(1)),
    INDEX run_id_minmax run_id TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
PRIMARY KEY (site, tenant, ts)
ORDER BY (site, tenant, ts, producer_id, run_id, seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 0, replicated_deduplication_window = 0
COMMENT 'A cap or limit of a tenant; a raise is an event.';
