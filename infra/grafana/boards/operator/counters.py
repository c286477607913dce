"""The slow lane of one GPU as a list: error counters and link states. A panel of the GPU board."""

from __future__ import annotations

from typing import Final

from infra.grafana import thresholds
from infra.grafana.panels import Column, Panel, table
from infra.grafana.query import raw

_COUNTERS: Final = {
    "ECC corrected, since driver load": "ecc_sbe_volatile",
    "ECC uncorrected, since driver load": "ecc_dbe_volatile",
    "ECC uncorrected, life": "ecc_dbe_aggregate",
    "SRAM threshold passed": "ecc_sram_threshold",
    "Rows remapped (uncorrectable)": "remapped_rows_uncorrectable",
    "Rows remapped (correctable)": "remapped_rows_correctable",
    "Row remap failed": "row_remap_failure",
    "Row remap pending": "row_remap_pending",
    "PCIe replays": "pcie_replay",
    "PCIe generation": "pcie_link_gen",
    "PCIe generation, highest": "pcie_link_gen_max",
    "PCIe lanes": "pcie_link_width",
    "PCIe lanes, highest": "pcie_link_width_max",
    "NVLinks up": "nvlink_links_active",
    "NVLink CRC errors (flit)": "nvlink_crc_flit_errors",
    "NVLink CRC errors (data)": "nvlink_crc_data_errors",
    "NVLink replays": "nvlink_replay_errors",
    "NVLink recoveries": "nvlink_recovery_errors",
    "Recovery action (driver)": "recovery_action",
    "Fabric state": "fabric_state",
    "Processes": "compute_processes",
}


def panel(id_: int, scope: str) -> Panel:
    """Newest reading of each counter, and its change over the last 15 minutes of the range."""
    pairs = ",\n    ".join(
        f"('{name}', argMin(tuple({column}), sample_ts).1, argMax(tuple({column}), sample_ts).1)"
        for name, column in _COUNTERS.items()
    )
    sql = f"""SELECT counter.1 AS what, counter.3 AS value, counter.3 - counter.2 AS change
FROM
(
    SELECT arrayJoin([
    {pairs}]) AS counter
    FROM gpufleet.gpu_counters
    WHERE {raw()} AND {scope}
    HAVING count() > 0
)"""
    return table(
        id_,
        "Error counters and link states",
        sql,
        {
            "what": Column("Counter"),
            "value": Column("Value", width=120),
            "change": Column("Change in 15 minutes", width=160, steps=thresholds.ANY_IS_NOTICE),
        },
        width=12,
        height=10,
        means="Newest reading of the slow lane, and what changed over the last 15 minutes of the range. Empty = the "
        "GPU does not have it.",
        do="Lanes or generation below their highest: reseat or replace. Remap failed: replace. Pending: reset when "
        "free.",
    )
