"""``gpufleet doctor``: check every dependency with the settings in effect, and say what to do."""

from __future__ import annotations

from functools import partial
from itertools import chain

import click

from infra.cli.common import json_option, print_json, settings_options
from infra.config import Settings

AREAS = ("machine", "kafka", "store", "registry", "agent")
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}


@click.command(
    epilog="""\b
Examples:
  gpufleet doctor
  gpufleet doctor --json"""
)
@click.option("--only", "areas", multiple=True, type=click.Choice(AREAS), help="Only this area; may be repeated.")
@json_option
@settings_options
@click.pass_context
def command(ctx: click.Context, settings: Settings, areas: tuple[str, ...], as_json: bool) -> None:
    """Check every dependency: reached with the configured credentials, versions, clocks, topics, disk, migrations.

    Writes one small message to the topic gpufleet-doctor. Exit code 1 if anything fails.
    """
    from infra.doctor import kafka, machine, registry, report, signing, store

    checks: dict[str, report.Check] = {
        "machine": lambda: chain(machine.check(settings), signing.check(settings)),
        "kafka": partial(kafka.check, settings),
        "store": partial(store.check, settings),
        "registry": partial(registry.check, settings),
        "agent": partial(machine.check_agent, settings),
    }
    findings = []
    for finding in report.run((area, checks[area]) for area in AREAS if not areas or area in areas):
        findings.append(finding)
        if not as_json:
            status = click.style(f"{finding.status.value:<5}", fg=_COLOURS[finding.status.value])
            click.echo(f"{status} {finding.area:<9} {finding.check}: {finding.seen}")
            if finding.advice:
                click.echo(f"{'':<15} -> {finding.advice}")
    verdict = report.worst(findings)
    if as_json:
        print_json({"verdict": verdict.value, "findings": [finding.as_dict() for finding in findings]})
    if verdict is report.Status.FAIL:
        ctx.exit(1)
