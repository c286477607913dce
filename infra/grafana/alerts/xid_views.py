# ruff: noqa: E501  (lines of SQL)
"""The migration that makes the views ``xid_actions`` and ``gpu_alarms`` from the Xid catalogue."""

from __future__ import annotations

from typing import Any

from infra.grafana.alerts.xid import NvLink5, catalogue, codes, nvlink5

FILE = "0119_xid_catalogue.sql"


def migration() -> str:
    """The text of the migration; a new version of the catalogue is a new migration with the next number."""
    facts = catalogue()
    return f"{_actions(facts)}\n{_alarms(facts)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _actions(facts: dict[str, Any]) -> str:
    rows = ",\n        ".join(f"({c.code}, {_quoted(c.action)}, {_quoted(c.meaning)})" for c in codes(facts))
    return f"""-- Made from infra/grafana/alerts/xid_catalogue.json by python -m infra.grafana.alerts.generate.
-- Grain: one Xid. NVIDIA's catalogue as read on {facts["version"]}
-- ({facts["source"]}).
-- A code that is not listed is unclassified, which is never ignored. The driver's own verdict outranks this table.
CREATE OR REPLACE VIEW gpufleet.xid_actions
(
    code Int32 COMMENT 'XID.',
    action LowCardinality(String) COMMENT 'restart_app, ignore, ignore_unless_alone, reset_gpu, reboot_node, restart_vm, check_mechanicals, check_uvm, update_software, contact_support or workflow (depends on the line).',
    meaning String COMMENT 'What it says.',
    catalogue String COMMENT 'Version of NVIDIA''s catalogue: the day it was read.'
)
COMMENT 'What to do about an XID, where the driver does not say.'
AS SELECT
    tupleElement(row, 1) AS code,
    tupleElement(row, 2) AS action,
    tupleElement(row, 3) AS meaning,
    '{facts["version"]}' AS catalogue
FROM
(
    SELECT arrayJoin([
        {rows}]) AS row
);
"""


def _row(rule: NvLink5) -> str:
    (old_mask, old), (new_mask, new) = rule.patterns
    units = ", ".join(_quoted(unit) for unit in rule.units)
    return f"({rule.xid}, [{units}], {old_mask}, {old}, {new_mask}, {new}, {rule.status}, {_quoted(rule.action)})"


def _alarms(facts: dict[str, Any]) -> str:
    rows = ",\n        ".join(_row(rule) for rule in nvlink5(facts))
    return f"""-- Grain: one fact that may mean a fault: an XID, SXID, ECC double-bit error, remap, lost GPU or link down.
-- XID 144 to 150 (NVLink 5) are decided by unit, IntrInfo and error status of the kernel's line, as the catalogue says.
CREATE OR REPLACE VIEW gpufleet.gpu_alarms
(
    site LowCardinality(String) COMMENT 'Data centre.',
    node_id String COMMENT 'Node.',
    rack LowCardinality(String) COMMENT 'Rack.',
    tenant LowCardinality(String) COMMENT 'Customer that leased the node then; empty = nobody.',
    ts DateTime64(6, 'UTC') COMMENT 'When.',
    gpu_index Nullable(Int32) COMMENT 'GPU; NULL = the whole node.',
    gpu_uuid String COMMENT 'UUID as NVIDIA writes it.',
    event LowCardinality(String) COMMENT 'xid, sxid, ecc_dbe, row_remap, gpu_lost or link_down.',
    code Nullable(Int32) COMMENT 'XID or SXID.',
    action LowCardinality(String) COMMENT 'What to do: the driver''s verdict, else the table''s, else unclassified.',
    action_from LowCardinality(String) COMMENT 'driver, table or nobody.',
    scope LowCardinality(String) COMMENT 'Blast radius: gpu, node or nvlink_domain.',
    is_fault Bool COMMENT 'Whether it makes what it hits unhealthy until it is cleared.',
    meaning String COMMENT 'What the code says.',
    occurrences Int32 COMMENT 'Like facts folded into one within 5 s.',
    message String COMMENT 'What happened, in a sentence.',
    raw String COMMENT 'The kernel''s or exporter''s own line.',
    host_boot_id LowCardinality(String) COMMENT 'Boot of the host.',
    ended_at Nullable(DateTime64(6, 'UTC')) COMMENT 'End, where the event itself names one.',
    run_id Int64 COMMENT 'Run of the producer.',
    seq Int64 COMMENT 'Number of the event.'
)
COMMENT 'XIDs and other alarms of GPUs and nodes, each with the action to take.'
AS WITH
    -- (XID, names of the unit, IntrInfo mask and value before driver R575, the same from R575 on, error status or -1, action)
    [
        {rows}
    ] AS nvlink5
SELECT
    e.site AS site,
    e.node_id AS node_id,
    e.rack AS rack,
    e.tenant AS tenant,
    e.ts AS ts,
    e.gpu_index AS gpu_index,
    if(isNull(e.gpu_uuid), '', replaceRegexpOne(lower(hex(assumeNotNull(e.gpu_uuid))), '^(.{{8}})(.{{4}})(.{{4}})(.{{4}})(.{{12}})$', 'GPU-\\\\1-\\\\2-\\\\3-\\\\4-\\\\5')) AS gpu_uuid,
    e.event AS event,
    e.code AS code,
    multiIf(
        -- "None" is a verdict on the GPU: that its application has died, or that a clean-up came alone, stays true.
        ifNull(e.recovery_action, -1) = 0 AND e.event = 'xid' AND e.asked IN ('restart_app', 'ignore_unless_alone'), e.asked,
        ifNull(e.recovery_action, -1) BETWEEN 0 AND 4,
        ['none', 'reset_gpu', 'reboot_node', 'drain_p2p', 'drain_and_reset'][ifNull(e.recovery_action, 0) + 1],
        e.event = 'xid', if(e.asked = '', 'unclassified', e.asked),
        e.event = 'sxid', 'unclassified',
        e.event IN ('ecc_dbe', 'row_remap'), 'reset_gpu',
        e.event = 'gpu_lost', 'reboot_node',
        'check_link') AS action,
    multiIf(
        ifNull(e.recovery_action, -1) = 0 AND action IN ('restart_app', 'ignore_unless_alone'), 'table',
        ifNull(e.recovery_action, -1) BETWEEN 0 AND 4, 'driver',
        action = 'unclassified', 'nobody', 'table') AS action_from,
    multiIf(
        e.event = 'sxid', 'nvlink_domain',
        isNull(e.gpu_index) OR action = 'reboot_node' AND e.event = 'xid', 'node',
        'gpu') AS scope,
    action NOT IN ('none', 'ignore', 'ignore_unless_alone', 'restart_app') AS is_fault,
    e.meaning AS meaning,
    e.occurrences AS occurrences,
    e.message AS message,
    e.raw AS raw,
    e.host_boot_id AS host_boot_id,
    e.ended_at AS ended_at,
    e.run_id AS run_id,
    e.seq AS seq
FROM
(
    SELECT
        n.*,
        a.meaning AS meaning,
        extractGroups(n.raw, '\\\\(0x([0-9a-fA-F]{{8}}) +0x([0-9a-fA-F]{{8}})') AS words,
        toInt64(reinterpretAsUInt32(reverse(unhex(words[1])))) AS info,
        toInt64(reinterpretAsUInt32(reverse(unhex(words[2])))) AS status,
        if(
            n.event = 'xid' AND ifNull(n.code, 0) BETWEEN 144 AND 150 AND notEmpty(words),
            tupleElement(arrayFirst(
                rule -> tupleElement(rule, 1) = ifNull(n.code, 0)
                    AND arrayExists(unit -> position(n.raw, unit) > 0, tupleElement(rule, 2))
                    AND (bitAnd(info, tupleElement(rule, 3)) = tupleElement(rule, 4)
                        OR bitAnd(info, tupleElement(rule, 5)) = tupleElement(rule, 6))
                    AND tupleElement(rule, 7) IN (-1, status),
                nvlink5), 8),
            '') AS decoded,
        if(decoded != '', decoded, toString(a.action)) AS asked
    FROM gpufleet.node_events AS n
    LEFT JOIN gpufleet.xid_actions AS a ON a.code = assumeNotNull(n.code) AND n.event = 'xid'
    WHERE n.flaws = 0 AND n.event IN ('xid', 'sxid', 'ecc_dbe', 'row_remap', 'gpu_lost', 'link_down')
) AS e;
"""
