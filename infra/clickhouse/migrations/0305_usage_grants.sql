-- Grain: one stretch of time in which a lease lets the operator read its tenant's usage.
CREATE OR REPLACE VIEW gpufleet.usage_grants
(
    site LowCardinality(String) COMMENT 'Data centre.',
    tenant String COMMENT 'Customer.',
    valid_from DateTime64(6, 'UTC') COMMENT 'Start, inclusive.',
    valid_until DateTime64(6, 'UTC') COMMENT 'Last microsecond, inclusive.',
    granted UInt8 COMMENT '1.'
)
COMMENT 'When the operator may read which tenant''s usage: while a lease of that tenant says so.'
AS SELECT
    site,
    toString(tenant) AS tenant,
    valid_from,
    subtractMicroseconds(valid_to, 1) AS valid_until,
    toUInt8(1) AS granted
FROM gpufleet.lease_current
WHERE operator_reads_usage AND valid_to > valid_from AND notEmpty(nodes);

-- Asked by the operator's row policies on usage tables.
CREATE DICTIONARY IF NOT EXISTS gpufleet.usage_grant_at
(
    site String,
    tenant String,
    valid_from DateTime64(6, 'UTC'),
    valid_until DateTime64(6, 'UTC'),
    granted UInt8 DEFAULT 0
)
PRIMARY KEY site, tenant
SOURCE(CLICKHOUSE({{dictionary_credentials}} DB 'gpufleet' TABLE 'usage_grants'
    INVALIDATE_QUERY 'SELECT count(), max(stored_at) FROM gpufleet.leases'))
LAYOUT(COMPLEX_KEY_RANGE_HASHED())
RANGE(MIN valid_from MAX valid_until)
LIFETIME(MIN 60 MAX 120)
COMMENT 'Whether the operator may read a tenant''s usage of a time.';
