-- Grain: site, asset and hour. Closed to tenants, like the readings. Read it with FINAL.
CREATE TABLE IF NOT EXISTS gpufleet.facility_1h
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the hour, UTC' CODEC(DoubleDelta, ZSTD(1)),
    asset_id LowCardinality(String) COMMENT 'Asset' CODEC(ZSTD(1)),
    asset_kind LowCardinality(String) COMMENT 'site, feed, pdu, cdu ...' CODEC(ZSTD(1)),
    parent_id LowCardinality(String) COMMENT 'Asset that supplies it, as the last reading says' CODEC(ZSTD(1)),
    rack LowCardinality(String) COMMENT 'Rack that it serves, when it serves one' CODEC(ZSTD(1)),
    state LowCardinality(String) COMMENT 'Worst state of the hour: tripped, leak, degraded, maintenance or ok; another one counts as worse than ok' CODEC(ZSTD(1)),
    readings UInt32 COMMENT 'Readings in the hour' CODEC(ZSTD(1)),
    minutes UInt8 COMMENT 'Minutes with a reading' CODEC(ZSTD(1)),
    power_w_avg Nullable(Float64) COMMENT 'Power through the asset, mean of the minutes; W' CODEC(ZSTD(1)),
    power_w_max Nullable(Float64) COMMENT 'Highest power; W' CODEC(ZSTD(1)),
    power_cap_w Nullable(Float64) COMMENT 'Power it may carry, last reading; W' CODEC(ZSTD(1)),
    supply_temp_c_max Nullable(Float64) COMMENT 'Warmest coolant supply; Cel' CODEC(ZSTD(1)),
    return_temp_c_max Nullable(Float64) COMMENT 'Warmest coolant return; Cel' CODEC(ZSTD(1)),
    flow_lpm_min Nullable(Float64) COMMENT 'Lowest coolant flow; l/min' CODEC(ZSTD(1)),
    flow_lpm_avg Nullable(Float64) COMMENT 'Coolant flow, mean of the minutes; l/min' CODEC(ZSTD(1)),
    pressure_kpa_min Nullable(Float64) COMMENT 'Lowest differential pressure; kPa' CODEC(ZSTD(1)),
    leak Nullable(Bool) COMMENT 'Whether a leak was detected' CODEC(ZSTD(1)),
    energy_j Nullable(Float64) COMMENT 'Energy by its meter, summed over the minutes; J' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = the window no longer has this key' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(ts)
ORDER BY (site, toStartOfDay(ts), asset_id, toHour(ts))
TTL ts + toIntervalDay({{hour_days}})
COMMENT 'Power and cooling assets, hour by hour';
