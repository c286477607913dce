"""A store with a day of a large fleet, without a day's wait: a real minute of it, repeated back in time.

1. The simulator's fleet sends two minutes and five seconds of its 1 Hz fast lane through the embedded broker and the
   real consumer; the real projector makes the windows.
2. Each rollup's rows of the second minute are copied to every earlier minute of the day, their readings moved by up to
   a tenth, so that they compress as readings do; usage, whose limits have windows of a week, for eight days. The events
   of the five seconds are copied over ten minutes.
3. The projector's own statements add the minutes up to hours. Only the hours of single GPUs and of usage are copies of
   a minute, like minutes: the first would have to read all of gpu_1m, the others two minutes of events.
4. What two minutes do not have is made up: sick GPUs (three in a thousand), XIDs, a day's ledger rows.

Rows, keys, column types and part sizes are those of production; what happens in it is dull. A folder that holds such a
day already is opened as it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from consumers.projector.health_windows import health_1h_sql
from consumers.projector.hours import facility_1h_sql, fleet_1h_sql, rack_1h_sql, sick_1h_sql
from consumers.projector.projector import Projector
from consumers.projector.recompute import Limits
from consumers.projector.store import WRITE_SETTINGS
from consumers.projector.windows import (
    FACILITY_1H,
    FLEET_1H,
    HEALTH_1H,
    HOUR_S,
    RACK_1H,
    SICK_1H,
    Range,
    Table,
    insert_sql,
)
from infra.cli.project import projector_settings
from infra.errors import GpufleetError, UsageError
from infra.kafka.client import librdkafka
from infra.up.stack import Stack
from producers.journal import Journal
from producers.publisher import KafkaOutbox
from producers.simulator.scenario import Scenario
from producers.simulator.simulation import TOPICS, Simulation, producers

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from infra.config import Settings
    from infra.up.drain import Backlog

Say = Callable[[str], None]
KEPT: Final = "day.json"
"""In the folder: which day it holds."""
MINUTE_US: Final = 60_000_000
RAW_TICKS: Final = 5
RAW_MINUTES: Final = 10
STALL_S: Final = 120.0
PROJECT_S: Final = 900.0
MERGE_S: Final = 900.0
SYNCHRONOUS: Final = {"mutations_sync": 2}
IS: Final = "database = currentDatabase() AND name = '{table}'"
OVERRIDES: Final[dict[str, Any]] = {
    "kafka.partitions": 4,
    "kafka.history_partitions": 1,
    "consume.metrics_port": 0,
    "consume.inserts_per_second": 4.0,
}


@dataclass(frozen=True, slots=True)
class Copied:
    """A table of long windows, each of which a minute's rows stand for: the keys are the same, the sums smaller."""

    table: str
    source: str
    """Of minutes."""
    unit: str
    """As in ClickHouse's toStartOf...()."""
    window_s: int


PER_MINUTE: Final = (
    "fleet_10s",
    "rack_1m",
    "health_1m",
    "sick_1m",
    "job_1m",
    "facility_1m",
    "usage_1m",
    "gpu_1m",
)
USAGE_HOURS: Final = 8 * 24
"""How much usage there is: more than the longest window of a limit, a week. [h]"""
COPIED: Final = (
    Copied("gpu_1h", "gpu_1m", "Hour", 3600),
    Copied("usage_1h", "usage_1m", "Hour", 3600),
    Copied("usage_1d", "usage_1m", "Day", 86_400),
)
ROLLED_UP: Final[tuple[tuple[Table, Callable[[Range], str]], ...]] = (
    (FLEET_1H, fleet_1h_sql),
    (RACK_1H, rack_1h_sql),
    (HEALTH_1H, health_1h_sql),
    (SICK_1H, sick_1h_sql),
    (FACILITY_1H, facility_1h_sql),
)
"""Hour tables, and the statement of the projector that makes an hour of them from their minutes."""
ROWS_A_STATEMENT: Final = 4_000_000
INSERTING: Final = (
    " SETTINGS max_insert_threads = 2, max_block_size = 65536, min_insert_block_size_rows = 1048576,"
    " min_insert_block_size_bytes = 536870912, optimize_on_insert = 0, max_partitions_per_insert_block = 100"
)


@dataclass(frozen=True, slots=True)
class Day:
    """When it is; whole minutes, seconds since 1970."""

    end_s: int
    hours: int
    gpu_hours: int
    """How much of it gpu_1m covers: 317 million rows for a whole day of the full fleet."""

    @property
    def start_s(self) -> int:
        return self.end_s - self.hours * 3600

    @property
    def real_s(self) -> int:
        """Start of the minute that is copied."""
        return self.end_s - 60

    @property
    def closed_hours(self) -> range:
        """Starts of the hours that have ended; of the first there may be a part."""
        return range(self.start_s // HOUR_S * HOUR_S, self.end_s // HOUR_S * HOUR_S, HOUR_S)

    def hours_of(self, table: str) -> int:
        """How far back a table goes. [h]"""
        if table == "gpu_1m":
            return self.gpu_hours
        return max(self.hours, USAGE_HOURS) if table.startswith("usage_") else self.hours


def day(hours: int, gpu_hours: int, now_s: int) -> Day:
    """The day that has just ended."""
    return Day(now_s // 60 * 60, hours, min(gpu_hours, hours))


def kept(data: Path, scenario: Scenario, asked: Day) -> Day | None:
    """The day that an earlier run left in the folder; None when there is none.

    UsageError when it is of another fleet or length.
    """
    try:
        found = json.loads((data / KEPT).read_text())
    except FileNotFoundError:
        return None
    when = Day(**found["day"])
    if (found["nodes"], when.hours, when.gpu_hours) != (scenario.nodes, asked.hours, asked.gpu_hours):
        raise UsageError(
            f"{data} holds {when.hours} h ({when.gpu_hours} h of minutes per GPU) of {found['nodes']} nodes; "
            "ask for those, or choose another --folder"
        )
    return when


def fill(data: Path, settings: Settings, scenario: Scenario, when: Day, say: Say) -> Stack:
    """An open stack whose store holds the day; only the store still runs. The caller stops it."""
    tenants = [tenant.name for tenant in scenario.tenants]
    named = settings.with_flags({"site.name": scenario.site})
    stack = Stack(data, named, "embedded", OVERRIDES, tenants, say)
    stack.__enter__()
    try:
        if (data / KEPT).exists():
            stack.broker.stop()
            return stack
        client = stack.client()
        _events(stack, client, scenario, when, say)
        _raw(client, when, say)
        _made_up(client, when, say)
        for table in PER_MINUTE:
            _minutes(client, table, when, say)
        for copied in COPIED:
            _long(client, copied, when, say)
        _rolled_up(client, when, say)
        _merged(client, say)
        client.close()
        stack.broker.stop()
        (data / KEPT).write_text(json.dumps({"nodes": scenario.nodes, "day": asdict(when)}))
    except BaseException:
        stack.stop()
        raise
    return stack


def _events(stack: Stack, client: Client, scenario: Scenario, when: Day, say: Say) -> None:
    """Two real minutes through broker, consumer and projector, and five seconds at 1 Hz."""
    journal = Journal.start(stack.journals, scenario.site, producers(scenario), TOPICS)
    stack.start_consumer()
    stack.wait_for_consumer()
    say(f"simulating two minutes of {scenario.gpus:,} GPUs")
    end_us = when.end_s * 1_000_000
    with KafkaOutbox(librdkafka(stack.settings.kafka, "producer"), journal) as outbox:
        simulation = Simulation(scenario, journal, outbox, ticks=RAW_TICKS)
        simulation.backfill(end_us - 2 * MINUTE_US, end_us, tick_s=60)
        for message in simulation.generate(end_us, end_us + RAW_TICKS * 1_000_000):
            while not outbox.offer(message):
                time.sleep(0.01)
        outbox.flush(300)
        simulation.close()
    _stored(stack, stack.backlog(client, journal))
    stack.stop_child("consumer")
    journal.close()
    say("projecting them")
    # Nobody else projects here: on a busy machine a statement may take its time, and the claim is not to run out.
    patient = Limits(statement_timeout_s=int(PROJECT_S / 2))
    chosen = replace(
        projector_settings(stack.settings, owner="bench"), late_inserts_s=0.0, lock_ttl_s=PROJECT_S, limits=patient
    )
    projector = Projector(stack.client, chosen)
    try:
        projector.catch_up(timeout_s=PROJECT_S)
    finally:
        projector.close()


def _stored(stack: Stack, backlog: Backlog) -> None:
    last, moved = backlog.count(), time.monotonic()
    while count := backlog.count():
        stack.check()
        if count != last:
            last, moved = count, time.monotonic()
        if time.monotonic() - moved > STALL_S:
            raise GpufleetError(f"{count} messages are not stored and nothing moves; see {stack.data}/log/consumer.log")
        time.sleep(0.2)


def _made_up(client: Client, when: Day, say: Say) -> None:
    """What two minutes are too short for."""
    say("sick GPUs, XIDs, ledger rows")
    for sql in (SICK, XIDS, LEDGER):
        client.command(sql.format(minute=f"toDateTime({when.real_s}, 'UTC')", start=when.start_s, hours=when.hours))


def _minutes(client: Client, table: str, when: Day, say: Say) -> None:
    """Copy the rows of the real minute to every minute before it."""
    span = f"ts >= toDateTime({when.real_s}, 'UTC') AND ts < toDateTime({when.end_s}, 'UTC')"
    # What the projector made of the moments after the day, in which nothing came, is not part of it.
    client.command(f"ALTER TABLE {table} DELETE WHERE ts >= toDateTime({when.end_s}, 'UTC')", settings=SYNCHRONOUS)
    client.command(f"ALTER TABLE {table} DELETE WHERE ts < toDateTime({when.real_s}, 'UTC')", settings=SYNCHRONOUS)
    minutes = when.hours_of(table) * 60
    _repeat(client, table, f"SELECT * FROM {table} FINAL WHERE {span}", 60, range(1, minutes), say)


def _long(client: Client, copied: Copied, when: Day, say: Say) -> None:
    """Let a minute's rows stand for those of every long window of the day: one row of each key of the table."""
    table, source = copied.table, copied.source
    key = str(client.command(f"SELECT sorting_key FROM system.tables WHERE {IS.format(table=table)}"))
    key = ", ".join(part for part in key.split(", ") if "ts" not in part)
    shared = ", ".join(name for name, _ in _columns(client, table) if name in dict(_columns(client, source)))
    span = f"ts >= toDateTime({when.real_s}, 'UTC') AND ts < toDateTime({when.end_s}, 'UTC')"
    client.command(f"TRUNCATE TABLE {table}")
    client.command(
        f"INSERT INTO {table} ({shared}) SELECT * REPLACE (toStartOf{copied.unit}(ts) AS ts)"
        f" FROM (SELECT {shared} FROM {source} FINAL WHERE {span} LIMIT 1 BY {key})"
    )
    steps = range(1, -(-when.hours_of(table) * 3600 // copied.window_s))
    _repeat(client, table, f"SELECT * FROM {table} FINAL", copied.window_s, steps, say)


def _rolled_up(client: Client, when: Day, say: Say) -> None:
    """The hours that have ended, as the projector makes them of what is there of their minutes."""
    for table, statement in ROLLED_UP:
        client.command(f"TRUNCATE TABLE {table.name}")
        for hour in when.closed_hours:
            window = Range(hour, hour + HOUR_S)
            client.command(insert_sql(table, statement(window), version=1), settings=dict(WRITE_SETTINGS))
        rows = int(str(client.command(f"SELECT count() FROM {table.name}")))
        if not rows:
            raise GpufleetError(f"{table.name} has no row of any hour: what its panels take is unknown")
        say(f"{table.name}: {rows:,} rows of {len(when.closed_hours)} hours")


def _repeat(client: Client, table: str, source: str, step_s: int, steps: range, say: Say) -> None:
    """Insert the rows of ``source`` again for each step, that many steps earlier and with other readings."""
    rows = int(str(client.command(f"SELECT count() FROM ({source})")))
    if not rows:
        raise GpufleetError(f"{table} has no row of the minute that was to be copied: what its panels take is unknown")
    say(f"{table}: {rows:,} rows, {len(steps):,} times")
    # Copies read from a table of their own: the one they go to grows.
    client.command(f"CREATE OR REPLACE TABLE bench_source ENGINE = MergeTree ORDER BY tuple() AS {source}")
    changes = ", ".join(_moved(_columns(client, table), step_s))
    size = max(1, ROWS_A_STATEMENT // rows)
    for begin in range(steps.start, steps.stop, size):
        client.command(
            f"INSERT INTO {table} SELECT t.* REPLACE ({changes}) FROM bench_source AS t"
            f" CROSS JOIN numbers({begin}, {min(size, steps.stop - begin)}) AS n{INSERTING}"
        )
    client.command("DROP TABLE bench_source")


def _moved(columns: list[tuple[str, str]], step_s: int) -> Iterator[str]:
    """The time earlier, and every reading up to a tenth more or less, by row, column and step."""
    yield f"t.ts - toIntervalSecond(n.number * {step_s}) AS ts"
    for name, kind in columns:
        if "Float" in kind and "Array" not in kind:
            by = f"0.9 + 0.2 * (cityHash64(t.{name}, n.number) % 1000) / 1000"
            yield f"CAST(t.{name} * ({by}), '{kind}') AS {name}"


def _columns(client: Client, table: str) -> list[tuple[str, str]]:
    """(name, type) of the columns that an insert names."""
    sql = (
        f"SELECT name, type FROM system.columns WHERE {IS.format(table=table).replace('name =', 'table =')}"
        " AND default_kind NOT IN ('MATERIALIZED', 'ALIAS')"
    )
    return [(str(name), str(kind)) for name, kind in client.query(sql).result_rows]


def _raw(client: Client, when: Day, say: Say) -> None:
    """Each node's newest event of both lanes (the fast lane's at 1 Hz), over the last minutes of the day."""
    for table, step_s in (("node_telemetry", RAW_TICKS), ("node_counters", 60)):
        copies = RAW_MINUTES * 60 // step_s
        say(f"{table}: {copies} events of each node")
        newest = f"SELECT * FROM {table} ORDER BY ts DESC LIMIT 1 BY node_id"
        client.command(f"CREATE OR REPLACE TABLE bench_source ENGINE = MergeTree ORDER BY tuple() AS {newest}")
        for begin in range(1, copies + 1, 20):
            client.command(
                f"INSERT INTO {table} SELECT t.* REPLACE"
                f" (toDateTime64({when.end_s}, 6, 'UTC') - toIntervalSecond(n.number * {step_s}) AS ts,"
                " t.seq + 1000 + toInt64(n.number) AS seq) FROM bench_source AS t"
                f" CROSS JOIN numbers({begin}, {min(20, copies + 1 - begin)}) AS n{INSERTING}"
            )
        client.command("DROP TABLE bench_source")


def _merged(client: Client, say: Say) -> None:
    """Wait until the store has nothing to merge, as a store in its steady state has not."""
    deadline, quiet = time.monotonic() + MERGE_S, 0
    while quiet < 3 and time.monotonic() < deadline:
        running = int(str(client.command("SELECT count() FROM system.merges")))
        quiet = 0 if running else quiet + 1
        if running:
            say(f"{running} merges are running")
        time.sleep(2.0)


# Three GPUs in a thousand have something wrong in the minute.
SICK: Final = """
INSERT INTO sick_1m (site, ts, node_id, gpu_index, reason, tenant, rack, feed, pdu, cdu, nvlink_domain, gpu_model,
    gpu_uuid, action, scope, origin_node, since, in_service, detail, version, is_deleted)
SELECT p.site, {minute}, p.node_id, gpu, ['silent', 'slowdown', 'xid_79', 'ecc_dbe', 'link_down', 'temp_high',
    'row_remap_pending'][cityHash64(p.node_id, gpu) % 7 + 1] AS reason, p.tenant, p.rack, p.feed, p.pdu, p.cdu,
    p.nvlink_domain, p.gpu_model, toString(cityHash64(p.node_id, gpu)), 'reset_gpu', 'gpu', p.node_id, {minute}, 1,
    'made up', 1, 0
FROM node_place AS p FINAL ARRAY JOIN p.gpu_index AS gpu
WHERE cityHash64(gpu, p.node_id) % 1000 < 3
"""

# An XID an hour on every 500th GPU: some 10,000 a day.
XIDS: Final = """
INSERT INTO node_events (site, producer_id, run_id, seq, ts, node_id, rack, event, source, gpu_index, code, occurrences,
    message)
SELECT p.site, p.node_id, 1, 1000000 + h.number * 100 + gpu,
    toDateTime64({start} + h.number * 3600 + cityHash64(p.node_id, gpu, h.number) % 3600, 6, 'UTC'),
    p.node_id, p.rack, 'xid', 'kmsg', gpu,
    [13, 31, 43, 48, 63, 74, 79, 94, 95, 119][cityHash64(gpu, p.node_id) % 10 + 1], 1, 'made up'
FROM node_place AS p FINAL ARRAY JOIN p.gpu_index AS gpu CROSS JOIN numbers({hours}) AS h
WHERE cityHash64(gpu, p.node_id, 1) % 500 = 0
"""

# Two inserts a second over the day.
LEDGER: Final = """
INSERT INTO ingest_ledger
SELECT t.* REPLACE (toDateTime64({start} + n.number * 5, 6, 'UTC') AS at,
    toDateTime64({start} + n.number * 5, 6, 'UTC') AS append_ts_max,
    toDateTime64({start} + n.number * 5 - 5, 6, 'UTC') AS event_ts_min,
    toDateTime64({start} + n.number * 5 - 1, 6, 'UTC') AS event_ts_max,
    [toStartOfMinute(toDateTime({start} + n.number * 5, 'UTC'))] AS minutes)
FROM (SELECT * FROM ingest_ledger ORDER BY messages DESC LIMIT 10) AS t CROSS JOIN numbers({hours} * 720) AS n
"""
