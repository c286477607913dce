"""Replaying the real trace: what is sent equals sums computed from the file with nothing but split()."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from infra.cli import usage as usage_cli
from producers.errors import InputError
from producers.log import read_topic
from producers.usage.replay import Extent, Plan, Replay, shift_to_end_now, whole_windows
from producers.usage.request import Dimensions
from tests.producers.brokers import create_topic

if TYPE_CHECKING:
    from infra.embedded.apache_kafka import ApacheKafka
    from infra.embedded.broker import EmbeddedBroker

TRACE = Path(__file__).parents[2] / "producers" / "simulator" / "data" / "AzureLLMInferenceTrace_conv.csv"
MINUTE = 60_000_000
Sums = dict[str, tuple[int, int, int]]


def sums_of_the_file() -> Sums:
    """Minute of the day -> requests, input and output tokens, by the text of the file alone."""
    requests: Counter[str] = Counter()
    read: Counter[str] = Counter()
    written: Counter[str] = Counter()
    for line in TRACE.read_text().split("\n")[1:]:
        time, context, generated = line.strip().split(",")
        requests[time[11:16]] += 1
        read[time[11:16]] += int(context)
        written[time[11:16]] += int(generated)
    assert sum(requests.values()) == 19_366
    return {minute: (requests[minute], read[minute], written[minute]) for minute in requests}


def sums_of_events(events: list[tuple[int, dict[str, Any]]], shift_us: int = 0) -> Sums:
    totals: dict[str, tuple[int, int, int]] = {}
    for ts, fields in events:
        seconds = (ts - shift_us) // 1_000_000 % 86_400
        minute = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}"
        old = totals.get(minute, (0, 0, 0))
        totals[minute] = (
            old[0] + fields["requests"],
            old[1] + fields["input_tokens"],
            old[2] + fields["output_tokens"],
        )
    return totals


def replay(content: bytes, **plan: Any) -> tuple[list[tuple[int, dict[str, Any]]], Replay]:
    events: list[tuple[int, dict[str, Any]]] = []
    shift = plan.pop("shift", 0)
    run = Replay(
        Plan("acme", Dimensions(), **plan), lambda ts, fields: events.append((ts, fields)), lambda _line, _why: None
    )
    run.run(io.BytesIO(content), lambda _first: shift)
    return events, run


def test_each_minute_of_the_trace_equals_the_file() -> None:
    events, run = replay(TRACE.read_bytes())
    assert sums_of_events(events) == sums_of_the_file()
    assert (run.outcome.requests, run.outcome.revisions, run.outcome.read.malformed) == (19_366, 0, 0)
    assert {fields["revision"] for _, fields in events} == {1}


def test_a_shift_by_whole_windows_keeps_every_minute_together() -> None:
    shift = whole_windows(98_765_432_123_456, MINUTE)
    assert shift % MINUTE == 0
    events, _ = replay(TRACE.read_bytes(), shift=shift)
    assert sums_of_events(events, shift) == sums_of_the_file()


def test_out_of_order_lines_add_up_to_the_same() -> None:
    header, *lines = TRACE.read_bytes().split(b"\r\n")
    events, run = replay(b"\n".join([header, *reversed(lines)]), lateness_us=0)
    last: dict[int, tuple[int, dict[str, Any]]] = {}
    for ts, fields in events:
        assert fields["revision"] > last.get(ts, (0, {"revision": 0}))[1]["revision"]
        last[ts] = (ts, fields)
    assert sums_of_events(list(last.values())) == sums_of_the_file()
    assert run.outcome.revisions == len(events) - len(last)


def test_repeating_multiplies_and_the_first_copy_stays_as_it_is() -> None:
    events, run = replay(TRACE.read_bytes(), repeat=3, jitter_us=90_000_000, seed=7)
    again, _ = replay(TRACE.read_bytes(), repeat=3, jitter_us=90_000_000, seed=7)
    assert events == again, "a seed makes it repeatable"
    assert run.outcome.requests == 3 * 19_366
    by_workspace = {
        name: [e for e in events if e[1]["workspace"] == name] for name in {e[1]["workspace"] for e in events}
    }
    assert sorted(by_workspace) == ["workspace-1", "workspace-2", "workspace-3"]
    assert sums_of_events(by_workspace["workspace-1"]) == sums_of_the_file()
    moved = sums_of_events(by_workspace["workspace-2"])
    assert moved != sums_of_the_file()
    assert [sum(column) for column in zip(*moved.values(), strict=True)] == [
        sum(column) for column in zip(*sums_of_the_file().values(), strict=True)
    ]


def test_pacing_asks_for_the_traces_own_distances() -> None:
    lines = b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + b"".join(
        f"2023-11-16 12:00:{second:02d},1,1\n".encode() for second in (0, 10, 25)
    )
    waits: list[float] = []
    Replay(Plan("acme", Dimensions(), speed=10), lambda *_: None, lambda *_: None, waits.append).run(io.BytesIO(lines))
    assert waits == [0.0, 1.0, 2.5]


@pytest.mark.parametrize(
    ("speed", "newest_at"),
    [(None, 0), (1.0, 3600), (60.0, 60), (0.5, 3600)],
    ids=["at once", "real time", "fast", "slow"],
)
def test_the_newest_request_lands_just_before_the_moment_it_is_sent(speed: float | None, newest_at: int) -> None:
    log, now = Extent(1_000 * MINUTE, 1_060 * MINUTE), 9_000 * MINUTE + 12_345
    shift = shift_to_end_now(log, now, Plan("acme", Dimensions(), speed=speed))
    assert shift % MINUTE == 0
    assert 0 <= now + newest_at * 1_000_000 - (log.last + shift) < MINUTE


def test_nonsense_plans_are_refused() -> None:
    with pytest.raises(InputError, match="1 time or more"):
        Plan("acme", Dimensions(), repeat=0)
    with pytest.raises(InputError, match="divide a day"):
        Plan("acme", Dimensions(), window_us=7_000_000)


def invoke(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(usage_cli.command, ["replay", *map(str, arguments)], input=stdin)


def settings(bootstrap: str, state: Path) -> list[str]:
    return ["--set", f"kafka.bootstrap={bootstrap}", "--set", f"agent.state_dir={state}", "--set", "site.name=here"]


def test_a_dry_run_says_what_it_would_send() -> None:
    result = invoke(TRACE, "--tenant", "acme", "--dry-run", "--keep-times", "--json", "--window", "5m")
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    sums = sums_of_the_file()
    assert said["requests"] == sum(n for n, _, _ in sums.values())
    assert said["input_tokens"] == sum(n for _, n, _ in sums.values())
    assert said["output_tokens"] == sum(n for _, _, n in sums.values())
    assert (said["first_window"], said["last_window"]) == ("2023-11-16T18:15:00Z", "2023-11-16T19:10:00Z")
    assert said["events"] == 12


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tenant", "Acme"], "a tenant is named with"),
        (["--tenant", "acme", "--window", "7s"], "divide a day"),
        (["--tenant", "acme", "--window", "soon"], "expected a duration"),
        (["--tenant", "acme", "--speed", "2", "--at-once"], "contradict"),
        (["--tenant", "acme", "--shift-to", "2026-01-01T00:00:00", "--dry-run"], "has no zone"),
        (["--tenant", "acme", "--shift-to", "2026-01-01T00:00:00Z", "--keep-times"], "contradict"),
        (["--tenant", "acme", "--model", "a\tb"], "--model must be printable"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], says: str) -> None:
    result = invoke(TRACE, *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for file in (tmp_path / "missing.csv", tmp_path):
        result = invoke(file, "--tenant", "acme", "--dry-run")
        assert result.exit_code == 2
        assert "cannot read" in result.stderr


def test_malformed_lines_are_named_counted_and_make_the_exit_code(tmp_path: Path) -> None:
    log, rejects = tmp_path / "log.csv", tmp_path / "rejects"
    bad = "".join("nonsense\n" for _ in range(30))
    log.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n2026-01-01 00:00:00,1,2\n{bad}")
    result = invoke(log, "--tenant", "acme", "--dry-run", "--rejects", rejects, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["malformed"] == 30
    assert "line 3: expected 3 columns" in result.stderr
    assert "10 more like these" in result.stderr
    assert [line.split("\t")[0] for line in rejects.read_text().splitlines()] == [str(n) for n in range(3, 33)]
    strict = invoke(log, "--tenant", "acme", "--dry-run", "--strict")
    assert strict.exit_code == 2
    assert "line 3: expected 3 columns" in strict.stderr


def test_a_pipe_needs_to_be_told_where_its_times_go() -> None:
    line = b'{"timestamp": "2026-01-01T00:00:30Z", "input_tokens": 7, "output_tokens": 5}\n'
    result = invoke("-", "--tenant", "acme", "--dry-run", stdin=line)
    assert result.exit_code == 2
    assert "--shift-to" in result.stderr
    moved = invoke("-", "--tenant", "acme", "--dry-run", "--shift-to", "2026-02-01T00:00:00Z", "--json", stdin=line)
    assert moved.exit_code == 0
    assert json.loads(moved.stdout)["first_window"] == "2026-02-01T00:00:00Z", "the window of the time asked for"
    within = invoke("-", "--tenant", "acme", "--dry-run", "--shift-to", "2026-02-01T00:00:59Z", "--json", stdin=line)
    assert json.loads(within.stdout)["first_window"] == "2026-02-01T00:00:00Z"


def test_a_broker_that_is_away_is_said_before_anything_else(tmp_path: Path) -> None:
    result = invoke(TRACE, "--tenant", "acme", *settings("127.0.0.1:1", tmp_path), "--set", "kafka.timeout_s=1")
    assert result.exit_code == 3
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.output


def check_replay_reaches_the_log(bootstrap: str, state: Path, *options: str) -> None:
    sent = invoke(TRACE, "--tenant", "acme", "--product", "api", *options, "--json", *settings(bootstrap, state))
    assert sent.exit_code == 0, sent.output
    said = json.loads(sent.stdout)
    events = list(read_topic({"bootstrap.servers": bootstrap}, "tenant-usage"))
    assert [event.identity.seq for event in events] == list(range(said["events"]))
    for event in events:
        assert event.identity.ts == event.fields["ts"]
        assert (event.fields["site"], event.fields["tenant"], event.fields["product"]) == ("here", "acme", "api")
    shift = round(said["shift_s"] * 1e6)
    assert sums_of_events([(event.identity.ts, event.fields) for event in events], shift) == sums_of_the_file()


def test_the_trace_reaches_the_embedded_broker(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    create_topic(embedded_broker.bootstrap, "tenant-usage")
    check_replay_reaches_the_log(embedded_broker.bootstrap, tmp_path / "state")


@pytest.mark.kafka
def test_the_trace_reaches_apache_kafka(fresh_apache_kafka: ApacheKafka, tmp_path: Path) -> None:
    create_topic(fresh_apache_kafka.bootstrap, "tenant-usage", {"message.timestamp.type": "LogAppendTime"})
    check_replay_reaches_the_log(fresh_apache_kafka.bootstrap, tmp_path / "state", "--keep-times")
