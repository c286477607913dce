-- Made from schemas/avsc/dead-letters/v1.avsc by python -m infra.clickhouse.generate. Grain: one event.
CREATE TABLE IF NOT EXISTS gpufleet.dead_letters
(
    site LowCardinality(String) COMMENT 'Data centre the producer belongs to.' CODEC(ZSTD(1)),
    producer_id String COMMENT 'Process that made the event; for a node agent the node id. With run_id and seq it is the event\'s identity.' CODEC(ZSTD(1)),
    run_id Int64 COMMENT 'One start of the producer: microseconds since 1970 at that start, strictly larger than any earlier run of the same producer. [us]' CODEC(Delta, ZSTD(1)),
    seq Int64 COMMENT '0, 1, 2 ... per run and topic, without gaps.' CODEC(Delta, ZSTD(1)),
    ts DateTime64(6, 'UTC') COMMENT 'Event time, UTC. For an event with ticks: the first tick. [us]' CODEC(DoubleDelta, ZSTD(1)),
    source_topic LowCardinality(String) COMMENT 'Topic the message came from.' CODEC(ZSTD(1)),
    source_topic_id LowCardinality(String) COMMENT 'Kafka\'s id of that topic: changes when it is deleted and made anew.' CODEC(ZSTD(1)),
    source_partition Int32 COMMENT 'Partition.' CODEC(ZSTD(1)),
    source_offset Int64 COMMENT 'Offset.' CODEC(ZSTD(1)),
    append_ts DateTime64(6, 'UTC') COMMENT 'When the broker appended it. [us]' CODEC(ZSTD(1)),
    source_producer_id String COMMENT 'Producer named in the message\'s identity header; empty when unreadable.' CODEC(ZSTD(1)),
    source_run_id Nullable(Int64) COMMENT 'Run named in the identity header. [us]' CODEC(ZSTD(1)),
    source_seq Nullable(Int64) COMMENT 'Sequence number named in the identity header.' CODEC(ZSTD(1)),
    schema_id Nullable(Int32) COMMENT 'Schema id in the framing; null when there is none.' CODEC(ZSTD(1)),
    reason LowCardinality(String) COMMENT 'framing, identity, unknown_schema, decode, wrong_kind, too_old, in_future, too_large, unsigned, signature, foreign.' CODEC(ZSTD(1)),
    detail String COMMENT 'What was expected and what was found.' CODEC(ZSTD(1)),
    key String COMMENT 'The message\'s key.' CODEC(ZSTD(1)),
    value String COMMENT 'The message\'s value, unchanged.' CODEC(ZSTD(1)),
    identity String COMMENT 'The raw identity header.' CODEC(ZSTD(1)),
    headers Map(String, String) COMMENT 'The message\'s other headers, its signature for example: what replaying it needs.' CODEC(ZSTD(1)),
    flaws UInt32 MATERIALIZED toUInt32(if(source_offset < 0 OR source_partition < 0, 2048, 0) + if(site = '' OR producer_id = '' OR source_topic = '' OR run_id <= 0 OR seq < 0, 8192, 0)) COMMENT 'What is absurd about the event, as bits (gpufleet.flaw_bits names them); 0 = sound.' CODEC(ZSTD(1)),
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When the store took the row in: its age is the freshness of the data. [us]' CODEC(Delta, ZSTD(1)),
    INDEX run_id_minmax run_id TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
PRIMARY KEY (site, source_topic, ts)
ORDER BY (site, source_topic, ts, producer_id, run_id, seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 0, replicated_deduplication_window = 0
COMMENT 'A message that could not be stored, as it was. producer_id is dlq/TOPIC/PARTITION, run_id comes from the topic id and seq is the source offset, so that quarantining twice stores once; seq has gaps by nature.';
