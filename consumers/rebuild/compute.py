"""Computes windows beside the live ones, with the projector's own statements."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from consumers.projector import (
    facility_windows,
    health_windows,
    hours,
    job_windows,
    sick_windows,
    spells,
    usage_windows,
)
from consumers.projector.gpu_windows import gpu_1h_sql
from consumers.projector.job_windows import LOOKBACK_S
from consumers.projector.recompute import Limits, Recomputer
from consumers.projector.store import Rows, Store
from consumers.projector.windows import (
    FACILITY_1H,
    FACILITY_1M,
    FLEET_1H,
    GPU_1H,
    HEALTH_1H,
    HEALTH_1M,
    JOB_1M,
    RACK_1H,
    SICK_1M,
    Range,
    Table,
)
from consumers.projector.windows import scope as scope_of
from consumers.rebuild.tables import BESIDE

NEEDS: Mapping[str, tuple[str, ...]] = {
    "rack_10s": (),
    "fleet_10s": ("rack_10s",),
    "gpu_1m": (),
    "rack_1m": ("rack_10s", "fleet_10s", "gpu_1m"),
    "gpu_1h": ("gpu_1m",),
    "fleet_1h": ("rack_10s", "fleet_10s", "gpu_1m", "rack_1m"),
    "usage_1m": (),
    "usage_1h": (),
    "usage_1d": (),
    "health_1m": ("gpu_1m",),
    "health_1h": ("gpu_1m", "health_1m"),
    "job_1m": ("gpu_1m",),
    "sick_1m": ("gpu_1m", "job_1m"),
    "rack_1h": ("rack_10s", "fleet_10s", "gpu_1m", "rack_1m", "health_1m"),
    "facility_1m": (),
    "facility_1h": ("facility_1m",),
}
"""Which other window tables a table is computed from, directly or not."""
ALWAYS_BESIDE = {"rack_10s": ("fleet_10s",)}
"""One pass writes both."""
SOURCE = {"usage_1m": "tenant_usage", "usage_1h": "tenant_usage", "usage_1d": "tenant_usage",
          "facility_1m": "facility_telemetry", "facility_1h": "facility_telemetry"}  # fmt: skip


def beside_of(table: Table) -> tuple[str, ...]:
    """Every table that is computed beside for the sake of one, it among them."""
    return (*NEEDS[table.name], table.name, *ALWAYS_BESIDE.get(table.name, ()))


class Beside:
    """A store in which the named window tables are those beside the live ones."""

    def __init__(self, store: Store, names: tuple[str, ...]) -> None:
        self._store = store
        self._named = re.compile(rf"\bgpufleet\.({'|'.join(names)})\b")

    def query(self, query: str | None = None, *, settings: dict[str, Any] | None = None) -> Rows:
        return self._store.query(self._there(query or ""), settings=settings)

    def command(self, cmd: str, *, settings: dict[str, Any] | None = None) -> Any:
        return self._store.command(self._there(cmd), settings=settings)

    def close(self) -> None:
        """The store is another's."""

    def _there(self, sql: str) -> str:
        return self._named.sub(rf"gpufleet.\1{BESIDE}", sql)


def seed(store: Store, names: Sequence[str], window: Range) -> None:
    """What windows of the range look back at: the last energy counter of each GPU, the last minutes of jobs."""
    if "gpu_1m" in names:
        columns = "site, ts, node_id, gpu_index, tenant, driver_epoch, energy_last_j"
        back = Range(window.start - Limits().energy_lookback_s, window.start)
        store.command(
            f"""INSERT INTO gpufleet.gpu_1m{BESIDE} ({columns}, version)
SELECT site, max(ts) AS last_ts, node_id, gpu_index, argMax(tenant, ts), argMax(driver_epoch, ts),
    argMax(energy_last_j, ts), 1
FROM gpufleet.gpu_1m FINAL WHERE {scope_of(back)} AND energy_last_j >= 0
GROUP BY site, node_id, gpu_index"""
        )
    if "job_1m" in names:
        named = ", ".join(JOB_1M.columns)
        back = Range(window.start - LOOKBACK_S, window.start)
        store.command(
            f"INSERT INTO gpufleet.job_1m{BESIDE} ({named}, version) SELECT {named}, version"
            f" FROM gpufleet.job_1m FINAL WHERE {scope_of(back)}"
        )


def windows(recomputer: Recomputer, beside: Store, table: Table, names: Sequence[str], part: Range) -> None:
    """The table's windows of a range, those it is computed from first."""
    if "gpu_1m" in names:
        recomputer.gpu_minutes(part, None)
    if "rack_10s" in names:
        recomputer.slots(part)
    if "rack_1m" in names:
        recomputer.rack_minutes(part)
    if table is GPU_1H:
        recomputer.write(GPU_1H, part, gpu_1h_sql(part))
    if table is FLEET_1H:
        recomputer.write(FLEET_1H, part, hours.fleet_1h_sql(part))
    if SOURCE.get(table.name) == "tenant_usage":
        recomputer.write(table, part, usage_windows.usage_sql(table, part))
    if "facility_1m" in names:
        recomputer.write(FACILITY_1M, part, facility_windows.facility_1m_sql(part))
    if table is FACILITY_1H:
        recomputer.write(FACILITY_1H, part, hours.facility_1h_sql(part))
    if {"health_1m", "job_1m", "sick_1m"} & set(names):
        for some in recomputer.batches(part, None):
            _conditions(recomputer, beside, names, some)
    if table is HEALTH_1H:
        recomputer.write(HEALTH_1H, part, health_windows.health_1h_sql(part))
    if table is RACK_1H:
        recomputer.write(RACK_1H, part, hours.rack_1h_sql(part))


def _conditions(recomputer: Recomputer, beside: Store, names: Sequence[str], part: Range) -> None:
    holding = spells.load(beside, part)
    if "health_1m" in names:
        recomputer.write(HEALTH_1M, part, health_windows.health_1m_sql(part, holding))
    if "job_1m" in names:
        recomputer.write(JOB_1M, part, job_windows.job_1m_sql(part))
    if "sick_1m" in names:
        where = sick_windows.look(beside, part)
        recomputer.write(SICK_1M, part, sick_windows.sick_1m_sql(part, holding, where))
