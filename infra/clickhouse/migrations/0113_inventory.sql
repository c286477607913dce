-- Made from schemas/avsc/inventory/v1.avsc by python -m infra.clickhouse.generate. Grain: one event.
CREATE TABLE IF NOT EXISTS gpufleet.inventory
(
    site LowCardinality(String) COMMENT 'Data centre the producer belongs to.' CODEC(ZSTD(1)),
    producer_id String COMMENT 'Process that made the event; for a node agent the node id. With run_id and seq it is the event\'s identity.' CODEC(ZSTD(1)),
    run_id Int64 COMMENT 'One start of the producer: microseconds since 1970 at that start, strictly larger than any earlier run of the same producer. [us]' CODEC(Delta, ZSTD(1)),
    seq Int64 COMMENT '0, 1, 2 ... per run and topic, without gaps.' CODEC(Delta, ZSTD(1)),
    ts DateTime64(6, 'UTC') COMMENT 'Event time, UTC. For an event with ticks: the first tick. [us]' CODEC(DoubleDelta, ZSTD(1)),
    node_id String COMMENT 'Node, or asset without an agent such as a switch tray.' CODEC(ZSTD(1)),
    asset_kind LowCardinality(String) COMMENT 'node or switch_tray.' CODEC(ZSTD(1)),
    rack LowCardinality(String) COMMENT 'Rack it stands in.' CODEC(ZSTD(1)),
    slot LowCardinality(String) COMMENT 'Position in the rack.' CODEC(ZSTD(1)),
    feed LowCardinality(String) COMMENT 'Power feed of the rack.' CODEC(ZSTD(1)),
    pdu LowCardinality(String) COMMENT 'Rack PDU.' CODEC(ZSTD(1)),
    coolant_loop LowCardinality(String) COMMENT 'Coolant loop, by its distribution unit (CDU).' CODEC(ZSTD(1)),
    nvlink_domain LowCardinality(String) COMMENT 'NVLink domain: cluster uuid and clique; empty when the node is its own domain.' CODEC(ZSTD(1)),
    lifecycle LowCardinality(String) COMMENT 'racked, burn-in, accepted, leased, draining, maintenance, rma.' CODEC(ZSTD(1)),
    host_boot_id LowCardinality(String) COMMENT 'The kernel\'s boot id.' CODEC(ZSTD(1)),
    host_model LowCardinality(String) COMMENT 'Server model.' CODEC(ZSTD(1)),
    kernel LowCardinality(String) COMMENT 'Kernel release.' CODEC(ZSTD(1)),
    driver_version LowCardinality(String) COMMENT 'NVIDIA driver.' CODEC(ZSTD(1)),
    cuda_version LowCardinality(String) COMMENT 'Highest CUDA version of the driver.' CODEC(ZSTD(1)),
    agent_version LowCardinality(String) COMMENT 'Version of the agent.' CODEC(ZSTD(1)),
    gpu_model LowCardinality(String) COMMENT 'Model of the GPUs: H100, H200, GB200.' CODEC(ZSTD(1)),
    nic_name Array(String) COMMENT 'RDMA devices.' CODEC(ZSTD(1)),
    nic_firmware Array(String) COMMENT 'Firmware of each RDMA device.' CODEC(ZSTD(1)),
    gpu_index Array(Int32) COMMENT 'Index of each GPU on the node; its length n sets the shape of the arrays below.' CODEC(ZSTD(1)),
    gpu_uuid Array(FixedString(16)) COMMENT 'UUID of each GPU, 16 bytes.' CODEC(ZSTD(1)),
    gpu_serial Array(String) COMMENT 'Serial number.' CODEC(ZSTD(1)),
    gpu_name Array(String) COMMENT 'Product name as the driver gives it.' CODEC(ZSTD(1)),
    gpu_pci_address Array(String) COMMENT 'PCI address.' CODEC(ZSTD(1)),
    gpu_vbios Array(String) COMMENT 'VBIOS version.' CODEC(ZSTD(1)),
    gpu_memory_bytes Array(Int64) COMMENT 'Device memory. [By]' CODEC(ZSTD(1)),
    gpu_power_limit_w Array(Float32) COMMENT 'Power limit in force. [W]' CODEC(ZSTD(1)),
    gpu_power_limit_max_w Array(Float32) COMMENT 'Highest power limit allowed. [W]' CODEC(ZSTD(1)),
    gpu_ecc_enabled Array(Int32) COMMENT '1 when ECC is on, -1 when unknown. [bool]' CODEC(ZSTD(1)),
    gpu_mig_enabled Array(Int32) COMMENT '1 when MIG is on, -1 when unknown. [bool]' CODEC(ZSTD(1)),
    gpu_nvlink_count Array(Int32) COMMENT 'NVLinks the GPU has.' CODEC(ZSTD(1)),
    tenant LowCardinality(String) DEFAULT dictGetOrDefault('gpufleet.lease_by_node', 'tenant', (site, node_id), ts, '') COMMENT 'Customer that leased the node at that time, resolved by the store from the leases; empty = nobody.' CODEC(ZSTD(1)),
    flaws UInt32 MATERIALIZED toUInt32(if(arrayExists(l -> l != 0 AND l != length(gpu_index), [length(gpu_uuid), length(gpu_serial), length(gpu_name), length(gpu_pci_address), length(gpu_vbios), length(gpu_memory_bytes), length(gpu_power_limit_w), length(gpu_power_limit_max_w), length(gpu_ecc_enabled), length(gpu_mig_enabled), length(gpu_nvlink_count)]), 1, 0) + if(length(nic_firmware) NOT IN (0, length(nic_name)), 8, 0) + if(length(gpu_index) > 128, 16, 0) + if(arrayUniq(gpu_index) != length(gpu_index) OR arrayExists(i -> i < 0 OR i > 1023, gpu_index), 512, 0) + if(arrayExists(v -> v < 0, gpu_memory_bytes) OR arrayExists(v -> v < 0, gpu_nvlink_count), 2048, 0) + if(length(nic_name) > 256, 4096, 0) + if(site = '' OR producer_id = '' OR node_id = '' OR run_id <= 0 OR seq < 0, 8192, 0)) COMMENT 'What is absurd about the event, as bits (gpufleet.flaw_bits names them); 0 = sound.' CODEC(ZSTD(1)),
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When the store took the row in: its age is the freshness of the data. [us]' CODEC(Delta, ZSTD(1)),
    INDEX run_id_minmax run_id TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
PRIMARY KEY (site, node_id, ts)
ORDER BY (site, node_id, ts, producer_id, run_id, seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 0, replicated_deduplication_window = 0
COMMENT 'What a node or asset is made of, from ts on: a history, not a state.';
