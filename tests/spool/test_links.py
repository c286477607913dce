"""A simulated fleet behind a link that comes and goes: its schedule, and what waits between the windows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cli import simulate
from infra.embedded.broker import EmbeddedBroker
from producers import journal as journals
from producers.errors import InputError
from producers.simulator.links import Periodic, load
from producers.simulator.simulation import TOPICS
from producers.spool.look import folders, look, size
from tests import topics
from tests.simulator.test_cli import invoke, read_all
from tests.spool.support import MINUTE_US, NOON_US

S = 1_000_000


def test_a_specification_gives_windows_from_its_offset_on() -> None:
    links = load("8m/95m+10m", NOON_US)
    at = [minute for minute in range(220) if links.open_at(NOON_US + minute * MINUTE_US)]
    assert at == [*range(10, 18), *range(105, 113), *range(200, 208)]
    assert load("1m/1m", NOON_US).next_change(NOON_US + 5 * MINUTE_US) is None


def test_a_file_gives_windows_by_time_and_by_offset(tmp_path: Path) -> None:
    file = tmp_path / "passes.txt"
    file.write_text("# passes\n+10s +20s  # the first\n\n2026-10-10T16:01:00Z 2026-10-10T16:02:00\n")
    start = 1_791_648_000 * S  # 2026-10-10T16:00:00Z
    links = load(str(file), start)
    at = [second for second in range(180) if links.open_at(start + second * S)]
    assert at == [*range(10, 20), *range(60, 120)]
    assert links.next_change(start + 130 * S) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8m", "LENGTH/PERIOD"),
        ("8m/5m", "no longer than its period"),
        ("8 apples/5m", "LENGTH/PERIOD"),
        ("0s/5m", "longer than nothing"),
        ("8m/soon", "duration"),
    ],
)
def test_mistakes_in_a_specification_are_explained(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load(text, NOON_US)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "at least one window"),
        ("+1m\n", "line 1: expected START END"),
        ("+1m +2m\n+90s +3m\n", "line 2: expected windows in order"),
        ("+2m +1m\n", "ending after it starts"),
        ("noon +1m\n", "line 1: expected 2026-"),
    ],
)
def test_mistakes_in_a_file_are_explained_with_their_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "passes").write_text(content)
    with pytest.raises(InputError, match=says):
        load(str(tmp_path / "passes"), NOON_US)


@given(st.integers(0, 50), st.integers(1, 30), st.integers(0, 60), st.integers(-5, 300))
def test_contact_changes_exactly_when_it_says(start: int, length: int, gap: int, at: int) -> None:
    links = Periodic(start, length, length + gap)
    change = links.next_change(at)
    if change is None:
        assert all(links.open_at(t) == links.open_at(at) for t in range(at, at + 200))
    else:
        assert change > at
        assert all(links.open_at(t) == links.open_at(at) for t in range(at, change))
        assert links.open_at(change) != links.open_at(at)


def test_a_fleet_spools_between_its_windows_and_the_next_run_sends_the_rest(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    topics.create(embedded_broker.bootstrap, TOPICS)
    here = ["--nodes", "2", "--json", "--set", f"kafka.bootstrap={embedded_broker.bootstrap}"]
    here += ["--set", f"simulate.state_dir={tmp_path}", "--set", "agent.spool.drain_kb_per_s=0"]
    # Up to three minutes of event time in three seconds (fewer on a busy machine); contact only early on.
    passes = tmp_path / "passes"
    passes.write_text("+10s +30s\n")
    result = invoke(simulate.command, "--for", "3s", "--speed", "60", "--link-schedule", str(passes), *here)
    assert result.exit_code == 0, (result.output, result.exception)
    told = json.loads(result.stdout)
    assert told["spooled"] > 10
    (folder,) = folders(tmp_path)
    waits = look(folder)
    assert sum(each.events for each in waits) == told["spooled"]
    assert size(folder) > 0
    telemetry = [each for each in waits if each.topic == "node-telemetry"]
    assert all(last - first + 1 == each.events for each in telemetry for first, last in each.ranges[-1:])

    result = invoke(simulate.command, "--for", "2s", *here)
    assert result.exit_code == 0, (result.output, result.exception)
    assert look(folder) == []
    given_out = Counter[str]()
    for row in journals.read(tmp_path / simulate.FOLDER):
        given_out[row.topic] += row.given
        assert row.acknowledged == row.given
    assert read_all(embedded_broker.bootstrap, sum(given_out.values())) == given_out


def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path) -> None:
    for options in ((), ("--dry-run",)):
        result = invoke(simulate.command, "--link-schedule", "8m", *options, "--set", f"simulate.state_dir={tmp_path}")
        assert result.exit_code == 2
        assert "LENGTH/PERIOD" in result.output
