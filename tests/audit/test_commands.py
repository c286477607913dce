"""``gpufleet audit`` and ``gpufleet project`` as a person runs them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from consumers.audit import AuditReport, Kind
from consumers.audit.report import Finding
from consumers.audit.runs import record
from infra.cli.audit import command as audit_command
from infra.cli.audit import expected, show, since_when
from infra.cli.common import UsageError
from infra.cli.project import command as project_command
from infra.cli.project import when
from infra.embedded.store.process import StoreProcess
from producers.journal import Journal
from tests.projector.conftest import Bench, bench_on
from tests.projector.events import RUN, T0


def invoke(store: StoreProcess, tmp_path: Path, command: object, *arguments: str) -> Result:
    password = tmp_path / "password"
    password.write_text(store.password)
    settings = ["--set", f"store.url={store.url}", "--set", f"store.password_file={password}"]
    settings += ["--set", "retention.raw_days=3650", "--set", "retention.minute_days=3650"]
    settings += ["--set", "retention.hour_days=3650", "--set", f"agent.state_dir={tmp_path}"]
    return CliRunner().invoke(command, [*arguments, *settings])  # type: ignore[arg-type]


def iso(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M}"


def test_audit_and_project_from_the_command_line(fresh_store: StoreProcess, tmp_path: Path) -> None:
    bench: Bench = next(bench_on(fresh_store))
    events = [bench.events.telemetry("n1", T0 + 5 * i, power_w=[100.0] * 10) for i in range(12)]
    bench.events.insert("node-telemetry", events)
    journal = Journal(tmp_path, "test", RUN, ["n1"], ["node-telemetry"])
    for seq in range(14):
        journal.give(0, seq)
    journal.close()

    done = invoke(fresh_store, tmp_path, project_command, "--once", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["up_to_date"] is True
    assert len(bench.windows("gpu_1m")) == 2

    wrong = invoke(fresh_store, tmp_path, audit_command, "--no-kafka", "--in-flight", "0", "--json")
    assert wrong.exit_code == 1, wrong.output
    report = json.loads(wrong.stdout)
    assert report["lost"] == 2
    assert [(f["kind"], f["producer_id"], f["first"], f["last"]) for f in report["findings"]] == [
        ("tail", "n1", 12, 13)
    ]

    readable = invoke(fresh_store, tmp_path, audit_command, "--no-kafka", "--in-flight", "0")
    assert readable.exit_code == 1
    assert "NOT exact: 2 lost, 0 doubled" in readable.stdout
    assert f"producer n1 run {RUN}: seq 12..13 (2 events)" in readable.stdout

    mistyped = invoke(fresh_store, tmp_path, audit_command, "--no-kafka", "--node", "n11")
    assert (mistyped.exit_code, "'n11'" in mistyped.output) == (2, True)

    exact = invoke(fresh_store, tmp_path, audit_command, "--no-kafka", "--node", "n1", "--in-flight", "1e9")
    assert exact.exit_code == 0, exact.output
    assert "exact: 0 lost" in exact.stdout
    kept = bench.rows("SELECT *, windows_checked > 0 AS compared FROM gpufleet.audit_runs ORDER BY ts")
    assert [(r["ok"], r["lost"], r["node"], r["compared"]) for r in kept] == [
        (False, 2, "", 1),
        (False, 2, "", 1),
        (True, 0, "n1", 1),
    ]
    assert f"producer n1 run {RUN}: seq 12..13 (2 events)" in kept[0]["detail"]

    asked = invoke(fresh_store, tmp_path, project_command, "--from", iso(T0), "--to", iso(T0 + 60), "--json")
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["windows"]["gpu_1m"] == 1


def test_an_audit_by_somebody_who_may_only_read_is_not_kept_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class ReadOnly:
        def command(self, cmd: str, *, settings: dict[str, object] | None = None) -> None:
            raise OSError("Code: 164. DB::Exception: Cannot execute query in readonly mode")

    assert not record(ReadOnly(), AuditReport())  # type: ignore[arg-type]
    assert "not kept in audit_runs: Code: 164" in caplog.text


def test_journals_are_found_at_any_depth(tmp_path: Path) -> None:
    for folder, run in (("a", 5), ("b/c", 7)):
        (tmp_path / folder).mkdir(parents=True)
        journal = Journal(tmp_path / folder, "test", run, ["p"], ["leases"])
        journal.give(0, 0)
        journal.close()
    assert sorted((e.producer_id, e.run_id, e.topic, e.given) for e in expected((tmp_path,))) == [
        ("p", 5, "leases", 1),
        ("p", 7, "leases", 1),
    ]


def test_times_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(UsageError, match="expected 90s, 15m"):
        since_when("yesterday")
    with pytest.raises(UsageError, match="expected a time"):
        when("noon")
    assert when(iso(T0)) == T0
    assert when(f"{iso(T0 + 3600)}+01:00") == T0


def test_many_findings_that_are_no_fault_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = AuditReport()
    report.add(Finding(Kind.IN_FLIGHT, "node-telemetry", f"producer n{i}", f"n{i}", count=2) for i in range(20))
    report.add([Finding(Kind.IN_FLIGHT, "leases", "producer cli", "cli", count=1)])
    report.add([Finding(Kind.GAP, "inventory", "producer n7: seq 3", "n7", count=1)])
    show(report)
    said = capsys.readouterr().out.splitlines()
    assert "! gap: inventory: producer n7: seq 3" in said
    assert "  in_flight: leases: producer cli" in said
    [line] = [line for line in said if "node-telemetry" in line]
    assert line.startswith("  in_flight: node-telemetry: 40 events, 20 times;")
