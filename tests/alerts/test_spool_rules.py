"""What agents' spools tell, and letters that nobody deals with."""

from __future__ import annotations

import pytest

from infra.grafana.alerts.rules import BY_NAME
from infra.grafana.boards.ids import Pipeline
from infra.grafana.expand import TimeRange, Value, queries
from tests.alerts.support import Bench
from tests.grafana.boards import OPERATOR, ask


def say(bench: Bench, minute: float, event: str, node: str = "r1-n1", **more: object) -> None:
    fields = {"node_id": node, "rack": "r1", "event": event, "host_boot_id": "b", "occurrences": 1, **more}
    bench.event("node-events", minute, **fields)


def test_a_spool_that_refuses_and_takes_again(bench: Bench) -> None:
    bench.health(range(40))
    say(bench, 10.2, "source_down", value="spool")
    say(bench, 10.4, "source_down", node="r1-n2", value="nvml")
    watch = bench.watch(BY_NAME["spool_refuses"]).to(9, 11, 12, 13)
    assert watch.labels("node") == [("r1-n1",)]
    assert "disk full" in watch.texts[0]
    say(bench, 20.5, "source_up", value="spool")
    assert watch.to(21).states == ["Recovering"]
    assert watch.to(27).firing == []


def test_an_agent_that_started_on_a_full_disk(bench: Bench) -> None:
    bench.health(range(40))
    say(bench, 10, "agent_start")
    say(bench, 10.1, "source_down", value="journal")
    say(bench, 10.1, "source_down", node="r1-n2", value="nvml")
    watch = bench.watch(BY_NAME["agent_journal"]).to(9, 11, 12, 13)
    assert watch.labels("node", "rack") == [("r1-n1", "r1")]
    assert "journal" in watch.texts[0]
    assert bench.watch(BY_NAME["spool_refuses"]).to(9, 11, 12, 13).told == [], "the spool has said nothing"
    say(bench, 20.5, "source_up", value="spool")
    assert watch.to(21).states == ["Alerting"], "the spool's disk is another matter"
    say(bench, 21.5, "source_up", value="journal")
    assert watch.to(22).states == ["Recovering"]
    assert watch.to(28).firing == []


def test_the_panel_behind_the_alerts_names_the_disks_however_long_ago_they_spoke(bench: Bench) -> None:
    days = 3 * 24 * 60
    say(bench, 5, "source_down", value="journal")
    say(bench, 6, "source_down", node="r1-n2", value="spool")
    say(bench, 7, "source_down", node="r1-n3", value="spool")
    say(bench, 8, "source_up", node="r1-n3", value="spool")
    [board] = [each for each in OPERATOR if each.uid == Pipeline.UID]
    [query] = [each for each in queries(board) if each.panel is not None and each.panel.id == Pipeline.SPOOLS]
    end_ms = (bench.start + days * 60) * 1000
    rows = ask(bench.client, query, TimeRange(end_ms - 3_600_000, end_ms), {"site": Value(bench.site)}).dicts()
    assert {row["node_id"]: row["state"] for row in rows} == {"r1-n1": "keeps no journal", "r1-n2": "refuses events"}


def test_a_journal_is_the_next_runs_matter_once_the_agent_starts_or_stops(bench: Bench) -> None:
    bench.health(range(40))
    for node in ("r1-n1", "r1-n2", "r1-n3"):
        say(bench, 5, "source_down", node=node, value="journal")
    say(bench, 6, "agent_start", node="r1-n1")
    say(bench, 6, "agent_stop", node="r1-n2")
    assert bench.watch(BY_NAME["agent_journal"]).to(5, 8, 10).labels("node") == [("r1-n3",)]


@pytest.mark.parametrize(("rule", "what"), [("agent_journal", "journal"), ("spool_refuses", "spool")])
def test_a_disk_of_a_node_in_maintenance_is_quiet(bench: Bench, rule: str, what: str) -> None:
    bench.health(range(60))
    say(bench, 4, "maintenance_begin")
    say(bench, 5, "source_down", value=what)
    watch = bench.watch(BY_NAME[rule]).to(6, 10)
    assert watch.states == []
    say(bench, 19.5, "maintenance_end")
    assert watch.to(20, 23).labels("node") == [("r1-n1",)], "it is told when the node is back and refuses still"
    say(bench, 30, "maintenance_begin")
    assert watch.to(31, 37).firing == []


@pytest.mark.parametrize(("rule", "what"), [("agent_journal", "journal"), ("spool_refuses", "spool")])
def test_a_disk_that_refuses_for_days_is_not_forgotten(bench: Bench, rule: str, what: str) -> None:
    """The agent says it once."""
    days = 3 * 24 * 60
    bench.health(range(days - 5, days + 5))
    say(bench, 5, "source_down", value=what)
    assert bench.watch(BY_NAME[rule]).to(days, days + 3).labels("node") == [("r1-n1",)]


def test_twenty_spools_are_one_cause(bench: Bench) -> None:
    bench.health(range(20))
    for number in range(20):
        say(bench, 5, "source_down", node=f"r1-n{number}", value="spool")
    watch = bench.watch(BY_NAME["spool_refuses"]).to(6, 8, 9)
    assert watch.labels("node") == [("many",)]
    assert "20 nodes" in watch.texts[0]


def test_an_agent_that_starts_anew_has_a_spool_again(bench: Bench) -> None:
    bench.health(range(40))
    say(bench, 5, "source_down", value="spool")
    say(bench, 6, "spool_backlog", value="node-telemetry")
    say(bench, 7, "agent_start")
    assert bench.watch(BY_NAME["spool_refuses"]).to(8, 10, 12).told == []
    assert bench.watch(BY_NAME["spool_backlog"]).to(130, 140).told == []


def test_a_backlog_that_does_not_drain(bench: Bench) -> None:
    bench.health(range(200))
    for minute in range(10, 180, 10):
        say(bench, minute, "spool_backlog", value="node-telemetry")
    say(bench, 10, "spool_backlog", node="r1-n2", value="node-telemetry")
    say(bench, 30, "spool_drained", node="r1-n2")
    watch = bench.watch(BY_NAME["spool_backlog"]).to(60, 125)
    assert watch.states == []
    assert watch.to(135, 140).labels("site") == [(bench.site,)]
    assert "1 nodes" in watch.texts[0]
    say(bench, 181, "spool_drained")
    assert watch.to(185).states == ["Recovering"]
    assert watch.to(200).firing == []


def test_the_second_backlog_of_a_day_has_its_own_two_hours(bench: Bench) -> None:
    bench.health(range(320))
    say(bench, 0, "spool_backlog", value="node-telemetry")
    say(bench, 10, "spool_drained")
    say(bench, 170, "spool_backlog", value="node-telemetry")
    watch = bench.watch(BY_NAME["spool_backlog"]).to(175, 180, 285)
    assert watch.told == []
    assert watch.to(295, 300).labels("site") == [(bench.site,)]


def test_events_thinned_and_given_up(bench: Bench) -> None:
    bench.health(range(60))
    say(bench, 10, "events_thinned", value="node-telemetry", occurrences=900)
    say(bench, 11, "events_dropped", value="node-telemetry", occurrences=100)
    watch = bench.watch(BY_NAME["spool_thins"]).to(5)
    assert watch.states == []
    assert watch.to(15).texts[0].split(": ")[2].startswith("1k events")
    assert watch.to(30).states == ["Recovering"]
    assert watch.to(50).firing == []


def test_letters_that_nobody_deals_with(bench: Bench) -> None:
    """A day after it was put aside, until somebody has decided."""
    letter = {"producer_id": f"dlq/flaw-{bench.site}/0", "run_id": 7, "seq": 3}
    source = {"source_topic": f"topic-{bench.site}", "source_partition": 0, "source_offset": 3}
    bench.event("dead-letters", 0, **letter, **source, append_ts=0, reason="decode")
    later = 24 * 60
    watch = bench.watch(BY_NAME["dead_letters_open"]).to(10, later - 5)
    mine = [alert for alert in watch.told if alert.label("topic") == source["source_topic"]]
    assert mine == []
    watch.to(later + 5)
    [told] = [alert for alert in watch.told if alert.label("topic") == source["source_topic"]]
    assert told.text.startswith("1 dead letters")
    mark = {"site": bench.site, "source_topic": source["source_topic"], **letter, "at": bench.at(later + 6)}
    bench.put("dead_letter_marks", [{**mark, "mark": "dropped", "who": "me", "why": "a test"}])
    watch.to(later + 10, later + 15)
    assert source["source_topic"] not in {dict(alert.labels)["topic"] for alert in watch.firing}
