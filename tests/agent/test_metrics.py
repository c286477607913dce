"""The agent's page for Prometheus: what it says is what is so, and a port that is taken does not matter."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from producers.agent.process import AgentProcess, Outcome
from producers.spool.settings import SpoolSettings
from tests.agent.support import settings

NOBODY = {"bootstrap.servers": "127.0.0.1:1"}
"""A broker that is not there: every event stays on disk."""


def page(port: int) -> dict[str, float]:
    """Every sample by its name (and its source)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_page_tells_what_waits_and_which_sources_answer(tmp_path: Path) -> None:
    spool = SpoolSettings(fsync="never", link_timeout_s=0.1)
    told = settings(tmp_path, sources=("host",), spool_dir=tmp_path / "spool", spool=spool, metrics_port=0)
    process = AgentProcess(told, "test")
    ended: list[Outcome] = []
    thread = threading.Thread(target=lambda: ended.append(process.run(NOBODY, 8 << 20)))
    thread.start()
    try:
        deadline = time.monotonic() + 30
        said: dict[str, float] = {}
        while said.get("gpufleet_agent_spool_events", 0) < 5 or not said.get("gpufleet_agent_source_up/host"):
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
            said = page(process.metrics_port) if process.metrics_port else {}
    finally:
        process.stop("the test is over")
        thread.join(60)
    assert said["gpufleet_agent_spool_bytes"] > 500
    assert said["gpufleet_agent_events_handed_on_total"] >= said["gpufleet_agent_spool_events"]
    assert said["gpufleet_agent_events_acknowledged_total"] == 0
    assert said["gpufleet_agent_events_unacknowledged"] >= 5
    assert said["gpufleet_agent_spool_oldest_seconds"] >= 0
    assert (said["gpufleet_agent_spool_writable"], said["gpufleet_agent_journal_on_disk"]) == (1, 1)
    assert ended[0].spooled >= said["gpufleet_agent_spool_events"]
    with pytest.raises(OSError, match="refused"):
        page(process.metrics_port)


def test_a_port_that_is_taken_keeps_no_agent_from_its_work(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = settings(tmp_path, sources=("host",), spool_dir=tmp_path / "spool", metrics_port=taken.getsockname()[1])
        process = AgentProcess(told, "test")
        outcome = process.run(NOBODY, 8 << 20, for_s=0.5)
    assert process.metrics_port == 0
    assert outcome.sent > 0
