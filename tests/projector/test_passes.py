"""What one pass leaves to the next, with statements that are only counted."""

from __future__ import annotations

from typing import Any

from consumers.projector.passes import Passes
from consumers.projector.recompute import Nodes
from consumers.projector.windows import MINUTE_S, Range
from consumers.projector.worklist import Open, Pace, WorkList

MINUTE = 1_796_020_680 // MINUTE_S * MINUTE_S
NOW = MINUTE + 600.0


class Energy:
    """A recomputer: every node's energy of ``MINUTE`` has counted from a minute that is computed now."""

    def __init__(self) -> None:
        self.again: list[tuple[int, Nodes]] = []

    def gpu_minutes(self, window: Range, nodes: Nodes) -> dict[int, set[str]]:
        return {MINUTE: {"n1", "n2", "n3"}} if window.start < MINUTE else {}

    def energy_again(self, minute: int, nodes: Nodes) -> None:
        self.again.append((minute, nodes))

    def batches(self, window: Range, nodes: Nodes) -> list[Range]:
        return [window]

    def racks_of(self, window: Range, nodes: Nodes) -> list[str]:
        return ["r"]

    def nodes_of(self, window: Range, racks: Any) -> set[str]:
        return {"n1", "n2", "n3"}

    def slots(self, *_: Any) -> None: ...

    def rack_minutes(self, *_: Any) -> None: ...


class Ledger:
    """Takes the marks of open hours."""

    def command(self, cmd: str, *, settings: dict[str, Any] | None = None) -> None: ...


def energies_after(touched: Nodes) -> list[tuple[int, Nodes]]:
    """The minute before ``MINUTE`` is due; of ``MINUTE`` itself something came in just now for the nodes."""
    work = WorkList(Pace(quiet_s=2.0), lambda: 100.0)
    work.minutes[MINUTE - MINUTE_S] = Open(1.0, 90.0, 90.0, None, MINUTE - MINUTE_S)
    work.minutes[MINUTE] = Open(2.0, 99.5, 99.5, touched, MINUTE)
    energy = Energy()
    given: Any = energy
    store: Any = Ledger()
    Passes(store, given, work, "test", seconds=10.0).run(NOW, 0.0)
    assert MINUTE in work.minutes, "it was not due"
    return energy.again


def test_energy_is_counted_again_for_nodes_of_whom_nothing_is_open_in_that_minute() -> None:
    """Found by the chaos suite, seed 2350: late events of one node kept the whole minute from being computed again,
    and when it was, it was for that node alone; another one's energy went without its base."""
    assert energies_after(frozenset({"n1"})) == [(MINUTE, frozenset({"n2", "n3"}))]


def test_energy_of_a_minute_that_is_open_as_a_whole_is_left_to_it() -> None:
    assert energies_after(None) == []
    assert energies_after(frozenset({"n1", "n2", "n3"})) == []


class Slow(Energy):
    """A recomputer that takes four seconds for one minute's GPUs, and writes down what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock_s = 1_000.0
        self.done: list[tuple[str, int]] = []

    def gpu_minutes(self, window: Range, nodes: Nodes) -> dict[int, set[str]]:
        self.clock_s += 4.0
        self.done.append(("late" if nodes else "whole", window.start))
        return {}

    def batches(self, window: Range, nodes: Nodes) -> list[Range]:
        return [Range(at, at + MINUTE_S) for at in range(window.start, window.end, MINUTE_S)]

    def slots(self, window: Range, *_: Any) -> None:
        self.done.append(("slots", window.start))


def backlog(slow: Slow, late: int, whole: int) -> tuple[WorkList, int]:
    """So many minutes that came late for one node, so many for all before them, and a live one; (work, live minute)."""
    work = WorkList(Pace(quiet_s=2.0), lambda: slow.clock_s)
    live = int(NOW) // MINUTE_S * MINUTE_S
    for count in range(1, late + whole + 1):
        nodes = frozenset({"n1"}) if count <= late else None
        minute = live - (10 + count) * MINUTE_S
        for list_of_work in (work.minutes, work.slots):
            list_of_work[minute] = Open(1.0, 900.0, 900.0, nodes, minute)
    work.slots[live] = Open(2.0, slow.clock_s, slow.clock_s, None, live)
    return work, live


def passed(work: WorkList, slow: Slow) -> tuple[list[tuple[str, int]], bool]:
    """What one pass of ten seconds computes, and whether it left something."""
    slow.done.clear()
    recomputer: Any = slow
    store: Any = Ledger()
    passes = Passes(store, recomputer, work, "test", seconds=10.0)
    passes.run(NOW, 0.0)
    return list(slow.done), passes.cut


def test_a_backlog_is_worked_off_in_passes_each_of_which_begins_with_the_live_edge() -> None:
    slow = Slow()
    work, live = backlog(slow, late=0, whole=12)
    oldest = min(work.minutes)
    done, cut = passed(work, slow)
    assert done[0] == ("slots", live)
    assert [what for what in done if what[0] == "whole"] == [("whole", oldest + at * MINUTE_S) for at in range(3)]
    assert cut
    assert len(work.minutes) == 9
    assert set(work.slots) == set(work.minutes), "what is left stays on the list, racks too"
    for left in (6, 3, 0):
        work.slots[live] = Open(2.0, slow.clock_s, slow.clock_s, None, live)
        done, cut = passed(work, slow)
        assert done.count(("slots", live)) == 1
        assert (len(work.minutes), cut) == (left, left > 0)
    assert not work.slots


def test_late_minutes_of_some_nodes_do_not_keep_the_fleet_waiting() -> None:
    slow = Slow()
    work, _ = backlog(slow, late=20, whole=2)
    done, cut = passed(work, slow)
    assert cut
    assert [what for what, _ in done if what != "slots"] == ["late"] * 3 + ["whole"]
    passed(work, slow)
    assert not [minute for minute, item in work.minutes.items() if item.nodes is None]


def test_a_few_minutes_are_no_backlog() -> None:
    slow = Slow()
    work, live = backlog(slow, late=0, whole=2)
    done, cut = passed(work, slow)
    assert done[-1] == ("slots", live), "racks once, after the GPUs"
    assert (cut, work.minutes, work.slots) == (False, {}, {})
