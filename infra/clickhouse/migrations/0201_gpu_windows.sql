-- Projections of node_telemetry: every row can be recomputed from the events. Read them with FINAL.

-- Grain: site, node, GPU, minute (and tenant: a lease changes on whole minutes, the key keeps the old tenant's row deletable).
CREATE TABLE IF NOT EXISTS gpufleet.gpu_1m
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the minute, UTC' CODEC(DoubleDelta, ZSTD(1)),
    node_id LowCardinality(String) COMMENT 'Node' CODEC(ZSTD(1)),
    gpu_index Int32 COMMENT 'Index of the GPU on the node' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Tenant that leased the node then; empty = nobody' CODEC(ZSTD(1)),
    rack LowCardinality(String) COMMENT 'Rack, as the nodes report it' CODEC(ZSTD(1)),
    gpu_model LowCardinality(String) COMMENT 'Model of the GPUs' CODEC(ZSTD(1)),
    gpu_uuid FixedString(16) COMMENT 'UUID of the GPU, 16 bytes, last seen in the window' CODEC(ZSTD(1)),
    samples UInt64 COMMENT '(GPU, tick) samples that start in the window' CODEC(ZSTD(1)),
    seconds Float64 COMMENT 'GPU-seconds the samples stand for; s' CODEC(ZSTD(1)),
    gr_engine_active_sum Float64 COMMENT 'Sum of value x seconds over samples with a reading (share of time the compute engine was busy). Average = gr_engine_active_sum / gr_engine_active_s; s' CODEC(ZSTD(1)),
    gr_engine_active_s Float64 COMMENT 'GPU-seconds with a reading of gr_engine_active; s' CODEC(ZSTD(1)),
    active_s Float64 COMMENT 'GPU-seconds with gr_engine_active of at least 0.05: in use; s' CODEC(ZSTD(1)),
    sm_active_sum Float64 COMMENT 'Sum of value x seconds over samples with a reading (share of time a warp was resident). Average = sm_active_sum / sm_active_s; s' CODEC(ZSTD(1)),
    sm_active_s Float64 COMMENT 'GPU-seconds with a reading of sm_active; s' CODEC(ZSTD(1)),
    tensor_active_sum Float64 COMMENT 'Sum of value x seconds over samples with a reading (share of cycles a tensor pipe was active). Average = tensor_active_sum / tensor_active_s; s' CODEC(ZSTD(1)),
    tensor_active_s Float64 COMMENT 'GPU-seconds with a reading of tensor_active; s' CODEC(ZSTD(1)),
    dram_active_sum Float64 COMMENT 'Sum of value x seconds over samples with a reading (share of cycles device memory was used). Average = dram_active_sum / dram_active_s; s' CODEC(ZSTD(1)),
    dram_active_s Float64 COMMENT 'GPU-seconds with a reading of dram_active; s' CODEC(ZSTD(1)),
    power_w_sum Float64 COMMENT 'Sum of power x seconds. Average power of a GPU = power_w_sum / power_w_s; W.s' CODEC(ZSTD(1)),
    power_w_s Float64 COMMENT 'GPU-seconds with a reading of power; s' CODEC(ZSTD(1)),
    power_w_min Nullable(Float32) COMMENT 'Lowest power of one GPU; W' CODEC(ZSTD(1)),
    power_w_max Nullable(Float32) COMMENT 'Highest power of one GPU; W' CODEC(ZSTD(1)),
    temp_gpu_c_max Nullable(Int32) COMMENT 'Hottest GPU core; Cel' CODEC(ZSTD(1)),
    temp_mem_c_max Nullable(Int32) COMMENT 'Hottest device memory; Cel' CODEC(ZSTD(1)),
    clock_sm_mhz_sum Float64 COMMENT 'Sum of SM clock x seconds; MHz.s' CODEC(ZSTD(1)),
    clock_sm_mhz_s Float64 COMMENT 'GPU-seconds with a reading of the SM clock; s' CODEC(ZSTD(1)),
    fb_used_bytes_sum Float64 COMMENT 'Sum of device memory in use x seconds; By.s' CODEC(ZSTD(1)),
    fb_used_bytes_s Float64 COMMENT 'GPU-seconds with a reading of device memory; s' CODEC(ZSTD(1)),
    fb_used_bytes_max Nullable(Int64) COMMENT 'Most device memory in use on one GPU; By' CODEC(ZSTD(1)),
    nvlink_tx_bytes Float64 COMMENT 'Bytes sent over NVLink (rate x seconds); By' CODEC(ZSTD(1)),
    nvlink_rx_bytes Float64 COMMENT 'Bytes received over NVLink (rate x seconds); By' CODEC(ZSTD(1)),
    throttle_power_cap_s Float64 COMMENT 'GPU-seconds in which: software power cap (0x4); s' CODEC(ZSTD(1)),
    throttle_hw_slowdown_s Float64 COMMENT 'GPU-seconds in which: hardware slowdown (0x8); s' CODEC(ZSTD(1)),
    throttle_sw_thermal_s Float64 COMMENT 'GPU-seconds in which: software thermal slowdown (0x20); s' CODEC(ZSTD(1)),
    throttle_hw_thermal_s Float64 COMMENT 'GPU-seconds in which: hardware thermal slowdown (0x40); s' CODEC(ZSTD(1)),
    throttle_power_brake_s Float64 COMMENT 'GPU-seconds in which: power brake (0x80); s' CODEC(ZSTD(1)),
    throttle_slowdown_s Float64 COMMENT 'GPU-seconds in which: any slowdown that is a fault (mask 0xE8); s' CODEC(ZSTD(1)),
    throttle_known_s Float64 COMMENT 'GPU-seconds with a reading of the clock-event reasons; s' CODEC(ZSTD(1)),
    energy_j Int64 COMMENT 'Energy by the counter: per driver epoch, last counter of the minute minus the last one before the minute in the same epoch, else minus the first in the minute; J' CODEC(ZSTD(1)),
    driver_epoch Int64 COMMENT 'Driver epoch of energy_last_j; us since 1970' CODEC(DoubleDelta, ZSTD(1)),
    energy_last_j Int64 COMMENT 'Last energy counter of the minute; -1 = no reading; J' CODEC(Delta, ZSTD(1)),
    energy_base DateTime('UTC') COMMENT 'Minute whose last counter energy_j was counted from; 1970 = the first in this minute' CODEC(DoubleDelta, ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = no event of the window has this key any more' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMMDD(ts)
ORDER BY (site, toStartOfHour(ts), node_id, gpu_index, tenant, toMinute(ts))
TTL ts + toIntervalDay({{minute_days}})
COMMENT 'Metrics per GPU and minute; recomputed from node_telemetry when the minute has closed';

-- Grain: site, node, GPU, tenant and hour. Summed from gpu_1m.
CREATE TABLE IF NOT EXISTS gpufleet.gpu_1h
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the hour, UTC' CODEC(DoubleDelta, ZSTD(1)),
    node_id LowCardinality(String) COMMENT 'Node' CODEC(ZSTD(1)),
    gpu_index Int32 COMMENT 'Index of the GPU on the node' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Tenant that leased the node then; empty = nobody' CODEC(ZSTD(1)),
    rack LowCardinality(String) COMMENT 'Rack, as the nodes report it' CODEC(ZSTD(1)),
    gpu_model LowCardinality(String) COMMENT 'Model of the GPUs' CODEC(ZSTD(1)),
    gpu_uuid FixedString(16) COMMENT 'UUID of the GPU, 16 bytes, last seen in the window' CODEC(ZSTD(1)),
    minutes UInt32 COMMENT 'Minutes in which the GPU reported' CODEC(ZSTD(1)),
    samples UInt64 COMMENT '(GPU, tick) samples that start in the window' CODEC(ZSTD(1)),
    seconds Float64 COMMENT 'GPU-seconds the samples stand for; s' CODEC(ZSTD(1)),
    gr_engine_active_sum Float64 COMMENT 'Sum of value x seconds over samples with a reading (share of time the compute engine was busy). Average = gr_engine_active_sum / gr_engine_active_s; s' CODEC(ZSTD(1)),
    gr_engine_active_s Float64 COMMENT 'GPU-seconds with a reading of gr_engine_active; s' CODEC(ZSTD(1)),
    active_s Float64 COMMENT 'GPU-seconds with gr_engine_active of at least 0.05: in use; s' CODEC(ZSTD(1)),
    sm_active_sum Float64 COMMENT 'Sum of value x seconds over samples with a reading (share of time a warp was resident). Average = sm_active_sum / sm_active_s; s' CODEC(ZSTD(1)),
    sm_active_s Float64 COMMENT 'GPU-seconds with a reading of sm_active; s' CODEC(ZSTD(1)),
    tensor_active_sum Float64 COMMENT 'Sum of value x seconds over samples with a reading (share of cycles a tensor pipe was active). Average = tensor_active_sum / tensor_active_s; s' CODEC(ZSTD(1)),
    tensor_active_s Float64 COMMENT 'GPU-seconds with a reading of tensor_active; s' CODEC(ZSTD(1)),
    dram_active_sum Float64 COMMENT 'Sum of value x seconds over samples with a reading (share of cycles device memory was used). Average = dram_active_sum / dram_active_s; s' CODEC(ZSTD(1)),
    dram_active_s Float64 COMMENT 'GPU-seconds with a reading of dram_active; s' CODEC(ZSTD(1)),
    power_w_sum Float64 COMMENT 'Sum of power x seconds. Average power of a GPU = power_w_sum / power_w_s; W.s' CODEC(ZSTD(1)),
    power_w_s Float64 COMMENT 'GPU-seconds with a reading of power; s' CODEC(ZSTD(1)),
    power_w_min Nullable(Float32) COMMENT 'Lowest power of one GPU; W' CODEC(ZSTD(1)),
    power_w_max Nullable(Float32) COMMENT 'Highest power of one GPU; W' CODEC(ZSTD(1)),
    temp_gpu_c_max Nullable(Int32) COMMENT 'Hottest GPU core; Cel' CODEC(ZSTD(1)),
    temp_mem_c_max Nullable(Int32) COMMENT 'Hottest device memory; Cel' CODEC(ZSTD(1)),
    clock_sm_mhz_sum Float64 COMMENT 'Sum of SM clock x seconds; MHz.s' CODEC(ZSTD(1)),
    clock_sm_mhz_s Float64 COMMENT 'GPU-seconds with a reading of the SM clock; s' CODEC(ZSTD(1)),
    fb_used_bytes_sum Float64 COMMENT 'Sum of device memory in use x seconds; By.s' CODEC(ZSTD(1)),
    fb_used_bytes_s Float64 COMMENT 'GPU-seconds with a reading of device memory; s' CODEC(ZSTD(1)),
    fb_used_bytes_max Nullable(Int64) COMMENT 'Most device memory in use on one GPU; By' CODEC(ZSTD(1)),
    nvlink_tx_bytes Float64 COMMENT 'Bytes sent over NVLink (rate x seconds); By' CODEC(ZSTD(1)),
    nvlink_rx_bytes Float64 COMMENT 'Bytes received over NVLink (rate x seconds); By' CODEC(ZSTD(1)),
    throttle_power_cap_s Float64 COMMENT 'GPU-seconds in which: software power cap (0x4); s' CODEC(ZSTD(1)),
    throttle_hw_slowdown_s Float64 COMMENT 'GPU-seconds in which: hardware slowdown (0x8); s' CODEC(ZSTD(1)),
    throttle_sw_thermal_s Float64 COMMENT 'GPU-seconds in which: software thermal slowdown (0x20); s' CODEC(ZSTD(1)),
    throttle_hw_thermal_s Float64 COMMENT 'GPU-seconds in which: hardware thermal slowdown (0x40); s' CODEC(ZSTD(1)),
    throttle_power_brake_s Float64 COMMENT 'GPU-seconds in which: power brake (0x80); s' CODEC(ZSTD(1)),
    throttle_slowdown_s Float64 COMMENT 'GPU-seconds in which: any slowdown that is a fault (mask 0xE8); s' CODEC(ZSTD(1)),
    throttle_known_s Float64 COMMENT 'GPU-seconds with a reading of the clock-event reasons; s' CODEC(ZSTD(1)),
    energy_j Int64 COMMENT 'Energy by the GPU counters: per driver epoch, last counter of the window minus the last one before it; J' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = no event of the window has this key any more' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(ts)
ORDER BY (site, toStartOfDay(ts), node_id, gpu_index, tenant, toHour(ts))
TTL ts + toIntervalDay({{hour_days}})
COMMENT 'Metrics per GPU, tenant and hour; summed from gpu_1m';
