"""Leases as people declare them, in TOML.

inventory = "nodes.csv"            # needed for wildcards and racks; relative to this file

[[lease]]
id = "acme-2026"
tenant = "acme"
nodes = ["cl1-r0001-n[1-8]"]       # and / or: racks = ["cl1-r[0001-0100]"]
from = 2026-11-01T00:00:00Z
to = 2027-11-01T00:00:00Z          # leave out = open
kind = "reserved"                  # reserved, on-demand, spot
price = 2.35                       # per GPU-hour
currency = "USD"
sla = 0.995
operator_reads_usage = false
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from producers.checks import tenant_name, utc_text, zoned_time
from producers.declared import Entry, entries, load
from producers.errors import InputError
from producers.leases.model import KINDS, MINUTE_US, Lease
from producers.leases.nodes import NodeList, read_node_list, resolve

KEYS = (
    *("id", "tenant", "nodes", "racks", "from", "to", "kind", "price", "currency", "sla"),
    "operator_reads_usage",
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def read_leases(path: Path, inventory: Path | None = None, *, empty_allowed: bool = False) -> list[Lease]:
    """The leases a file declares, in its order.

    ``inventory`` stands in for the one that the file names. ``empty_allowed`` lets ``nodes = []`` stand: a lease that
    covers nothing, which only a correction may declare. InputError says which lease and key are wrong.
    """
    document = load(path)
    tables = entries(document, "lease", KEYS, top=("inventory",))
    known = _known(document, path, inventory)
    leases = [_lease(entry, known, empty_allowed) for entry in tables]
    seen: set[str] = set()
    for lease in leases:
        if lease.lease_id in seen:
            raise InputError(f"lease {lease.lease_id!r} is declared twice")
        seen.add(lease.lease_id)
    return leases


def _known(document: dict[str, object], path: Path, inventory: Path | None) -> NodeList | None:
    if inventory is not None:
        return read_node_list(inventory)
    named = document.get("inventory")
    if named is None:
        return None
    if not isinstance(named, str):
        raise InputError(f"inventory must be a file's name, found {named!r:.80}")
    return read_node_list(path.parent / named)


def _lease(entry: Entry, known: NodeList | None, empty_allowed: bool) -> Lease:
    lease_id = entry.text("id")
    if not _ID.fullmatch(lease_id):
        raise entry.wrong("id", "1 to 100 of letters, digits and . _ -")
    tenant = entry.checked("tenant", tenant_name)
    valid_from = _minute(entry, "from")
    valid_to = _minute(entry, "to") if "to" in entry.values else None
    if valid_to is not None and valid_to <= valid_from:
        raise InputError(f"{entry.where}: `to` must come after `from`: {utc_text(valid_to)} does not")
    kind = entry.text("kind", "reserved")
    if kind not in KINDS:
        raise entry.wrong("kind", f"one of {', '.join(KINDS)}")
    currency = entry.text("currency", "USD")
    if not re.fullmatch(r"[A-Z]{3}", currency):
        raise entry.wrong("currency", "three capital letters (ISO 4217) such as USD")
    nodes, racks = entry.texts("nodes"), entry.texts("racks")
    try:
        resolved = resolve(nodes, racks, known)
    except InputError as error:
        raise InputError(f"{entry.where}: {error}") from None
    if not resolved and not (empty_allowed and "nodes" in entry.values):
        raise InputError(f'{entry.where}: covers no node: give nodes = ["..."] or racks = ["..."]')
    return Lease(
        lease_id=lease_id,
        tenant=tenant,
        nodes=resolved,
        valid_from=valid_from,
        valid_to=valid_to,
        kind=kind,
        price=entry.number("price", 0, math.inf, 0.0),
        currency=currency,
        sla=entry.number("sla", 0, 1, 0.0),
        operator_reads_usage=entry.flag("operator_reads_usage", False),
    )


def _minute(entry: Entry, key: str) -> int:
    us: int = entry.checked(key, lambda value: zoned_time(value, f"`{key}`"))
    if us % MINUTE_US:
        below = utc_text(us - us % MINUTE_US)
        raise InputError(
            f"{entry.where}: `{key}` must be a whole minute, found {utc_text(us)}: usage is attributed and billed by "
            f"minute, and a minute belongs to one tenant; write {below} or the minute after"
        )
    return us
