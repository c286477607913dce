"""The doctor: what it says of healthy, sick and absent dependencies."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from infra.cli.doctor import command
from infra.config import Settings, load
from infra.doctor import machine, report
from infra.doctor.kafka import skew
from infra.doctor.report import Finding, Status
from infra.doctor.store import projector, room
from infra.embedded.broker import EmbeddedBroker
from infra.embedded.child import free_port
from infra.embedded.store.process import StoreProcess
from infra.errors import UnreachableError
from tests.schemas.fake_registry import FakeRegistry

GIB = 2**30


def settings(folder: Path, text: str = "", **flags: object) -> Settings:
    (folder / "gpufleet.toml").write_text(text)
    return load(environ={}, cwd=folder, flags={key.replace("__", "."): value for key, value in flags.items()})


def status_of(findings: list[Finding]) -> dict[str, Status]:
    return {finding.check: finding.status for finding in findings}


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (100.0, Status.OK),
        (100.2, Status.OK),  # inside the round trip: cannot be told from latency
        (100.9, Status.OK),
        (101.0, Status.WARN),
        (99.4, Status.WARN),
        (30.0, Status.FAIL),
    ],
)
def test_clock_skew_beyond_what_the_round_trip_explains(theirs: float, expected: Status) -> None:
    assert skew("kafka", theirs, before=100.0, after=100.4).status is expected


@pytest.mark.parametrize(
    ("free", "total", "expected"),
    [
        (50 * GIB, 100 * GIB, Status.OK),
        (10 * GIB, 100 * GIB, Status.WARN),
        (4 * GIB, 10 * GIB, Status.WARN),
        (4 * GIB, 100 * GIB, Status.FAIL),
        (GIB // 2, GIB, Status.FAIL),
    ],
)
def test_room_on_a_disk(free: int, total: int, expected: Status) -> None:
    assert room("store", "disk", free, total).status is expected


@pytest.mark.parametrize(
    ("frontier", "inserts", "expected"),
    [
        (1000, 5, Status.OK),
        (999, 5, Status.WARN),  # more than three minutes
        (None, 5, Status.WARN),
        (None, 0, Status.SKIP),
    ],
)
def test_a_projector_that_is_behind_is_told(frontier: int | None, inserts: int, expected: Status) -> None:
    class Answers:
        def query(self, query: str, **_: object) -> SimpleNamespace:
            asked_state = "projector_state" in query
            return SimpleNamespace(result_rows=([[frontier]] if frontier else []) if asked_state else [[inserts]])

    finding = projector(Answers(), now=1180.0)  # type: ignore[arg-type]
    assert finding.status is expected
    assert ("gpufleet project" in finding.advice) == (expected is Status.WARN)


def test_a_check_that_breaks_is_a_finding_and_stops_no_other() -> None:
    def unreachable() -> list[Finding]:
        raise UnreachableError("nobody there")

    def broken() -> list[Finding]:
        raise KeyError("x")

    findings = list(
        report.run([("kafka", unreachable), ("store", broken), ("agent", lambda: [report.ok("agent", "a", "b")])])
    )
    assert [(f.area, f.status, f.seen) for f in findings] == [
        ("kafka", Status.FAIL, "nobody there"),
        ("store", Status.FAIL, "KeyError: 'x'"),
        ("agent", Status.OK, "b"),
    ]
    assert report.worst(findings) is Status.FAIL
    assert report.worst([report.warn("a", "b", "c", "d"), report.ok("a", "b", "c")]) is Status.WARN
    assert report.worst([report.skip("a", "b", "c")]) is Status.OK


def test_a_secret_file_that_others_may_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("x")
    (tmp_path / "pw").chmod(0o644)
    found = settings(tmp_path, '[store]\npassword_file = "pw"\n')
    assert status_of(list(machine.check(found)))["secret files"] is Status.WARN
    (tmp_path / "pw").chmod(0o600)
    assert status_of(list(machine.check(found)))["secret files"] is Status.OK


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    findings = list(machine.check(settings(tmp_path, agent__state_dir=Path("/proc/nothing"))))
    assert status_of(findings)["agent.state_dir"] is Status.FAIL


def test_agent_prerequisites_that_lack(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        f'[agent.dcgm_exporter]\nenabled = true\nurl = "http://127.0.0.1:{free_port()}/metrics"\n'
        '[agent.kmsg]\npath = "nothing"\n[agent.nic]\nsysfs = "nothing"\n[agent.host]\nenabled = false\n',
    )
    status = status_of(list(machine.check_agent(found)))
    assert status["dcgm-exporter"] is Status.FAIL
    assert {status["kernel log"], status["nic"], status["host"]} == {Status.SKIP}


def test_agent_prerequisites_that_are_there(tmp_path: Path) -> None:
    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'# HELP\nDCGM_FI_DEV_POWER_USAGE{gpu="0"} 1\nDCGM_FI_DEV_GPU_TEMP{gpu="0"} 2\n')

        def log_message(self, format: str, *args: object) -> None:
            pass

    (tmp_path / "kmsg").touch()
    (tmp_path / "class" / "infiniband" / "mlx5_0").mkdir(parents=True)
    server = HTTPServer(("127.0.0.1", 0), Exporter)
    thread = Thread(target=server.handle_request)
    thread.start()
    found = settings(
        tmp_path,
        f'[agent.dcgm_exporter]\nenabled = true\nurl = "http://127.0.0.1:{server.server_port}/metrics"\n'
        '[agent.kmsg]\npath = "kmsg"\n[agent.nic]\nsysfs = "."\n',
    )
    findings = {finding.check: finding for finding in machine.check_agent(found)}
    thread.join()
    server.server_close()
    assert findings["dcgm-exporter"].seen.startswith("2 samples")
    assert findings["kernel log"].status is Status.OK
    assert findings["nic"].seen == "mlx5_0"


def test_a_registry_is_examined_when_configured() -> None:
    with FakeRegistry() as fake:
        options = ["--only", "registry", "--json", "--set", f"registry.url={fake.url}"]
        result = CliRunner().invoke(command, options)
        assert result.exit_code == 1
        (finding,) = json.loads(result.stdout)["findings"]
        assert (finding["check"], finding["advice"]) == ("schemas", "run `gpufleet schema register`")


@pytest.mark.store
def test_the_whole_report_before_and_after_setting_up(
    tmp_path: Path,
    embedded_broker: EmbeddedBroker,
    store: StoreProcess,
    migrated_store: StoreProcess,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def examine(process: StoreProcess) -> tuple[int, dict[str, dict[str, str]]]:
        (tmp_path / "pw").write_text(process.password)
        (tmp_path / "pw").chmod(0o600)
        file = tmp_path / "gpufleet.toml"
        file.write_text(
            f'[kafka]\nbootstrap = "{embedded_broker.bootstrap}"\n'
            f'[store]\nurl = "{process.url}"\npassword_file = "pw"\n'
            '[kafka.librdkafka]\n"session.timeout.ms" = "6000"\n"linger.ms" = "5"\n'
        )
        areas = ["--only", "kafka", "--only", "store", "--only", "registry"]
        result = CliRunner().invoke(command, ["-c", str(file), "--json", *areas])
        document = json.loads(result.stdout)
        return result.exit_code, {f"{f['area']} {f['check']}": f for f in document["findings"]}

    code, before = examine(store)
    assert code == 1
    assert before["kafka topics"]["advice"] == "run `gpufleet topics apply`"
    from infra.cli.topics import command as topics

    applied = CliRunner().invoke(topics, ["apply", "--set", f"kafka.bootstrap={embedded_broker.bootstrap}"])
    assert applied.exit_code == 0
    code, after = examine(migrated_store)
    assert code == 0, after
    for check in ("kafka reach", "kafka write", "kafka topics", "store reach", "store clock", "store migrations"):
        assert after[check]["status"] == "ok", after[check]
    assert "store projector" not in before
    assert after["store projector"]["status"] in ("ok", "warn", "skip"), "as other tests have left the store"
    assert after["registry reach"]["status"] == "skip"
    assert "CONFWARN" not in capfd.readouterr().err, "an option went to a client that has no use for it"


def test_dependencies_that_are_away_fail_with_exit_code_1() -> None:
    options = [
        *("--set", f"kafka.bootstrap=127.0.0.1:{free_port()}", "--set", "kafka.timeout_s=1"),
        *("--set", f"store.url=http://127.0.0.1:{free_port()}", "--only", "kafka", "--only", "store"),
    ]
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 1
    assert result.output.count("fail ") == 2
    assert "Traceback" not in result.output
