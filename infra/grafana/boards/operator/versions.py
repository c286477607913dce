"""What the inventory says over time: versions that differ, GPUs that were swapped. Panels of Health."""

from __future__ import annotations

from infra.grafana import links, units
from infra.grafana.panels import HIDDEN, Column, Panel, table
from infra.grafana.query import only


def skew(id_: int) -> Panel:
    sql = f"""SELECT gpu_model, driver, vbios, agent, nic_fw, kernel_, count() AS nodes,
    arrayStringConcat(arraySlice(arraySort(groupArray(node_id)), 1, 4), ', ') AS examples
FROM
(
    SELECT
        node_id,
        argMax(toString(i.gpu_model), i.ts) AS gpu_model,
        argMax(toString(driver_version), i.ts) AS driver,
        argMax(arrayStringConcat(arraySort(arrayDistinct(gpu_vbios)), ' + '), i.ts) AS vbios,
        argMax(toString(agent_version), i.ts) AS agent,
        argMax(arrayStringConcat(arraySort(arrayDistinct(nic_firmware)), ' + '), i.ts) AS nic_fw,
        argMax(toString(kernel), i.ts) AS kernel_
    FROM gpufleet.inventory AS i
    WHERE asset_kind = 'node' AND flaws = 0 AND i.ts <= $__toTime
        AND {only("site")} AND {only("gpu_model", "i.gpu_model")}
    GROUP BY node_id
)
GROUP BY gpu_model, driver, vbios, agent, nic_fw, kernel_
ORDER BY gpu_model, nodes DESC LIMIT 100"""
    return table(
        id_,
        "Versions, by how many nodes run them",
        sql,
        {
            "gpu_model": Column("Model", width=80),
            "driver": Column("Driver"),
            "vbios": Column("VBIOS"),
            "agent": Column("Agent", width=80),
            "nic_fw": Column("NIC firmware"),
            "kernel_": Column("Kernel"),
            "nodes": Column("Nodes", width=70),
            "examples": Column("For example"),
        },
        width=14,
        means="Combinations of driver, VBIOS, agent, NIC firmware and kernel per model at the end of the range. More "
        "than one line a model is a skew; `+` inside a node is a skew within it.",
        do="A synchronous job runs at the pace of its oldest driver: bring the small lines to the large one.",
    )


def swaps(id_: int) -> Panel:
    nobody = "toFixedString('', 16)"
    sql = f"""SELECT site, since, node_id, gpu, rack, slot, lower(hex(was_)) AS was, lower(hex(is_)) AS is
FROM
(
    SELECT site, node_id, valid_from AS since, rack, slot,
        lagInFrame(gpu_uuid, 1, gpu_uuid) OVER history AS before,
        arrayJoin(arrayFilter(
            (place, is, was) -> is != was AND is != {nobody} AND was != {nobody},
            arrayEnumerate(gpu_uuid), gpu_uuid, arrayResize(before, length(gpu_uuid), {nobody}))) AS place,
        gpu_index[place] AS gpu, before[place] AS was_, gpu_uuid[place] AS is_
    FROM gpufleet.node_history
    WHERE asset_kind = 'node' AND valid_from <= $__toTime AND {only("site")} AND {only("gpu_model")}
    WINDOW history AS (PARTITION BY site, node_id ORDER BY valid_from ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
WHERE since >= $__fromTime
ORDER BY since DESC LIMIT 100"""
    return table(
        id_,
        "GPUs swapped in the range",
        sql,
        {
            "site": HIDDEN,
            "since": Column("Seen", units.TIME, width=170),
            "node_id": Column("Node", links=(links.to_node(),)),
            "gpu": Column("GPU", width=60, links=(links.to_gpu(),)),
            "rack": Column("Rack", links=(links.to_rack(),)),
            "slot": Column("Slot", width=70),
            "was": Column("Was"),
            "is": Column("Is"),
        },
        width=10,
        none="no GPU was swapped in the range",
        means="Places in which the inventory shows another GPU than before, by UUID.",
        do="Each belongs to an RMA ticket; a swap without one is a mistake, or worse.",
    )
