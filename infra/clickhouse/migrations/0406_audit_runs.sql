-- Grain: one run of the audit.
CREATE TABLE IF NOT EXISTS gpufleet.audit_runs
(
    ts DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it ended' CODEC(Delta, ZSTD(1)),
    since Nullable(DateTime64(6, 'UTC')) COMMENT 'It looked at events from then on; NULL = at all that are kept' CODEC(ZSTD(1)),
    until DateTime64(6, 'UTC') COMMENT 'and up to then' CODEC(ZSTD(1)),
    node String COMMENT 'Producer it looked at; empty = all' CODEC(ZSTD(1)),
    ok Bool COMMENT 'Nothing was off' CODEC(ZSTD(1)),
    lost UInt64 COMMENT 'Events given out and neither stored nor dead letters' CODEC(ZSTD(1)),
    doubled UInt64 COMMENT 'Rows beyond one per event' CODEC(ZSTD(1)),
    dead_letters UInt64 COMMENT 'Dead letters' CODEC(ZSTD(1)),
    windows_checked UInt64 COMMENT 'Minutes of windows that were computed again' CODEC(ZSTD(1)),
    windows_wrong UInt64 COMMENT 'Windows that were not what their events say' CODEC(ZSTD(1)),
    seconds Float64 COMMENT 'How long it took; s' CODEC(ZSTD(1)),
    detail String COMMENT 'What it found, a line a finding; at most 20' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY ts
TTL toDateTime(ts) + toIntervalDay({{hour_days}})
COMMENT 'Runs of the audit: when exactness was last proved';
