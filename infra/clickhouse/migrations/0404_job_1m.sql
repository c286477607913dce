-- Grain: site, job and minute. A GPU counts for the job that it belongs to in the middle of the minute. Read it with FINAL.
CREATE TABLE IF NOT EXISTS gpufleet.job_1m
(
    site LowCardinality(String) COMMENT 'Data centre' CODEC(ZSTD(1)),
    ts DateTime('UTC') COMMENT 'Start of the minute, UTC' CODEC(DoubleDelta, ZSTD(1)),
    job_id LowCardinality(String) COMMENT 'Job' CODEC(ZSTD(1)),
    tenant LowCardinality(String) COMMENT 'Tenant that leased all of its nodes then; empty = nobody, or several' CODEC(ZSTD(1)),
    job_kind LowCardinality(String) COMMENT 'training, serving or other' CODEC(ZSTD(1)),
    name LowCardinality(String) COMMENT 'Name as its owner gave it' CODEC(ZSTD(1)),
    gpus UInt32 COMMENT 'GPUs allocated' CODEC(ZSTD(1)),
    gpus_reporting UInt32 COMMENT 'GPUs with a sample in the minute' CODEC(ZSTD(1)),
    nodes UInt32 COMMENT 'Nodes allocated' CODEC(ZSTD(1)),
    gr_engine_active Nullable(Float64) COMMENT 'Mean over its GPUs of the share of time the compute engine was busy' CODEC(ZSTD(1)),
    tensor_active Nullable(Float64) COMMENT 'Mean over its GPUs of the share of cycles a tensor pipe was active' CODEC(ZSTD(1)),
    power_w Nullable(Float64) COMMENT 'Mean power of a GPU; W' CODEC(ZSTD(1)),
    power_w_sum Float64 COMMENT 'Power of its GPUs together; W' CODEC(ZSTD(1)),
    nvlink_tx_bytes Float64 COMMENT 'Bytes sent over NVLink; By' CODEC(ZSTD(1)),
    nic_tx_bytes Float64 COMMENT 'Bytes sent by the RDMA ports of its nodes; By' CODEC(ZSTD(1)),
    clock_sm_mhz_median Nullable(Float64) COMMENT 'Median SM clock of its busy GPUs; MHz' CODEC(ZSTD(1)),
    slowest_node LowCardinality(String) COMMENT 'Node of the busy GPU with the lowest SM clock' CODEC(ZSTD(1)),
    slowest_gpu Nullable(Int32) COMMENT 'Index of that GPU' CODEC(ZSTD(1)),
    slowest_ratio Nullable(Float64) COMMENT 'Its SM clock / the median' CODEC(ZSTD(1)),
    quiet Bool COMMENT 'The minute looks hung: no serving job, engine busy (mean of at least 0.5), tensor pipes idle (below 0.005), power below 45 % of the limit (where the limit is known), NVLink and RDMA below 1 MB/s a GPU' CODEC(ZSTD(1)),
    hung Bool COMMENT 'Quiet for five minutes in a row, this one included' CODEC(ZSTD(1)),
    slow_nodes Array(String) COMMENT 'Nodes of busy GPUs that no slowdown holds back and whose SM clock is below 0.92 of the median; one for each of slow_gpus' CODEC(ZSTD(1)),
    slow_gpus Array(Int32) COMMENT 'Indexes of those GPUs' CODEC(ZSTD(1)),
    slow_ratios Array(Float32) COMMENT 'Their SM clock / the median' CODEC(ZSTD(1)),
    straggler Bool COMMENT 'A GPU was among slow_gpus for three minutes in a row, this one included' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'Larger at every recomputation of the window' CODEC(ZSTD(1)),
    is_deleted UInt8 COMMENT '1 = the window no longer has this key' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMMDD(ts)
ORDER BY (site, toStartOfHour(ts), job_id, toMinute(ts))
TTL ts + toIntervalDay({{minute_days}})
COMMENT 'What each job did, minute by minute: activity, power, traffic, its slowest GPU, whether it hangs';
