-- Made from schemas/avsc/facility-telemetry/v1.avsc by python -m infra.clickhouse.generate. Grain: one event.
CREATE TABLE IF NOT EXISTS gpufleet.facility_telemetry
(
    site LowCardinality(String) COMMENT 'Data centre the producer belongs to.' CODEC(Default),
    producer_id String COMMENT 'Process that made the event; for a node agent the node id. With run_id and seq it is the event\'s identity.' CODEC(Default),
    run_id Int64 COMMENT 'One start of the producer: microseconds since 1970 at that start, strictly larger than any earlier run of the same producer. [us]' CODEC(Delta, Default),
    seq Int64 COMMENT '0, 1, 2 ... per run and topic, without gaps.' CODEC(Delta, Default),
    ts DateTime64(6, 'UTC') COMMENT 'Event time, UTC. For an event with ticks: the first tick. [us]' CODEC(DoubleDelta, Default),
    asset_id String COMMENT 'Asset, unique in the site.' CODEC(Default),
    asset_kind LowCardinality(String) COMMENT 'site, feed, pdu or cdu; later meter, battery, turbine, solar, radiator.' CODEC(Default),
    parent_id LowCardinality(String) COMMENT 'Asset that supplies this one.' CODEC(Default),
    rack LowCardinality(String) COMMENT 'Rack it serves, when it serves one.' CODEC(Default),
    interval_ms Int32 COMMENT 'Time to the next reading. [ms]' CODEC(Default),
    state LowCardinality(String) COMMENT 'ok, tripped, leak, degraded, maintenance.' CODEC(Default),
    power_w Nullable(Float64) COMMENT 'Power through the asset. [W]' CODEC(Default),
    power_cap_w Nullable(Float64) COMMENT 'Power the asset may carry. [W]' CODEC(Default),
    energy_j Nullable(Float64) COMMENT 'Energy since the meter started. [J]' CODEC(Default),
    supply_temp_c Nullable(Float64) COMMENT 'Coolant supply temperature. [Cel]' CODEC(Default),
    return_temp_c Nullable(Float64) COMMENT 'Coolant return temperature. [Cel]' CODEC(Default),
    flow_lpm Nullable(Float64) COMMENT 'Coolant flow. [l/min]' CODEC(Default),
    pressure_kpa Nullable(Float64) COMMENT 'Differential pressure of the loop. [kPa]' CODEC(Default),
    leak Nullable(Bool) COMMENT 'Whether a leak is detected.' CODEC(Default),
    valve_open Nullable(Float64) COMMENT 'Valve opening. [ratio]' CODEC(Default),
    flaws UInt32 MATERIALIZED toUInt32(if(interval_ms < 1, 64, 0) + if(arrayExists(v -> isInfinite(v), [ifNull(power_w, 0), ifNull(power_cap_w, 0), ifNull(energy_j, 0), ifNull(supply_temp_c, 0), ifNull(return_temp_c, 0), ifNull(flow_lpm, 0), ifNull(pressure_kpa, 0), ifNull(valve_open, 0)]), 256, 0) + if(site = '' OR producer_id = '' OR asset_id = '' OR run_id <= 0 OR seq < 0, 8192, 0)) COMMENT 'What is absurd about the event, as bits (gpufleet.flaw_bits names them); 0 = sound.' CODEC(Default),
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When the store took the row in: its age is the freshness of the data. [us]' CODEC(Delta, Default),
    INDEX run_id_minmax run_id TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(ts)
PRIMARY KEY (site, toStartOfMinute(ts), asset_id)
ORDER BY (site, toStartOfMinute(ts), asset_id, producer_id, run_id, seq)
TTL toDateTime(ts) + INTERVAL {{raw_days}} DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 0, replicated_deduplication_window = 0, ttl_only_drop_parts = 1, vertical_merge_algorithm_min_rows_to_activate = 1000, min_bytes_for_wide_part = 268435456
COMMENT 'Reading of a power or cooling asset. Null = the asset does not measure it.';
