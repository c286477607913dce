-- Made from schemas/avsc/allocations/v1.avsc by python -m infra.clickhouse.generate. Grain: one event.
CREATE TABLE IF NOT EXISTS gpufleet.allocations
(
    site LowCardinality(String) COMMENT 'Data centre the producer belongs to.' CODEC(ZSTD(1)),
    producer_id String COMMENT 'Process that made the event; for a node agent the node id. With run_id and seq it is the event\'s identity.' CODEC(ZSTD(1)),
    run_id Int64 COMMENT 'One start of the producer: microseconds since 1970 at that start, strictly larger than any earlier run of the same producer. [us]' CODEC(Delta, ZSTD(1)),
    seq Int64 COMMENT '0, 1, 2 ... per run and topic, without gaps.' CODEC(Delta, ZSTD(1)),
    ts DateTime64(6, 'UTC') COMMENT 'Event time, UTC. For an event with ticks: the first tick. [us]' CODEC(DoubleDelta, ZSTD(1)),
    job_id String COMMENT 'Job.' CODEC(ZSTD(1)),
    state LowCardinality(String) COMMENT 'started, running (a restatement) or ended.' CODEC(ZSTD(1)),
    job_kind LowCardinality(String) COMMENT 'training, serving or other.' CODEC(ZSTD(1)),
    name String COMMENT 'Job\'s name as its owner gave it.' CODEC(ZSTD(1)),
    scheduler LowCardinality(String) COMMENT 'simulator, slurm or kubernetes.' CODEC(ZSTD(1)),
    started_at DateTime64(6, 'UTC') COMMENT 'Start of the allocation. [us]' CODEC(ZSTD(1)),
    ended_at Nullable(DateTime64(6, 'UTC')) COMMENT 'End of the allocation; null while it runs. [us]' CODEC(ZSTD(1)),
    nodes Array(String) COMMENT 'Nodes of the job.' CODEC(ZSTD(1)),
    gpu_mask Array(Int64) COMMENT 'Per node of nodes: bit i set = GPU i belongs to the job. [bitmask]' CODEC(ZSTD(1)),
    exit_reason LowCardinality(String) COMMENT 'completed, failed, hung, pre-empted or node_failure when ended.' CODEC(ZSTD(1)),
    flaws UInt32 MATERIALIZED toUInt32(if(length(gpu_mask) NOT IN (0, length(nodes)), 8, 0) + if(ifNull(ended_at, started_at) < started_at, 1024, 0) + if(site = '' OR producer_id = '' OR job_id = '' OR run_id <= 0 OR seq < 0, 8192, 0)) COMMENT 'What is absurd about the event, as bits (gpufleet.flaw_bits names them); 0 = sound.' CODEC(ZSTD(1)),
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When the store took the row in: its age is the freshness of the data. [us]' CODEC(Delta, ZSTD(1)),
    INDEX run_id_minmax run_id TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
PRIMARY KEY (site, job_id, ts)
ORDER BY (site, job_id, ts, producer_id, run_id, seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 0, replicated_deduplication_window = 0
COMMENT 'A job\'s set of GPUs over time.';
