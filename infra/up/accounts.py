"""What a run produced, by its producers' own journals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from producers import journal
from producers.journal import Given


def given(folder: Path, run_id: int | None = None) -> list[Given]:
    """What the runs in a journal folder gave out; of one run when ``run_id`` is given."""
    if not folder.is_dir():
        return []
    return [entry for entry in journal.read(folder) if run_id is None or entry.run_id == run_id]


def by_kind(entries: Iterable[Given]) -> dict[str, int]:
    """Events by topic."""
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[entry.topic] += entry.given
    return dict(sorted(counts.items()))
