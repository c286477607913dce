-- Grain: one tenant, day (UTC), product and model.
CREATE OR REPLACE VIEW gpufleet.tenant_usage_daily
(
    site LowCardinality(String) COMMENT 'Data centre.',
    day Date COMMENT 'Day, UTC.',
    tenant LowCardinality(String) COMMENT 'Customer.',
    product LowCardinality(String) COMMENT 'Product.',
    model LowCardinality(String) COMMENT 'Model served.',
    requests Int64 COMMENT 'Requests, throttled and failed ones included.',
    throttled_requests Int64 COMMENT 'Requests refused with status 429.',
    failed_requests Int64 COMMENT 'Requests that ended with a status of 500 or above.',
    input_tokens Int64 COMMENT 'Tokens read, cached ones left out.',
    cached_tokens Int64 COMMENT 'Input tokens from the prompt cache.',
    output_tokens Int64 COMMENT 'Tokens generated.',
    throttled_share Float64 COMMENT 'Throttled of all requests. [ratio]'
)
COMMENT 'Usage per tenant, day, product and model.'
AS SELECT
    site, toDate(ts) AS day, tenant, product, model,
    sum(u.requests) AS requests,
    sum(u.throttled_requests) AS throttled_requests,
    sum(u.failed_requests) AS failed_requests,
    sum(u.input_tokens) AS input_tokens,
    sum(u.cached_tokens) AS cached_tokens,
    sum(u.output_tokens) AS output_tokens,
    if(requests > 0, throttled_requests / requests, 0.) AS throttled_share
FROM gpufleet.usage_1d AS u FINAL
GROUP BY site, day, tenant, product, model;

-- Grain: one limit in force.
CREATE OR REPLACE VIEW gpufleet.limits_current
(
    site LowCardinality(String) COMMENT 'Data centre.',
    tenant LowCardinality(String) COMMENT 'Customer.',
    limit_name LowCardinality(String) COMMENT 'requests, input_tokens, output_tokens, messages, gpu_quota or power_cap.',
    window_s Int32 COMMENT 'Window it counts over; 0 = a level. [s]',
    product LowCardinality(String) COMMENT 'Product; empty = all.',
    model LowCardinality(String) COMMENT 'Model; empty = all.',
    tier LowCardinality(String) COMMENT 'Tier; empty = all.',
    limit_value Float64 COMMENT 'The limit, in its own unit.',
    valid_from DateTime64(6, 'UTC') COMMENT 'In force since.'
)
COMMENT 'Caps and limits in force now.'
AS SELECT
    site, tenant, limit_name, window_s, product, model, tier,
    tupleElement(latest, 1) AS limit_value,
    tupleElement(latest, 2) AS valid_from
FROM
(
    SELECT
        site, tenant, limit_name, window_s, product, model, tier,
        argMax(tuple(l.limit_value, l.valid_from, l.action), tuple(l.valid_from, l.ts, l.run_id, l.seq)) AS latest
    FROM gpufleet.tenant_limits AS l
    WHERE flaws = 0 AND l.valid_from <= now64(6)
    GROUP BY site, tenant, limit_name, window_s, product, model, tier
)
WHERE tupleElement(latest, 3) != 'removed';

-- Grain: one limit in force of one tenant, with what is taken of it in the window that ends with the newest minute of
-- which usage is known, as the board Usage and caps has it. The minute that has just ended is not summed up yet: counted
-- up to now, every window of a minute was empty for the first seconds of the next. A tenant of whom nothing was heard
-- for a quarter of an hour used nothing. A window of usage longer than a minute is not split: it counts where it starts.
CREATE OR REPLACE VIEW gpufleet.tenant_headroom
(
    site LowCardinality(String) COMMENT 'Data centre.',
    tenant LowCardinality(String) COMMENT 'Customer.',
    limit_name LowCardinality(String) COMMENT 'requests, input_tokens, output_tokens, messages, gpu_quota or power_cap.',
    window_s Int32 COMMENT 'Window it counts over; 0 = a level. [s]',
    product LowCardinality(String) COMMENT 'Product; empty = all.',
    model LowCardinality(String) COMMENT 'Model; empty = all.',
    tier LowCardinality(String) COMMENT 'Tier; empty = all.',
    limit_value Float64 COMMENT 'The limit, in its own unit.',
    used Nullable(Float64) COMMENT 'Taken of it; NULL = not known.',
    free Nullable(Float64) COMMENT 'Left of it.',
    used_share Nullable(Float64) COMMENT 'Taken of it. [ratio]'
)
COMMENT 'How close each tenant is to its caps and limits now.'
AS SELECT
    l.site AS site, l.tenant AS tenant, l.limit_name AS limit_name, l.window_s AS window_s,
    l.product AS product, l.model AS model, l.tier AS tier, l.limit_value AS limit_value,
    multiIf(
        l.limit_name IN ('requests', 'messages', 'input_tokens', 'output_tokens'), toNullable(u.amount),
        l.limit_name = 'gpu_quota', toNullable(toFloat64(g.gpus)),
        l.limit_name = 'power_cap', toNullable(p.power),
        NULL) AS used,
    l.limit_value - used AS free,
    if(l.limit_value > 0, used / l.limit_value, NULL) AS used_share
FROM gpufleet.limits_current AS l
LEFT JOIN
(
    SELECT
        c.site AS site, c.tenant AS tenant, c.limit_name AS limit_name, c.window_s AS window_s,
        c.product AS product, c.model AS model, c.tier AS tier,
        sum(toFloat64(multiIf(
            c.limit_name IN ('requests', 'messages'), u.requests,
            c.limit_name = 'input_tokens', u.input_tokens,
            u.output_tokens))) AS amount
    FROM gpufleet.limits_current AS c
    INNER JOIN
    (
        SELECT
            site, tenant, ts, product, model, tier, requests, input_tokens, output_tokens,
            max(ts) OVER (PARTITION BY site, tenant) + 60 AS known,
            if(known > toStartOfMinute(now()) - 900, known, toStartOfMinute(now())) AS until
        FROM gpufleet.usage_1m FINAL
        WHERE ts >= toStartOfMinute(now()) - toIntervalDay(8) AND ts < toStartOfMinute(now())
    ) AS u ON u.site = c.site AND u.tenant = c.tenant
    WHERE (c.product = '' OR c.product = u.product) AND (c.model = '' OR c.model = u.model)
        AND (c.tier = '' OR c.tier = u.tier) AND u.ts >= u.until - c.window_s
    GROUP BY site, tenant, limit_name, window_s, product, model, tier
) AS u ON u.site = l.site AND u.tenant = l.tenant AND u.limit_name = l.limit_name AND u.window_s = l.window_s
    AND u.product = l.product AND u.model = l.model AND u.tier = l.tier
LEFT JOIN
(
    SELECT s.site AS site, s.tenant AS tenant, uniqExact(i.node_id, i.gpu_index) AS gpus
    FROM gpufleet.lease_segments AS s
    INNER JOIN gpufleet.gpu_inventory AS i ON i.site = s.site AND i.node_id = s.node_id
    WHERE s.valid_from <= now64(6) AND s.valid_until >= now64(6)
    GROUP BY site, tenant
) AS g ON g.site = l.site AND g.tenant = l.tenant
LEFT JOIN
(
    SELECT site, tenant, sum(if(f.power_w_s > 0, f.power_w_sum / f.power_w_s * f.gpus, 0)) AS power
    FROM gpufleet.fleet_10s AS f FINAL
    WHERE (f.site, f.ts) IN (
        SELECT site, max(ts) FROM gpufleet.fleet_10s WHERE ts > now() - 300 AND ts <= now() - 15 GROUP BY site)
    GROUP BY site, tenant
) AS p ON p.site = l.site AND p.tenant = l.tenant;

-- Grain: one topic, over the last five minutes of the ledger.
CREATE OR REPLACE VIEW gpufleet.ingest_health
(
    topic LowCardinality(String) COMMENT 'Topic.',
    consumers UInt64 COMMENT 'Consumers that inserted.',
    partitions UInt64 COMMENT 'Partitions with news.',
    inserts UInt64 COMMENT 'Ledger rows that inserted something.',
    rows_per_s Float64 COMMENT 'Events stored. [1/s]',
    bytes_per_s Float64 COMMENT 'Message bytes read. [By/s]',
    duplicates UInt64 COMMENT 'Messages whose event was stored already.',
    dead_letters UInt64 COMMENT 'Messages sent to dead-letters.',
    filtered_share Float64 COMMENT 'Messages that took the filter path. [ratio]',
    insert_ms_p50 Float64 COMMENT 'Time of an insert, median. [ms]',
    insert_ms_p95 Float64 COMMENT 'Time of an insert, 95th percentile. [ms]',
    append_to_stored_s_p50 Float64 COMMENT 'From the broker''s append to stored, newest message of a batch, median. [s]',
    append_to_stored_s_p99 Float64 COMMENT 'The same, 99th percentile. [s]',
    last_insert DateTime64(6, 'UTC') COMMENT 'Newest ledger row.'
)
COMMENT 'How the pipeline did in the last five minutes, per topic.'
AS SELECT
    topic,
    uniqExact(consumer) AS consumers,
    uniqExact(partition) AS partitions,
    countIf(l.rows > 0) AS inserts,
    sum(l.rows) / 300 AS rows_per_s,
    sum(l.bytes) / 300 AS bytes_per_s,
    sum(l.duplicates) AS duplicates,
    sum(l.dead_letters) AS dead_letters,
    if(sum(l.messages) > 0, sumIf(l.messages, path = 'filter') / sum(l.messages), 0.) AS filtered_share,
    ifNotFinite(quantileIf(0.5)(insert_ms, l.rows > 0), 0.) AS insert_ms_p50,
    ifNotFinite(quantileIf(0.95)(insert_ms, l.rows > 0), 0.) AS insert_ms_p95,
    quantile(0.5)(date_diff('microsecond', append_ts_max, at) / 1e6) AS append_to_stored_s_p50,
    quantile(0.99)(date_diff('microsecond', append_ts_max, at) / 1e6) AS append_to_stored_s_p99,
    max(at) AS last_insert
FROM gpufleet.ingest_ledger AS l
WHERE at > now64(6) - toIntervalSecond(300)
GROUP BY topic;
