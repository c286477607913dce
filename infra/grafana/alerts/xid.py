"""What to do about an Xid: NVIDIA's catalogue (xid_catalogue.json) as a view, and the decode of Xid 144 to 150.

The catalogue is facts of NVIDIA's page with the day it was read; this file says what gpufleet makes of each of its
resolution buckets. A code that the catalogue does not list, calls unused or gives no bucket is ``unclassified``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).parent / "xid_catalogue.json"
UNCLASSIFIED = "unclassified"

ACTION_OF_BUCKET = {
    "RESTART_APP": "restart_app",
    "IGNORE": "ignore",
    "RESET_GPU": "reset_gpu",
    "RESTART_BM": "reboot_node",
    "RESTART_VM": "restart_vm",
    "WORKFLOW_XID_45": "ignore_unless_alone",
    "WORKFLOW_XID_48": "workflow",
    "WORKFLOW_NVLINK_ERR": "workflow",
    "WORKFLOW_NVLINK5_ERR": "workflow",
    "XID_154": "workflow",
    "CHECK_MECHANICALS": "check_mechanicals",
    "CHECK_UVM": "check_uvm",
    "UPDATE_SWFW": "update_software",
    "CONTACT_SUPPORT": "contact_support",
    # "If an Xid 154 is seen as well, take that action, else restart the application": the driver's verdict outranks
    # this table anyhow.
    "XID_154_EVAL": "restart_app",
}
"""Resolution bucket (immediate action) -> action in the views."""

DETAILS_OF_48 = {171: "DRAM", 172: "SRAM"}
"""Codes without a bucket that only say more about an Xid 48: they follow its workflow."""

WORKFLOW = ("workflow", "restart_vm", "check_mechanicals", "check_uvm", "update_software", "contact_support")
"""Actions that begin with a person reading the line."""

SHORT = {
    43: "GPU stopped processing (fault of the application)",
    45: "Pre-emptive cleanup after another error; alone: restart the Fabric Manager",
    63: "Row remapping recorded",
    64: "Row remapping failed",
    92: "High rate of corrected ECC errors",
    94: "Contained memory error",
    95: "Uncontained memory error",
    121: "C2C link error, corrected",
    137: "NVLink access error (fault of the application)",
    154: "The driver's verdict on recovery changed",
    171: "Uncorrected ECC error in DRAM (detail of 48)",
    172: "Uncorrected ECC error in SRAM (detail of 48)",
}
"""Meanings in fewer or clearer words than the catalogue's."""


@dataclass(frozen=True, slots=True)
class Code:
    """One Xid that asks for something."""

    code: int
    action: str
    meaning: str


@dataclass(frozen=True, slots=True)
class NvLink5:
    """One row of the decode of Xid 144 to 150: which bits of IntrInfo and which error status mean which action."""

    xid: int
    units: tuple[str, ...]
    """Names of the unit in the line, before and from driver R575 on."""
    patterns: tuple[tuple[int, int], ...]
    """(mask, value) of IntrInfo, before and from R575 on; either may hold."""
    status: int
    """Error status that it is for; -1 = any."""
    action: str


def catalogue() -> dict[str, Any]:
    """The committed facts."""
    facts: dict[str, Any] = json.loads(CATALOGUE.read_text())
    return facts


def codes(facts: dict[str, Any]) -> list[Code]:
    """Every code that the catalogue gives something to do for, in order."""
    found = []
    for row in facts["codes"]:
        bucket, code = row["immediate"], row["code"]
        if code in DETAILS_OF_48:
            action = "workflow"
        elif not bucket or row["description"] == "Unused":
            continue
        else:
            action = ACTION_OF_BUCKET[bucket]
        found.append(Code(code, action, SHORT.get(code, row["description"])))
    return found


def nvlink5(facts: dict[str, Any]) -> list[NvLink5]:
    """The decode, the strongest action first: where two rows fit, the GPU is reset rather than left alone."""
    found = []
    for row in facts["nvlink5"]:
        units = tuple(dict.fromkeys(row["unit"].split("/")))
        status = -1 if row["status"] is None else int(row["status"], 16)
        texts = (row["intrinfo_v1"], row["intrinfo_v2"])
        found.append(
            NvLink5(row["xid"], units, tuple(map(_pattern, texts)), status, ACTION_OF_BUCKET[row["immediate"]])
        )
        if row["promoted"]:
            promoted = tuple(_pattern(_promoted(text)) for text in texts)
            found.append(NvLink5(row["xid"], units, promoted, status, ACTION_OF_BUCKET[row["promoted"]]))
    return sorted(found, key=lambda rule: (rule.xid, rule.action != "reset_gpu"))


def _pattern(text: str) -> tuple[int, int]:
    """(mask, value) of a 32-character pattern of 0, 1 and '-' (any)."""
    return int("".join("0" if c == "-" else "1" for c in text), 2), int(text.replace("-", "0"), 2)


def _promoted(text: str) -> str:
    """The pattern of a promoted error: the first fixed bit of the lower field is set."""
    low = text.rindex("-") + 1
    return f"{text[:low]}1{text[low + 1 :]}"


def decide(code: int, line: str, facts: dict[str, Any] | None = None) -> str:
    """The table's action for an Xid line, as the views decide it. The driver's own verdict outranks it.

    A line of 144 to 150 that nothing fits stays with ``workflow``: a person has to read it.
    """
    import re

    facts = facts or catalogue()
    words = re.search(r"\((0x[0-9a-fA-F]{8}) +(0x[0-9a-fA-F]{8})", line)
    if 144 <= code <= 150 and words:
        info, status = int(words[1], 16), int(words[2], 16)
        for rule in nvlink5(facts):
            fits = any(info & mask == value for mask, value in rule.patterns) and rule.status in (-1, status)
            if rule.xid == code and fits and any(unit in line for unit in rule.units):
                return rule.action
    return next((c.action for c in codes(facts) if c.code == code), UNCLASSIFIED)
