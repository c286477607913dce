"""The driver's XID and SXID lines in the kernel log, as facts.

Forms seen: ``NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.``; without pid, with
``pid='<unknown>'``, with function (``0000:3b:00.0``), without domain or without ``PCI:`` (old drivers), with a MIG
instance (``PCI:0000:05:00 GPU-I:05``); ``NVRM: Xid (PCI:...): 13, Graphics SM Warp Exception on (GPC 0, ...)``;
144-150 as ``149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004a1485 0x00000002 ...)``, where the two first words in the
parentheses are interrupt info and error status; 154 as ``GPU recovery action changed from 0x0 (None) to 0x1 (GPU
Reset Required)``; NVSwitch lines as ``nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 ...``.
"""

from __future__ import annotations

import re

from producers.agent.facts import Fact
from producers.agent.gpus import pci_text

_XID = re.compile(
    r"NVRM:\s+Xid\s+\((?:PCI:)?\s*(?P<pci>[0-9a-fA-F:.]+)(?:\s+GPU-I:(?P<mig>[0-9a-fA-F]+))?\s*\):\s*(?P<code>\d{1,9})"
    r"(?:,\s*(?P<rest>.*))?",
    re.DOTALL,
)
_SXID = re.compile(
    r"(?P<switch>nvidia-nvswitch\d+|NVSwitch\s*\d*)?:?\s*SXid\s+\((?:PCI:)?\s*(?P<pci>[0-9a-fA-F:.]+)\s*\):\s*(?P<code>\d{1,9})"
    r"(?:,\s*(?P<rest>.*))?",
    re.DOTALL,
)
_PID = re.compile(r"^pid='?(?P<pid><unknown>|\d+)'?(?:,\s*|$)")
_NAME = re.compile(r"^name=(?P<name>[^,]*)(?:,\s*|$)")
_CHANNEL = re.compile(r"\b(?:Ch|channel)\s+(?P<channel>0x[0-9a-fA-F]+|[0-9a-fA-F]{8})\b", re.IGNORECASE)
_NVLINK = re.compile(
    r"^(?P<unit>[A-Z][A-Z0-9_]+)\s+(?P<severity>Fatal|Nonfatal|Non-fatal)\s+(?:XC\s*(?P<xc>\d+)\s+)?(?:i\s*(?P<i>\d+)\s+)?"
    r"Link\s+(?P<link>-?\d+)\s*[\[(](?P<words>[^)\]]*)",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"recovery action changed from\s+(?P<old>0x[0-9a-fA-F]{1,7})\s*(?:\([^)]*\))?\s*to\s+(?P<new>0x[0-9a-fA-F]{1,7})\b"
    r"\s*(?:\((?P<words>[^)]*)\))?",
    re.IGNORECASE,
)
_SEVERITY = re.compile(r"^(?P<severity>Non-fatal|Fatal)\b(?:,\s*)?", re.IGNORECASE)
_LINK = re.compile(r"\bLink\s+(?P<link>\d+)\b")
NVLINK_XIDS = range(144, 151)


def parse(message: str, ts: int) -> Fact | None:
    """The fact in one kernel log message, or None when it is neither an XID nor an SXID line."""
    if "Xid" not in message:  # every line of the log comes by here
        return None
    if found := _SXID.search(message):
        return _sxid(found, message, ts)
    if found := _XID.search(message):
        return _xid(found, message, ts)
    return None


def _xid(found: re.Match[str], message: str, ts: int) -> Fact:
    code = int(found["code"])
    rest = (found["rest"] or "").strip()
    attributes: dict[str, str] = {}
    if found["mig"]:
        attributes["mig_instance"] = found["mig"]
    for pattern, name in ((_PID, "pid"), (_NAME, "process")):
        if part := pattern.match(rest):
            attributes[name] = part[1].strip("<>")
            rest = rest[part.end() :]
    if part := _CHANNEL.search(rest):
        attributes["channel"] = part["channel"]
    verdict = None
    if code in NVLINK_XIDS and (part := _NVLINK.match(rest)):
        words = part["words"].split()
        attributes |= {"unit": part["unit"], "severity": part["severity"].lower(), "link": part["link"]}
        attributes |= dict(zip(("intr_info", "error_status"), words, strict=False))
    if code == 154 and (part := _VERDICT.search(rest)):
        verdict = int(part["new"], 16)
        attributes["verdict_before"] = str(int(part["old"], 16))
        if part["words"]:
            attributes["verdict"] = part["words"]
    return Fact(
        "xid",
        "kmsg",
        ts,
        pci_address=pci_text(found["pci"]),
        code=code,
        recovery_action=verdict,
        message=rest or f"XID {code}",
        raw=message,
        attributes=attributes,
    )


def _sxid(found: re.Match[str], message: str, ts: int) -> Fact:
    code = int(found["code"])
    rest = (found["rest"] or "").strip()
    attributes = {"switch": found["switch"]} if found["switch"] else {}
    if part := _SEVERITY.match(rest):
        attributes["severity"] = part["severity"].lower()
        rest = rest[part.end() :]
    if part := _LINK.search(rest):
        attributes["link"] = part["link"]
    return Fact(
        "sxid",
        "kmsg",
        ts,
        pci_address=pci_text(found["pci"]),
        code=code,
        message=rest or f"SXID {code}",
        raw=message,
        attributes=attributes,
    )
