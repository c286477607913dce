"""What the Kafka log says, with fastavro and plain Python alone: framing, identity header and datum read anew here."""

from __future__ import annotations

import io
import json
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError, TopicPartition

Place = tuple[str, int]
"""(topic, partition)"""
Who = tuple[str, int, int]
"""(producer_id, run_id, seq)"""
STALLS_S = 20.0


@dataclass(frozen=True, slots=True)
class Logged:
    """One message of the log."""

    topic: str
    partition: int
    offset: int
    append_us: int
    who: Who | None
    """None: no identity that can be read."""
    event: dict[str, Any] | None
    """None: it cannot be decoded."""
    value: bytes


@dataclass
class Log:
    """The messages of a part of the log."""

    messages: list[Logged] = field(default_factory=list)

    def events(self, topic: str) -> list[dict[str, Any]]:
        """Each event once, as often as it may have been sent, in the order of its first copy."""
        found: dict[Who, dict[str, Any]] = {}
        for one in self.messages:
            if one.topic == topic and one.who is not None and one.event is not None:
                found.setdefault(one.who, one.event)
        return list(found.values())

    def sound(self, topic: str) -> list[Logged]:
        """The messages of a topic that can be stored, copies and all."""
        return [one for one in self.messages if one.topic == topic and one.who is not None and one.event is not None]

    def bad(self) -> list[Logged]:
        """Messages that must be dead letters."""
        return [one for one in self.messages if one.who is None or one.event is None]


class Reader:
    """Reads on from where it stopped. ``bootstrap`` is the broker itself, no proxy."""

    def __init__(self, bootstrap: str, topics: Iterable[str]) -> None:
        self._bootstrap, self._topics = bootstrap, tuple(topics)
        self._consumer = self._connected()
        self.next: dict[Place, int] = {}

    def _connected(self) -> Consumer:
        return Consumer(
            {"bootstrap.servers": self._bootstrap, "group.id": "chaos-log", "enable.auto.commit": False,
             "enable.partition.eof": True, "auto.offset.reset": "error", "reconnect.backoff.max.ms": 500}
        )  # fmt: skip

    def close(self) -> None:
        self._consumer.close()

    def forget(self, topic: str) -> None:
        """The topic is another now: read it from its beginning."""
        self.next = {place: at for place, at in self.next.items() if place[0] != topic}

    def read(self) -> Log:
        """Everything up to the end of every partition."""
        before = dict(self.next)
        for _ in range(5):
            log = self._read()
            if log is not None:
                return log
            # After a broker's death or a topic's, a client may be left with what it knew of them.
            self.close()
            self._consumer, self.next = self._connected(), dict(before)
        raise AssertionError("the log cannot be read to its end")

    def _read(self) -> Log | None:
        """None when nothing comes any more although the end is not reached."""
        known = self._consumer.list_topics(timeout=20).topics
        places = [(topic, number) for topic in self._topics if topic in known for number in known[topic].partitions]
        log = Log()
        ahead = []
        for place in places:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=20)
            begin = max(low, self.next.get(place, 0))
            if begin < high:
                ahead.append(TopicPartition(*place, begin))
            self.next[place] = max(begin, high)
        if not ahead:
            return log
        self._consumer.assign(ahead)
        open_ends = {(one.topic, one.partition) for one in ahead}
        moved = time.monotonic()
        while open_ends:
            if time.monotonic() - moved > STALLS_S:
                return None
            for message in self._consumer.consume(1000, 0.2):
                moved = time.monotonic()
                place = (message.topic() or "", message.partition() or 0)
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    time.sleep(1.0)
                    return None
                if error is None and (message.offset() or 0) < self.next[place]:
                    log.messages.append(logged(message))
                if error is None and (message.offset() or 0) >= self.next[place] - 1:
                    open_ends.discard(place)
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    open_ends.discard(place)
        self._consumer.unassign()
        return log


def logged(message: Any) -> Logged:
    """A message of confluent-kafka's."""
    value = message.value() or b""
    return Logged(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1] * 1000,
        identity(message.headers() or ()),
        decoded(message.topic(), value),
        value,
    )


def identity(headers: Iterable[tuple[str, Any]]) -> Who | None:
    """Version u8 = 1, ticks u8, run i64, seq i64, ts i64, big-endian, then the producer's name."""
    for name, value in headers:
        if name == "gpufleet" and len(value) > 26:
            version, _, run, seq, _ = struct.unpack(">BBqqq", value[:26])
            return (value[26:].decode(), run, seq) if version == 1 else None
    return None


@cache
def _schemas() -> dict[int, tuple[str, Any]]:
    root = files("schemas")
    found = {}
    for number, entry in json.loads((root / "ids.json").read_text()).items():
        text = (root / "avsc" / entry["topic"] / f"v{entry['version']}.avsc").read_text()
        found[int(number)] = (entry["topic"], fastavro.parse_schema(_plain(json.loads(text))))
    return found


def _plain(kind: Any) -> Any:
    """The schema without logical types: times stay microseconds."""
    if isinstance(kind, dict):
        return {name: _plain(part) for name, part in kind.items() if name != "logicalType"}
    return [_plain(part) for part in kind] if isinstance(kind, list) else kind


def decoded(topic: str, value: bytes) -> dict[str, Any] | None:
    """Magic 0, schema id u32, datum; None for anything else."""
    if len(value) < 5 or value[0] != 0:
        return None
    of_topic, schema = _schemas().get(struct.unpack(">I", value[1:5])[0], ("", None))
    if of_topic != topic:
        return None
    source = io.BytesIO(value[5:])
    try:
        event = fastavro.schemaless_reader(source, schema, None)
    except Exception:  # noqa: BLE001 - whatever a damaged datum makes the decoder say
        return None
    return event if isinstance(event, dict) and not source.read(1) else None


def fields(topic: str) -> Iterator[tuple[str, Any]]:
    """(name, Avro type) of every field of a topic's newest schema, times named as such."""
    root = files("schemas")
    entries = json.loads((root / "ids.json").read_text()).values()
    version = max(entry["version"] for entry in entries if entry["topic"] == topic)
    for one in json.loads((root / "avsc" / topic / f"v{version}.avsc").read_text())["fields"]:
        yield one["name"], one["type"]
