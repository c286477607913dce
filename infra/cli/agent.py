"""``gpufleet agent``: this node's metrics and events, to Kafka."""

from __future__ import annotations

import math
import signal
import socket
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.cli.common import UsageError, print_json, settings_options
from infra.cli.producing import explained

if TYPE_CHECKING:
    from infra.config import Settings
    from infra.config.agent import AgentSpool
    from producers.agent.process import Outcome
    from producers.agent.settings import AgentSettings
    from producers.spool.settings import SpoolSettings


@click.command(
    "agent",
    epilog="""\b
Examples:
  gpufleet agent --dry-run
  gpufleet agent --rack r0001 --sources nvml,kmsg,host,nic --spool /var/lib/gpufleet/spool
  gpufleet agent --dcgm-url http://127.0.0.1:9400/metrics --for 60s""",
)
@click.option("--node", help="Name of this node. [default: its host name]")
@click.option("--rack", help="Rack it stands in.")
@click.option("--sources", help="Comma-separated: nvml, kmsg, dcgm, host, nic. [default: as the settings enable them]")
@click.option("--dcgm-url", help="The page of a dcgm-exporter; adds dcgm to the sources.")
@click.option(
    "--spool",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder where events wait on disk. [default: setting agent.spool.dir, or beside the journal]",
)
@click.option("--for", "duration", metavar="TIME", help="Stop after this time, e.g. 60s. [default: run until stopped]")
@click.option("--dry-run", is_flag=True, help="Send nothing: print what one tick would send, as JSON.")
@settings_options
def command(
    settings: Settings,
    node: str | None,
    rack: str | None,
    sources: str | None,
    dcgm_url: str | None,
    spool: Path | None,
    duration: str | None,
    dry_run: bool,
) -> int:
    """Stream this node's GPU, host and network metrics to Kafka, once a second."""
    from producers.agent.process import AgentProcess, look
    from producers.checks import duration_us

    with explained("--for"):
        length_us = duration_us(duration) if duration else None
    if length_us == 0:
        raise UsageError(f"--for expects more than no time, found {duration}")
    settings = settings.with_flags(
        {
            "agent.node_id": node,
            "agent.rack": rack,
            "agent.dcgm_exporter.url": dcgm_url,
            "agent.spool.dir": str(spool) if spool else None,
            "agent.spool.enabled": True if spool else None,
        }
    )
    told = agent_settings(settings, _sources(settings, sources, bool(dcgm_url)))
    if dry_run:
        print_json(readable(look(told, version("gpufleet"))))
        return 0
    process = AgentProcess(told, version("gpufleet"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: process.stop(f"signal {signal.Signals(got).name}"))
    return _report(_run(process, settings, length_us))


def _run(process: Any, settings: Settings, length_us: int | None) -> Outcome:
    from infra.kafka.client import librdkafka
    from infra.signing import signer

    kafka = {**librdkafka(settings.kafka, "producer"), "message.max.bytes": settings.kafka.message_max_bytes}
    node = settings.agent.node_id or socket.gethostname()
    sign = signer(settings, expect=[("node-telemetry", node, node)])
    with explained():
        outcome: Outcome = process.run(
            kafka,
            settings.agent.buffer_mb << 20,
            _registered_ids(settings),
            length_us / 1e6 if length_us else None,
            sign=sign,
        )
    return outcome


def _registered_ids(settings: Settings) -> dict[str, int]:
    """Topic -> schema id of the registry, where one is configured; else the catalogue's ids stand."""
    if not settings.registry.url:
        return {}
    from infra.cli.schema import registry

    return dict(registry(settings.registry).ids())


def _report(outcome: Outcome) -> int:
    click.echo(
        f"stopped ({outcome.reason}): {outcome.sent} events handed on, {outcome.dropped} given up, "
        f"{outcome.unacknowledged} not acknowledged by the broker"
        + (f", of which {outcome.spooled} wait in the spool for the next start" if outcome.spooled else ""),
        err=True,
    )
    return 1 if outcome.dropped or outcome.unacknowledged > outcome.spooled else 0


def _sources(settings: Settings, named: str | None, dcgm: bool) -> tuple[str, ...]:
    if named is not None:
        found = [name.strip() for name in named.split(",") if name.strip()]
    else:
        agent = settings.agent
        enabled = {
            "nvml": agent.nvml.enabled,
            "kmsg": agent.kmsg.enabled,
            "dcgm": agent.dcgm_exporter.enabled,
            "host": agent.host.enabled,
            "nic": agent.nic.enabled,
        }
        found = [name for name, on in enabled.items() if on]
    return tuple(dict.fromkeys([*found, *(["dcgm"] if dcgm else [])]))


def agent_settings(settings: Settings, sources: tuple[str, ...]) -> AgentSettings:
    """The agent's own settings, from gpufleet's. UsageError for one that makes no sense."""
    from producers.agent.settings import AgentSettings, AgentSettingsError, Place

    agent = settings.agent
    folder = Path(agent.state_dir) / "agent"
    try:
        return AgentSettings(
            node_id=agent.node_id or socket.gethostname(),
            site=settings.site.name,
            state_dir=folder,
            place=Place(agent.rack, agent.slot, agent.feed, agent.pdu, agent.coolant_loop, agent.lifecycle),
            interval_ms=agent.tick_ms,
            ticks=agent.ticks_per_event,
            sources=sources,
            dcgm_url=agent.dcgm_exporter.url,
            dcgm_interval_s=agent.dcgm_exporter.interval_s,
            dcgm_timeout_s=agent.dcgm_exporter.timeout_s,
            nvml_library=agent.nvml.driver_library,
            kmsg=agent.kmsg.path,
            sysfs=agent.nic.sysfs,
            spool_dir=(agent.spool.dir or folder / "spool") if agent.spool.enabled else None,
            spool=spool_settings(agent.spool),
            metrics_host=agent.metrics_host,
            metrics_port=agent.metrics_port or None,
        )
    except AgentSettingsError as error:
        raise UsageError(str(error)) from None


def spool_settings(spool: AgentSpool) -> SpoolSettings:
    """The spool's own settings, from gpufleet's."""
    from producers.spool.settings import SpoolSettings

    return SpoolSettings(
        max_bytes=spool.max_mb << 20,
        max_age_s=spool.max_age_days * 86_400,
        fsync=spool.fsync,
        fsync_interval_s=spool.fsync_ms / 1e3,
        drain_bytes_per_s=spool.drain_kb_per_s * 1e3,
        drain_jitter_s=spool.drain_jitter_s,
    )


def readable(value: Any) -> Any:
    """An event as JSON can hold it: no reading (NaN) becomes null, a GPU's 16 bytes its UUID."""
    if isinstance(value, bytes):
        from producers.agent.gpus import uuid_text

        return uuid_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: readable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [readable(part) for part in value]
    return value
