"""Reading what cannot be read: never raises, agrees with fastavro, and names the byte and the field."""

from __future__ import annotations

import io
import random
import struct
from dataclasses import replace
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.letters.walk import dump, walk
from consumers.quarantine import EXPLAINED, decode_error, find_bad
from schemas import catalogue, framing
from schemas.catalogue import Schema
from schemas.container import zigzag_varint
from tests.consumers.fakes import FakeMessage
from tests.consumers.fleet import Node
from tests.consumers.test_bad_messages import shaped
from tests.schemas.freeze import path

TOPIC = "node-telemetry"


def framed(schema: Schema) -> bytes:
    return framing.prefix(schema.id) + path(schema, "datum").read_bytes()


@pytest.mark.parametrize("schema", catalogue.published(), ids=lambda s: f"{s.kind.topic} v{s.version}")
def test_a_sound_message_is_read_to_its_end(schema: Schema) -> None:
    value = framed(schema)
    seen = walk(schema, value)
    assert (seen.stop, seen.odd) == (None, [])
    assert [span.path for span in seen.spans] == [field["name"] for field in schema.fields]
    assert [seen.spans[0].start, *(span.end for span in seen.spans)] == [
        5,
        *(s.start for s in seen.spans[1:]),
        len(value),
    ]
    record: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema.parsed)
    for span in seen.spans:
        if span.items is not None:
            assert span.items == len(record[span.path])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    which=st.integers(0, len(catalogue.published()) - 1),
    at=st.integers(0, 1 << 16),
    insert=st.binary(max_size=12),
    cut=st.integers(0, 12),
    tail=st.integers(0, 3),
)
def test_it_refuses_whatever_fastavro_refuses(which: int, at: int, insert: bytes, cut: int, tail: int) -> None:
    schema = catalogue.published()[which]
    value = framed(schema)
    at = 5 + at % (len(value) - 5)
    broken = value[:at] + insert + value[at + cut : len(value) - tail]
    seen = walk(schema, broken)
    if decode_error(schema, broken) is not None:
        assert seen.stop is not None
        assert 5 <= seen.stop.at <= len(broken)
        assert seen.stop.why
    assert dump(broken, seen.stop.at if seen.stop else None)


def test_noise_is_no_trouble() -> None:
    draw = random.Random(3)
    for schema in catalogue.published():
        for size in (0, 1, 5, 40, 400):
            value = framing.prefix(schema.id) + draw.randbytes(size)
            assert walk(schema, value).stop is not None or decode_error(schema, value) is None


def telemetry() -> tuple[Schema, bytes]:
    return catalogue.latest(TOPIC), Node("node-a", "s").event(TOPIC, **shaped(gpus=2, ticks=3)).value


def at_field(value: bytes, name: str) -> tuple[int, int]:
    span = next(span for span in walk(catalogue.latest(TOPIC), value).spans if span.path == name)
    return span.start, span.end


def test_a_message_cut_short_says_at_which_field() -> None:
    schema, value = telemetry()
    start, end = at_field(value, "power_w")
    assert end - start > 8
    seen = walk(schema, value[: end - 3])
    assert seen.stop is not None
    assert seen.stop.at == end - 3, "the end of the message: a byte is missing there"
    assert seen.stop.path == "power_w[5]"
    assert seen.spans[-1].end == start, "everything before it was read"


def test_a_length_that_is_too_long_is_marked_where_it_stands() -> None:
    schema, value = telemetry()
    start, _ = at_field(value, "node_id")
    seen = walk(schema, value[:start] + zigzag_varint(1_000_000) + value[start + 1 :])
    assert seen.stop is not None
    assert (seen.stop.at, seen.stop.path) == (start, "node_id")
    assert "its length says 1,000,000 bytes, but only" in seen.stop.why


def test_an_array_that_claims_too_much_does_not_cost_memory() -> None:
    schema, value = telemetry()
    start, _ = at_field(value, "power_w")
    seen = walk(schema, value[:start] + zigzag_varint(1 << 60) + value[start + 1 :])
    assert seen.stop is not None
    assert seen.stop.at == start
    assert f"it claims {1 << 60:,} items" in seen.stop.why


def test_a_field_that_was_odd_before_is_named() -> None:
    """One value too few: every field after it is read a little off, and the end is where it shows."""
    schema, value = telemetry()
    start, end = at_field(value, "power_w")
    floats = value[start + 1 : end - 1]
    short = value[:start] + zigzag_varint(5) + floats[: 5 * struct.calcsize("<f")] + b"\0" + value[end:]
    seen = walk(schema, short[:-4])
    assert seen.stop is not None
    assert seen.odd == [
        f"power_w at byte {start} has 5 values where the fields before it say 6: the damage may begin there"
    ]


def test_a_time_beyond_any_calendar_is_wrong() -> None:
    schema, value = telemetry()
    start, end = at_field(value, "ts")
    broken = value[:start] + zigzag_varint(1 << 60) + value[end:]
    assert decode_error(schema, broken) is not None
    seen = walk(schema, broken)
    assert seen.stop is not None
    assert (seen.stop.at, seen.stop.path) == (start, "ts")


def test_bytes_that_follow_the_datum_are_marked() -> None:
    schema, value = telemetry()
    seen = walk(schema, value + b"\1\2")
    assert seen.stop is not None
    assert seen.stop.at == len(value)
    assert "2 bytes follow after the last field" in seen.stop.why


def test_the_dump_marks_one_byte() -> None:
    lines = dump(bytes(range(64)), 20, around=16)
    assert lines[1].startswith("  000010  10  11  12  13 [14] 15  16 ")
    assert sum(line.count("[") for line in lines) == 1
    assert lines[-1] == "  ... 28 bytes after"
    assert "[  ]" in dump(b"abc", 3)[-1], "a byte that is missing"
    assert "[  ]" in dump(bytes(16), 16)[-1]
    assert dump(b"", 0)


def test_a_flood_of_bad_messages_is_not_read_field_by_field() -> None:
    """Naming the byte takes milliseconds: the first few letters of a batch say it, and `show` says it of all."""
    schema, value = telemetry()
    sent = [replace(Node(f"n{i}", "s").event(TOPIC), value=value[:-5]) for i in range(30)]
    found = find_bad(schema, [FakeMessage(one, i) for i, one in enumerate(sent)])
    assert len(found) == 30
    assert all(f"byte {len(value) - 5}, " in one.detail for one in found[:EXPLAINED])
    assert {one.detail for one in found[EXPLAINED:]} == {"cannot be decoded with NodeTelemetry v1: EOFError"}
