"""Many small events fast: one datum encoded, then only its sequence number and time exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Producer

from consumers.datum import read_head, read_varint, sequel
from schemas import framing, identity
from schemas.framing import PREFIX_BYTES
from schemas.identity import HEADER
from tests.consumers.fleet import Node, recently


@dataclass
class Flood:
    """Events of one node on one topic, numbered on and on; ``sent`` is how many there are."""

    node: Node
    topic: str
    bootstrap: str
    sent: int = 0

    def __post_init__(self) -> None:
        first = self.node.event(self.topic)
        who = identity.unpack(first.headers[0][1])
        head = read_head(first.value, who)
        at = PREFIX_BYTES + len(head)
        for _ in range(2):
            _, at = read_varint(first.value, at)
        self._key, self._who = first.key, who
        self._begin, self._rest = first.value[: framing.PREFIX_BYTES] + head, first.value[at:]
        self._ts = recently()

    def _messages(self, count: int) -> Iterator[tuple[bytes, bytes]]:
        for seq in range(self.sent, self.sent + count):
            ts = self._ts + seq
            yield self._begin + sequel(seq, ts) + self._rest, identity.pack(self._who._replace(seq=seq, ts=ts))

    def send(self, count: int) -> None:
        """Send so many more and wait for the broker."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, "enable.idempotence": True})
        for number, (value, header) in enumerate(self._messages(count)):
            producer.produce(self.topic, value, self._key, headers=[(HEADER, header)])
            if number % 1000 == 0:
                producer.poll(0)
        assert producer.flush(60) == 0
        self.sent += count
