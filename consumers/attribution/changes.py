"""Which (node, time) may resolve to another tenant after new revisions of leases: old against new, no store needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

FOREVER = 2**62
"""End of an open lease, microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Terms:
    """One revision of a lease. Times in microseconds since 1970, the end exclusive."""

    site: str
    lease_id: str
    revision: int
    tenant: str
    nodes: frozenset[str]
    start: int
    end: int
    stored_at: int


@dataclass(frozen=True, slots=True)
class Touched:
    """Nodes whose tenant may have changed in [start, end), microseconds since 1970."""

    site: str
    nodes: frozenset[str]
    start: int
    end: int


def touched(revisions: Iterable[Terms], since: int) -> list[Touched]:
    """What the revisions stored at or after ``since`` may have changed, as compared with those before.

    Overlapping leases need no care here: a change of one lease can only change who holds a node where that lease
    held it before or holds it now.
    """
    leases: dict[tuple[str, str], list[Terms]] = {}
    for terms in revisions:
        leases.setdefault((terms.site, terms.lease_id), []).append(terms)
    found: list[Touched] = []
    for history in leases.values():
        ordered = sorted(history, key=lambda t: (t.revision, t.stored_at))
        if ordered[0].stored_at >= since:
            found += _whole(ordered[0])
        for old, new in pairwise(ordered):
            if new.stored_at >= since or old.stored_at >= since:
                found += _between(old, new)
    return sorted(set(found), key=lambda t: (t.site, t.start, t.end, sorted(t.nodes)))


def _whole(terms: Terms) -> Iterator[Touched]:
    if terms.nodes and terms.start < terms.end:
        yield Touched(terms.site, terms.nodes, terms.start, terms.end)


def _between(old: Terms, new: Terms) -> Iterator[Touched]:
    if old.tenant != new.tenant or old.start >= old.end or new.start >= new.end:
        yield from _whole(old)
        yield from _whole(new)
        return
    for nodes, terms in ((old.nodes - new.nodes, old), (new.nodes - old.nodes, new)):
        if nodes:
            yield Touched(terms.site, nodes, terms.start, terms.end)
    both = old.nodes & new.nodes
    # The start also decides which of two overlapping leases holds: the whole time both have is open to change.
    if both and old.start != new.start:
        yield Touched(old.site, both, min(old.start, new.start), max(old.end, new.end))
    elif both and old.end != new.end:
        yield Touched(old.site, both, min(old.end, new.end), max(old.end, new.end))


def clipped(changes: Sequence[Touched], start: int, end: int) -> list[Touched]:
    """The changes inside [start, end)."""
    inside = (Touched(t.site, t.nodes, max(t.start, start), min(t.end, end)) for t in changes)
    return [t for t in inside if t.start < t.end]
