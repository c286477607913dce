"""Parts that a lost write left with missing bytes: set aside by the engine's start, removed by us.

They may be as large as a merge, so that a disk which is full because of one would stay full for ever. What was in them
is elsewhere: an insert was not answered as stored and is sent again, a merge's or a mutation's sources are still there.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

_LOG = logging.getLogger(__name__)


class Leftovers:
    """Of the engine on the folder ``database``, looked at before it is opened. ``since``: when the last one was opened,
    in seconds since 1970; parts that were written before are no lost write's, and stay for a person to look at."""

    def __init__(self, database: Path, since: float) -> None:
        self._database, self._since = database, since
        self._known = self._aside()

    def remove(self) -> list[str]:
        """Remove what the start has set aside; the parts' names."""
        removed = []
        for part in sorted(self._aside() - self._known):
            try:
                if max(file.stat().st_mtime for file in part.iterdir()) < self._since:
                    continue
                shutil.rmtree(part)
            except (OSError, ValueError):  # ValueError: it holds no file
                _LOG.exception("could not remove %s", part)
                continue
            removed.append(part.name)
        return removed

    def _aside(self) -> set[Path]:
        return set(self._database.glob("store/*/*/detached/broken-on-start_*"))
