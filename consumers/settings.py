"""Everything the consumer can be told, as one plain record."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.catalogue import KINDS

MIB = 1 << 20


def default_consumer_id() -> str:
    """Host and process: names this consumer in the ledger."""
    return f"{socket.gethostname()}/{os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeSettings:
    """Settings of one consumer process. Times in seconds, sizes in bytes."""

    kafka: Mapping[str, Any]
    """librdkafka options: brokers, security, and anything else; they win over the consumer's own."""
    kafka_writing: Mapping[str, Any] | None = None
    """The same for what writes dead letters and describes topics; None = as ``kafka``."""
    topics: tuple[str, ...] = tuple(KINDS)
    group: str = "gpufleet"
    consumer_id: str = field(default_factory=default_consumer_id)
    site: str = ""
    """Site that dead letters are filed under."""
    database: str = "gpufleet"

    poll_messages: int = 2_000
    """Messages taken from librdkafka's queue at a time."""
    poll_timeout_s: float = 0.05
    """How long a poll waits for them."""
    flush_bytes: int = 64 * MIB
    """An insert is sent at this size of values ..."""
    flush_messages: int = 50_000
    """... or this many messages ..."""
    flush_age_s: float = 2.0
    """... or at this age of its oldest message; sooner while the budget of inserts allows, later
    when it is overdrawn and the batch is small and none of the fast lane (see ``flush``)."""
    flush_min_age_s: float = 0.2
    inserts_per_second: float = 2.0
    """Budget for inserts that are sent early; one that takes long counts as several (see ``flush``)."""
    days_per_insert: int = 31
    """Table partitions (days, or months of histories) that one insert may touch: each becomes a part."""
    insert_threads: int = 2
    """Inserts in flight, of different partitions."""
    memory_bytes: int = 256 * MIB
    """Bound on the messages held, waiting or in flight, with what each costs beside its value."""
    fetch_queue_bytes: int = 32 * MIB
    """Bound on librdkafka's queue of fetched messages, all partitions together."""
    message_max_bytes: int = 4_000_000
    """A larger value is a dead letter."""

    horizon_s: float = 60.0
    """Commits trail what is stored by this time."""
    bookkeeping_s: float = 1.0
    """Time between two writes of the ledger, each followed by a commit."""
    topics_check_s: float = 30.0
    """Time between two looks at the topics' ids: a topic that was made anew must not be read on at its old offset."""
    drain_s: float = 10.0
    """How long a revoke waits for inserts in flight."""
    stop_s: float = 30.0
    """How long a stop waits for what was read to be stored."""

    future_limit_s: float = 600.0
    """Event times further ahead of the broker's append time are dead letters."""
    past_limit_s: float = 8 * 86_400.0
    """Telemetry older than this against the append time is a dead letter: raw TTL less a day."""
    late_after_s: float = 120.0
    """Events older than this against the youngest append time of their ledger row name their producer there ..."""
    late_producers_max: int = 500
    """... unless there are more than this: an empty list then stands for everyone."""

    quarantine_share_limit: float = 0.2
    """The consumer stops when more than this share of the producers had messages quarantined lately ..."""
    quarantine_producers_min: int = 10
    """... and they are at least this many."""
    quarantine_window_s: float = 600.0
    """For how long a producer counts as quarantined, and has its messages decoded before they join a batch."""

    schema_recheck_s: float = 5.0
    """Time between two attempts to insert what a table was behind of."""
    unknown_schema_recheck_s: float = 30.0
    """How long the registry's word that an id is unknown is believed."""
    backoff_first_s: float = 0.2
    backoff_max_s: float = 15.0
    store_down_limit_s: float = 30.0
    """/health says no when the store has been away for longer."""
    kafka_down_limit_s: float = 60.0
    """/health says no when Kafka has told errors for longer, and sent nothing."""
    poll_stale_limit_s: float = 30.0
    """/health says no when the main loop has not polled for longer."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """Port of /metrics and /health; 0 = any free one, None = no server."""
    accept_lost: bool = False
    """Start at what Kafka still has when retention overtook the group, instead of stopping with an error."""

    @property
    def writing(self) -> Mapping[str, Any]:
        """librdkafka options of the clients that write dead letters and describe topics."""
        return self.kafka if self.kafka_writing is None else self.kafka_writing
