"""Visits every state of a protocol, breadth first, so that the first thing found wrong has the shortest way to it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.model.protocol import Protocol
from tests.model.state import State, Step


@dataclass(frozen=True)
class Counterexample:
    """A way to a state that must not be."""

    wrong: str
    trace: list[str]

    def __str__(self) -> str:
        steps = "\n".join(f"{number:2}. {step}" for number, step in enumerate(self.trace, 1))
        return f"{steps}\n  => {self.wrong}"


@dataclass(frozen=True)
class Explored:
    """What was seen."""

    states: int
    resting: int
    """States in which nothing was left to do."""
    parents: dict[State, tuple[State, Step] | None]
    wrong: Counterexample | None

    def path(self, state: State) -> list[tuple[Step, State]]:
        """The steps from the start to a state, each with the state it leads to."""
        steps = []
        at: State = state
        while (parent := self.parents[at]) is not None:
            steps.append((parent[1], at))
            at = parent[0]
        return steps[::-1]


def explore(protocol: Protocol, limit: int = 400_000) -> Explored:
    """Every state that can be reached, until one is wrong. AssertionError beyond ``limit``: all or nothing.

    A state without progress must be at rest: everything read, stored once, committed. As every move but ``failures``
    only goes forward, each way without end is thereby excluded.
    """
    parents: dict[State, tuple[State, Step] | None] = {protocol.start: None}
    queue = deque([protocol.start])
    resting = 0
    while queue:
        state = queue.popleft()
        wrong = protocol.broken(state)
        if wrong is None and next(protocol.progress(state), None) is None:
            resting += 1
            wrong = protocol.restless(state)
        if wrong is not None:
            found = Explored(len(parents), resting, parents, None)
            trace = [step.words for step, _ in found.path(state)]
            return Explored(len(parents), resting, parents, Counterexample(wrong, trace))
        for step, after in protocol.moves(state):
            if after not in parents:
                parents[after] = state, step
                queue.append(after)
        assert len(parents) <= limit, "too many states: choose a smaller script"
    return Explored(len(parents), resting, parents, None)
