-- Made from schemas/avsc/node-events/v1.avsc by python -m infra.clickhouse.generate. Grain: one event.
CREATE TABLE IF NOT EXISTS gpufleet.node_events
(
    site LowCardinality(String) COMMENT 'Data centre the producer belongs to.' CODEC(ZSTD(1)),
    producer_id String COMMENT 'Process that made the event; for a node agent the node id. With run_id and seq it is the event\'s identity.' CODEC(ZSTD(1)),
    run_id Int64 COMMENT 'One start of the producer: microseconds since 1970 at that start, strictly larger than any earlier run of the same producer. [us]' CODEC(Delta, ZSTD(1)),
    seq Int64 COMMENT '0, 1, 2 ... per run and topic, without gaps.' CODEC(Delta, ZSTD(1)),
    ts DateTime64(6, 'UTC') COMMENT 'Event time, UTC. For an event with ticks: the first tick. [us]' CODEC(DoubleDelta, ZSTD(1)),
    node_id String COMMENT 'Node the fact is about.' CODEC(ZSTD(1)),
    rack LowCardinality(String) COMMENT 'Rack the node stands in.' CODEC(ZSTD(1)),
    host_boot_id LowCardinality(String) COMMENT 'The kernel\'s boot id.' CODEC(ZSTD(1)),
    event LowCardinality(String) COMMENT 'xid, sxid, ecc_dbe, row_remap, throttle_begin, throttle_end, link_error, link_down, link_up, gpu_lost, gpu_found, driver_reload, source_down, source_up, agent_start, agent_stop, maintenance_begin, maintenance_end, lifecycle, events_dropped (value = topic, occurrences = how many were given up), events_thinned (value = topic: a full spool made few events of many), spool_backlog (value = topic: what waited for the broker is being sent), spool_drained (nothing waits any more). value of source_down and source_up: the source, spool or journal (the node\'s disk refuses).' CODEC(ZSTD(1)),
    source LowCardinality(String) COMMENT 'Who saw it: nvml, kmsg, dcgm, host, nic, agent, operator, simulator.' CODEC(ZSTD(1)),
    gpu_index Nullable(Int32) COMMENT 'GPU on the node; null when the fact is about the whole node.' CODEC(ZSTD(1)),
    gpu_uuid Nullable(FixedString(16)) COMMENT 'UUID of the GPU, 16 bytes.' CODEC(ZSTD(1)),
    pci_address LowCardinality(String) COMMENT 'PCI address, domain:bus:device.function.' CODEC(ZSTD(1)),
    code Nullable(Int32) COMMENT 'XID or SXID number.' CODEC(ZSTD(1)),
    recovery_action Nullable(Int32) COMMENT 'The driver\'s verdict at that time: 0 none, 1 reset GPU, 2 reboot node, 3 drain P2P, 4 drain and reset. [enum]' CODEC(ZSTD(1)),
    occurrences Int32 COMMENT 'Like facts folded into this one within 5 s.' CODEC(ZSTD(1)),
    value LowCardinality(String) COMMENT 'New value of what changed: lifecycle state, throttle reason, source name.' CODEC(ZSTD(1)),
    message String COMMENT 'What happened, in a sentence.' CODEC(ZSTD(1)),
    raw String COMMENT 'The kernel\'s or exporter\'s own line, unchanged.' CODEC(ZSTD(1)),
    ended_at Nullable(DateTime64(6, 'UTC')) COMMENT 'End of the condition, where the event closes one. [us]' CODEC(ZSTD(1)),
    previous_run_id Nullable(Int64) COMMENT 'agent_start: the producer\'s run before this one. [us]' CODEC(ZSTD(1)),
    previous_last_seq Map(String, Int64) COMMENT 'agent_start: per topic the last seq the run before had given out.' CODEC(ZSTD(1)),
    attributes Map(String, String) COMMENT 'Further facts by name, e.g. unit, status, fault_id.' CODEC(ZSTD(1)),
    tenant LowCardinality(String) DEFAULT dictGetOrDefault('gpufleet.lease_by_node', 'tenant', (site, node_id), ts, '') COMMENT 'Customer that leased the node at that time, resolved by the store from the leases; empty = nobody.' CODEC(ZSTD(1)),
    flaws UInt32 MATERIALIZED toUInt32(if(ifNull(gpu_index, 0) < 0 OR ifNull(gpu_index, 0) > 1023, 512, 0) + if(ifNull(ended_at, ts) < ts, 1024, 0) + if(occurrences < 1, 2048, 0) + if(site = '' OR producer_id = '' OR node_id = '' OR run_id <= 0 OR seq < 0, 8192, 0)) COMMENT 'What is absurd about the event, as bits (gpufleet.flaw_bits names them); 0 = sound.' CODEC(ZSTD(1)),
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When the store took the row in: its age is the freshness of the data. [us]' CODEC(Delta, ZSTD(1)),
    INDEX run_id_minmax run_id TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
PRIMARY KEY (site, node_id, ts)
ORDER BY (site, node_id, ts, producer_id, run_id, seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 0, replicated_deduplication_window = 0
COMMENT 'A discrete fact about a node or one of its GPUs.';
