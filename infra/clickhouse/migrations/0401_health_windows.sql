-- Health as gpu_health and gpu_delivered define it, summed: every row can be recomputed from the events. Read with FINAL.

-- Grain: site, rack, model, tenant, lease and minute. Silent GPUs count, too: a minute in which nothing came has rows.
CREATE TABLE IF NOT EXISTS gpufleet.health_1m
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the minute, UTC' CODEC(DoubleDelta, ZSTD(1)),
    rack LowCardinality(String) COMMENT 'Rack' CODEC(ZSTD(1)),
    gpu_model LowCardinality(String) COMMENT 'Model of the GPUs' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Tenant that leased the node then; empty = nobody' CODEC(ZSTD(1)),
    lease_id String COMMENT 'Lease that held the node then; empty = none' CODEC(ZSTD(1)),
    feed LowCardinality(String) COMMENT 'Power feed of the rack' CODEC(ZSTD(1)),
    pdu LowCardinality(String) COMMENT 'Rack PDU' CODEC(ZSTD(1)),
    cdu LowCardinality(String) COMMENT 'Coolant distribution unit' CODEC(ZSTD(1)),
    gpus UInt32 COMMENT 'GPUs that the inventory expects, or that reported' CODEC(ZSTD(1)),
    gpus_in_service UInt32 COMMENT 'GPUs that were in service most of the minute' CODEC(ZSTD(1)),
    gpus_reporting UInt32 COMMENT 'GPUs with a sample in the minute' CODEC(ZSTD(1)),
    gpus_healthy UInt32 COMMENT 'GPUs healthy most of the minute' CODEC(ZSTD(1)),
    gpus_unhealthy UInt32 COMMENT 'GPUs unhealthy most of the minute' CODEC(ZSTD(1)),
    gpus_unknown UInt32 COMMENT 'GPUs silent most of the minute, and nobody knows why' CODEC(ZSTD(1)),
    gpus_opted_out UInt32 COMMENT 'GPUs silent most of the minute, the agent switched off by a tenant who may' CODEC(ZSTD(1)),
    gpus_not_in_service UInt32 COMMENT 'GPUs not in service most of the minute' CODEC(ZSTD(1)),
    healthy_s Float64 COMMENT 'GPU-seconds healthy; with a tenant: delivered; s' CODEC(ZSTD(1)),
    unhealthy_s Float64 COMMENT 'GPU-seconds unhealthy; s' CODEC(ZSTD(1)),
    unknown_s Float64 COMMENT 'GPU-seconds unknown; s' CODEC(ZSTD(1)),
    opted_out_s Float64 COMMENT 'GPU-seconds opted out; s' CODEC(ZSTD(1)),
    not_in_service_s Float64 COMMENT 'GPU-seconds not in service; the five classes add up to 60 s a GPU and minute; s' CODEC(ZSTD(1)),
    slowdown_s Float64 COMMENT 'GPU-seconds of samples with a slowdown (mask 0xE8); s' CODEC(ZSTD(1)),
    fault_s Float64 COMMENT 'GPU-seconds in service under a fault; s' CODEC(ZSTD(1)),
    reported_s Float64 COMMENT 'GPU-seconds in service that samples stand for; s' CODEC(ZSTD(1)),
    expected_s Float64 COMMENT 'GPU-seconds that samples were due for: neither opted out nor out of service. Completeness = reported_s / expected_s; s' CODEC(ZSTD(1)),
    used_s Float64 COMMENT 'GPU-seconds healthy and with gr_engine_active of at least 0.05; s' CODEC(ZSTD(1)),
    energy_j Int64 COMMENT 'Energy by the GPU counters; J' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = the window no longer has this key' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMMDD(ts)
ORDER BY (site, toStartOfHour(ts), rack, gpu_model, tenant, lease_id, toMinute(ts))
TTL ts + toIntervalDay({{minute_days}})
COMMENT 'Health of the GPUs per rack, model, lease and minute, silence included';

-- Grain: site, model, tenant, lease and hour. Summed from health_1m.
CREATE TABLE IF NOT EXISTS gpufleet.health_1h
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the hour, UTC' CODEC(DoubleDelta, ZSTD(1)),
    gpu_model LowCardinality(String) COMMENT 'Model of the GPUs' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Tenant that leased the node then; empty = nobody' CODEC(ZSTD(1)),
    lease_id String COMMENT 'Lease that held the node then; empty = none' CODEC(ZSTD(1)),
    gpus UInt32 COMMENT 'GPUs that the inventory expects, or that reported, the most of any minute' CODEC(ZSTD(1)),
    gpus_in_service UInt32 COMMENT 'GPUs that were in service most of the minute, the most of any minute' CODEC(ZSTD(1)),
    gpus_reporting UInt32 COMMENT 'GPUs with a sample in the minute, the most of any minute' CODEC(ZSTD(1)),
    gpus_healthy UInt32 COMMENT 'GPUs healthy most of the minute, the most of any minute' CODEC(ZSTD(1)),
    gpus_unhealthy UInt32 COMMENT 'GPUs unhealthy most of the minute, the most of any minute' CODEC(ZSTD(1)),
    gpus_unknown UInt32 COMMENT 'GPUs silent most of the minute, and nobody knows why, the most of any minute' CODEC(ZSTD(1)),
    gpus_opted_out UInt32 COMMENT 'GPUs silent most of the minute, the agent switched off by a tenant who may, the most of any minute' CODEC(ZSTD(1)),
    gpus_not_in_service UInt32 COMMENT 'GPUs not in service most of the minute, the most of any minute' CODEC(ZSTD(1)),
    healthy_s Float64 COMMENT 'GPU-seconds healthy; with a tenant: delivered; s' CODEC(ZSTD(1)),
    unhealthy_s Float64 COMMENT 'GPU-seconds unhealthy; s' CODEC(ZSTD(1)),
    unknown_s Float64 COMMENT 'GPU-seconds unknown; s' CODEC(ZSTD(1)),
    opted_out_s Float64 COMMENT 'GPU-seconds opted out; s' CODEC(ZSTD(1)),
    not_in_service_s Float64 COMMENT 'GPU-seconds not in service; the five classes add up to 60 s a GPU and minute; s' CODEC(ZSTD(1)),
    slowdown_s Float64 COMMENT 'GPU-seconds of samples with a slowdown (mask 0xE8); s' CODEC(ZSTD(1)),
    fault_s Float64 COMMENT 'GPU-seconds in service under a fault; s' CODEC(ZSTD(1)),
    reported_s Float64 COMMENT 'GPU-seconds in service that samples stand for; s' CODEC(ZSTD(1)),
    expected_s Float64 COMMENT 'GPU-seconds that samples were due for: neither opted out nor out of service. Completeness = reported_s / expected_s; s' CODEC(ZSTD(1)),
    used_s Float64 COMMENT 'GPU-seconds healthy and with gr_engine_active of at least 0.05; s' CODEC(ZSTD(1)),
    energy_j Int64 COMMENT 'Energy by the GPU counters; J' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = the window no longer has this key' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(ts)
ORDER BY (site, toStartOfDay(ts), gpu_model, tenant, lease_id, toHour(ts))
TTL ts + toIntervalDay({{hour_days}})
COMMENT 'Health of the GPUs per model, lease and hour; summed from health_1m';
