"""Every metric the consumer exports, in one place. Names start with gpufleet_consumer_."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one consumer, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.messages = Counter("gpufleet_consumer_messages", "Messages read from Kafka.", ["topic"], registry=r)
        self.message_bytes = Counter(
            "gpufleet_consumer_message_bytes", "Bytes of the values read.", ["topic"], registry=r
        )
        self.rows = Counter("gpufleet_consumer_rows", "Events inserted into the store.", ["topic"], registry=r)
        self.duplicates = Counter(
            "gpufleet_consumer_duplicates", "Messages left out because their event was stored.", ["topic"], registry=r
        )
        self.dead_letters = Counter(
            "gpufleet_consumer_dead_letters", "Messages sent to dead-letters.", ["topic", "reason"], registry=r
        )
        self.unsigned = Counter(
            "gpufleet_consumer_unsigned", "Messages without a signature that were accepted.", ["topic"], registry=r
        )
        self.inserts = Counter("gpufleet_consumer_inserts", "Inserts stored.", ["topic", "path"], registry=r)
        self.insert_seconds = Histogram(
            "gpufleet_consumer_insert_seconds", "Time of one insert.", ["topic"], buckets=_SECONDS, registry=r
        )
        self.insert_failures = Counter(
            "gpufleet_consumer_insert_failures", "Deliveries that failed, by error.", ["topic", "error"], registry=r
        )
        self.lookup_seconds = Histogram(
            "gpufleet_consumer_lookup_seconds", "Time of the identity filter's questions.", buckets=_SECONDS, registry=r
        )
        self.commits = Counter("gpufleet_consumer_commits", "Partitions committed.", registry=r)
        self.commit_failures = Counter(
            "gpufleet_consumer_commit_failures", "Partitions whose commit failed, by error.", ["error"], registry=r
        )
        self.rebalances = Counter("gpufleet_consumer_rebalances", "Rebalances, by what came.", ["what"], registry=r)
        self.rewinds = Counter(
            "gpufleet_consumer_rewinds", "Partitions read again from the committed offset, by why.", ["why"], registry=r
        )
        self.kafka_errors = Counter("gpufleet_consumer_kafka_errors", "Errors librdkafka told.", ["error"], registry=r)
        self.read_offset = Gauge(
            "gpufleet_consumer_read_offset", "Offset read next.", ["topic", "partition"], registry=r
        )
        self.stored_offset = Gauge(
            "gpufleet_consumer_stored_offset", "Everything below is stored.", ["topic", "partition"], registry=r
        )
        self.committed_offset = Gauge(
            "gpufleet_consumer_committed_offset", "Everything below is committed.", ["topic", "partition"], registry=r
        )
        self.held_bytes = Gauge("gpufleet_consumer_held_bytes", "Memory of messages held.", registry=r)
        self.in_flight = Gauge("gpufleet_consumer_inserts_in_flight", "Batches being delivered.", registry=r)
        self.assigned = Gauge("gpufleet_consumer_assigned_partitions", "Partitions assigned.", registry=r)
        self.paused = Gauge("gpufleet_consumer_paused_partitions", "Partitions paused, by why.", ["why"], registry=r)
        self.store_up = Gauge("gpufleet_consumer_store_up", "1 while the store answers.", registry=r)
        self.quarantined = Gauge(
            "gpufleet_consumer_quarantined_producers", "Producers with messages refused lately.", registry=r
        )

    def forget(self, topic: str, partition: int) -> None:
        """A partition is gone: its gauges would stand still and mislead."""
        for gauge in (self.read_offset, self.stored_offset, self.committed_offset):
            gauge.remove(topic, str(partition))
