"""The spool's files: torn tails, flipped bits, acknowledgements, and a full disk."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.encode import Message
from producers.spool.record import Damage, Record, pack, scan
from producers.spool.segment import Segment
from schemas import identity
from schemas.identity import Identity


def event(seq: int, size: int = 40, topic: str = "node-telemetry") -> Message:
    value = random.Random(seq).randbytes(size)
    return Message(topic, b"node-7", value, identity.pack(Identity("node-7", 5, seq, 1_000_000 + seq, 5)), -1)


def segment(folder: Path, count: int = 0, size: int = 40, offered: bool = False) -> Segment:
    made = Segment(folder, "samples", 1, durable=False)
    made.create()
    for seq in range(count):
        made.append(event(seq, size), offered=offered)
    return made


def again(folder: Path) -> tuple[Segment, int]:
    """What a later process finds, and how many damaged places."""
    found = Segment(folder, "samples", 1, durable=False)
    return found, found.recover()


def seqs(found: Segment) -> list[int]:
    return [identity.unpack(record.message.header).seq for record in found.records()]


def test_a_record_comes_back_as_it_went_in() -> None:
    message = event(7, 3000)
    (record,) = scan(pack(3, message, offered=True))
    assert record == Record(3, True, message)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_is_cut_or_flipped_the_other_records_are_found_and_none_is_made_up(data: st.DataObject) -> None:
    messages = [event(seq, data.draw(st.integers(0, 60), "size")) for seq in range(data.draw(st.integers(1, 6)))]
    parts = [pack(i, message, offered=False) for i, message in enumerate(messages)]
    raw = bytearray(b"".join(parts))
    at = data.draw(st.integers(0, len(raw) - 1), "at")
    edges = [sum(map(len, parts[:i])) for i in range(len(parts) + 1)]
    hit = next(i for i in range(len(parts)) if edges[i] <= at < edges[i + 1])
    if data.draw(st.booleans(), "cut"):
        found = list(scan(bytes(raw[:at])))
        whole = hit
    else:
        raw[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
        found = list(scan(bytes(raw)))
        whole = len(parts)
    expected = [Record(i, False, messages[i]) for i in range(whole) if i != hit]
    assert [piece for piece in found if isinstance(piece, Record)] == expected
    assert sum(isinstance(piece, Damage) for piece in found) == (0 if whole == hit and at == edges[hit] else 1)


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_a_torn_tail_is_no_damage_and_costs_the_last_event_alone(tmp_path: Path, cut: int) -> None:
    segment(tmp_path, 10).seal()
    path = tmp_path / "samples-000000001.log"
    path.write_bytes(path.read_bytes()[:-cut])
    found, damages = again(tmp_path)
    assert (seqs(found), damages, found.left) == (list(range(9)), 0, 9)


def test_a_flipped_bit_in_the_middle_is_damage_and_keeps_the_ordinals_of_the_rest(tmp_path: Path) -> None:
    segment(tmp_path, 10).seal()
    path = tmp_path / "samples-000000001.log"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))
    found, damages = again(tmp_path)
    assert damages == 1
    assert found.left == 9
    assert [record.ordinal for record in found.records()] == seqs(found)


def test_compressing_keeps_every_record_and_its_ordinal(tmp_path: Path) -> None:
    made = segment(tmp_path, 600, 700)
    made.seal()
    before = list(made.records())
    made.acknowledge(0)
    made.acknowledge(599)
    made.flush_acks()
    made.compress()
    assert not (tmp_path / "samples-000000001.log").exists()
    found, damages = again(tmp_path)
    assert (damages, found.left, found.packed) == (0, 598, True)
    assert list(found.records()) == before[1:-1]


def test_a_flipped_bit_in_a_compressed_file_costs_one_frame_of_it(tmp_path: Path) -> None:
    made = segment(tmp_path, 800, 700)
    made.seal()
    made.compress()
    path = tmp_path / "samples-000000001.z"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    found, damages = again(tmp_path)
    assert damages == 1
    lost = set(range(800)) - set(seqs(found))
    assert lost == set(range(min(lost), max(lost) + 1))
    assert 100 < len(lost) < 250
    assert min(lost) > 0
    assert max(lost) < 799


def test_a_crash_between_compressing_and_deleting_leaves_the_compressed_file_in_force(tmp_path: Path) -> None:
    made = segment(tmp_path, 20)
    made.seal()
    raw = (tmp_path / "samples-000000001.log").read_bytes()
    made.compress()
    (tmp_path / "samples-000000001.log").write_bytes(raw)
    found, _ = again(tmp_path)
    assert (found.left, seqs(found)) == (20, list(range(20)))
    assert not (tmp_path / "samples-000000001.log").exists()


def test_acknowledgements_outlive_the_process_and_a_torn_one_costs_a_resend_alone(tmp_path: Path) -> None:
    made = segment(tmp_path, 10)
    for batch in ([0, 3], [4]):
        for ordinal in batch:
            made.acknowledge(ordinal)
        made.flush_acks()
    path = tmp_path / "samples-000000001.acks"
    found, _ = again(tmp_path)
    assert (found.acked, found.left, found.opened) == ({0, 3, 4}, 7, False)
    path.write_bytes(path.read_bytes()[:-2])
    found, _ = again(tmp_path)
    assert (found.acked, found.left) == ({0, 3}, 8)
    assert found.opened, "what cannot be read may have said that the file was handed out"


@pytest.mark.parametrize("harm", ["missing", "flipped"])
def test_a_file_whose_acknowledgements_are_lost_counts_as_handed_out(tmp_path: Path, harm: str) -> None:
    made = segment(tmp_path, 4)
    path = tmp_path / "samples-000000001.acks"
    assert not again(tmp_path)[0].opened
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert again(tmp_path)[0].opened
    path.unlink(missing_ok=True)
    made.seal()


def test_handing_out_is_noted_on_disk_before_it_happens(tmp_path: Path) -> None:
    made = segment(tmp_path, 4)
    made.mark_opened()
    assert again(tmp_path)[0].opened


def test_a_record_that_does_not_fit_the_disk_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    made = segment(tmp_path, 3)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 50:
            return write(descriptor, data[:50])  # what a nearly full disk takes
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        made.append(event(3)._replace(value=bytes(60)), offered=False)
    monkeypatch.undo()
    made.append(event(3), offered=False)
    made.seal()
    found, damages = again(tmp_path)
    assert (seqs(found), damages) == ([0, 1, 2, 3], 0)
    assert zlib.crc32((tmp_path / "samples-000000001.log").read_bytes())
