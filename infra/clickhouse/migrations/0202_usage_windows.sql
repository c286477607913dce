-- Projections of tenant_usage: the highest revision of a (tenant, window, dimensions) counts. Read them with FINAL.

-- Grain: site, tenant, workspace, product, model, tier and minute. Sums usage windows of at most 60 s that start in it.
CREATE TABLE IF NOT EXISTS gpufleet.usage_1m
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Customer whose usage it is' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the minute, UTC' CODEC(DoubleDelta, ZSTD(1)),
    workspace LowCardinality(String) COMMENT 'Customer''s workspace' CODEC(ZSTD(1)),
    product LowCardinality(String) COMMENT 'Product, e.g. api, claude-code, pro, max' CODEC(ZSTD(1)),
    model LowCardinality(String) COMMENT 'Model served' CODEC(ZSTD(1)),
    tier LowCardinality(String) COMMENT 'Service tier' CODEC(ZSTD(1)),
    windows UInt32 COMMENT 'Usage windows summed, each by its highest revision' CODEC(ZSTD(1)),
    requests Int64 COMMENT 'Requests that began in the window, throttled and failed ones included' CODEC(ZSTD(1)),
    throttled_requests Int64 COMMENT 'Requests refused with status 429' CODEC(ZSTD(1)),
    failed_requests Int64 COMMENT 'Requests that ended with a status of 500 or above' CODEC(ZSTD(1)),
    input_tokens Int64 COMMENT 'Tokens read, cached ones left out' CODEC(ZSTD(1)),
    cached_tokens Int64 COMMENT 'Input tokens served from the prompt cache' CODEC(ZSTD(1)),
    output_tokens Int64 COMMENT 'Tokens generated' CODEC(ZSTD(1)),
    latency_bounds_ms Array(Int32) COMMENT 'Upper bounds of the histogram buckets (all bounds seen in the window); one more bucket counts what lies above; ms' CODEC(ZSTD(1)),
    ttft_counts Array(Int64) COMMENT 'Requests per bucket of time to first token; empty = not measured' CODEC(ZSTD(1)),
    latency_counts Array(Int64) COMMENT 'Requests per bucket of whole latency; empty = not measured' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = no event of the window has this key any more' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(ts)
ORDER BY (site, tenant, ts, workspace, product, model, tier)
TTL ts + toIntervalDay({{minute_days}})
COMMENT 'Tenant usage per minute; recomputed from tenant_usage';

-- Grain: site, tenant, workspace, product, model, tier and hour. Sums usage windows of at most 3600 s that start in it.
CREATE TABLE IF NOT EXISTS gpufleet.usage_1h
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Customer whose usage it is' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the hour, UTC' CODEC(DoubleDelta, ZSTD(1)),
    workspace LowCardinality(String) COMMENT 'Customer''s workspace' CODEC(ZSTD(1)),
    product LowCardinality(String) COMMENT 'Product, e.g. api, claude-code, pro, max' CODEC(ZSTD(1)),
    model LowCardinality(String) COMMENT 'Model served' CODEC(ZSTD(1)),
    tier LowCardinality(String) COMMENT 'Service tier' CODEC(ZSTD(1)),
    windows UInt32 COMMENT 'Usage windows summed, each by its highest revision' CODEC(ZSTD(1)),
    requests Int64 COMMENT 'Requests that began in the window, throttled and failed ones included' CODEC(ZSTD(1)),
    throttled_requests Int64 COMMENT 'Requests refused with status 429' CODEC(ZSTD(1)),
    failed_requests Int64 COMMENT 'Requests that ended with a status of 500 or above' CODEC(ZSTD(1)),
    input_tokens Int64 COMMENT 'Tokens read, cached ones left out' CODEC(ZSTD(1)),
    cached_tokens Int64 COMMENT 'Input tokens served from the prompt cache' CODEC(ZSTD(1)),
    output_tokens Int64 COMMENT 'Tokens generated' CODEC(ZSTD(1)),
    latency_bounds_ms Array(Int32) COMMENT 'Upper bounds of the histogram buckets (all bounds seen in the window); one more bucket counts what lies above; ms' CODEC(ZSTD(1)),
    ttft_counts Array(Int64) COMMENT 'Requests per bucket of time to first token; empty = not measured' CODEC(ZSTD(1)),
    latency_counts Array(Int64) COMMENT 'Requests per bucket of whole latency; empty = not measured' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = no event of the window has this key any more' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(ts)
ORDER BY (site, tenant, ts, workspace, product, model, tier)
TTL ts + toIntervalDay({{hour_days}})
COMMENT 'Tenant usage per hour; recomputed from tenant_usage';

-- Grain: site, tenant, workspace, product, model, tier and day (UTC). Sums usage windows of at most 86400 s that start in it.
CREATE TABLE IF NOT EXISTS gpufleet.usage_1d
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Customer whose usage it is' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the day (UTC), UTC' CODEC(DoubleDelta, ZSTD(1)),
    workspace LowCardinality(String) COMMENT 'Customer''s workspace' CODEC(ZSTD(1)),
    product LowCardinality(String) COMMENT 'Product, e.g. api, claude-code, pro, max' CODEC(ZSTD(1)),
    model LowCardinality(String) COMMENT 'Model served' CODEC(ZSTD(1)),
    tier LowCardinality(String) COMMENT 'Service tier' CODEC(ZSTD(1)),
    windows UInt32 COMMENT 'Usage windows summed, each by its highest revision' CODEC(ZSTD(1)),
    requests Int64 COMMENT 'Requests that began in the window, throttled and failed ones included' CODEC(ZSTD(1)),
    throttled_requests Int64 COMMENT 'Requests refused with status 429' CODEC(ZSTD(1)),
    failed_requests Int64 COMMENT 'Requests that ended with a status of 500 or above' CODEC(ZSTD(1)),
    input_tokens Int64 COMMENT 'Tokens read, cached ones left out' CODEC(ZSTD(1)),
    cached_tokens Int64 COMMENT 'Input tokens served from the prompt cache' CODEC(ZSTD(1)),
    output_tokens Int64 COMMENT 'Tokens generated' CODEC(ZSTD(1)),
    latency_bounds_ms Array(Int32) COMMENT 'Upper bounds of the histogram buckets (all bounds seen in the window); one more bucket counts what lies above; ms' CODEC(ZSTD(1)),
    ttft_counts Array(Int64) COMMENT 'Requests per bucket of time to first token; empty = not measured' CODEC(ZSTD(1)),
    latency_counts Array(Int64) COMMENT 'Requests per bucket of whole latency; empty = not measured' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = no event of the window has this key any more' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(ts)
ORDER BY (site, tenant, ts, workspace, product, model, tier)
TTL ts + toIntervalDay(3653)
COMMENT 'Tenant usage per day (UTC); recomputed from tenant_usage';
