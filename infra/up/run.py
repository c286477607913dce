"""One run of ``gpufleet up``: back-fill, live, drain, accounts."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from consumers.audit import audit
from consumers.audit.runs import record
from consumers.projector.projector import Projector
from infra.cli.project import projector_settings
from infra.config import Settings
from infra.errors import GpufleetError
from infra.kafka.client import librdkafka
from infra.signing import signer
from infra.up import accounts, mend, snapshot, verdict
from infra.up.accounts import Accounts
from infra.up.preview import Preview
from infra.up.stack import PROJECTOR, Broker, Stack
from infra.up.view import View, print_preview, print_questions
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.simulator.scenario import Scenario
from producers.simulator.simulation import TOPICS, Simulation, producers

LARGE_FLEET_GPUS = 10_000
"""From here on an event holds five ticks: rows and inserts cost more than two seconds of freshness are worth."""
BACKFILL_EVENTS = 2_000_000
"""A back-fill of a large fleet is shortened to about this many fast-lane events."""
DRAIN_STALL_S = 90.0
CATCH_UP_S = 300.0
SHOWN_FINDINGS = 20


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    scenario: Scenario
    data: Path
    broker: Broker
    speed: float
    for_s: float | None
    """Live seconds; None = until stopped."""
    backfill_hours: float
    """0 = start live at once."""
    preview: bool = True
    """Serve the dashboards as a page, too."""


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    accounts: Accounts
    freshness_p50_s: float | None
    freshness_p99_s: float | None
    wall_s: float
    audit: dict[str, Any]
    """The audit's report; empty when it found nothing at all."""
    wrong: list[str] = field(default_factory=list)
    """Its findings that count against this run."""
    earlier: list[str] = field(default_factory=list)
    """Losses of runs before this one, which died with their broker's memory or undelivered: told, not counted."""

    @property
    def exact(self) -> bool:
        return not (self.accounts.lost or self.accounts.duplicated or self.wrong)

    def summary(self) -> str:
        """The end of a run in a few lines, for a person."""
        sums = self.accounts
        lines = [
            f"sent     {sum(sums.produced.values()):>12,} events",
            f"stored   {sum(sums.stored.values()):>12,} events, {sums.gpu_samples:,} GPU samples",
            f"lost     {sums.lost:>12,}",
            f"doubled  {sums.duplicated:>12,}",
            f"refused  {sums.dead_letters:>12,} (dead letters)",
        ]
        if self.freshness_p99_s is not None:
            lines.append(f"fresh    {self.freshness_p50_s:>10.2f} s median, {self.freshness_p99_s:.2f} s p99")
        for title, findings in (("audit", self.wrong), ("of an earlier run", self.earlier)):
            lines += [f"{title}: {finding}" for finding in findings[:SHOWN_FINDINGS]]
            if len(findings) > SHOWN_FINDINGS:
                lines.append(f"{title}: ... and {len(findings) - SHOWN_FINDINGS} more; `gpufleet audit` lists them")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        return {
            "produced": self.accounts.produced,
            "stored": self.accounts.stored,
            "gpu_samples": self.accounts.gpu_samples,
            "lost": self.accounts.lost,
            "duplicated": self.accounts.duplicated,
            "dead_letters": self.accounts.dead_letters,
            "freshness_p50_s": self.freshness_p50_s,
            "freshness_p99_s": self.freshness_p99_s,
            "wall_s": round(self.wall_s, 1),
            **({"audit": self.audit} if self.audit else {}),
        }


def run(options: Options, settings: Settings, view: View, stop: threading.Event) -> Outcome:
    """Start everything, run until the time is up or ``stop`` is set, drain, and settle the accounts."""
    started = time.monotonic()
    scenario = options.scenario
    ticks = 5 if scenario.gpus > LARGE_FLEET_GPUS else 1
    tenants = [tenant.name for tenant in scenario.tenants]
    named = settings.with_flags({"site.name": scenario.site})
    with Stack(options.data, named, options.broker, _overrides(ticks), tenants, view.say) as stack:
        first = not any(stack.journals.glob("*.json"))
        client = stack.client()
        if verdict.died_in_memory(stack.data):
            view.say("the run before was killed: its last windows are computed again")
            mend.name_again(client)
        journal = Journal.start(stack.journals, scenario.site, producers(scenario), TOPICS)
        verdict.begun(stack.data, journal.run_id, options.broker)
        if not first and options.broker == "embedded":
            stack.put_back(client)
        stack.start_consumer()
        stack.start_projector()
        sign = signer(stack.settings, site=scenario.site, whole_site=True)
        with KafkaOutbox(librdkafka(stack.settings.kafka, "producer"), journal, sign=sign) as outbox:
            simulation = Simulation(
                scenario,
                journal,
                outbox,
                ticks=ticks,
                state=stack.journals / "simulator",
                journals=stack.journals,
                truth_file=stack.data / "truth.jsonl",
            )
            if first and options.backfill_hours > 0:
                _backfill(simulation, options, ticks, view, stop)
            if not stop.is_set():
                stack.wait_for_consumer()
            live_since = time.time_ns() // 1000
            if not stop.is_set():
                assert stack.store is not None
                print_questions(str(options.data), stack.store.url)
                runner = _Runner(simulation, options.speed, stop)
                with Preview(stack.data) as preview:
                    if options.preview:
                        print_preview(preview.start())
                    _watch(runner, stack, client, journal.run_id, live_since, options.for_s, view, stop)
                view.settle()
                runner.join()
            simulation.close()
            view.say("stopping: everything that was sent is being stored (Ctrl-C again to stop at once)")
            left = outbox.flush(60)
        if left:
            view.say(f"{left} events were not taken by the broker: {outbox.counters.last_error}")
        _drain(stack, client, journal, view)
        journal.close()
        settled = accounts.close(client, stack.journals, journal.run_id)
        median, high = snapshot.freshness_since(client, live_since)
        outcome = Outcome(settled, median, high, 0.0, {})
        _audit(stack, client, journal.run_id, view, outcome)
        verdict.ended(stack.data, journal.run_id)
        client.close()
    outcome.wall_s = time.monotonic() - started
    return outcome


def _overrides(ticks: int) -> dict[str, Any]:
    """Settings for one machine: few partitions, and with K = 1 small batches, since they are what freshness costs."""
    small = {"consume.flush_age_s": 0.4, "consume.inserts_per_second": 4.0} if ticks == 1 else {}
    return {"kafka.partitions": 4, "kafka.history_partitions": 1, "consume.metrics_port": 0, **small}


def _backfill(simulation: Simulation, options: Options, ticks: int, view: View, stop: threading.Event) -> None:
    """The last hours at one sample a minute, with a story in them."""
    hours = min(options.backfill_hours, BACKFILL_EVENTS / (options.scenario.nodes * 60))
    if hours < options.backfill_hours:
        view.say(f"back-fill shortened to {hours:.1f} h: {options.scenario.nodes:,} nodes")
    batch_us = max(60, ticks) * 1_000_000
    end_us = time.time_ns() // 1000 // batch_us * batch_us

    def progress(done: int, total: int) -> None:
        view.backfill(done, total)
        if stop.is_set():
            raise _StoppedError

    with contextlib.suppress(_StoppedError):
        simulation.backfill(end_us - int(hours * 3.6e9), end_us, tick_s=60, progress=progress)


class _StoppedError(Exception):
    """The back-fill was told to stop; what it sent so far is accounted for like any other run."""


class _Runner:
    """The live simulation in a thread; its failure comes out of ``check``."""

    def __init__(self, simulation: Simulation, speed: float, stop: threading.Event) -> None:
        self._stop = stop
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(simulation, speed), name="simulator", daemon=True)
        self._thread.start()

    def _run(self, simulation: Simulation, speed: float) -> None:
        try:
            simulation.live(self._stop, speed)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._error = error
            self._stop.set()

    def join(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error


def _watch(
    runner: _Runner,
    stack: Stack,
    client: Client,
    run_id: int,
    live_since: int,
    for_s: float | None,
    view: View,
    stop: threading.Event,
) -> None:
    """Redraw until the time is up, somebody stops it, or a part dies."""
    deadline = None if for_s is None else time.monotonic() + for_s
    while not stop.wait(1.0 if deadline is None else max(0.0, min(1.0, deadline - time.monotonic()))):
        stack.check()
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            stop.set()
            return
        shot = snapshot.take(client, live_since)
        view.show(shot, "live", left, *accounts.recent(client, run_id))


def _drain(stack: Stack, client: Client, journal: Journal, view: View) -> None:
    """Wait until the ledger has reached every log end; GpufleetError when nothing moves any more."""
    backlog = stack.backlog(client, journal)
    last, moved = backlog.count(), time.monotonic()
    while last:
        stack.check()
        time.sleep(0.2)
        count = backlog.count()
        if count != last:
            last, moved = count, time.monotonic()
        if time.monotonic() - moved > DRAIN_STALL_S:
            raise GpufleetError(
                f"{count} messages are still not stored and nothing moved for {DRAIN_STALL_S:.0f} s; "
                f"the consumer's log: {stack.data}/log/consumer.log\n{stack.children['consumer'].tail()}"
            )
    view.say("all stored; audit")
    stack.stop_child("consumer")


def _audit(stack: Stack, client: Client, run_id: int, view: View, outcome: Outcome) -> None:
    """Bring the windows up to date, then the audit of everything this folder's producers ever gave out."""
    stack.stop_child("projector")
    # The consumer has stopped: nothing more comes that would be worth waiting for, and no insert that still resolved
    # an old tenant can land any more.
    given = projector_settings(stack.settings, owner=PROJECTOR)
    at_once = replace(given, late_inserts_s=0.0, pace=replace(given.pace, quiet_s=0.0, patience_s=0.0))
    projector = Projector(stack.client, at_once)
    try:
        if not projector.catch_up(timeout_s=CATCH_UP_S):
            view.say("the windows are not all up to date yet; the next start goes on with them")
    finally:
        projector.close()
    entries = list(verdict.everything(stack.journals))
    report = audit(client, expected=verdict.expected(entries), compare_windows="sample")
    record(client, report)
    wrong, earlier = verdict.split(report.findings, run_id, entries, verdict.memory_ends(stack.data))
    outcome.wrong, outcome.earlier = [str(finding) for finding in wrong], [str(finding) for finding in earlier]
    outcome.accounts.duplicated = max(outcome.accounts.duplicated, report.duplicated)
    if wrong or earlier:
        outcome.audit = {
            **report.to_dict(),
            "ok": not wrong,
            "findings": [finding.to_dict() for finding in wrong],
            "earlier_losses": [finding.to_dict() for finding in earlier],
        }
