"""Which nodes a declaration means: names, ranges like ``cl1-r0001-n[1-8]``, wildcards and racks.

Ranges stand for themselves: ``[0001-0100]`` keeps its leading zeros, ``[1,3,5-8]`` lists. ``*`` and ``?`` and racks
need an inventory list: a text file with a node per line and, after a comma, its rack.
"""

from __future__ import annotations

import csv
import fnmatch
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from producers.errors import InputError, nearest

MAX_NODES = 100_000
"""Of one lease."""
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}", re.ASCII)
_GROUP = re.compile(r"\[([^\[\]]*)\]")
_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class NodeList:
    """The nodes that exist, with their racks."""

    source: str
    rack_of: dict[str, str]
    """Node -> rack; empty when the list names none."""

    def racks(self) -> dict[str, list[str]]:
        """Rack -> its nodes."""
        found: dict[str, list[str]] = {}
        for node, rack in self.rack_of.items():
            if rack:
                found.setdefault(rack, []).append(node)
        return found


def read_node_list(path: Path) -> NodeList:
    """An inventory list: ``node`` or ``node,rack`` a line, ``#`` starts a comment, a header ``node_id,rack`` may lead.

    InputError names the line that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"inventory {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"inventory {path} is not UTF-8 at byte {error.start + 1}") from None
    rack_of: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.partition("#")[0].strip()
        if not bare:
            continue
        cells = [cell.strip() for cell in next(csv.reader([bare]), [])]
        if not rack_of and cells[:1] in (["node_id"], ["node"]):
            continue
        if not 1 <= len(cells) <= 2 or not all(_NODE.fullmatch(cell) for cell in cells if cell) or not cells[0]:
            raise InputError(f"inventory {path}, line {number}: expected 'node' or 'node,rack', found {line!r:.80}")
        if cells[0] in rack_of:
            raise InputError(f"inventory {path}, line {number}: node {cells[0]!r} is listed twice")
        rack_of[cells[0]] = cells[1] if len(cells) == 2 else ""
    if not rack_of:
        raise InputError(f"inventory {path} lists no node")
    return NodeList(str(path), rack_of)


def resolve(nodes: Sequence[str], racks: Sequence[str], known: NodeList | None) -> tuple[str, ...]:
    """The nodes meant, sorted, each once. InputError for what cannot be understood or is not in the list."""
    found: set[str] = set()
    for name in _expand_all(nodes):
        if "*" in name or "?" in name:
            found.update(_matching(name, "nodes", known.rack_of if known else None, known))
        elif not _NODE.fullmatch(name):
            raise InputError(f"{name!r:.80} is not a node's name (letters, digits and . _ : / -)")
        elif known and name not in known.rack_of:
            raise InputError(f"node {name!r} is not in {known.source}; {nearest(name, _like(name, known.rack_of))}")
        else:
            found.add(name)
    by_rack = known.racks() if known else None
    for name in _expand_all(racks):
        for rack in _matching(name, "racks", by_rack, known):
            assert by_rack is not None
            found.update(by_rack[rack])
    if len(found) > MAX_NODES:
        raise InputError(f"means {len(found)} nodes; one lease holds at most {MAX_NODES}")
    return tuple(sorted(found))


def expand(pattern: str) -> Iterator[str]:
    """The names that a pattern's ranges stand for; wildcards stay. InputError for a range that is none."""
    pieces = _GROUP.split(pattern)
    if any("[" in piece or "]" in piece for piece in pieces[::2]):
        raise InputError(f"{pattern!r:.80} has a bracket without its partner")
    choices = [_choices(group, pattern) for group in pieces[1::2]]
    if math.prod(len(choice) for choice in choices) > MAX_NODES:
        raise InputError(f"{pattern!r:.80} means more than {MAX_NODES} names")
    for chosen in itertools.product(*choices):
        yield "".join(itertools.chain.from_iterable(itertools.zip_longest(pieces[::2], chosen, fillvalue="")))


def _choices(group: str, pattern: str) -> list[str]:
    found: list[str] = []
    for part in group.split(","):
        match = _PART.fullmatch(part.strip())
        if not match:
            raise InputError(f"{pattern!r:.80}: expected numbers like [1-8] or [1,3,5-8], found [{group}]")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first):
            raise InputError(f"{pattern!r:.80}: the range {part} runs backwards")
        if int(last) - int(first) >= MAX_NODES:
            raise InputError(f"{pattern!r:.80} means more than {MAX_NODES} names")
        width = len(first) if first.startswith("0") else 0
        found.extend(f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    return found


def _expand_all(patterns: Sequence[str]) -> Iterator[str]:
    left = 10 * MAX_NODES
    for pattern in patterns:
        for name in expand(pattern):
            left -= 1
            if left < 0:
                raise InputError(f"the patterns name more than {10 * MAX_NODES} nodes or racks")
            yield name


_Pool = Mapping[str, object]


def _matching(name: str, what: str, pool: _Pool | None, known: NodeList | None) -> list[str]:
    if known is None or pool is None:
        raise InputError(f'{what} {name!r:.80} need an inventory list: give `inventory = "FILE"` or --inventory FILE')
    wild = "*" in name or "?" in name
    matching = fnmatch.filter(pool, name) if wild else [name] * (name in pool)
    if not matching:
        raise InputError(f"no {what} {name!r:.80} in {known.source}; {nearest(name, _like(name, pool))}")
    return matching


def _like(name: str, pool: _Pool) -> list[str]:
    """A handful of names to choose the nearest from: comparing with 30,000 takes seconds."""
    same = [item for item in pool if item[:4] == name[:4] and abs(len(item) - len(name)) <= 2]
    return sorted(same or pool, key=lambda item: (-_common(item, name), item))[:20]


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
