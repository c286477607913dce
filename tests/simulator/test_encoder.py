"""The vectorised encoder against fastavro: the same bytes, not merely the same values."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from producers.journal import Journal
from producers.precision import bits_of, significant, significant_array
from producers.simulator import varint
from producers.simulator.columns import Arrays, Column, Scalars, text
from producers.simulator.events import SliceEncoder
from schemas import catalogue, framing, identity

LONG_EDGES = [0, -1, 1, 63, 64, -64, -65, 8191, 8192, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63)]
INT_EDGES = [edge for edge in LONG_EDGES if -(2**31) <= edge < 2**31]


def by_fastavro(values: list[int]) -> bytes:
    out = io.BytesIO()
    for value in values:
        fastavro.schemaless_writer(out, "long", value)
    return out.getvalue()


def test_varints_of_every_width_and_sign() -> None:
    rng = np.random.default_rng(5)
    widths = rng.integers(0, 63, (200, 9))
    values = rng.integers(-(2**62), 2**62, (200, 9)) >> widths
    values[:14, 0] = LONG_EDGES
    blob, offsets = varint.encode_rows(values.astype(np.int64))
    for row, (start, end) in enumerate(pairwise(offsets)):
        assert blob[start:end] == by_fastavro(values[row].tolist())
    assert offsets[-1] == len(blob)


@pytest.mark.parametrize("value", LONG_EDGES)
def test_single_varint(value: int) -> None:
    assert varint.encode(value) == by_fastavro([value])


def test_no_rows_give_no_bytes() -> None:
    assert varint.encode_rows(np.zeros((0, 3), np.int64)) == (b"", [0])


def random_value(kind: Any, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Values of an Avro type, sprinkled with the extremes, -1 and NaN."""
    if kind in ("float", "double"):
        values = rng.normal(0, 1, shape) * 10.0 ** rng.integers(-30, 30, shape)
        values[rng.random(shape) < 0.1] = np.nan
        values[rng.random(shape) < 0.05] = -0.0
        return values.astype(np.float32 if kind == "float" else np.float64)
    edges = INT_EDGES if kind == "int" else LONG_EDGES
    values = rng.integers(-(2**30), 2**30, shape) >> rng.integers(0, 30, shape)
    chosen = rng.random(shape) < 0.2
    values[chosen] = rng.choice(np.array(edges), int(chosen.sum()))
    values[rng.random(shape) < 0.1] = -1
    return values


@pytest.mark.parametrize("topic", ["node-telemetry", "node-counters"])
@pytest.mark.parametrize("seed", range(6))
def test_random_states_have_fastavros_bytes(topic: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    schema = catalogue.latest(topic)
    nodes, n, ticks, nics = 7, int(rng.integers(1, 73)), int(rng.integers(1, 7)), int(rng.integers(1, 9))
    names = [f"node-é-{i}" for i in range(nodes)]
    journal = Journal(tmp_path, "site", 1_795_000_000_000_000 + seed, names, catalogue.KINDS.keys())  # type: ignore[arg-type]
    lengths = {"gpu": n, "gpu_tick": n * ticks, "tick": ticks, "nic": nics, "nic_tick": nics * ticks}
    expected: list[dict[str, Any]] = [{} for _ in names]
    columns: dict[str, Column] = {}
    fixed: dict[str, list[bytes]] = {}
    for field in schema.fields[5:]:
        name, kind = field["name"], field["type"]
        if kind == "string":
            words = [f"{name}-{'x' * (i * 13)}" for i in range(nodes)]
            fixed[name] = [text(word) for word in words]
            for event, word in zip(expected, words, strict=True):
                event[name] = word
        elif kind == "boolean":
            flags = rng.random(nodes) < 0.5
            columns[name] = Scalars(-flags.astype(np.int64))
            for event, flag in zip(expected, flags.tolist(), strict=True):
                event[name] = flag
        elif isinstance(kind, dict) and kind["items"] in ("int", "long", "float", "double"):
            length = rng.choice([lengths[field["shape"]], lengths[field["shape"]], 1, 0])
            values = random_value(kind["items"], (nodes, int(length)), rng)
            columns[name] = Arrays(values)
            for event, row in zip(expected, values.tolist(), strict=True):
                event[name] = row
        elif isinstance(kind, dict):
            for event in expected:
                event[name] = []
        else:
            values = random_value(kind, (nodes,), rng)
            columns[name] = Scalars(values)
            for event, value in zip(expected, values.tolist(), strict=True):
                event[name] = value
    chosen = np.array([0, 2, 3, 6]) if seed % 2 else None
    encoder = SliceEncoder(journal, topic, names, fixed)
    ts = 1_790_000_000_123_456
    for seq in range(3):
        messages = encoder.encode(chosen, ts, ticks, columns)
        members = list(range(nodes)) if chosen is None else chosen.tolist()
        assert len(messages) == len(members)
        for member, message in zip(members, messages, strict=True):
            header = {"site": "site", "producer_id": names[member], "run_id": journal.run_id, "seq": seq, "ts": ts}
            out = io.BytesIO()
            out.write(framing.prefix(schema.id))
            fastavro.schemaless_writer(out, schema.parsed, {**header, **expected[member]})
            assert message.value == out.getvalue()
            who = identity.Identity(names[member], journal.run_id, seq, ts, ticks)
            assert message.header == identity.pack(who)
            assert message.key == names[member].encode()
            assert message.row == journal.row(names[member], topic)
    skipped = set(range(nodes)) - set(members)
    assert all(journal.next(journal.row(names[member], topic)) == 0 for member in skipped)


def test_a_missing_scalar_is_an_error_not_a_zero(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "site", 1, ["n"], ["node-telemetry"])
    with pytest.raises(KeyError, match="node_id"):
        SliceEncoder(journal, "node-telemetry", ["n"], {}).encode(None, 0, 1, {})


def test_rounding_keeps_the_fields_bits_and_nothing_more() -> None:
    values = np.array([0.0, -0.0, 1.0, 699.37, 0.12345, -3.3e11, 1e-30, np.nan, np.inf], np.float32)
    for bits in (8, 9, 10, 11, 24):
        rounded = significant_array(values, bits)
        for before, after in zip(values.tolist(), rounded.tolist(), strict=True):
            if not np.isfinite(before):
                assert np.isnan(after) if np.isnan(before) else after == before
                continue
            assert after == significant(before, bits)
            assert abs(after - before) <= abs(before) * 2.0**-bits
            mantissa = float(np.frexp(after)[0]) * 2**bits
            assert mantissa == int(mantissa)


def test_bits_come_from_the_schema() -> None:
    bits = bits_of(catalogue.latest("node-telemetry"))
    assert bits["power_w"] == 10
    assert "clock_offset_s" not in bits
