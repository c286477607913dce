"""What happened to a customer's GPUs, as its board lists it, against the events as sent (day.py, health.py)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

import pytest

from infra.grafana.boards.ids import Capacity, Incidents
from tests.grafana.asking import Asking
from tests.grafana.day import MINUTE_US, Day, micros
from tests.grafana.health import SLOWDOWN, Fault, Health
from tests.story import Story

pytestmark = pytest.mark.store
TENANTS = ("anthropic", "nimbus", "house")
ALARMS: Final = {"xid", "sxid", "ecc_dbe", "row_remap", "gpu_lost", "link_down"}
HOT_C: Final = 93
ELSEWHERE: Final = {"row_remap_failure", "row_remap_pending", "sram_ecc_threshold", "recovery_action", "straggler"}
"""Causes that counters or jobs tell of, not the events that the story keeps."""

GpuMinute = tuple[str, int, int]


@pytest.fixture(params=TENANTS)
def tenant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(story: Story, tenant: str) -> Asking:
    return Asking(story, tenant)


@pytest.fixture(scope="module")
def causes(day: Day, health: Health) -> dict[str, set[GpuMinute]]:
    """By cause the GPUs and minutes that it touched, in service or not."""
    found: dict[str, set[GpuMinute]] = defaultdict(set)
    for fault in health.faults:
        found[fault.name] |= {(fault.node, gpu, minute) for gpu in fault.gpus for minute in minutes_of(fault)}
    for minute in range(day.start, day.end, MINUTE_US):
        for node in day.nodes:
            for gpu, cause in seen(day, node, minute):
                found[cause].add((node, gpu, minute))
    return found


def minutes_of(fault: Fault) -> range:
    return range(fault.span[0] // MINUTE_US * MINUTE_US, fault.span[1], MINUTE_US)


def seen(day: Day, node: str, minute: int) -> Iterator[tuple[int, str]]:
    """What a node's sample of a minute says of its GPUs, or that there is none."""
    event = day.samples[minute].get(node)
    if event is None:
        yield from ((gpu, "silent") for gpu in range(day.nodes[node].gpus))
        return
    for place, gpu in enumerate(event["gpu_index"]):
        reasons = event["clock_event_reasons"][place]
        if reasons > 0 and reasons & SLOWDOWN:
            yield gpu, "slowdown"
        if event["temp_gpu_c"][place] > HOT_C:
            yield gpu, "temp_high"


def touched(day: Day, health: Health, tenant: str, minutes: set[GpuMinute]) -> list[GpuMinute]:
    """Those of a tenant's nodes, in service when the minute ends."""
    return [
        (node, gpu, minute)
        for node, gpu, minute in minutes
        if day.tenant_of(node, minute) == tenant
        and not any(begin < minute + MINUTE_US <= end for begin, end in health.away[node])
    ]


def test_gpu_hours_by_cause(
    ask: Asking, day: Day, health: Health, tenant: str, causes: dict[str, set[GpuMinute]]
) -> None:
    mine = {cause: len(touched(day, health, tenant, minutes)) / 60 for cause, minutes in causes.items()}
    rows = {row["cause"]: row["GPU-hours"] for row in ask.rows(Incidents.UID, Incidents.LOST_BY_CAUSE, hours=24)}
    found = {cause: hours for cause, hours in rows.items() if cause not in ELSEWHERE}
    assert found == pytest.approx({cause: hours for cause, hours in mine.items() if hours})
    assert len(found) > 5


def test_every_incident_with_its_gpus_and_hours(
    ask: Asking, day: Day, health: Health, tenant: str, causes: dict[str, set[GpuMinute]]
) -> None:
    """By cause and node: first and last minute, GPUs, GPU-hours. A row is one of its spells; they are put together."""
    expected: dict[tuple[str, str], list[GpuMinute]] = defaultdict(list)
    for cause, minutes in causes.items():
        for each in touched(day, health, tenant, minutes):
            expected[cause, each[0]].append(each)
    found = defaultdict(list)
    for row in ask.rows(Incidents.UID, Incidents.INCIDENTS, hours=24):
        if row["reason"] not in ELSEWHERE:
            found[row["reason"], row["origin_node"]].append(row)
    assert found.keys() == expected.keys()
    for key, rows in found.items():
        minutes_ = [minute for _, _, minute in expected[key]]
        assert min(micros(row["first_"]) for row in rows) == min(minutes_), key
        assert max(micros(row["last_"]) for row in rows) == max(minutes_) + MINUTE_US, key
        assert sum(row["gpu_hours"] for row in rows) == pytest.approx(len(minutes_) / 60), key
        assert max(row["gpus"] for row in rows) <= len({gpu for _, gpu, _ in expected[key]}), key


def test_the_evidence_is_every_alarm_of_the_tenants_nodes(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    sent = Counter(
        (micros(event["ts"]), event["node_id"], event["gpu_index"], event["event"], event["code"], event["raw"])
        for event in health.told
        if event["event"] in ALARMS and day.tenant_of(event["node_id"], micros(event["ts"])) == tenant
    )
    rows = ask.rows(Incidents.UID, Incidents.EVIDENCE, hours=24)
    columns = ("node_id", "gpu", "event", "code", "raw")
    assert Counter((micros(row["ts"]), *(row[name] for name in columns)) for row in rows) == sent
    assert sent


def test_the_tenants_own_xids_are_counted(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    """NVIDIA's catalogue has an application restart for an illegal access (31) and for a contained error (94)."""
    own = [
        event
        for event in health.told
        if event["code"] in (31, 94) and day.tenant_of(event["node_id"], micros(event["ts"])) == tenant
    ]
    assert ask.number(Incidents.UID, Incidents.XIDS, hours=24) == len(own)


def test_maintenance_and_lifecycle_as_told(ask: Asking, day: Day, health: Health, tenant: str) -> None:
    events = ("maintenance_begin", "maintenance_end", "lifecycle")
    told = Counter(
        (micros(event["ts"]), event["node_id"], event["event"], event["value"], event["message"])
        for event in health.told
        if event["event"] in events and day.tenant_of(event["node_id"], micros(event["ts"])) == tenant
    )
    rows = ask.rows(Incidents.UID, Incidents.MAINTENANCE, hours=24)
    columns = ("node_id", "event", "value", "message")
    assert Counter((micros(row["ts"]), *(row[name] for name in columns)) for row in rows) == told


def test_nodes_that_are_away_now(story: Story, day: Day, health: Health) -> None:
    """In the middle of each maintenance: the operator's list of what is not capacity."""
    operator = Asking(story)
    for begin, end in sorted(span for spans in health.away.values() for span in spans):
        at = (begin + end) // 2 // MINUTE_US * MINUTE_US
        away = {
            node: (day.nodes[node].gpus, since)
            for node, spans in health.away.items()
            for since, until in spans
            if since < at - MINUTE_US and at < until
        }
        rows = operator.rows(Capacity.UID, Capacity.NOT_IN_SERVICE, at)
        assert {row["node_id"]: (row["gpus"], micros(row["since"])) for row in rows} == away
        assert {row["state"] for row in rows} == {"maintenance"}
