"""What an agent says of itself to Prometheus: /metrics on a loopback port. Names start with gpufleet_agent_.

Nothing is counted for it: the numbers are read where they stand whenever somebody asks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from producers.agent.process import Run
from producers.spool.outbox import SpoolOutbox

logger = logging.getLogger("gpufleet.agent")


class AgentCollector(Collector):
    """Every metric of an agent, by name, kind and meaning; none while no run is going on."""

    def __init__(self, run: Callable[[], Run | None]) -> None:
        self._run = run

    def describe(self) -> Iterator[Metric]:
        """Nothing to learn before the first run."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """The numbers now."""
        run = self._run()
        if run is None:
            return
        agent, counters = run.agent, run.outbox.counters
        yield _gauge("run_id", "Start of the run that is going on, microseconds since 1970.", agent.run_id)
        yield _gauge("journal_on_disk", "0 while the disk refuses the journal.", not agent.journal_unsaved)
        sources = GaugeMetricFamily(
            "gpufleet_agent_source_up", "1 while the source answers, 0 while it fails or hangs.", labels=["source"]
        )
        for name, up in agent.sources_up():
            sources.add_metric([name], float(up))
        yield sources
        yield _counter("events_handed_on", "Events that the outbox took over.", agent.outgoing.sent)
        yield _counter("events_given_up", "Events that found no room, or fit no schema.", agent.outgoing.dropped)
        yield _gauge("events_pending", "Events that wait for room in the outbox.", agent.outgoing.waiting)
        yield _counter("events_acknowledged", "Events that the broker acknowledged.", counters.acknowledged)
        yield _counter("events_sent_again", "Events that the client gave back and got again.", counters.retried)
        yield _counter("events_rejected", "Events that no broker will take.", counters.rejected)
        yield _gauge(
            "events_unacknowledged", "Events taken and not acknowledged, wherever they are.", run.outbox.waiting
        )
        if isinstance(run.outbox, SpoolOutbox):
            yield from _spool(run.outbox)


def _spool(outbox: SpoolOutbox) -> Iterator[Metric]:
    health = outbox.health()
    yield _gauge("spool_bytes", "The spool's size on disk.", health.bytes)
    yield _gauge("spool_events", "Events on disk that the broker did not acknowledge.", health.events)
    yield _gauge("spool_oldest_seconds", "Age of the oldest of them, by event time; 0 = none.", health.oldest_s)
    yield _gauge("spool_writable", "0 while the disk refuses and events wait in memory.", health.writable)
    yield _gauge("link_up", "0 while the broker acknowledges nothing.", health.link_up)
    yield _counter("spool_thinned_events", "Events that became part of others, the spool being full.", health.thinned)
    yield _counter("spool_given_up_events", "Events given up, the spool being full or they too old.", health.given_up)
    yield _counter("backlog_sent_bytes", "Values of backlogs sent.", health.backlog_bytes)
    yield _gauge("backlog_rate_bytes", "Bytes per second of a backlog that may be sent; 0 = none.", health.backlog_rate)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"gpufleet_agent_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"gpufleet_agent_{name}", text, value=float(value))


class MetricsPage:
    """Serves /metrics until closed. A port that is taken is logged: it keeps no agent from sampling."""

    def __init__(self, host: str, port: int, run: Callable[[], Run | None]) -> None:
        registry = CollectorRegistry()
        registry.register(AgentCollector(run))
        self.port = 0
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            logger.warning(
                "no metrics: cannot listen on %s:%d: %s; choose another agent.metrics_port, or 0 for none",
                *(host, port, error.strerror or error),
            )
            return
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        if self.port:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
