"""Where reading a partition begins, and what is kept of it while it is assigned."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.commit import CommitHorizon
from consumers.errors import KafkaUnavailableError, OffsetsOutOfRangeError
from consumers.intake import PartitionIntake
from consumers.topic_watch import differs, explain_anew

TIMEOUT_S = 10.0


@dataclass(slots=True, eq=False)
class Partition:
    """An assigned partition."""

    topic: str
    number: int
    intake: PartitionIntake
    horizon: CommitHorizon
    blocked_until: float = 0.0
    """Monotonic time before which its next message cannot be judged (the registry is away)."""
    paused: bool = False

    @property
    def key(self) -> tuple[str, int]:
        return self.topic, self.number


@dataclass(frozen=True, slots=True)
class Start:
    """Where one partition is read from."""

    topic: str
    partition: int
    offset: int
    committed: int | None
    end: int
    """The log's end when the partition was assigned: up to there another consumer may have stored events."""
    lost: tuple[int, int] | None = None
    """Offsets [from, to) that retention took before they were read; only with ``accept_lost``."""


def starts(
    consumer: Consumer, partitions: Sequence[TopicPartition], *, accept_lost: bool, ids: Mapping[str, str]
) -> list[Start]:
    """The start of each partition: the committed offset, or the beginning when there is none.

    ``ids``: the topics' own. An offset that was committed for a topic of another id counts for nothing.
    OffsetsOutOfRangeError names every partition whose committed offset the log does not hold (any more);
    KafkaUnavailableError when the broker does not answer.
    """
    found: list[Start] = []
    wrong: list[str] = []
    anew: set[str] = set()
    try:
        committed = consumer.committed(list(partitions), timeout=TIMEOUT_S)
        for one in committed:
            if one.error is not None:
                raise KafkaUnavailableError(f"offsets of {one.topic}[{one.partition}]: {one.error.str()}")
            # An offset beyond the end is left to the fetch to refuse: the embedded broker counts the end too low.
            low, high = consumer.get_watermark_offsets(one, timeout=TIMEOUT_S)
            offset: int | None = None if one.offset == OFFSET_INVALID else one.offset
            if offset is not None and differs(one.metadata or "", ids.get(one.topic, "")):
                anew.add(one.topic)
                offset = None
            lost = (offset, low) if offset is not None and offset < low else None
            if lost and not accept_lost:
                wrong.append(out_of_range(one.topic, one.partition, lost[0], low, high))
            begin = low if offset is None or lost else offset
            found.append(Start(one.topic, one.partition, begin, offset, high, lost))
    except KafkaException as error:
        raise KafkaUnavailableError(f"cannot learn where to start: {error}") from error
    if anew and not accept_lost:
        raise OffsetsOutOfRangeError(explain_anew(sorted(anew)))
    if wrong:
        raise OffsetsOutOfRangeError(explain_out_of_range(wrong))
    return found


def out_of_range(topic: str, partition: int, wanted: int, low: int, high: int) -> str:
    """What is missing between the offset wanted and a log of [low, high)."""
    if wanted < low:
        return f"{topic}[{partition}]: offsets {wanted} to {low - 1} are gone, the log begins at {low}"
    return f"{topic}[{partition}]: {wanted} comes next, but the log ends at {high} (was the topic made anew?)"


def explain_out_of_range(wrong: Sequence[str]) -> str:
    """What to tell a person about offsets that Kafka does not hold."""
    return (
        "Kafka does not hold the offsets that come next: "
        + "; ".join(wrong)
        + ". Events were lost to retention, or the topic is not the one the group read. To go on from what is there,"
        " start once with --accept-lost; `gpufleet audit` names the events that are missing"
    )


def topic_ids(kafka: Mapping[str, Any], topics: Sequence[str]) -> dict[str, str]:
    """Kafka's ids of the topics; an empty text for a topic that does not exist or a broker without ids."""
    try:
        admin = AdminClient(dict(kafka), logger=logging.getLogger("gpufleet.librdkafka"))
        futures = admin.describe_topics(TopicCollection(list(topics)), request_timeout=TIMEOUT_S)
    except KafkaException as error:
        raise KafkaUnavailableError(f"cannot describe topics: {error}") from error
    ids = {}
    for topic, future in futures.items():
        try:
            ids[topic] = str(future.result().topic_id)
        except KafkaException as error:
            if error.args[0].retriable():
                raise KafkaUnavailableError(f"cannot describe {topic}: {error}") from error
            ids[topic] = ""
    return ids
