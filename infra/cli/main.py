"""The one command, ``gpufleet``: finds its subcommands by name and imports only the one that runs."""

from __future__ import annotations

import difflib
import functools
import logging
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NoReturn

import click

from infra.cli.common import run_to_exit_code
from infra.processes import follow_parent

COMMANDS: Mapping[str, str] = {
    "up": "Broker, store, simulator, consumer and projector in one command, on this machine.",
    "agent": "Stream this node's GPU, host and network metrics to Kafka.",
    "simulate": "Stream a simulated fleet to Kafka.",
    "spool": "Show what waits on this machine for the broker.",
    "inject": "Add a fault to a running simulation.",
    "consume": "Move events from Kafka into ClickHouse, each exactly once.",
    "project": "Keep the rollups equal to what the events say.",
    "usage": "Turn a customer's request logs into usage events.",
    "lease": "Apply, correct and list leases.",
    "limit": "Apply and list a tenant's caps and limits.",
    "maintenance": "Take nodes out of service and bring them back.",
    "tenant": "Add, list and remove tenants as users of the store, and rotate their passwords.",
    "grafana": "Provision a Grafana: organisations, data sources, dashboards, alert rules.",
    "migrate": "Bring the store's tables and views up to date.",
    "topics": "Plan and create Kafka's topics.",
    "keys": "Make, hand out, rotate and revoke the keys that sign events.",
    "schema": "List, check, register and document the event schemas.",
    "sql": "Ask the store a question.",
    "preview": "Show the dashboards without Grafana: a page on this machine, or a picture.",
    "alerts": "List and explain the alert rules, and see which would fire.",
    "dlq": "Read, replay and put aside what could not be stored; explain flawed events.",
    "audit": "Prove that nothing was lost or doubled, or say exactly what was.",
    "rebuild": "Make a table again from the log or the events, compare, and exchange what differs.",
    "doctor": "Check every dependency and say what to do.",
    "bench": "Measure ingest on this machine.",
    "config": "Show the settings in effect, or write a settings file to start from.",
}


class LazyGroup(click.Group):
    """Subcommand ``name`` is ``command`` in ``infra.cli.<name>``, imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"infra.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "`gpufleet --help` lists them"
            ctx.fail(f"no such command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """As click's, but quiet and exact about how it ends; see ``run_to_exit_code``."""
        kwargs.setdefault("prog_name", "gpufleet")  # also when run as `python -m infra.cli.main`
        run = functools.partial(super().main, *args, standalone_mode=False, **kwargs)
        if not standalone_mode:
            return run()
        sys.exit(run_to_exit_code(run))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gpufleet", message="%(prog)s %(version)s")
def cli() -> None:
    """GPU fleet telemetry and tenant usage, from the node to ClickHouse, each event stored exactly once."""
    # Its warnings would reach stderr through logging's last resort, beside our own message for the same failure.
    logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())


def main() -> NoReturn:
    """Entry point of the console script."""
    follow_parent()
    cli()
    raise AssertionError("unreachable: the group exits by itself")


if __name__ == "__main__":
    main()
