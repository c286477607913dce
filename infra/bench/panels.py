"""`gpufleet bench panels`: every panel of every board on a store with a day of a whole fleet, and how long each takes.

Each query is expanded as Grafana would send it, asked as the user that would ask it (the operator's, and the largest
customer's), read to its last row, and timed at the client. A first round warms caches and is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from infra.bench import day
from infra.bench.cpu import CpuMeter
from infra.connections import connect_store
from infra.grafana.expand import Dashboard, Query, TimeRange, choose, dashboards, expand, interval_of, queries, run
from infra.grafana.expand.timerange import HOUR_MS

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from infra.config import Settings
    from infra.up.stack import Stack
    from producers.simulator.scenario import Scenario

BOARDS: Final = Path(__file__).parents[1] / "grafana" / "dashboards"
GOALS_MS: Final = {"operator": 300.0, "customer": 200.0}
"""p95 over every run of every panel of the audience's boards."""
SLOWEST: Final = 20
Say = Callable[[str], None]


@dataclass(slots=True)
class Timed:
    """One query over one range, several times."""

    query: Query
    span: str
    seconds: list[float]
    rows: int
    read_rows: int | None
    cpu_s: float = 0.0
    """The store's CPU for one run, its background work included; tells on a busy machine, too."""
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "query": str(self.query),
            "title": self.query.panel.title if self.query.panel else self.query.name,
            "range": self.span,
            "ms": [round(each * 1000, 1) for each in self.seconds],
            "cpu_ms": round(self.cpu_s * 1000, 1),
            "rows": self.rows,
            "read_rows": self.read_rows,
            **({"error": self.error} if self.error else {}),
        }

    @property
    def median_ms(self) -> float:
        return statistics.median(self.seconds) * 1000 if self.seconds else 0.0


@dataclass(slots=True)
class Measured:
    """Everything that was asked."""

    timed: list[Timed] = field(default_factory=list)

    def of(self, audience: str = "", uid: str = "") -> list[float]:
        """Milliseconds of every counted run."""
        return sorted(
            each * 1000
            for timed in self.timed
            if timed.query.dashboard.audience == audience or timed.query.dashboard.uid == uid
            for each in timed.seconds
        )

    def cpu(self, audience: str) -> list[float]:
        """The store's CPU milliseconds of each query and range."""
        return sorted(each.cpu_s * 1000 for each in self.timed if each.query.dashboard.audience == audience)

    def report(self) -> dict[str, Any]:
        boards = {timed.query.dashboard.uid: timed.query.dashboard for timed in self.timed}
        slowest = sorted((timed for timed in self.timed if timed.seconds), key=lambda timed: -timed.median_ms)[:SLOWEST]
        errors = [timed.as_dict() for timed in self.timed if timed.error]
        return {
            **{audience: {**summary(self.of(audience)), "goal_p95_ms": goal} for audience, goal in GOALS_MS.items()},
            "boards": {uid: summary(self.of(uid=uid)) for uid in boards},
            "cpu_ms": {audience: summary(self.cpu(audience)) for audience in GOALS_MS},
            "slowest": [timed.as_dict() for timed in slowest],
            "errors": errors,
        }

    @property
    def good(self) -> bool:
        """Every goal reached and every query answered."""
        reached = all(summary(self.of(audience))["p95_ms"] <= goal for audience, goal in GOALS_MS.items())
        return reached and not any(timed.error for timed in self.timed)


def bench(
    data: Path,
    settings: Settings,
    scenario: Scenario,
    hours: int,
    gpu_hours: int,
    repeats: int,
    say: Say,
    only: str = "",
) -> dict[str, Any]:
    """Fill a store in the folder ``data``, ask everything, and report. ``good`` says whether the goals hold.

    A folder that an earlier run has filled is asked as it is; UsageError when what it holds is not what is asked for.
    """
    began = time.monotonic()
    when = day.day(hours, gpu_hours, int(time.time()))
    when = day.kept(data, scenario, when) or when
    stack = day.fill(data, settings, scenario, when, say)
    try:
        filled_s = time.monotonic() - began
        client = stack.client()
        tables = store_size(client)
        client.close()
        disk_gb = sum(each["mb"] for each in tables.values()) / 1000
        say(f"filled in {filled_s:.0f} s: {disk_gb:.1f} GB on disk")
        measured = measure(stack, scenario.tenants[0].name, when.end_s * 1000, repeats, hours, say, only)
    finally:
        stack.stop()
    return {
        "fleet": {"gpus": scenario.gpus, "nodes": scenario.nodes, "hours": hours, "gpu_1m_hours": gpu_hours},
        "store": {"disk_gb": round(disk_gb, 2), "fill_s": round(filled_s), "tables": tables},
        **measured.report(),
        "good": measured.good,
    }


def measure(stack: Stack, customer: str, end_ms: int, repeats: int, hours: float, say: Say, only: str = "") -> Measured:
    """Ask every query of every board ``repeats`` times after a warm-up, at the board's own range and over ``hours``."""
    clients = {
        "operator": connect_store(stack.settings, database="gpufleet"),
        "customer": connect_store(stack.settings, database="gpufleet", tenant=customer),
    }
    assert stack.store is not None
    meter = CpuMeter({"store": stack.store.pid})
    measured = Measured()
    for board in dashboards(BOARDS):
        if only and only not in board.uid:
            continue
        say(f"{board.uid}: {len(list(queries(board)))} queries")
        for span, time_range in _spans(board, end_ms, hours):
            measured.timed += _board(clients[board.audience], board, span, time_range, repeats, meter)
    for client in clients.values():
        client.close()
    return measured


def _spans(board: Dashboard, end_ms: int, hours: float) -> Iterator[tuple[str, TimeRange]]:
    own = board.time_range(end_ms)
    yield board.time_from, own
    whole = TimeRange(end_ms - int(hours * HOUR_MS), end_ms)
    if whole != own:
        yield f"now-{hours:g}h", whole


def _board(
    client: Client, board: Dashboard, span: str, time_range: TimeRange, repeats: int, meter: CpuMeter
) -> Iterator[Timed]:
    variables = choose(client, board, time_range)
    for query in queries(board):
        sql = expand(query.sql, time_range, variables, interval_of(query, time_range))
        timed = Timed(query, span, [], 0, None)
        try:
            run(client, sql)
            before = meter.read()["store"].cpu_s
            frames = [run(client, sql) for _ in range(repeats)]
            timed.cpu_s = (meter.read()["store"].cpu_s - before) / repeats
        except Exception as error:  # noqa: BLE001 - named in the report; the others go on
            timed.error = str(error).strip().splitlines()[0]
        else:
            timed.seconds = [frame.seconds for frame in frames]
            timed.rows, timed.read_rows = len(frames[-1].rows), frames[-1].read_rows
        yield timed


def summary(milliseconds: list[float]) -> dict[str, Any]:
    """p50, p95 and the largest of sorted milliseconds."""
    if not milliseconds:
        return {"runs": 0, "p50_ms": 0.0, "p95_ms": 0.0, "max_ms": 0.0}

    def at(share: float) -> float:
        return round(milliseconds[min(len(milliseconds) - 1, int(len(milliseconds) * share))], 1)

    return {"runs": len(milliseconds), "p50_ms": at(0.5), "p95_ms": at(0.95), "max_ms": round(milliseconds[-1], 1)}


def store_size(client: Client) -> dict[str, dict[str, Any]]:
    """Rows and bytes on disk by table, the largest first."""
    found = client.query(
        "SELECT table, sum(rows), sum(bytes_on_disk), count() FROM system.parts"
        " WHERE active AND database = currentDatabase() GROUP BY table ORDER BY 3 DESC"
    ).result_rows
    return {
        name: {"rows": int(rows), "mb": round(size / 1e6, 1), "parts": int(parts)} for name, rows, size, parts in found
    }


def shown(report: dict[str, Any]) -> str:
    """The report for a person."""
    fleet, store = report["fleet"], report["store"]
    lines = [
        f"{fleet['gpus']:,} GPUs, {fleet['hours']} h of rollups ({fleet['gpu_1m_hours']} h of minutes per GPU):"
        f" {store['disk_gb']} GB on disk, filled in {store['fill_s']} s",
        f"{'':24}{'runs':>6} {'p50':>9} {'p95':>9} {'max':>9}",
    ]
    for audience, goal in GOALS_MS.items():
        lines.append(_line(audience, report[audience]) + f"   goal: p95 {goal:.0f} ms")
        lines.append(_line("  CPU of the store", report["cpu_ms"][audience]))
    lines += [_line(uid, numbers) for uid, numbers in report["boards"].items()]
    lines += ["", "slowest, median of its runs:"]
    for each in report["slowest"]:
        read = f"{each['read_rows']:,} rows read" if each["read_rows"] is not None else ""
        cost = f"{statistics.median(each['ms']):9.0f} ms {each['cpu_ms']:7.0f} CPU-ms"
        lines.append(f"{cost}  {each['query']}  {each['range']}  {read}  {each['title']}")
    lines += [f"error: {each['query']} {each['range']}: {each['error']}" for each in report["errors"]]
    return "\n".join(lines)


def _line(name: str, numbers: dict[str, Any]) -> str:
    return (
        f"{name:24}{numbers['runs']:>6} {numbers['p50_ms']:>6} ms {numbers['p95_ms']:>6} ms {numbers['max_ms']:>6} ms"
    )
