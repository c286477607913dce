-- Made from schemas/avsc/leases/v1.avsc by python -m infra.clickhouse.generate. Grain: one event.
CREATE TABLE IF NOT EXISTS gpufleet.leases
(
    site LowCardinality(String) COMMENT 'Data centre the producer belongs to.' CODEC(ZSTD(1)),
    producer_id String COMMENT 'Process that made the event; for a node agent the node id. With run_id and seq it is the event\'s identity.' CODEC(ZSTD(1)),
    run_id Int64 COMMENT 'One start of the producer: microseconds since 1970 at that start, strictly larger than any earlier run of the same producer. [us]' CODEC(Delta, ZSTD(1)),
    seq Int64 COMMENT '0, 1, 2 ... per run and topic, without gaps.' CODEC(Delta, ZSTD(1)),
    ts DateTime64(6, 'UTC') COMMENT 'Event time, UTC. For an event with ticks: the first tick. [us]' CODEC(DoubleDelta, ZSTD(1)),
    lease_id String COMMENT 'Lease.' CODEC(ZSTD(1)),
    revision Int32 COMMENT '1, 2 ... per lease; the highest holds.' CODEC(ZSTD(1)),
    action LowCardinality(String) COMMENT 'granted, changed, ended or corrected.' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Customer.' CODEC(ZSTD(1)),
    nodes Array(String) COMMENT 'Whole nodes leased; smaller units are out of scope.' CODEC(ZSTD(1)),
    valid_from DateTime64(6, 'UTC') COMMENT 'Start, a whole minute. [us]' CODEC(ZSTD(1)),
    valid_to Nullable(DateTime64(6, 'UTC')) COMMENT 'End, a whole minute; null = open. [us]' CODEC(ZSTD(1)),
    lease_kind LowCardinality(String) COMMENT 'reserved, on-demand or spot.' CODEC(ZSTD(1)),
    price_per_gpu_hour Float64 COMMENT 'Price of one GPU-hour. [currency]' CODEC(ZSTD(1)),
    currency LowCardinality(String) COMMENT 'ISO 4217 code of the price.' CODEC(ZSTD(1)),
    sla_target Float64 COMMENT 'Promised share of leased GPU-seconds that are delivered. [ratio]' CODEC(ZSTD(1)),
    operator_reads_usage Bool COMMENT 'Whether the operator may read this tenant\'s usage.' CODEC(ZSTD(1)),
    reason String COMMENT 'Why it changed.' CODEC(ZSTD(1)),
    flaws UInt32 MATERIALIZED toUInt32(if(NOT isFinite(price_per_gpu_hour) OR NOT isFinite(sla_target), 256, 0) + if(toUnixTimestamp64Micro(valid_from) % 60000000 != 0 OR toUnixTimestamp64Micro(ifNull(valid_to, valid_from)) % 60000000 != 0 OR (isNotNull(valid_to) AND ifNull(valid_to, valid_from) <= valid_from), 1024, 0) + if(revision < 1 OR price_per_gpu_hour < 0 OR sla_target < 0 OR sla_target > 1, 2048, 0) + if(site = '' OR producer_id = '' OR lease_id = '' OR run_id <= 0 OR seq < 0 OR tenant = '', 8192, 0)) COMMENT 'What is absurd about the event, as bits (gpufleet.flaw_bits names them); 0 = sound.' CODEC(ZSTD(1)),
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When the store took the row in: its age is the freshness of the data. [us]' CODEC(Delta, ZSTD(1)),
    INDEX run_id_minmax run_id TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
PRIMARY KEY (site, lease_id, ts)
ORDER BY (site, lease_id, ts, producer_id, run_id, seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 0, replicated_deduplication_window = 0
COMMENT 'A lease of whole nodes to a tenant, and every change to it.';
