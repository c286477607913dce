"""The identity protocol holds in every state that small cases can reach, and no rule of it can be left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.explore import Explored, explore
from tests.model.protocol import Protocol
from tests.model.state import ALL, Part, Rule, State

PAGE = Path(__file__).parents[2] / "docs" / "identity.md"

NEEDS: dict[Rule, tuple[Part, int]] = {
    Rule.NUMBERS_ONCE: (("a0", "a0'"), 0),
    Rule.FROM_THE_BEGINNING: (("a0",), 1),
    Rule.WATERMARK: (("a0", "a0"), 0),
    Rule.UNKNOWN_RUN: (("a0", "a0"), 1),
    Rule.MAX_SEQ: (("a0", "a1", "a0", "a1"), 1),
    Rule.HIGHEST: (("a0", "a0"), 0),
    Rule.ASSIGNMENT: (("a0", "a1"), 1),
    Rule.UNCLEAR: (("a0", "a1"), 1),
    Rule.WITHIN_BATCH: (("a0", "a0"), 0),
    Rule.ONE_IN_FLIGHT: (("a0", "a1"), 1),
    Rule.STALL_GUARD: (("a0",), 1),
    Rule.COLLAPSE: (("a0",), 1),
    Rule.HORIZON: (("a0",), 1),
    Rule.BOOT_WATCH: (("a0",), 1),
    Rule.BOOT_FIRST: (("a0",), 1),
    Rule.REWIND_FORGETS: (("a0",), 2),
    Rule.LEDGER_FIRST: (("a0",), 0),
    Rule.LEDGER_HORIZON: (("a0",), 1),
}
"""The smallest messages, and number of failures, with which leaving the rule out does harm."""


@pytest.mark.parametrize(
    ("script", "failures"), [(("a0", "a1"), 2), (("a0", "a0"), 2), (("a0", "a1", "a0", "a1"), 1)], ids=str
)
def test_every_state_is_sound_and_every_way_ends_at_rest(script: Part, failures: int) -> None:
    explored = explore(Protocol(script, ALL, failures))
    assert explored.wrong is None, str(explored.wrong)
    assert explored.states > 10_000
    assert explored.resting > 1


def test_no_way_goes_round_in_circles() -> None:
    """Without failures every move goes forward; so being at rest at the end of each way is all there is to ask."""
    protocol = Protocol(("a0", "a1"), ALL, 1)
    explored = explore(protocol)
    before = dict.fromkeys(explored.parents, 0)
    for state in explored.parents:
        for _, after in protocol.progress(state):
            before[after] += 1
    free: list[State] = [state for state, count in before.items() if not count]
    ordered = 0
    while free:
        ordered += 1
        for _, after in protocol.progress(free.pop()):
            before[after] -= 1
            if not before[after]:
                free.append(after)
    assert ordered == explored.states


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.name.lower())
def test_without_the_rule_the_protocol_fails(rule: Rule) -> None:
    """The shortest way to harm stands in docs/identity.md, word for word."""
    explored = without(rule)
    print(f"without {rule.name}: {rule.value}\n{explored.wrong}")
    assert explored.wrong is not None, f"{rule.name} can be left out: {explored.states} states, none wrong"
    page = PAGE.read_text(encoding="utf-8")
    assert rule.value in page, f"docs/identity.md does not state the rule: {rule.value}"
    assert str(explored.wrong) in page, f"docs/identity.md should show\n\n{explored.wrong}"


def without(rule: Rule) -> Explored:
    """What happens without one rule."""
    script, failures = NEEDS[rule]
    return explore(Protocol(script, ALL - {rule}, failures))


def test_every_rule_is_on_trial() -> None:
    assert set(NEEDS) == set(Rule)
