"""``gpufleet consume``: what it takes, and how it ends when it is asked for something that makes no sense."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.cli.consume import command, consume_settings
from infra.config import load


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from any settings file or running ``up``."""
    monkeypatch.chdir(tmp_path)


def test_an_unknown_topic_is_a_usage_error_that_names_the_known_ones() -> None:
    result = CliRunner().invoke(command, ["--topics", "node-telemetry,node-telemtry"])
    assert result.exit_code == 2
    assert "found node-telemtry" in result.output
    assert "tenant-usage" in result.output


def test_a_metrics_port_in_use_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(command, ["--metrics-port", str(port), "--set", "kafka.bootstrap=127.0.0.1:1"])
    assert result.exit_code == 2
    assert f"cannot serve /metrics on 127.0.0.1:{port}" in result.output


def test_settings_reach_the_consumer() -> None:
    flags = {"kafka.bootstrap": "b:9092", "consume.group_id": "g", "consume.flush_mb": 2.0, "consume.memory_mb": 64}
    flags |= {"consume.past_limit_days": 3.0, "site.name": "orbit-1", "kafka.message_max_bytes": 123_456}
    given = consume_settings(load().with_flags(flags), ("leases",), accept_lost=True)
    assert given.kafka["bootstrap.servers"] == "b:9092"
    assert (given.group, given.site, given.topics, given.accept_lost) == ("g", "orbit-1", ("leases",), True)
    assert (given.flush_bytes, given.memory_bytes, given.message_max_bytes) == (2 << 20, 64 << 20, 123_456)
    assert given.past_limit_s == 3 * 86_400
