"""``gpufleet alerts``: the alert rules, what each means, and which would fire now or at any time, without Grafana."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from infra.cli.common import UsageError, json_option, print_json, settings_options

if TYPE_CHECKING:
    from infra.config import Settings
    from infra.grafana.alerts.rule import Rule


@click.group(
    epilog="""\b
Examples:
  gpufleet alerts list --severity page
  gpufleet alerts explain feed_trip
  gpufleet alerts eval
  gpufleet alerts eval straggler hung_job --at 2026-11-21T03:10:00Z --json
  gpufleet alerts rehearse --hours 2 --nodes 24"""
)
def command() -> None:
    """List and explain the alert rules, and see which would fire."""


@command.command("list", epilog="\b\nExamples:\n  gpufleet alerts list\n  gpufleet alerts list --severity page --json")
@click.option("--severity", type=click.Choice(["page", "ticket", "info", "heartbeat"]), help="Only these.")
@click.option("--pack", help="Only this pack, e.g. gpu, coolant, pipeline.")
@json_option
def list_(severity: str | None, pack: str | None, as_json: bool) -> None:
    """Every rule: severity, owner, pack, how long it waits."""
    from infra.grafana.alerts.rules import RULES

    packs = sorted({rule.pack for rule in RULES})
    if pack is not None and pack not in packs:
        raise UsageError(f"no pack {pack!r}, expected one of: {', '.join(packs)}")
    chosen = [r for r in RULES if (severity is None or r.severity == severity) and (pack is None or r.pack == pack)]
    if as_json:
        print_json([_facts(rule) for rule in chosen])
        return
    for rule in chosen:
        click.echo(f"{rule.severity:9} {rule.owner:10} {rule.pack:9} {rule.name:24} {rule.title}")


@command.command(epilog="\b\nExamples:\n  gpufleet alerts explain hung_job\n  gpufleet alerts explain hung_job --json")
@click.argument("name")
@json_option
def explain(name: str, as_json: bool) -> None:
    """What the rule NAME asks the store, when it fires, and where its runbook is."""
    rule = _chosen((name,))[0]
    if as_json:
        print_json({**_facts(rule), "sql": rule.sql})
        return
    click.echo(f"{rule.title} ({rule.name}): {rule.severity}, owner {rule.owner}, audience {rule.audience}")
    click.echo(f"Fires when the value is above {rule.above:g} for {rule.for_s} s; keeps firing for {rule.keep_s} s.")
    click.echo(f"Evaluated every {rule.interval_s} s; no data: {rule.no_data}; error: {rule.on_error}.")
    click.echo(f"Labels: {', '.join(rule.labels)}\nSays: {rule.summary}\nPanel: {rule.link}\nRunbook: {rule.runbook}\n")
    click.echo(rule.sql)


@command.command(
    "eval",
    epilog="""\b
Examples:
  gpufleet alerts eval
  gpufleet alerts eval feed_trip --at 2026-11-21T03:10:00Z
Exit code 1 when something fires (the heartbeat aside), 0 when nothing does.""",
)
@click.argument("names", nargs=-1)
@click.option("--at", "at_text", metavar="TIME", help="ISO 8601, UTC unless it says otherwise. [default: now]")
@click.option("--as", "tenant", metavar="TENANT", help="Ask as that tenant: the rules of a customer's organisation.")
@json_option
@settings_options
@click.pass_context
def eval_(
    ctx: click.Context,
    settings: Settings,
    names: tuple[str, ...],
    at_text: str | None,
    tenant: str | None,
    as_json: bool,
) -> None:
    """Evaluate the rules NAMES (default: all) at one time, pending periods included."""
    from infra.cli.sql import explain as explain_error
    from infra.connections import connect_store
    from infra.grafana.alerts.evaluate import Evaluator, StoreError, asking
    from infra.grafana.alerts.rule import Severity
    from infra.grafana.alerts.state import Outcome, State

    at = _time(at_text)
    ask = asking(connect_store(settings, tenant=tenant or ""))
    found: list[dict[str, Any]] = []
    for rule in _chosen(names, "customer" if tenant else "operator"):
        evaluator = Evaluator(rule, ask)
        # At its pending period's start and at its end: what is true at both counts as true between them.
        for moment in sorted({at - rule.for_s, at}):
            results = evaluator.ask(moment)
            broken = next((result.error for result in results if result.outcome is Outcome.ERROR), None)
            if broken is not None:
                raise explain_error(StoreError(broken))
            evaluator.state.evaluate(results, moment)
        for alert in evaluator.state.alerts.values():
            if alert.state in (State.ALERTING, State.PENDING):
                found.append(
                    {
                        "rule": rule.name,
                        "severity": rule.severity.value,
                        "state": alert.state.value,
                        "labels": dict(alert.labels),
                        "value": alert.value,
                        "summary": evaluator.summary(alert),
                        "runbook": rule.runbook,
                    }
                )
    if as_json:
        print_json({"at": datetime.fromtimestamp(at, UTC).isoformat(), "alerts": found})
    else:
        for each in found:
            click.echo(f"{each['state']:9} {each['severity']:9} {each['rule']:24} {each['summary']}")
        if not found:
            click.echo("nothing fires")
    quiet = Severity.HEARTBEAT.value
    if any(each["state"] != State.PENDING.value and each["severity"] != quiet for each in found):
        ctx.exit(1)


@command.command(
    epilog="""\b
Examples:
  gpufleet alerts rehearse --hours 2 --nodes 24
  gpufleet alerts rehearse --hours 24 --nodes 64 --json > day.json
  gpufleet alerts rehearse --hours 24 --nodes 64 --one-job
Exit code 1 when a cause was not told, was told twice, or something was told without a cause.""",
)
@click.option("--hours", default=24.0, show_default=True, help="Length of the simulated day.")
@click.option("--nodes", default=64, show_default=True, help="Nodes of the scaled Colossus 1.")
@click.option(
    "--rate-scale",
    type=float,
    help="Random faults, over the published rates; 0 = none.  [default: 30; 1 with --one-job]",
)
@click.option("--seed", default=1, show_default=True, help="Another day.")
@click.option("--every-minute", is_flag=True, help="Evaluate every rule every minute, as Grafana does.")
@click.option(
    "--one-job",
    is_flag=True,
    help="One job on all nodes, every two hours one GPU 15 % slow; only the rules about jobs, every minute.",
)
@json_option
def rehearse(
    hours: float, nodes: int, rate_scale: float | None, seed: int, every_minute: bool, one_job: bool, as_json: bool
) -> None:
    """Run the operator's rules through a simulated day and judge what was told.

    The day's events go through a broker, the consumer and the projector into a store of their own.
    """
    import tempfile
    from datetime import UTC, datetime
    from pathlib import Path

    from infra.errors import GpufleetError
    from infra.grafana.alerts.evaluate import asking
    from infra.grafana.alerts.rehearsal import pipeline
    from infra.grafana.alerts.rehearsal.day import Plan, project
    from infra.grafana.alerts.rehearsal.rehearse import OF_A_JOB, table, watched
    from infra.grafana.alerts.rehearsal.rehearse import rehearse as run

    if hours < 1 or nodes < 8:
        raise UsageError("expected at least one hour (--hours) and eight nodes (--nodes)")
    plan = Plan(hours, nodes, rate_scale if rate_scale is not None else 1.0 if one_job else 30.0, seed, one_job)
    rules = [rule for rule in watched() if not one_job or rule.name in OF_A_JOB]
    with tempfile.TemporaryDirectory() as folder, pipeline.stack(Path(folder), plan) as stack:
        day = pipeline.tell(stack, plan, datetime.now(UTC))
        click.echo(f"{day.events} events stored, projecting", err=True)
        if not project(stack.client, 3600):
            raise GpufleetError("the projector did not come to rest within an hour")
        click.echo("evaluating", err=True)
        clients = [stack.client(), stack.client()]
        verdict = run(day, [asking(client) for client in clients], rules, every_minute=every_minute or one_job)
        for client in clients:
            client.close()
    if as_json:
        told = [
            {"rule": n.rule.name, "severity": n.rule.severity.value, "at": n.at, "labels": dict(n.alert.labels),
             "text": n.text, "false": n in verdict.false}
            for n in verdict.told
        ]  # fmt: skip
        print_json({"told": told, "unheard": len(verdict.unheard), "repeated": len(verdict.repeated),
                    "told_after_s": verdict.waits, "pages_at_full_size": verdict.pages_at_full_size})  # fmt: skip
    else:
        click.echo(table(verdict))
    if verdict.unheard or verdict.repeated or verdict.false:
        raise click.exceptions.Exit(1)


def _facts(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "title": rule.title,
        "pack": rule.pack,
        "severity": rule.severity.value,
        "owner": rule.owner.value,
        "audience": rule.audience.value,
        "labels": list(rule.labels),
        "above": rule.above,
        "for_s": rule.for_s,
        "keep_firing_for_s": rule.keep_s,
        "interval_s": rule.interval_s,
        "no_data": rule.no_data.value,
        "on_error": rule.on_error.value,
        "summary": rule.summary,
        "panel": rule.link,
        "runbook": rule.runbook,
    }


def _chosen(names: tuple[str, ...], audience: str | None = None) -> list[Rule]:
    """The rules of these names, or all of the audience. UsageError names the nearest."""
    import difflib

    from infra.grafana.alerts.rules import BY_NAME, RULES

    for name in names:
        if name not in BY_NAME:
            nearest = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else "; `gpufleet alerts list` names them"
            raise UsageError(f"no rule {name!r}{hint}")
    if names:
        return [BY_NAME[name] for name in names]
    return [rule for rule in RULES if audience is None or rule.audience == audience]


def _time(text: str | None) -> float:
    if text is None:
        return time.time()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at expects a time such as 2026-11-21T03:10:00Z, found {text!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
