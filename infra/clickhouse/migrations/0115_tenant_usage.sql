-- Made from schemas/avsc/tenant-usage/v1.avsc by python -m infra.clickhouse.generate. Grain: one event.
CREATE TABLE IF NOT EXISTS gpufleet.tenant_usage
(
    site LowCardinality(String) COMMENT 'Data centre the producer belongs to.' CODEC(ZSTD(1)),
    producer_id String COMMENT 'Process that made the event; for a node agent the node id. With run_id and seq it is the event\'s identity.' CODEC(ZSTD(1)),
    run_id Int64 COMMENT 'One start of the producer: microseconds since 1970 at that start, strictly larger than any earlier run of the same producer. [us]' CODEC(Delta, ZSTD(1)),
    seq Int64 COMMENT '0, 1, 2 ... per run and topic, without gaps.' CODEC(Delta, ZSTD(1)),
    ts DateTime64(6, 'UTC') COMMENT 'Event time, UTC. For an event with ticks: the first tick. [us]' CODEC(DoubleDelta, ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Customer whose usage it is.' CODEC(ZSTD(1)),
    window_s Int32 COMMENT 'Length of the window that starts at ts. [s]' CODEC(ZSTD(1)),
    revision Int32 COMMENT 'A higher revision of the same window and dimensions supersedes.' CODEC(ZSTD(1)),
    workspace LowCardinality(String) COMMENT 'Customer\'s workspace.' CODEC(ZSTD(1)),
    product LowCardinality(String) COMMENT 'Product, e.g. api, claude-code, pro, max.' CODEC(ZSTD(1)),
    model LowCardinality(String) COMMENT 'Model served.' CODEC(ZSTD(1)),
    tier LowCardinality(String) COMMENT 'Service tier, e.g. standard, priority, batch.' CODEC(ZSTD(1)),
    requests Int64 COMMENT 'Requests that began in the window, throttled and failed ones included.' CODEC(ZSTD(1)),
    throttled_requests Int64 COMMENT 'Requests refused with status 429.' CODEC(ZSTD(1)),
    failed_requests Int64 COMMENT 'Requests that ended with a status of 500 or above.' CODEC(ZSTD(1)),
    input_tokens Int64 COMMENT 'Tokens read, cached ones left out.' CODEC(ZSTD(1)),
    cached_tokens Int64 COMMENT 'Input tokens served from the prompt cache.' CODEC(ZSTD(1)),
    output_tokens Int64 COMMENT 'Tokens generated.' CODEC(ZSTD(1)),
    latency_bounds_ms Array(Int32) COMMENT 'Upper bounds of the histogram buckets; one more bucket counts what lies above. [ms]' CODEC(ZSTD(1)),
    ttft_counts Array(Int64) COMMENT 'Requests per bucket of time to first token; empty = not measured.' CODEC(DoubleDelta, ZSTD(1)),
    latency_counts Array(Int64) COMMENT 'Requests per bucket of whole latency; empty = not measured.' CODEC(DoubleDelta, ZSTD(1)),
    source LowCardinality(String) COMMENT 'gateway, replay or simulator.' CODEC(ZSTD(1)),
    flaws UInt32 MATERIALIZED toUInt32(if(arrayExists(l -> l != 0 AND l != length(latency_bounds_ms) + 1, [length(ttft_counts), length(latency_counts)]), 8, 0) + if(window_s < 1, 64, 0) + if(least(requests, throttled_requests, failed_requests, input_tokens, cached_tokens, output_tokens) < 0 OR revision < 1 OR arrayExists(c -> c < 0, ttft_counts) OR arrayExists(c -> c < 0, latency_counts), 2048, 0) + if(site = '' OR producer_id = '' OR tenant = '' OR run_id <= 0 OR seq < 0, 8192, 0)) COMMENT 'What is absurd about the event, as bits (gpufleet.flaw_bits names them); 0 = sound.' CODEC(ZSTD(1)),
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When the store took the row in: its age is the freshness of the data. [us]' CODEC(Delta, ZSTD(1)),
    INDEX run_id_minmax run_id TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
PRIMARY KEY (site, tenant, ts)
ORDER BY (site, tenant, ts, producer_id, run_id, seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 0, replicated_deduplication_window = 0
COMMENT 'Usage of a tenant per window and dimension, from the tenant\'s own gateway. ts is the start of the window.';
