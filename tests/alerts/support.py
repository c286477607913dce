"""A small site with two racks whose minutes a test states, and a rule evaluated over them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from infra.clickhouse.client import ClickHouse
from infra.embedded.store.process import StoreProcess
from infra.grafana.alerts.evaluate import Evaluator, asking
from infra.grafana.alerts.notify import Notification, Notifier
from infra.grafana.alerts.rule import Rule
from infra.grafana.alerts.state import Alert
from tests.clickhouse.support import Database

MINUTE, HOUR, DAY = 60, 3600, 86400
_SITES = itertools.count()
_START = (int(time.time()) // DAY - 7) * DAY
"""A week ago: closed, and younger than raw events grow."""


def where(store: StoreProcess) -> ClickHouse:
    return ClickHouse(store.host, store.port, store.username, store.password)


@dataclass(frozen=True, slots=True)
class Place:
    """A rack of the site."""

    rack: str
    feed: str
    cdu: str
    nodes: int = 4
    gpus: int = 4

    @property
    def total(self) -> int:
        return self.nodes * self.gpus


PLACES = (Place("r1", "feed-1", "cdu-1"), Place("r2", "feed-2", "cdu-1"))


@dataclass
class Bench:
    """A site of its own at a time of its own. Minutes count from ``start``; it begins on a whole ten minutes."""

    client: Client
    places: Sequence[Place] = PLACES
    number: int = field(default_factory=lambda: next(_SITES))

    @property
    def site(self) -> str:
        return f"alerts-{self.number}"

    @property
    def start(self) -> int:
        """Seconds since 1970."""
        return _START + self.number % 120 * 70 * MINUTE

    def at(self, minute: float) -> datetime:
        return datetime.fromtimestamp(self.start + minute * MINUTE, UTC)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """``{site}`` in the query is this site."""
        text = sql.replace("{site}", f"'{self.site}'")
        return [tuple(row) for row in self.client.query(text).result_rows]

    def event(self, topic: str, minute: float, **fields: Any) -> None:
        """An event through its schema, as the consumer inserts it."""
        ts = int((self.start + minute * MINUTE) * 1e6)
        Database(self.client, _IDENTITIES).insert(topic, {"site": self.site, "ts": ts, **fields})

    def put(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of a projection; what a row leaves out is the table's default."""
        given = list(rows)
        names = list(given[0])
        self.client.insert(f"gpufleet.{table}", [[row[name] for name in names] for row in given], column_names=names)

    # what the projector would have written

    def health(self, minutes: Iterable[int], silent: Sequence[str] = (), **more: Any) -> None:
        """The inventory's racks, minute by minute. ``silent``: racks of which nothing comes."""
        self.put(
            "health_1m",
            (
                {
                    "site": self.site,
                    "ts": self.at(minute),
                    "rack": place.rack,
                    "gpu_model": "H100",
                    "tenant": "t",
                    "lease_id": "l1",
                    "feed": place.feed,
                    "pdu": f"pdu-{place.rack}",
                    "cdu": place.cdu,
                    "gpus": place.total,
                    "gpus_in_service": place.total,
                    "gpus_unknown": place.total if place.rack in silent else 0,
                    "gpus_reporting": 0 if place.rack in silent else place.total,
                    "healthy_s": 0.0 if place.rack in silent else 60.0 * place.total,
                    "unknown_s": 60.0 * place.total if place.rack in silent else 0.0,
                    "version": 1,
                    **more,
                }
                for minute in minutes
                for place in self.places
            ),
        )

    def sick(
        self,
        minutes: Iterable[int],
        reason: str,
        action: str = "",
        node: str = "r1-n1",
        gpus: Iterable[int] = (0,),
        since: float | None = None,
        **more: Any,
    ) -> None:
        """GPUs of a node that have something wrong; the rack is the node's first part."""
        given, chosen = list(minutes), list(gpus)
        rack = node.split("-")[0]
        place = next(each for each in self.places if each.rack == rack)
        self.put(
            "sick_1m",
            (
                {
                    "site": self.site,
                    "ts": self.at(minute),
                    "node_id": node,
                    "gpu_index": gpu,
                    "reason": reason,
                    "rack": rack,
                    "feed": place.feed,
                    "pdu": f"pdu-{rack}",
                    "cdu": place.cdu,
                    "nvlink_domain": node,
                    "gpu_model": "H100",
                    "action": action,
                    "scope": "gpu",
                    "origin_node": node,
                    "since": self.at(given[0] if since is None else since),
                    "in_service": True,
                    "version": 1,
                    **more,
                }
                for minute in given
                for gpu in chosen
            ),
        )

    def facility(self, minutes: Iterable[int], asset: str, kind: str, **values: Any) -> None:
        self.put(
            "facility_1m",
            (
                {
                    "site": self.site,
                    "ts": self.at(minute),
                    "asset_id": asset,
                    "asset_kind": kind,
                    "parent_id": "",
                    "rack": "",
                    "state": "ok",
                    "readings": 6,
                    "version": 1,
                    **values,
                }
                for minute in minutes
            ),
        )

    def plant(self, minutes: Iterable[int], tripped: Iterable[int] = ()) -> None:
        """Feeds, PDUs and the coolant unit as they should be. While ``tripped``, feed-2 carries the racks of feed-1."""
        down = set(tripped)
        for minute in minutes:
            for place in self.places:
                feed = "feed-2" if minute in down else place.feed
                self.facility(
                    [minute],
                    f"pdu-{place.rack}",
                    "pdu",
                    rack=place.rack,
                    parent_id=feed,
                    power_w_avg=5e4,
                    power_cap_w=1e5,
                )
        rest = [minute for minute in minutes if minute not in down]
        if rest:
            self.facility(rest, "feed-1", "feed", power_w_avg=5e5, power_cap_w=1e6)
            self.facility(rest, "feed-2", "feed", power_w_avg=5e5, power_cap_w=1e6)
        if down:
            self.facility(sorted(down), "feed-1", "feed", power_w_avg=0.0, power_cap_w=1e6, state="tripped")
            self.facility(sorted(down), "feed-2", "feed", power_w_avg=9.9e5, power_cap_w=1e6)
        self.loop(minutes)

    def loop(self, minutes: Iterable[int], cdu: str = "cdu-1", **values: Any) -> None:
        usual = {"flow_lpm_avg": 100.0, "flow_lpm_min": 99.0, "supply_temp_c_max": 32.0, "leak": False}
        self.facility(minutes, cdu, "cdu", **{**usual, **values})

    def job(self, minutes: Iterable[int], job: str = "job-1", **values: Any) -> None:
        self.put(
            "job_1m",
            (
                {
                    "site": self.site,
                    "ts": self.at(minute),
                    "job_id": job,
                    "tenant": "t",
                    "job_kind": "training",
                    "gpus": 512,
                    "gpus_reporting": 512,
                    "hung": False,
                    "slow_nodes": [],
                    "slow_gpus": [],
                    "slow_ratios": [],
                    "version": 1,
                    **values,
                }
                for minute in minutes
            ),
        )

    def ledger(
        self, minutes: Iterable[float], topic: str = "node-telemetry", behind_s: float = 2.0, **values: Any
    ) -> None:
        """A batch of the consumer a minute, stored ``behind_s`` after the broker appended it."""
        self.put(
            "ingest_ledger",
            (
                {
                    "at": self.at(minute),
                    "consumer": "c",
                    "topic": topic,
                    "messages": 100,
                    "rows": 100,
                    "dead_letters": 0,
                    "insert_ms": 80.0,
                    "path": "steady",
                    "append_ts_max": self.at(minute - behind_s / MINUTE),
                    **values,
                }
                for minute in minutes
            ),
        )

    # rules over it

    def watch(self, rule: Rule) -> Watch:
        return Watch(self, Evaluator(rule, asking(self.client)), Notifier())


_IDENTITIES = itertools.count()


@dataclass
class Watch:
    """One rule's evaluations on a bench, seen for its site only."""

    bench: Bench
    evaluator: Evaluator
    notifier: Notifier

    def to(self, *minutes: float) -> Watch:
        """Evaluate at these minutes, in this order. A minute's data is closed one minute after it began."""
        for minute in minutes:
            at = self.bench.start + minute * MINUTE
            self.notifier.take(self.evaluator, self.evaluator.step(at), at)
        return self

    def _ours(self, alert: Alert) -> bool:
        labels = dict(alert.labels)
        return labels.get("site", self.bench.site) == self.bench.site

    @property
    def told(self) -> list[Notification]:
        return [note for note in self.notifier.sent if self._ours(note.alert)]

    @property
    def texts(self) -> list[str]:
        return [note.text for note in self.told]

    def labels(self, *names: str) -> list[tuple[str, ...]]:
        """Chosen labels of what was told, in order."""
        return [tuple(note.label(name) for name in names) for note in self.told]

    @property
    def firing(self) -> list[Alert]:
        return [alert for alert in self.evaluator.state.firing() if self._ours(alert)]

    @property
    def states(self) -> list[str]:
        """States of the site's alerts but Normal ones."""
        alerts = self.evaluator.state.alerts.values()
        return sorted(a.state.value for a in alerts if self._ours(a) and a.state.value != "Normal")
