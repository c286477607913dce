"""From what is declared and what holds to the events that make it so, or the reason why not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from producers.checks import utc_text
from producers.errors import ConflictError, InputError
from producers.leases.model import HeldLease, Lease, event_fields

_TERMS = (
    *("tenant", "nodes", "valid_from", "valid_to", "kind", "price", "currency", "sla"),
    "operator_reads_usage",
)
_SHOWN_NODES = 4


@dataclass(frozen=True, slots=True)
class Change:
    """One lease that will get a new revision."""

    lease: Lease
    before: HeldLease | None
    action: str
    """granted, changed, ended or corrected."""
    revision: int
    differences: tuple[str, ...]
    """In words, one a term."""
    rewrites_past: bool
    """Whether time that has gone by changes hands or terms: rows and windows will be attributed anew."""

    def fields(self, reason: str) -> dict[str, Any]:
        """The event for topic leases, without its header."""
        return event_fields(self.lease, self.revision, self.action, reason)


def plan(
    held: Mapping[str, HeldLease], declared: Sequence[Lease], now_us: int, *, correcting: bool = False
) -> list[Change]:
    """The changes that make what is declared hold; leases that are not declared stay as they are.

    Without ``correcting``, no term of a lease that has begun may change for time gone by: InputError. ConflictError
    when afterwards two leases would hold one node at one time.
    """
    changes = [change for lease in declared if (change := _change(held.get(lease.lease_id), lease, now_us, correcting))]
    _refuse_overlaps(held, changes)
    return changes


def _change(before: HeldLease | None, lease: Lease, now_us: int, correcting: bool) -> Change | None:
    if before is None:
        terms = f"{len(lease.nodes)} nodes ({_some(lease.nodes)}) to {lease.tenant}, {_span(lease)}"
        return Change(lease, None, "granted", 1, (terms,), lease.valid_from < now_us)
    changed = [term for term in _TERMS if getattr(lease, term) != getattr(before.lease, term)]
    if not changed:
        return None
    past = [term for term in changed if _in_the_past(term, before.lease, lease, now_us)]
    if past and not correcting:
        names = ", ".join(_label(term) for term in past)
        raise InputError(
            f"lease {lease.lease_id!r}: another {names} would change time gone by (it holds since "
            f"{utc_text(before.lease.valid_from)}, now is {utc_text(now_us)}). To change the future, end it with "
            "`to` and grant another; to change the past on purpose: `gpufleet lease correct FILE --reason ...`"
        )
    if correcting:
        action = "corrected"
    elif changed == ["valid_to"] and lease.valid_to is not None and lease.valid_to < _end(before.lease):
        action = "ended"
    else:
        action = "changed"
    differences = tuple(_difference(term, before.lease, lease) for term in changed)
    return Change(lease, before, action, before.revision + 1, differences, bool(past))


def _in_the_past(term: str, old: Lease, new: Lease, now_us: int) -> bool:
    if term == "operator_reads_usage":
        return False  # a permission: it holds from when it is given
    if term == "valid_to":
        return min(_end(old), _end(new)) < now_us
    return min(old.valid_from, new.valid_from) < now_us


def _refuse_overlaps(held: Mapping[str, HeldLease], changes: Sequence[Change]) -> None:
    """Only what changes is compared with everything: what overlaps already is not made worse by saying so here."""
    final = {lease_id: item.lease for lease_id, item in held.items()}
    final.update({change.lease.lease_id: change.lease for change in changes})
    for change in changes:
        nodes = set(change.lease.nodes)
        for other in final.values():
            if other.lease_id == change.lease.lease_id or not change.lease.overlaps(other):
                continue
            shared = nodes.intersection(other.nodes)
            if shared:
                begin = max(change.lease.valid_from, other.valid_from)
                end = min(_end(change.lease), _end(other))
                both = _span(replace(change.lease, valid_from=begin, valid_to=None if end == math.inf else int(end)))
                raise ConflictError(
                    f"leases {change.lease.lease_id!r} ({change.lease.tenant}) and {other.lease_id!r} "
                    f"({other.tenant}) would both hold {len(shared)} node(s) ({_some(sorted(shared))}) {both}: "
                    "end one where the other begins"
                )


def conflicts(changes: Iterable[Change], later: Mapping[str, HeldLease], run_id: int) -> list[str]:
    """Leases among ``changes`` for which the log, read again, holds another event than that of run ``run_id``."""
    lost = []
    for change in changes:
        now = later.get(change.lease.lease_id)
        if now is not None and now.order[1] != run_id and now.revision >= change.revision:
            lost.append(change.lease.lease_id)
    return lost


def _end(lease: Lease) -> float:
    return math.inf if lease.valid_to is None else lease.valid_to


def _span(lease: Lease) -> str:
    return f"from {utc_text(lease.valid_from)} " + (f"to {utc_text(lease.valid_to)}" if lease.valid_to else "on")


def _label(term: str) -> str:
    return {"valid_from": "from", "valid_to": "to"}.get(term, term)


def _difference(term: str, old: Lease, new: Lease) -> str:
    if term == "nodes":
        added, removed = sorted(set(new.nodes) - set(old.nodes)), sorted(set(old.nodes) - set(new.nodes))
        parts = [f"+{len(added)} ({_some(added)})"] if added else []
        parts += [f"-{len(removed)} ({_some(removed)})"] if removed else []
        return f"nodes: {len(old.nodes)} -> {len(new.nodes)}: {', '.join(parts)}"
    return f"{_label(term)}: {_value(term, old)} -> {_value(term, new)}"


def _value(term: str, lease: Lease) -> str:
    value = getattr(lease, term)
    if term in ("valid_from", "valid_to"):
        return utc_text(value) if value is not None else "open"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NODES])
    return shown + (", ..." if len(names) > _SHOWN_NODES else "")
