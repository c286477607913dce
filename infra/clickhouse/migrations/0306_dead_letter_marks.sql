-- Grain: one decision about one dead letter; the newest counts. No TTL: letters are kept for ever, and one that was
-- dealt with must not come back because its mark grew old.
CREATE TABLE IF NOT EXISTS gpufleet.dead_letter_marks
(
    site LowCardinality(String) COMMENT 'Site of the letter' CODEC(ZSTD(1)),
    source_topic LowCardinality(String) COMMENT 'Topic the message came from' CODEC(ZSTD(1)),
    producer_id String COMMENT 'producer_id of the letter: dlq/TOPIC/PARTITION' CODEC(ZSTD(1)),
    run_id Int64 COMMENT 'run_id of the letter, made from the topic''s id' CODEC(ZSTD(1)),
    seq Int64 COMMENT 'seq of the letter: the offset of the message' CODEC(ZSTD(1)),
    at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was decided' CODEC(Delta, ZSTD(1)),
    mark LowCardinality(String) COMMENT 'replayed: its event is stored now; dropped: nothing more is to be done; reopened: neither any more' CODEC(ZSTD(1)),
    who String COMMENT 'Who decided' CODEC(ZSTD(1)),
    why String COMMENT 'Why' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (site, source_topic, producer_id, run_id, seq, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What people did about dead letters: who, when and why. The letters themselves are never changed.';

-- Grain: one dead letter, without its bytes.
CREATE OR REPLACE VIEW gpufleet.dead_letter_states
(
    site LowCardinality(String) COMMENT 'Site it is filed under.',
    source_topic LowCardinality(String) COMMENT 'Topic the message came from.',
    source_partition Int32 COMMENT 'Partition.',
    source_offset Int64 COMMENT 'Offset.',
    producer_id String COMMENT 'producer_id of the letter: dlq/TOPIC/PARTITION.',
    run_id Int64 COMMENT 'run_id of the letter, made from the topic''s id.',
    seq Int64 COMMENT 'seq of the letter: the offset.',
    ts DateTime64(6, 'UTC') COMMENT 'When the broker appended the message.',
    source_producer_id String COMMENT 'Producer named in the message''s identity header; empty when unreadable.',
    source_run_id Nullable(Int64) COMMENT 'Run named there.',
    source_seq Nullable(Int64) COMMENT 'Sequence number named there.',
    schema_id Nullable(Int32) COMMENT 'Schema id in the framing; NULL when there is none.',
    reason LowCardinality(String) COMMENT 'Why it could not be stored.',
    detail String COMMENT 'What was expected and what was found.',
    bytes UInt64 COMMENT 'Size of the value. [By]',
    state String COMMENT 'open, replayed or dropped.',
    marked_at DateTime64(6, 'UTC') COMMENT 'When that was decided; 1970 = never.',
    marked_by String COMMENT 'Who decided.',
    why String COMMENT 'Why.'
)
COMMENT 'Dead letters and whether anybody dealt with them; open ones are work.'
AS SELECT
    l.site, l.source_topic, l.source_partition, l.source_offset, l.producer_id, l.run_id, l.seq, l.ts,
    l.source_producer_id, l.source_run_id, l.source_seq, l.schema_id, l.reason, l.detail, length(l.value) AS bytes,
    if(m.mark IN ('replayed', 'dropped'), m.mark, 'open') AS state,
    m.marked_at AS marked_at, m.marked_by AS marked_by, m.why AS why
FROM gpufleet.dead_letters AS l FINAL
LEFT ANY JOIN
(
    SELECT
        toString(site) AS site_, toString(source_topic) AS topic_, producer_id, run_id, seq,
        argMax(toString(mark), at) AS mark, max(at) AS marked_at, argMax(who, at) AS marked_by, argMax(why, at) AS why
    FROM gpufleet.dead_letter_marks
    GROUP BY site_, topic_, producer_id, run_id, seq
) AS m ON m.site_ = l.site AND m.topic_ = l.source_topic AND m.producer_id = l.producer_id AND m.run_id = l.run_id
    AND m.seq = l.seq;
