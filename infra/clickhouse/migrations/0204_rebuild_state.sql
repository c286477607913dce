-- Grain: one row a rebuild, and one for each thing it follows (latest "at" holds); gone when it is done or discarded.
CREATE TABLE IF NOT EXISTS gpufleet.rebuild_state
(
    name String COMMENT 'Table that is rebuilt',
    part String COMMENT 'job, or what a position belongs to: a partition of the log (TOPIC/NUMBER), or windows',
    state String COMMENT 'Range, phase and table beside the live one, or position, as JSON',
    at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was written',
    is_deleted UInt8 DEFAULT 0 COMMENT '1 = the rebuild is over'
)
ENGINE = ReplacingMergeTree(at, is_deleted)
ORDER BY (name, part)
TTL toDateTime(at) + toIntervalDay(30)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'How far rebuilds of tables have come: where one that was killed goes on';
