"""Targets on the producers' side: what sources read, what people declare, what lies on disk."""

from __future__ import annotations

import atexit
import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from producers.agent.agent import TOPICS
from producers.agent.facts import Fact
from producers.agent.gpus import EpochFile, Gpus
from producers.agent.inventory import Inventory
from producers.agent.lanes import Lane
from producers.agent.layout import metrics
from producers.agent.merge import Merger
from producers.agent.settings import Place
from producers.agent.sources.base import SourceError
from producers.agent.sources.dcgm_exporter import DcgmExporterSampler
from producers.agent.sources.kmsg import KmsgWatcher, RecordReader
from producers.encode import EventEncoder, Message
from producers.errors import InputError
from producers.journal import Journal, JournalError, amend, read
from producers.leases.document import read_leases
from producers.leases.plan import plan as plan_leases
from producers.limits.document import read_limits
from producers.limits.model import LimitHistory
from producers.limits.plan import plan as plan_limits
from producers.spool.accounts import Accounts, notice
from producers.spool.log import Log
from producers.spool.look import folders, look
from producers.spool.segment import Segment
from producers.usage.logfile import RequestLog
from producers.usage.request import Dimensions
from producers.usage.windows import Windows
from tests.agent.support import ManualClock

NODE = "node"
TICK_US = 1_767_225_600_000_000
SEPARATOR = b"\n%%\n"
"""Between the files of one input."""


@cache
def _encoder() -> EventEncoder:
    folder = Path(tempfile.mkdtemp(prefix="gpufleet-fuzz-", dir=_memory()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    topics = (*TOPICS, "leases", "tenant-limits", "tenant-usage")
    return EventEncoder(Journal.start(folder, "fuzz", [NODE], topics), NODE)


def _encode_fact(fact: Fact) -> None:
    _encoder().encode("node-events", fact.ts, {"node_id": NODE, "rack": "", **fact.fields()})


def exporter_page(data: bytes) -> None:
    """Any page as an exporter's: a sample that becomes events, or a SourceError."""
    facts: list[Fact] = []
    source = DcgmExporterSampler("http://127.0.0.1:1/metrics", 5.0, 2.0, ManualClock(TICK_US), facts.append)
    text = data.decode("utf-8", "replace")
    source._fetch = lambda: text  # type: ignore[method-assign]
    try:
        samples = [("dcgm", source.sample(True))]
    except SourceError:
        return
    gpus = Gpus(EpochFile(Path("/nonexistent/epochs.json"), ""), facts.append)
    gpus.see(samples, TICK_US)
    for topic in ("node-telemetry", "node-counters"):
        counters = frozenset(m.name for m in metrics(topic, "gpu_tick") if m.kind == "counter")
        picture = Merger(gpus, counters).merge(samples)
        for slot, values in zip(gpus.slots, picture.gpu, strict=True):
            if "energy_j" in values:
                gpus.observe("dcgm", slot.device.uuid, int(values["energy_j"]), TICK_US)
        for event in Lane(topic, 60_000_000, 1, gpus).add(TICK_US, picture):
            _encoder().encode(topic, event.ts, {"node_id": NODE, "rack": "", **event.fields})
    inventory = Inventory(Place(), gpus, "1")
    inventory.see(samples)
    fields = inventory.due(0.0)
    if fields is not None:
        _encoder().encode("inventory", TICK_US, {"node_id": NODE, "rack": "", "host_boot_id": "", **fields})
    for fact in facts:
        _encode_fact(fact)


def kernel_log(data: bytes) -> None:
    """Any bytes as the kernel log, in reads as the device gives them: facts that become events, in bounded memory."""
    facts: list[Fact] = []
    watcher = KmsgWatcher(Path("/dev/null"), ManualClock(TICK_US), after=None)
    reader = RecordReader()
    for at in range(0, len(data), 997):
        for record in reader.feed(data[at : at + 997]):
            watcher._report(record, facts.append)
    for record in reader.idle():
        watcher._report(record, facts.append)
    for fact in facts:
        _encode_fact(fact)


@contextlib.contextmanager
def _files(**content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gpufleet-fuzz-", dir=_memory()) as name:
        folder = Path(name)
        for file, data in content.items():
            (folder / file).write_bytes(data)
        yield folder


def _memory() -> str | None:
    """Files of inputs lie in memory where there is such a place: fuzzing writes them by the thousand."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def lease_file(data: bytes) -> None:
    """Leases and the inventory they name: leases that become events, or an InputError."""
    document, _, inventory = data.partition(SEPARATOR)
    with _files(leases=document, nodes=inventory) as folder:
        try:
            leases = read_leases(folder / "leases", folder / "nodes" if inventory else None)
            for change in plan_leases({}, leases, TICK_US):
                _encoder().encode("leases", TICK_US, change.fields("why"))
        except InputError:
            return


def limit_file(data: bytes) -> None:
    """Limits: events, or an InputError."""
    with _files(limits=data) as folder:
        try:
            limits = read_limits(folder / "limits")
            for change in plan_limits(LimitHistory([], "fuzz"), limits, TICK_US):
                _encoder().encode("tenant-limits", TICK_US, change.fields("why"))
        except InputError:
            return


def request_log(data: bytes) -> None:
    """A gateway's log: usage that becomes events; lines that are none are told; InputError for what is no log."""
    told: list[int] = []
    log = RequestLog(io.BytesIO(data), "acme", Dimensions(), lambda number, _why: told.append(number))
    windows = Windows(60_000_000, 0, max_usages=50)
    try:
        for _, request in log:
            windows.add(request)
            for window in windows.due():
                _encoder().encode("tenant-usage", window.start, window.fields("acme", 60, "replay"))
        for window in windows.finish():
            _encoder().encode("tenant-usage", window.start, window.fields("acme", 60, "replay"))
    except InputError:
        return
    assert len(told) == log.report.malformed


def spool_files(data: bytes) -> None:
    """What lies in a spool's folder is sent as far as it is whole; nothing in it ends the agent."""
    log, packed, acks, accounts = (data.split(SEPARATOR) + [b""] * 4)[:4]
    name = "samples-000000001"
    with _files(**{f"{name}.log": log, f"{name}.acks": acks, "accounts.jsonl": accounts}) as folder:
        if packed:
            (folder / f"{name}.z").write_bytes(packed)
        look(folder)
        assert folders(folder) == [folder]
        samples = Log(folder, "samples", 1 << 20, durable=False)
        samples.recover()
        for segment in samples.segments.values():
            waiting = [record for record in segment.records() if record.ordinal not in segment.acked]
            assert len(waiting) == segment.left
            segment.compress()
            again = Segment(folder, "samples", segment.number, durable=False)
            again.recover()
            assert again.left == segment.left
        told = Accounts(folder / "accounts.jsonl", durable=False)
        told.load()
        for account in told.open:
            said = notice(account)
            _encode_fact(
                Fact(said.event, "agent", TICK_US, value=said.value, occurrences=said.occurrences,
                     message=said.message, attributes=said.attributes)
            )  # fmt: skip


def journal_files(data: bytes) -> None:
    """What lies in a journal's folder is read, or named as no journal."""
    described, _, table = data.partition(SEPARATOR)
    with _files(**{"5.json": described, "5.seq": table}) as folder:
        try:
            found = list(read(folder))
            amend(folder, {(5, NODE, "inventory"): 3}, {(5, NODE, "inventory"): 1})
        except JournalError:
            return
        assert all(given.run_id == 5 and given.given for given in found)


def seeds() -> dict[str, list[bytes]]:
    """Sound inputs of what lies on disk; those that people and drivers write are in the corpus."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fact = Fact("xid", "kmsg", TICK_US, message="x" * 50)
        told = _encoder().encode("node-events", fact.ts, {"node_id": NODE, "rack": "", **fact.fields()}, give=False)
        segment = Segment(folder, "samples", 1, durable=False)
        segment.create()
        for _ in range(3):
            segment.append(Message(*told), offered=True)
        segment.seal()
        segment.acknowledge(1)
        segment.flush_acks()
        log = (folder / "samples-000000001.log").read_bytes()
        acks = (folder / "samples-000000001.acks").read_bytes()
        segment.compress()
        packed = (folder / "samples-000000001.z").read_bytes()
        journal = Journal.start(folder / "journal", "fuzz", [NODE], ["inventory"])
        journal.give(0, 4)
        table = bytes(journal.table)
    account = (
        b'{"event": "events_thinned", "topic": "node-telemetry", "producer_id": "n", "run_id": 1, "gone": "1-3,5", '
        b'"events": 4, "kept": 1, "first_ts": 5, "last_ts": 9, "interval_ms": 10000, "reason": "full"}\n'
    )
    return {
        "spool_files": [SEPARATOR.join((log, b"", acks, account)), SEPARATOR.join((b"", packed, acks))],
        "journal_files": [
            b'{"site": "fuzz", "run_id": 5, "producers": ["node"], "topics": ["inventory"]}' + SEPARATOR + table
        ],
    }
