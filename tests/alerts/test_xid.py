"""The Xid table is NVIDIA's catalogue, and the views decide what the catalogue says."""

from __future__ import annotations

import re

import pytest

from infra.clickhouse.client import connect
from infra.embedded.store.process import StoreProcess
from infra.grafana.alerts.xid import ACTION_OF_BUCKET, catalogue, codes, decide, nvlink5
from tests.alerts.support import Bench, where

BER = "NETIR_BER_EVENT   Nonfatal XC0 i0 Link 03 (0x00000226 0x00000001 0x0 0x0 0x0 0x0)"
LINES = [
    (149, "NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x004505c6 0x00000000 0x00000000 0x00000000)", "reset_gpu"),
    (149, "NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x026505c6 0x00000000 0x00000000 0x00000000)", "ignore"),
    (149, "NETIR_LINK_DOWN  Fatal   XC0 i0 Link 01 (0x00400011 0x00000000 0x00000000 0x00000000)", "reset_gpu"),
    (149, BER, "ignore"),
    (144, "SAW_MVB Fatal XC0 i0 Link -1 (0x00000021 0x00000002 0x00000000 0x00000000)", "reset_gpu"),
    (144, "SAW_MVB Nonfatal XC0 i0 Link -1 (0x00000021 0x00000001 0x00000000 0x00000000)", "ignore"),
    (145, "RLW_RXPIPE Nonfatal XC0 i0 Link 04 (0x000000c2 0x00000001 0x00000000 0x00000000)", "ignore"),
    (145, "RLW_RXPIPE Fatal XC0 i0 Link 04 (0x000004c2 0x00000001 0x00000000 0x00000000)", "reset_gpu"),
    (145, "RLW_REMAP Nonfatal XC1 i0 Link 04 (0x00000082 0x00000001 0x00000000 0x00000000)", "restart_app"),
    (150, "MSE_WATCHDOG Fatal XC0 i0 Link -1 (0x00000000 0x00000000 0x00000000 0x00000000)", "reset_gpu"),
    (149, "NETIR_LINK_EVT Fatal XC 1 i 2 Link 01 [0x0000000a]", "workflow"),
    (146, "TLW_RX Nonfatal XC0 i0 Link 02 (0x00000143 0x00004000 0x00000000 0x00000000)", "workflow"),
    (79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", "reboot_node"),
    (45, "pid=1, name=python3, Ch 00000008", "ignore_unless_alone"),
    (999, "something new", "unclassified"),
    (1, "said to be unused", "unclassified"),
    (167, "PCIE_FATAL_TIMEOUT", "unclassified"),
]


def test_every_bucket_of_the_catalogue_has_an_action() -> None:
    facts = catalogue()
    used = {row["immediate"] for row in facts["codes"] if row["immediate"] and row["description"] != "Unused"}
    decoded = {row["immediate"] for row in facts["nvlink5"]}
    assert used | decoded <= set(ACTION_OF_BUCKET)
    assert [row["code"] for row in facts["codes"]] == list(range(1, 173))


def test_what_the_domain_says_of_codes() -> None:
    by_action: dict[str, set[int]] = {}
    for code in codes(catalogue()):
        by_action.setdefault(code.action, set()).add(code.code)
    assert {13, 31, 94} <= by_action["restart_app"]
    assert {43, 44, 63, 92, 121, 137, 157} <= by_action["ignore"]
    assert by_action["ignore_unless_alone"] == {45}
    assert {46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158} == by_action["reset_gpu"]
    assert by_action["reboot_node"] == {79}
    assert {48, 74, *range(144, 151), 154, 171, 172} <= by_action["workflow"]
    assert by_action["check_mechanicals"] == {54}
    assert by_action["restart_vm"] == {151}


def test_patterns_are_32_bits() -> None:
    for row in catalogue()["nvlink5"]:
        assert all(re.fullmatch(r"[01-]{32}", row[key]) for key in ("intrinfo_v1", "intrinfo_v2")), row
    for rule in nvlink5(catalogue()):
        assert all(value & ~mask == 0 for mask, value in rule.patterns)


@pytest.mark.parametrize(("code", "line", "action"), LINES)
def test_decisions(code: int, line: str, action: str) -> None:
    assert decide(code, line) == action


def test_the_views_decide_alike(migrated_store: StoreProcess) -> None:
    bench = Bench(connect(where(migrated_store)))
    for place, (code, line, _) in enumerate(LINES):
        bench.event(
            "node-events",
            place,
            node_id="n",
            event="xid",
            gpu_index=0,
            code=code,
            raw=f"NVRM: Xid (PCI:0000:1b:00): {code}, {line}",
        )
    rows = bench.rows("SELECT code, action, action_from FROM gpufleet.gpu_alarms WHERE site = {site} ORDER BY ts")
    assert [(code, action) for code, action, _ in rows] == [(code, action) for code, _, action in LINES]
    assert {action: by for _, action, by in rows}["unclassified"] == "nobody"


@pytest.mark.parametrize(
    ("code", "verdict", "expected"),
    [
        (31, None, ("restart_app", "table", False)),
        (31, 0, ("restart_app", "table", False)),
        (31, 1, ("reset_gpu", "driver", True)),
        (45, 0, ("ignore_unless_alone", "table", False)),
        (79, 0, ("none", "driver", False)),
        (63, 2, ("reboot_node", "driver", True)),
        (999, 4, ("drain_and_reset", "driver", True)),
        (48, None, ("workflow", "table", True)),
    ],
)
def test_the_drivers_verdict_outranks_the_table(
    migrated_store: StoreProcess, code: int, verdict: int | None, expected: tuple[str, str, bool]
) -> None:
    bench = Bench(connect(where(migrated_store)))
    bench.event("node-events", 0, node_id="n", event="xid", gpu_index=0, code=code, recovery_action=verdict)
    assert bench.rows("SELECT action, action_from, is_fault FROM gpufleet.gpu_alarms WHERE site = {site}") == [expected]
