"""Object Container blocks: fastavro, an independent reader, gets back every datum, and damage is noticed."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import catalogue
from schemas.container import PIECE_BYTES, ContainerWriter, zigzag_varint

SCHEMA = catalogue.latest("tenant-limits")


def limit(seq: int, tenant: str = "acme", value: float = 1.5) -> dict[str, Any]:
    return {
        "site": "s",
        "producer_id": "p",
        "run_id": 1,
        "seq": seq,
        "ts": 60_000_000,
        "tenant": tenant,
        "limit_name": "requests",
        "limit_value": value,
        "valid_from": 60_000_000,
    }


def datum(record: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, SCHEMA.parsed, record)
    return out.getvalue()


def read(container: bytes) -> list[dict[str, Any]]:
    return [record for record in fastavro.reader(io.BytesIO(container)) if isinstance(record, dict)]


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, b"\x00"),
        (-1, b"\x01"),
        (1, b"\x02"),
        (-64, b"\x7f"),
        (64, b"\x80\x01"),
        (8192, b"\x80\x80\x01"),
        (2**63 - 1, b"\xfe" + b"\xff" * 8 + b"\x01"),
        (-(2**63), b"\xff" * 9 + b"\x01"),
    ],
)
def test_longs_are_encoded_as_the_avro_specification_says(number: int, encoded: bytes) -> None:
    assert zigzag_varint(number) == encoded


@given(st.integers(-(2**63), 2**63 - 1))
def test_longs_equal_fastavros(number: int) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", number)
    assert zigzag_varint(number) == out.getvalue()


@given(st.lists(st.tuples(st.text(max_size=20), st.floats(allow_nan=False)), max_size=20))
def test_fastavro_reads_back_every_datum_in_order(drawn: list[tuple[str, float]]) -> None:
    records = [limit(seq, tenant, value) for seq, (tenant, value) in enumerate(drawn)]
    found = read(ContainerWriter(SCHEMA).frame([datum(record) for record in records]))
    assert [(item["seq"], item["tenant"], item["limit_value"]) for item in found] == [
        (record["seq"], record["tenant"], record["limit_value"]) for record in records
    ]


def test_views_of_a_larger_buffer_are_framed_without_a_copy_of_ours() -> None:
    framed = b"\x00\x00\x00\x00\x65" + datum(limit(0))
    container = ContainerWriter(SCHEMA).frame([memoryview(framed)[5:], memoryview(framed)[5:]])
    assert [item["seq"] for item in read(container)] == [0, 0]


@given(st.lists(st.binary(min_size=5, max_size=400_000), max_size=12))
def test_a_container_comes_in_pieces_that_are_the_whole(values: list[bytes]) -> None:
    """And its length is known before anything of it is made."""
    container = ContainerWriter(SCHEMA).open(values, skip=5)
    pieces = list(container)
    assert b"".join(pieces) == ContainerWriter(SCHEMA).frame([value[5:] for value in values]) == bytes(container)
    assert sum(map(len, pieces)) == container.size


def test_a_batch_is_never_one_piece() -> None:
    pieces = list(ContainerWriter(SCHEMA).open([bytes(3_000)] * 5_000))
    assert 100 < len(pieces) < 200
    assert max(map(len, pieces)) <= PIECE_BYTES


def test_it_is_one_block_under_the_catalogues_schema() -> None:
    container = ContainerWriter(SCHEMA).frame([datum(limit(seq)) for seq in range(1000)])
    [block] = list(fastavro.block_reader(io.BytesIO(container)))
    assert block.num_records == 1000
    written = fastavro.reader(io.BytesIO(container)).writer_schema
    assert isinstance(written, dict)
    assert [field["name"] for field in written["fields"]] == [field["name"] for field in SCHEMA.fields]
    assert catalogue.canonical_fingerprint(written) == SCHEMA.fingerprint


def test_a_writer_is_reused_and_frames_alike() -> None:
    writer = ContainerWriter(SCHEMA)
    first, second = writer.frame([datum(limit(0))]), writer.frame([datum(limit(0))])
    assert first == second == ContainerWriter(SCHEMA).frame([datum(limit(0))])
    assert read(writer.frame([])) == []


@given(st.integers(1, 200))
def test_a_cut_container_never_reads_as_whole(missing: int) -> None:
    container = ContainerWriter(SCHEMA).frame([datum(limit(seq)) for seq in range(20)])
    with pytest.raises((EOFError, ValueError, IndexError, StopIteration)):
        read(container[: -min(missing, len(container) - 1)])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        *((lambda item: item[:-1], place) for place in (0, 10, 19)),
        # Bytes after the block's last datum are for the store's reader to notice: fastavro does not look at them.
        *((lambda item: item + b"\x00", place) for place in (0, 10, 18)),
    ],
)
def test_a_damaged_datum_does_not_slip_through(change: Any, place: int) -> None:
    whole = [datum(limit(seq)) for seq in range(20)]
    damaged = [change(item) if number == place else item for number, item in enumerate(whole)]
    try:
        found = [item["seq"] for item in read(ContainerWriter(SCHEMA).frame(damaged))]
    except (EOFError, ValueError, IndexError, UnicodeDecodeError, OverflowError, MemoryError):
        return
    assert found != list(range(20)), "read as if nothing had happened"


@pytest.mark.parametrize("schema", catalogue.published(), ids=lambda schema: f"{schema.kind.topic}-v{schema.version}")
def test_every_published_schema_can_lead_a_container(schema: catalogue.Schema) -> None:
    assert read(ContainerWriter(schema).frame([])) == []
