"""Targets on the consumer's side: messages, schemas, the registry, what the store's front reads before the engine."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import fastavro
import lz4.frame
import zstandard

from consumers import identity_filter, ledger
from consumers.batch import Limits, pack
from consumers.errors import Reason
from consumers.intake import PartitionIntake
from consumers.ledger import Lateness, Ledger
from consumers.quarantine import Ward, decode_error
from consumers.schema_book import SchemaBook
from consumers.settings import ConsumeSettings
from consumers.store import Boot, EventStore, Wanted
from infra.embedded.store import codecs, native, statement
from infra.embedded.store.errors import Refusal
from schemas import catalogue, framing, identity
from schemas.catalogue import KINDS, EventKind, Schema
from schemas.container import ContainerWriter
from schemas.identity import HEADER, IdentityError
from schemas.registry import Registry, RegistryError
from tests.consumers.fakes import FakeClock
from tests.consumers.fleet import Node, Sent

TOPICS = tuple(KINDS)
_MESSAGE = struct.Struct(">BBqHH")
"""Topic's place, how the header is named, append time in milliseconds, lengths of key and header."""
SITE = "fuzz"
NOW_MS = 1_767_225_600_000
"""2026-01-01"""


class Raw:
    """A message out of bytes, as confluent-kafka would hand it out."""

    def __init__(self, data: bytes, offset: int) -> None:
        place, names, self._append_ms, key, header = _MESSAGE.unpack_from(data.ljust(_MESSAGE.size, b"\0"))
        rest = data[_MESSAGE.size :]
        self.topic_name: str = TOPICS[place % len(TOPICS)]
        self._key = rest[:key]
        self._headers: list[tuple[str, Any]] = [(HEADER if names & 1 else "other", rest[key : key + header])]
        self._headers *= 1 + (names >> 1 & 1)
        if names & 4:
            self._headers.insert(0, ("trace", None))
        self._value = None if names & 8 else rest[key + header :]
        self._offset = offset

    def topic(self) -> str:
        return self.topic_name

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, Any]]:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return 1, self._append_ms


def raw(sent: Sent, append_ms: int = NOW_MS, names: int = 1) -> bytes:
    """The input that stands for a message."""
    header = sent.headers[0][1]
    fixed = _MESSAGE.pack(TOPICS.index(sent.topic), names, append_ms, len(sent.key), len(header))
    return fixed + sent.key + header + sent.value


class Asked(EventStore):
    """The real look-ups, whose text goes nowhere."""

    def __init__(self) -> None:
        super().__init__(lambda: None, "gpufleet")  # type: ignore[arg-type, return-value]
        self.lines: list[str] = []

    def _rows(self, text: str, about: str) -> list[tuple[Any, ...]]:
        text.encode()  # it goes over HTTP
        return []

    def append(self, table: str, columns: Sequence[str], lines: str) -> None:
        self.lines += lines.splitlines()

    def boot(self) -> Boot:
        return Boot("", "", 0, 0)

    def stored(self, kind: EventKind, wanted: Any) -> set[tuple[str, int, int]]:
        wanted = list(wanted)
        assert all(isinstance(one, Wanted) for one in wanted)
        super().stored(kind, wanted)
        return set()


def message(data: bytes) -> None:
    """A message all the way to what is sent to the store: every message ends in a group or among the bad ones."""
    take([Raw(data, 7)], None)


def take(messages: Sequence[Raw], book: SchemaBook | None) -> None:
    clock = FakeClock(NOW_MS / 1e3)
    settings = ConsumeSettings(kafka={})
    ward = Ward(1.0, 10, 600.0, clock)
    kind = KINDS[messages[0].topic_name]
    book = book or SchemaBook(catalogue.by_id(), None, clock, 1.0)
    intake = PartitionIntake(
        kind, 0, "", 0, 1_000, settings=settings, book=book, clock=clock, sick=ward.sick, decodes=lambda _m, _g: None
    )
    intake.take(messages)
    assert intake.next_offset == messages[-1].offset() + 1
    batch = pack(kind, [intake.take_chunk()], Limits(1 << 62, 1 << 62, 1 << 62))
    taken = sum(len(group.messages) for insert in batch.inserts for _, group in insert.groups)
    bad = [one for chunk in batch.chunks for one in chunk.bad]
    assert taken + len(bad) == len(messages)
    assert all(isinstance(one.reason, Reason) and one.detail.encode() for one in bad)
    assert all(len(one.producer.encode()) <= 1024 for one in bad), "what is remembered of a producer is bounded"
    heads = [run.head for run in intake.watermarks.runs.values()]
    assert all(len(head) <= 2048 for head in heads), "what is remembered of a run is bounded"
    store = Asked()
    identity_filter.learn(batch, store)
    kept = identity_filter.survivors(batch, store)
    for insert in batch.inserts:
        values = [m.value() or b"" for _, group in insert.groups for m in kept[id(group)]]
        body = ContainerWriter(insert.schema).open(values, skip=framing.PREFIX_BYTES)
        assert len(bytes(body)) == body.size
        for value in values:
            decode_error(insert.schema, value)
    ward.admit(bad)
    rows = ledger.entries(batch, kept, Lateness(120_000_000, 10))
    Ledger(store, "fuzz", clock).write(rows)
    assert [json.loads(line)["messages"] for line in store.lines] == [row.messages for row in rows]


def datum(data: bytes) -> None:
    """Any bytes as a datum of any schema: fastavro's verdict is a text, never an exception, and takes no memory."""
    schemas = catalogue.published()
    schema = schemas[data[0] % len(schemas)] if data else schemas[0]
    value = framing.prefix(schema.id) + data[1:]
    wrong = decode_error(schema, value)
    assert wrong is None or wrong.encode()


def container(data: bytes) -> None:
    """A container around any datums is read back as exactly them, or refused as a whole by an independent reader."""
    schema = catalogue.latest("tenant-limits")
    datums = data.split(b"\xff\x00")
    body = ContainerWriter(schema).frame(datums)
    try:
        found = list(fastavro.reader(io.BytesIO(body)))
    except Exception:  # noqa: BLE001 - random bytes make fastavro raise nearly anything
        return
    assert len(found) == len(datums)


def header(data: bytes) -> None:
    """Bytes are an identity that packs to the same bytes, or an IdentityError."""
    try:
        who = identity.unpack(data)
    except IdentityError:
        return
    assert identity.pack(who) == data


class _Answer:
    schema_type: str | None = "AVRO"

    def __init__(self, text: str) -> None:
        self.schema_str = text


class _Client:
    def __init__(self, text: str) -> None:
        self._text = text

    def get_schema(self, _identifier: int) -> _Answer:
        return _Answer(self._text)


def registry_answer(data: bytes) -> None:
    """Whatever the registry calls a schema: not ours, or one that messages can be judged by."""
    registry = Registry.__new__(Registry)
    registry._url = "http://registry"
    registry._client = _Client(data.decode("utf-8", "replace"))  # type: ignore[assignment]
    try:
        found = registry.resolve(77)
    except RegistryError:
        return
    if found is None:
        return
    book = SchemaBook({}, lambda _id: found, FakeClock(), 1.0)
    sent = _sound(found.kind.topic)
    value = framing.prefix(77) + sent.value[framing.PREFIX_BYTES :]
    take([Raw(raw(Sent(sent.topic, sent.key, value, sent.headers, sent.record)), 7)], book)
    assert all(isinstance(field["name"], str) and field["name"].isidentifier() for field in found.fields)


@cache
def _sound(topic: str) -> Sent:
    return Node("node", SITE).event(topic, NOW_MS * 1000 - 60_000_000)


def statement_text(data: bytes) -> None:
    """Any bytes as a statement: told in time that grows with their length, and data is a part of them."""
    found = statement.head(data)
    assert 0 <= found.data_at <= len(data)
    assert found.infile_at <= len(data)
    statement.several(data)


def body_coding(data: bytes) -> None:
    """A body in any content coding: pieces of bounded size, or a Refusal."""
    names = ("gzip", "deflate", "lz4", "zstd")
    codec = codecs.decoder(names[data[0] % 4] if data else "gzip")
    assert codec is not None
    total = 0
    try:
        for at in range(1, len(data), 1 << 16):
            for piece in codec.pieces(data[at : at + (1 << 16)]):
                assert len(piece) <= codecs.PIECE_BYTES
                total += len(piece)
                if total > 1 << 24:
                    return  # the reader of the body refuses it here
        codec.finish()
    except Refusal:
        pass


def native_block(data: bytes) -> None:
    """Any bytes as a block of FORMAT Native of a client that names a revision: cut apart, or refused."""
    revision = (54405, 54460)[data[0] & 1] if data else 54405
    with contextlib.suppress(Refusal):
        native.unsplice(data[1:], revision)


def seeds() -> dict[str, list[bytes]]:
    """A few inputs of every target that are sound, to begin from."""
    node = Node("node", SITE)
    at = NOW_MS * 1000 - 60_000_000
    events = [node.event(topic, at) for topic in TOPICS]
    schemas = {schema.id: place for place, schema in enumerate(catalogue.published())}
    plain = b"INSERT INTO t FORMAT CSV\n1,2\n" * 20
    zstd, lz4_frame = zstandard.ZstdCompressor().compress(plain), lz4.frame.compress(plain)
    gzip = zlib.compressobj(wbits=31)
    return {
        "message": [raw(sent) for sent in events] + [raw(events[0], 1 << 60), raw(events[3], NOW_MS, 12)],
        "datum": [bytes([schemas[framing.schema_id(s.value)]]) + s.value[framing.PREFIX_BYTES :] for s in events[:4]],
        "container": [events[7].value[framing.PREFIX_BYTES :]],
        "header": [sent.headers[0][1] for sent in events[:2]],
        "registry_answer": [_latest("tenant-limits").text.encode(), b'{"type": "record", "name": "x", "fields": []}'],
        "statement_text": [
            b"INSERT INTO t (a, b) SETTINGS x = 1 FORMAT CSV\n1,2",
            b"SELECT 'it''s' /* c */, $a$ x $a$ FROM `t` -- end",
            b"INSERT INTO t VALUES (1, 'a')",
        ],
        "body_coding": [
            b"\0" + gzip.compress(plain) + gzip.flush(),
            b"\1" + zlib.compress(plain),
            b"\2" + lz4_frame,
            b"\3" + zstd,
        ],
        "native_block": [
            b"\0" + native.BLOCK_INFO + b"\1\1\1a\6UInt16\1\2",
            b"\1" + native.BLOCK_INFO + b"\1\2\1a\6String\0\1x\1y",
        ],
    }


def _latest(topic: str) -> Schema:
    return catalogue.latest(topic)
