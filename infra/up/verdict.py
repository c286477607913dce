"""What an audit's findings mean for one run: its own losses fail it, those of runs before it are only told.

A run that was killed takes with it what the broker's memory held and what its producers had not delivered. That is
reported by every later audit, exactly, but it must not make every later run fail.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from consumers.audit import Expected, Finding, Kind
from producers import journal
from producers.journal import Given

_RUNS = "runs.jsonl"
_LOSSES = frozenset({Kind.GAP, Kind.TAIL})
RunTopic = tuple[str, int, str]


def everything(folder: Path) -> Iterator[Given]:
    """What every journal in a folder, at any depth, says was given out."""
    for inner in sorted({path.parent for path in folder.rglob("*.seq")}):
        yield from journal.read(inner)


def expected(entries: Iterable[Given]) -> list[Expected]:
    """The same in the audit's terms."""
    return [Expected(entry.producer_id, entry.run_id, entry.topic, entry.given) for entry in entries]


def begun(data: Path, run_id: int, broker: str) -> None:
    """Note in ``data/runs.jsonl`` that a run begins on a broker of this kind."""
    with (data / _RUNS).open("a") as file:
        file.write(json.dumps({"run_id": run_id, "broker": broker, "event": "begun"}) + "\n")


def ended(data: Path, run_id: int) -> None:
    """Note that a run has come to its end in order: everything it sent is stored."""
    with (data / _RUNS).open("a") as file:
        file.write(json.dumps({"run_id": run_id, "event": "ended"}) + "\n")


def died_in_memory(data: Path) -> bool:
    """Whether the newest run noted in the folder began on a broker in memory and never ended."""
    noted = _noted(data)
    return bool(noted) and noted[-1].get("event") == "begun" and noted[-1].get("broker") == "embedded"


def memory_ends(data: Path) -> list[tuple[int, int]]:
    """Spans of run ids [first, after) whose broker kept its log in memory and is gone.

    A producer of its own (an agent, a replay) that started during such a run belongs to it.
    """
    begun_runs = [entry for entry in _noted(data) if entry.get("event") == "begun"]
    return [
        (entry["run_id"], after["run_id"])
        for entry, after in itertools.pairwise(begun_runs)
        if entry.get("broker") == "embedded"
    ]


def split(
    findings: Iterable[Finding], run_id: int, entries: Iterable[Given], gone: Iterable[tuple[int, int]]
) -> tuple[list[Finding], list[Finding]]:
    """(what is wrong now, losses that are not this run's).

    A loss is not this run's when its run is another and either its broker's memory is ``gone``, or its journal says
    that no more is missing than the broker never acknowledged.
    """
    undelivered = {(e.producer_id, e.run_id, e.topic): e.given - e.acknowledged for e in entries}
    spans = list(gone)
    findings = list(findings)
    missing: Counter[RunTopic] = Counter()
    for finding in findings:
        if finding.kind in _LOSSES:
            missing[_place(finding)] += finding.count
    wrong: list[Finding] = []
    earlier: list[Finding] = []
    for finding in findings:
        if finding.harmless:
            continue
        place = _place(finding)
        told = (
            finding.kind in _LOSSES
            and finding.run_id != run_id
            and (
                any(first <= finding.run_id < after for first, after in spans)
                or missing[place] <= undelivered.get(place, 0)
            )
        )
        (earlier if told else wrong).append(finding)
    return wrong, earlier


def _place(finding: Finding) -> RunTopic:
    return finding.producer_id, finding.run_id, finding.topic


def _noted(data: Path) -> list[dict[str, Any]]:
    """The notes; a line cut by a kill is passed over."""
    try:
        lines = (data / _RUNS).read_text().splitlines()
    except FileNotFoundError:
        return []
    noted = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("run_id"), int):
            noted.append(entry)
    return noted
