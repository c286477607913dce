"""The benchmark measures the real pipeline and the baseline on the same events. Its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.bench import fill
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.simulator import scenario
from producers.simulator.simulation import TOPICS, Simulation, producers
from tests.conftest import missing

COMMAND = [sys.executable, "-m", "infra.cli.main", "bench", "ingest"]


def bench(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    try:
        import chdb  # noqa: F401
    except ImportError as error:
        missing("store", str(error))
    done = subprocess.run(
        [*COMMAND, "--folder", str(tmp_path / "data"), "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_draining_stores_every_event_once_and_compares_with_the_baseline(tmp_path: Path) -> None:
    report = bench(tmp_path, "--gpus", "2000", "--seconds", "60")
    exact = report["exact"]
    assert exact["sent"] == exact["rows"] == exact["distinct"] > 0
    # 12 events of 5 ticks per node and minute, every GPU in each
    assert exact["gpu_samples"] == report["fill"]["gpu_samples"] == report["baseline"]["gpu_samples"]
    assert 0 < report["storage"]["bytes_per_metric_value"] < 4  # a float32 uncompressed has four
    assert {"ratio_inserts", "ratio_everything"} <= report.keys()
    assert report["fill"]["capped"] == ""


def test_a_paced_run_reports_how_fresh_rows_are(tmp_path: Path) -> None:
    report = bench(tmp_path, "--paced", "--gpus", "400", "--seconds", "8", "--ticks", "1")
    exact = report["exact"]
    assert exact["sent"] == exact["rows"] == exact["distinct"] > 0
    assert 0 < report["freshness_p50_s"] <= report["freshness_p99_s"]


def test_a_fill_stops_at_its_cap_and_says_so(tmp_path: Path, embedded_broker: Any) -> None:
    fleet = scenario.load("small")
    journal = Journal.start(tmp_path / "journals", fleet.site, producers(fleet), TOPICS)
    with KafkaOutbox({"bootstrap.servers": embedded_broker.bootstrap}, journal) as outbox:
        simulation = Simulation(fleet, journal, outbox, ticks=5)
        start_us = 1_800_000_000_000_000
        filled = fill.fill(simulation, outbox, start_us, start_us + 600_000_000, lambda _key: 1, cap_bytes=300_000)
        simulation.close()
    journal.close()
    assert 300_000 <= filled.value_bytes < 310_000
    assert "memory" in filled.capped
    assert filled.gpu_samples == filled.events["node-telemetry"] > 0


@pytest.mark.parametrize("arguments", [("--gpus", "3"), ("--seconds", "0"), ("--ticks", "7")])
def test_wrong_sizes_are_refused_without_a_traceback(arguments: tuple[str, str]) -> None:
    done = subprocess.run(
        [*COMMAND, "--paced", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
