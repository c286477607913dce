"""Messages that cannot be stored go to the topic dead-letters, whole, with the reason.

Their identity is made from where they stood in the log, so that quarantining a message twice (a second consumer, a
reading from the beginning) stores it once. A message that `gpufleet dlq replay` sent again names where it stood first.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fastavro
from confluent_kafka import KafkaError, KafkaException, Producer

from consumers.batch import Bad, Message
from consumers.errors import UNPROVEN, FatalError, KafkaUnavailableError
from consumers.failpoints import failpoint
from consumers.intake import DEAD_LETTERS, identity_of
from consumers.letters import origin
from schemas import catalogue, framing, identity, signing
from schemas.catalogue import Schema
from schemas.identity import HEADER, Identity
from schemas.signer import Sign

VALUE_BYTES_MAX = 3_500_000
"""More of a value is cut off, so that the letter fits where the message did."""
KEY_BYTES_MAX = 64 << 10
HEADERS_BYTES_MAX = 64 << 10
"""The same of keys, and of all headers together, which a producer can make as large as it likes."""
DEFAULTS: Mapping[str, Any] = {
    "enable.idempotence": True,
    "compression.type": "lz4",
    "linger.ms": 5,
    "message.max.bytes": 4_000_000,
    "partitioner": "murmur2_random",
    "delivery.timeout.ms": 30_000,
}


def run_of(topic: str, topic_id: str) -> int:
    """run_id of dead letters from a topic: 63 bits of its id (or of its name, where the broker gives no ids)."""
    digest = hashlib.sha256((topic_id or topic).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def letter(bad: Bad, topic_id: str, site: str) -> tuple[Identity, dict[str, Any]]:
    """Identity and fields of a dead letter."""
    message = bad.message
    topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
    append = max(message.timestamp()[1], 0) * 1000
    source = identity_of(message)
    # Whoever did not prove who they are has no say in what their letter is called: it is evidence.
    proven = source is not None and bad.reason not in UNPROVEN
    first = origin.read(message.headers(), append) if proven else None
    if first is not None:
        topic_id, partition, offset, append = first
    who = Identity(f"dlq/{topic}/{partition}", run_of(topic, topic_id), offset, append, 1)
    value, key = message.value() or b"", message.key() or b""
    header = next((v for k, v in message.headers() or () if k == HEADER and isinstance(v, bytes)), b"")
    headers = _others(message)
    try:
        schema_id = framing.schema_id(value)
    except framing.FramingError:
        schema_id = None
    detail = bad.detail[:2_000]
    for name, found, limit in (("value", value, VALUE_BYTES_MAX), ("key", key, KEY_BYTES_MAX)):
        if len(found) > limit:
            detail += f"; {name} cut from {len(found)} to {limit} bytes"
    if sum(len(name.encode()) + len(text) for name, text in headers.items()) > HEADERS_BYTES_MAX - len(header):
        headers, header = {}, header[: identity.FIXED_BYTES + identity.MAX_PRODUCER_ID_BYTES]
        detail += "; headers left out, being too large"
    return who, {
        "site": site,
        "producer_id": who.producer_id,
        "run_id": who.run_id,
        "seq": who.seq,
        "ts": who.ts,
        "source_topic": topic,
        "source_topic_id": topic_id,
        "source_partition": partition,
        "source_offset": offset,
        "append_ts": append,
        "source_producer_id": source.producer_id if source else "",
        "source_run_id": source.run_id if source else None,
        "source_seq": source.seq if source else None,
        "schema_id": schema_id if schema_id is not None and schema_id < 1 << 31 else None,
        "reason": bad.reason.value,
        "detail": detail,
        "key": key[:KEY_BYTES_MAX],
        "value": value[:VALUE_BYTES_MAX],
        "identity": header,
        "headers": headers,
    }


def _others(message: Message) -> dict[str, bytes]:
    """Headers beside the identity and the origin, the first of each name."""
    found: dict[str, bytes] = {}
    for name, value in message.headers() or ():
        if name not in (HEADER, origin.HEADER) and isinstance(value, bytes):
            found.setdefault(name, value)
    return found


class DeadLetterWriter:
    """Writes dead letters and waits until the broker has them. Thread-safe; connects on first use."""

    def __init__(
        self,
        kafka: Mapping[str, Any],
        site: str,
        schema_id: Callable[[Schema], int] | None = None,
        timeout_s: float = 35.0,
        *,
        sign: Sign | None = None,
    ) -> None:
        self._sign = sign
        self._kafka, self._site, self._timeout_s = kafka, site, timeout_s
        self._schema = catalogue.latest(DEAD_LETTERS)
        self._schema_id = schema_id or (lambda schema: schema.id)
        self._producer: Producer | None = None
        self._lock = threading.Lock()

    def write(self, bad: Sequence[tuple[Bad, str]]) -> None:
        """Send (message, its topic's id) and wait for all acknowledgements. KafkaUnavailableError else.

        FatalError for a letter about a letter: more would follow without end.
        """
        if not bad:
            return
        for one, _ in bad:
            if one.producer.startswith(f"dlq/{DEAD_LETTERS}/"):
                raise FatalError(f"a dead letter about a dead letter cannot be stored either: {one.detail}")
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                failed.append(error)

        with self._lock:
            if self._producer is None:
                self._producer = Producer({**DEFAULTS, **self._kafka}, logger=logging.getLogger("gpufleet.librdkafka"))
            prefix = framing.prefix(self._schema_id(self._schema))
            try:
                for one, topic_id in bad:
                    who, record = letter(one, topic_id, self._site)
                    value = io.BytesIO()
                    value.write(prefix)
                    fastavro.schemaless_writer(value, self._schema.parsed, record)
                    key, header = record["source_topic"].encode(), identity.pack(who)
                    headers: list[tuple[str, str | bytes | None]] = [(HEADER, header)]
                    if self._sign is not None:
                        signature = self._sign(DEAD_LETTERS, key, header, value.getvalue())
                        headers.append((signing.HEADER, signature))
                    self._producer.produce(DEAD_LETTERS, value.getvalue(), key, headers=headers, on_delivery=delivered)
                    self._producer.poll(0)
                left = self._producer.flush(self._timeout_s)
            except (KafkaException, BufferError) as error:
                self._producer = None
                raise KafkaUnavailableError(f"dead letters cannot be written: {error}") from error
            if left or failed:
                self._producer = None  # a fatal error ends an idempotent producer; a new one always works
                why = failed[0].str() if failed else f"{left} not acknowledged in {self._timeout_s:.0f} s"
                raise KafkaUnavailableError(f"dead letters cannot be written: {why}")
        failpoint("dead letters flushed")
