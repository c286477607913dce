"""A projector, a client and a way to compare, against the session's migrated store."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from consumers.projector.projector import Projector, ProjectorSettings, Step
from consumers.projector.recompute import Limits
from consumers.projector.worklist import Pace
from infra.clickhouse.client import ClickHouse, connect
from infra.embedded.store.process import StoreProcess
from tests.conftest import migrated
from tests.projector.events import Events

RAW_DAYS = 3650
_NUMBERS = itertools.count()


@dataclass
class Bench:
    """One test's site in the store."""

    client: Any
    where: ClickHouse
    events: Events

    def projector(self, owner: str = "test", **settings: Any) -> Projector:
        """A projector that finds every closed window due at once."""
        chosen: dict[str, Any] = {
            "raw_days": RAW_DAYS,
            "pace": Pace(quiet_s=0.0, patience_s=0.0),
            "late_inserts_s": 0.0,
            "ledger_overlap_s": 1.0,
            "lock_settle_s": 0.3,
            **settings,
        }
        return Projector(lambda: connect(self.where), ProjectorSettings(owner=owner, **chosen))

    def project(self, projector: Projector) -> list[Step]:
        """Step until nothing is left to do."""
        steps: list[Step] = []
        deadline = time.monotonic() + 120
        while len([step for step in steps if step.owner]) < 20 and time.monotonic() < deadline:
            step = projector.step()
            steps.append(step)
            if step.owner and not step.entries and not step.windows and not step.rows_reassigned:
                return steps
            if not step.owner:
                time.sleep(0.1)
        raise AssertionError(f"the projector does not come to rest: {steps[-1]}")

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows as dicts."""
        answer = self.client.query(sql)
        return [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows]

    def windows(self, table: str, extra: str = "") -> list[dict[str, Any]]:
        """Rows of a window table of this test's site; ``start`` in seconds since 1970."""
        return self.rows(
            f"SELECT *, toUnixTimestamp(ts) AS start FROM gpufleet.{table} FINAL"
            f" WHERE site = '{self.events.site}' {extra} ORDER BY ALL"
        )


@pytest.fixture(scope="package")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """A store that no other folder's tests write to: a projector computes whatever is open, of any time and site."""
    with migrated(tmp_path_factory.mktemp("projector-store")) as process:
        yield process


@pytest.fixture
def bench(migrated_store: StoreProcess) -> Iterator[Bench]:
    yield from bench_on(migrated_store)


def bench_on(store: StoreProcess) -> Iterator[Bench]:
    where = ClickHouse(store.host, store.port, store.username, store.password)
    client = connect(where)
    yield Bench(client, where, Events(client, site=f"site{next(_NUMBERS)}"))
    client.close()


@pytest.fixture
def projector(bench: Bench) -> Iterator[Projector]:
    made = bench.projector()
    yield made
    made.close()


@pytest.fixture
def bench_of() -> Callable[[StoreProcess], Bench]:
    """For tests with a store of their own."""
    return lambda store: next(bench_on(store))


SMALL = Limits(node_minutes=4, max_minutes=2)
"""Statements so small that ranges fall into several."""
