"""The rules through a simulated day: every minute as something goes wrong, every five minutes elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from infra.grafana.alerts.evaluate import Ask, Evaluator
from infra.grafana.alerts.notify import Notification, Notifier
from infra.grafana.alerts.rehearsal.day import Day
from infra.grafana.alerts.rehearsal.expect import EXPECTED_ANYHOW, Cause, causes, explains
from infra.grafana.alerts.rule import Audience, Rule, Severity
from infra.grafana.alerts.rules import RULES

MINUTE_S = 60
FULL_FLEET_GPUS = 220_160
QUIET_MINUTES = 5
FIRST_MINUTES = 5
"""How long after a cause began every minute is looked at."""


@dataclass
class Verdict:
    """Who was told what, against what went wrong."""

    day: Day
    told: list[Notification]
    causes: list[Cause]
    of: dict[int, list[Notification]] = field(default_factory=dict)
    """Place in ``causes`` -> its notifications."""
    false: list[Notification] = field(default_factory=list)
    """Told without a cause."""

    @property
    def unheard(self) -> list[Cause]:
        """Causes that had to be told and were not."""
        return [cause for n, cause in enumerate(self.causes) if cause.must and not self._main(n)]

    @property
    def repeated(self) -> list[tuple[Cause, list[Notification]]]:
        """Causes that were told more than once."""
        return [(cause, self._main(n)) for n, cause in enumerate(self.causes) if len(self._main(n)) > 1]

    @property
    def pages_at_full_size(self) -> float:
        """Pages a day that the full fleet would get: planned causes as they are, random ones scaled to its size."""
        planned = {n for n, cause in enumerate(self.causes) if cause.planned}
        pages = [(n, note) for n, notes in self.of.items() for note in notes if note.rule.severity is Severity.PAGE]
        fixed = sum(n in planned for n, _ in pages)
        rate = self.day.plan.rate_scale
        scale = FULL_FLEET_GPUS / self.day.gpus / rate * 24 / self.day.plan.hours if rate else 0.0
        stray = sum(note.rule.severity is Severity.PAGE for note in self.false)
        return fixed + stray + (len(pages) - fixed) * scale

    @property
    def waits(self) -> dict[str, float]:
        """Planned causes by kind: the longest time from the beginning of one to its first word, seconds."""
        found: dict[str, float] = {}
        for number, cause in enumerate(self.causes):
            if cause.planned and self._main(number):
                waited = self._main(number)[0].at - cause.begin
                found[cause.what] = max(found.get(cause.what, 0.0), waited)
        return found

    def _main(self, number: int) -> list[Notification]:
        return [note for note in self.of.get(number, []) if note.rule.name in self.causes[number].must]


OF_A_JOB = ("straggler", "hung_job")
"""Rules about what a job's GPUs do together."""


def watched(audience: Audience = Audience.OPERATOR) -> list[Rule]:
    """Rules that a simulated day can move: not those that wait for half a day, nor those about the pipeline, which
    took all of the day's events within minutes."""
    return [rule for rule in RULES if rule.audience is audience and rule.for_s < 6 * 3600 and rule.pack != "pipeline"]


def moments(day: Day, found: Sequence[Cause], every_minute: bool = False) -> list[int]:
    """Times at which rules are evaluated, seconds since 1970."""
    start, end = day.start_us // 1_000_000 + 10 * MINUTE_S, day.end_us // 1_000_000
    step = MINUTE_S if every_minute else QUIET_MINUTES * MINUTE_S
    chosen = set(range(start, end, step))
    for cause in found:
        if cause.must:
            first = int(cause.begin) // MINUTE_S * MINUTE_S
            chosen.update(range(first, first + FIRST_MINUTES * MINUTE_S + 1, MINUTE_S))
    return sorted(at for at in chosen if start <= at < end)


def rehearse(
    day: Day,
    asks: Sequence[Ask],
    rules: Sequence[Rule] | None = None,
    *,
    every_minute: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict:
    """Evaluate the rules through the day and judge what they told. Each of ``asks`` (a connection of its own) gets a
    thread and its share of the rules."""
    chosen = list(rules or watched())
    found = _asked_of(causes(day), {rule.name for rule in chosen})
    times = moments(day, found, every_minute)

    def through(number: int) -> list[Notification]:
        notifier = Notifier()
        evaluators = [Evaluator(rule, asks[number]) for rule in chosen[number :: len(asks)]]
        for done, at in enumerate(times, 1):
            for evaluator in evaluators:
                if at % evaluator.rule.interval_s == 0:
                    notifier.take(evaluator, evaluator.step(at), at)
            if number == 0:
                progress(done, len(times))
        return notifier.sent

    with ThreadPoolExecutor(len(asks)) as pool:
        told = [note for notes in pool.map(through, range(len(asks))) for note in notes]
    return judge(day, found, sorted(told, key=lambda note: note.at))


def _asked_of(found: Iterable[Cause], names: set[str]) -> list[Cause]:
    """The causes, with what rules that do not take part would have had to tell left out."""
    return [replace(cause, must=tuple(name for name in cause.must if name in names)) for cause in found]


def judge(day: Day, found: list[Cause], told: list[Notification]) -> Verdict:
    """Every notification to the causes that explain it."""
    verdict = Verdict(day, told, found)
    for note in told:
        if note.rule.name in EXPECTED_ANYHOW:
            continue
        labels = dict(note.alert.labels)
        fits = [n for n, cause in enumerate(found) if explains(cause, note.rule.name, labels, note.at)]
        # The newest cause that explains it; a cause that has not been told yet first.
        fits.sort(key=lambda n: (bool(verdict.of.get(n)), -found[n].begin))
        if fits:
            verdict.of.setdefault(fits[0], []).append(note)
        else:
            verdict.false.append(note)
    return verdict


def table(verdict: Verdict) -> str:
    """The verdict for people."""
    counts = Counter((note.rule.severity.value, note.rule.name) for note in verdict.told)
    lines = [f"{verdict.day.gpus} GPUs, {verdict.day.plan.hours:g} h, {len(verdict.causes)} causes"]
    lines += [f"  told {count:4} x {severity:9} {name}" for (severity, name), count in sorted(counts.items())]
    lines += [f"  UNHEARD {cause.what} {dict(cause.where)}" for cause in verdict.unheard]
    lines += [f"  REPEATED {cause.what} {dict(cause.where)}: {len(notes)} times" for cause, notes in verdict.repeated]
    lines += [f"  FALSE {note.rule.name}: {note.text}" for note in verdict.false]
    lines += [f"  told after {waited:.0f} s at most: {what}" for what, waited in sorted(verdict.waits.items())]
    lines.append(f"  pages a day at {FULL_FLEET_GPUS} GPUs: {verdict.pages_at_full_size:.1f}")
    return "\n".join(lines)
