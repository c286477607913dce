-- Grain: one insert of the consumer, or one batch of which nothing was left to insert (rows = 0).
CREATE TABLE IF NOT EXISTS gpufleet.ingest_ledger
(
    at DateTime64(6, 'UTC') COMMENT 'When the row was written: after the insert, before the commit to Kafka.' CODEC(Delta, ZSTD(1)),
    consumer String COMMENT 'Consumer that inserted.' CODEC(ZSTD(1)),
    topic LowCardinality(String) COMMENT 'Topic the messages came from.' CODEC(ZSTD(1)),
    topic_id String COMMENT 'Kafka''s id of that topic: changes when it is deleted and made anew.' CODEC(ZSTD(1)),
    partition UInt32 COMMENT 'Partition.' CODEC(ZSTD(1)),
    first_offset Int64 COMMENT 'First offset of the batch.' CODEC(Delta, ZSTD(1)),
    last_offset Int64 COMMENT 'Last offset of the batch.' CODEC(Delta, ZSTD(1)),
    messages UInt64 COMMENT 'Messages read.' CODEC(ZSTD(1)),
    rows UInt64 COMMENT 'Rows inserted.' CODEC(ZSTD(1)),
    duplicates UInt64 COMMENT 'Messages whose event was stored already.' CODEC(ZSTD(1)),
    dead_letters UInt64 COMMENT 'Messages sent to dead-letters.' CODEC(ZSTD(1)),
    bytes UInt64 COMMENT 'Size of the messages'' values. [By]' CODEC(ZSTD(1)),
    insert_ms Float32 COMMENT 'How long the insert took. [ms]' CODEC(ZSTD(1)),
    path LowCardinality(String) COMMENT 'steady: told apart by watermark; filter: stored identities looked up.' CODEC(ZSTD(1)),
    event_ts_min DateTime64(6, 'UTC') COMMENT 'Earliest event time.' CODEC(Delta, ZSTD(1)),
    event_ts_max DateTime64(6, 'UTC') COMMENT 'Latest event time.' CODEC(Delta, ZSTD(1)),
    append_ts_max DateTime64(6, 'UTC') COMMENT 'Latest time at which the broker appended one of them.' CODEC(Delta, ZSTD(1)),
    minutes Array(DateTime('UTC')) COMMENT 'UTC minutes that the events'' ticks touch: windows to recompute.' CODEC(ZSTD(1)),
    late_producers Array(String) COMMENT 'Producers whose events were late.' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(at)
ORDER BY (topic, partition, at)
TTL toDateTime(at) + INTERVAL {{minute_days}} DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1
COMMENT 'What the consumers inserted, batch by batch: lag, freshness and the projector''s work list come from it.';
