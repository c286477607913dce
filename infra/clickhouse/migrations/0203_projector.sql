-- Grain: one row a projector (latest "at" holds). Everything the ledger says up to "position" has been projected.
CREATE TABLE IF NOT EXISTS gpufleet.projector_state
(
    name String COMMENT 'Which position: ledger',
    position DateTime64(6, 'UTC') COMMENT 'Ledger time up to which all work is done',
    at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was written',
    owner String COMMENT 'Projector that wrote it'
)
ENGINE = ReplacingMergeTree(at)
ORDER BY name
COMMENT 'How far the projector has worked through ingest_ledger';

-- Grain: one row a claim (owner and start of its term); the oldest claim that has not run out holds the lock.
CREATE TABLE IF NOT EXISTS gpufleet.projector_lock
(
    name String COMMENT 'What is locked: projector',
    since DateTime64(6, 'UTC') COMMENT 'Start of the claim, the store''s clock',
    owner String COMMENT 'Process that claims',
    until DateTime64(6, 'UTC') COMMENT 'The claim runs out; renewed while the owner lives',
    renewal UInt64 COMMENT 'Counts renewals of the claim: the highest holds'
)
ENGINE = ReplacingMergeTree(renewal)
ORDER BY (name, since, owner)
TTL toDateTime(until) + toIntervalDay(1)
COMMENT 'Who may write windows: one projector at a time';

-- Grain: one row a request to recompute a range (a rebuild or a repair); answered when done_at is set.
CREATE TABLE IF NOT EXISTS gpufleet.projector_requests
(
    requested_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was asked for',
    request_id UUID DEFAULT generateUUIDv4() COMMENT 'Request',
    from_ts DateTime('UTC') COMMENT 'First minute to recompute',
    to_ts DateTime('UTC') COMMENT 'End of the range, not included',
    nodes Array(String) COMMENT 'Nodes whose GPU windows are recomputed; empty = all',
    reason String COMMENT 'Why',
    done_at Nullable(DateTime64(6, 'UTC')) COMMENT 'When the projector had done it'
)
ENGINE = ReplacingMergeTree(requested_at)
ORDER BY request_id
TTL toDateTime(requested_at) + toIntervalDay(30)
COMMENT 'Windows that somebody asked the projector to recompute';
