"""Encoding: identity on the wire, and numbers used up only by events that exist."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.encode import EventEncoder
from producers.journal import Journal
from schemas import catalogue, framing, identity

LIMIT = {"tenant": "acme", "limit_name": "requests", "limit_value": 5.0, "valid_from": 60_000_000}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.start(tmp_path, "site-x", ["p"], ["tenant-limits", "tenant-usage"])


def test_header_framing_and_datum_say_the_same(journal: Journal) -> None:
    encoder = EventEncoder(journal, "p")
    for seq in range(3):
        message = encoder.encode("tenant-limits", 1_000_000 + seq, LIMIT)
        who = identity.unpack(message.header)
        assert who == ("p", journal.run_id, seq, 1_000_000 + seq, 1)
        assert framing.schema_id(message.value) == catalogue.latest("tenant-limits").id
        schema = catalogue.latest("tenant-limits").parsed
        event = fastavro.schemaless_reader(io.BytesIO(message.value[framing.PREFIX_BYTES :]), schema, None)
        assert isinstance(event, dict)
        assert (event["site"], event["producer_id"], event["run_id"], event["seq"]) == (
            "site-x",
            "p",
            journal.run_id,
            seq,
        )
        assert event["limit_value"] == 5.0
        assert event["window_s"] == 0, "a field left out gets the schema's default"
        assert message.key == b"acme"


def test_a_registry_id_stands_in_for_the_catalogues(journal: Journal) -> None:
    message = EventEncoder(journal, "p", {"tenant-limits": 77}).encode("tenant-limits", 1, LIMIT)
    assert framing.schema_id(message.value) == 77


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({**LIMIT, "limit_value": "much"}, "'limit_value' holds 'much'"),
        ({**LIMIT, "colour": 1}, "colour"),
        ({name: value for name, value in LIMIT.items() if name != "tenant"}, "'tenant' is missing"),
        ({**LIMIT, "tenant": 5}, "'tenant' holds 5"),
        ({**LIMIT, "window_s": 2**31}, "'window_s' is beyond 32 bits"),
        ({**LIMIT, "window_s": -(2**31) - 1}, "'window_s' is beyond 32 bits"),
        ({**LIMIT, "valid_from": 2**63}, "valid_from"),
        ({**LIMIT, "previous_value": "x"}, "'previous_value' holds 'x'"),
        ({**LIMIT, "ticks": 256}, "out of range"),
    ],
)
def test_an_event_that_does_not_fit_uses_no_number(journal: Journal, fields: dict[str, Any], says: str) -> None:
    encoder = EventEncoder(journal, "p")
    encoder.encode("tenant-limits", 1, LIMIT)
    with pytest.raises(ValueError, match=says):
        encoder.encode("tenant-limits", 1, fields)
    assert identity.unpack(encoder.encode("tenant-limits", 1, LIMIT).header).seq == 1


def test_integers_in_arrays_are_held_to_32_bits_too(journal: Journal) -> None:
    encoder = EventEncoder(journal, "p")
    usage = {"tenant": "acme", "window_s": 60}
    encoder.encode("tenant-usage", 0, {**usage, "latency_bounds_ms": [1, 2**31 - 1]})
    with pytest.raises(ValueError, match="beyond 32 bits"):
        encoder.encode("tenant-usage", 0, {**usage, "latency_bounds_ms": [1, 2**31]})


@given(
    producer=st.text(min_size=1, max_size=60).filter(lambda name: 0 < len(name.encode(errors="replace")) <= 255),
    run_id=st.integers(0, 2**63 - 1),
    seq=st.integers(0, 2**63 - 1),
    ts=st.integers(-(2**63), 2**63 - 1),
    ticks=st.integers(0, 255),
)
def test_identities_round_trip(producer: str, run_id: int, seq: int, ts: int, ticks: int) -> None:
    try:
        producer.encode()
    except UnicodeEncodeError:
        return
    who = identity.Identity(producer, run_id, seq, ts, ticks)
    assert identity.unpack(identity.pack(who)) == who
