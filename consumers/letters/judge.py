"""What the consumer would say to a message today: asked of its own intake, with the settings of now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from consumers.batch import Headers
from consumers.clock import SystemClock
from consumers.errors import BadMessageError, Reason
from consumers.intake import PartitionIntake
from consumers.letters.letter import Letter
from consumers.letters.walk import walk
from consumers.quarantine import decode_error, decodes
from consumers.schema_book import AskRegistry, SchemaBook
from consumers.settings import ConsumeSettings
from consumers.signatures import Signing, Verifier, Verify
from schemas import catalogue, framing
from schemas.catalogue import KINDS, Schema
from schemas.framing import FramingError


@dataclass(frozen=True, slots=True)
class Again:
    """A message as it would be sent again. It looks like one that Kafka hands out."""

    topic_name: str
    partition_number: int
    message_key: bytes
    message_value: bytes
    message_headers: Headers
    append_us: int

    def topic(self) -> str:
        return self.topic_name

    def partition(self) -> int:
        return self.partition_number

    def offset(self) -> int:
        return 0

    def key(self) -> bytes:
        return self.message_key

    def value(self) -> bytes:
        return self.message_value

    def headers(self) -> Headers:
        return self.message_headers

    def timestamp(self) -> tuple[int, int]:
        return 2, self.append_us // 1000


def again(letter: Letter, now_us: int | None = None) -> Again:
    """The letter's message, appended now."""
    append = time.time_ns() // 1000 if now_us is None else now_us
    headers = letter.message_headers()
    return Again(letter.key.topic, letter.partition, letter.message_key, letter.value, headers, append)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What would become of it. ``reason`` None: it would be stored."""

    reason: Reason | None
    detail: str = ""
    schema: Schema | None = None


class Judge:
    """Judges messages one by one. RegistryUnavailableError when only the registry could tell and it is away."""

    def __init__(
        self, settings: ConsumeSettings, ask_registry: AskRegistry | None = None, signing: Signing | None = None
    ) -> None:
        self._ask = ask_registry
        self._settings, self._signing, self._clock = settings, signing, SystemClock()
        self._book = SchemaBook(catalogue.by_id(), ask_registry, self._clock, 60.0)

    @property
    def by_registry(self) -> bool:
        """Whether schema ids are a registry's, not the catalogue's."""
        return self._ask is not None

    def verdict(self, message: Again, *, strictly: bool = False) -> Verdict:
        """What the consumer would do with it. ``strictly``: the store refused it once, so what Avro does not allow is
        wrong even where fastavro is lenient (a boolean that is neither 0 nor 1)."""
        kind = KINDS.get(message.topic())
        if kind is None:
            return Verdict(Reason.WRONG_KIND, f"{message.topic()} is no topic of gpufleet's")
        intake = PartitionIntake(
            kind, 0, "", 0, 0,
            settings=self._settings, book=self._book, clock=self._clock, sick=set(), decodes=decodes,
            verify=self._verifier(kind.topic),
        )  # fmt: skip
        intake.take([message])
        chunk = intake.waiting[0]
        if chunk.bad:
            return Verdict(chunk.bad[0].reason, chunk.bad[0].detail)
        group = next(group for group in chunk.groups.values() if group.messages)
        wrong = decode_error(group.schema, message.value(), explain=True)
        if wrong is None and strictly and (stop := walk(group.schema, message.value()).stop):
            wrong = f"byte {stop.at}, {stop.path}: {stop.why}"
        return Verdict(Reason.DECODE if wrong else None, wrong or "", group.schema)

    def _verifier(self, topic: str) -> Verify | None:
        """A new one each time: a consumer's would stop when nothing it sees is signed well."""
        if self._signing is None:
            return None
        return Verifier(self._signing.keys, self._signing.policy, self._clock.now_us).on(topic)

    def schema(self, schema_id: int, topic: str) -> Schema | None:
        """The schema that an id means for a topic; None for none."""
        try:
            return self._book.schema(framing.prefix(schema_id), topic)
        except BadMessageError:
            return None


def named_schema(value: bytes) -> int | None:
    """The schema id in a message's framing; None when it has no framing."""
    try:
        return framing.schema_id(value)
    except FramingError:
        return None


def fitting(topic: str, value: bytes) -> Sequence[Schema]:
    """Published schemas of the topic that the datum decodes with, to the last byte."""
    if topic not in KINDS or named_schema(value) is None:
        return []
    return [schema for schema in catalogue.versions(topic) if decode_error(schema, value) is None]
