"""Whether what the engine wrote is on the disk.

chDB goes on when the system refuses a write (src/IO/WriteBufferFromFileDescriptor.cpp of chdb-io/chdb, where ClickHouse
raises CANNOT_WRITE_TO_FILE_DESCRIPTOR): it counts the refusal and says nothing. On a full disk an insert is answered
as stored whose files are empty, and a merge puts such a part in the place of good ones, which are then removed
(config.MERGED_PARTS_S). The count is therefore looked at before a statement that writes is answered, and every two
seconds for the sake of merges. Once it is not zero, nothing of this engine counts any more: no statement is answered,
and the process starts anew (main.py), which sets parts with missing bytes aside and takes the good ones that they had
replaced.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from infra.embedded.store import room

_LOG = logging.getLogger(__name__)
LOOK_S: Final = 2.0
"""How often the count is looked at when nobody writes: far less than config.MERGED_PARTS_S."""
SPENDING: Final = frozenset(
    {"INSERT", "CREATE", "ALTER", "UPDATE", "DELETE", "OPTIMIZE", "RENAME", "EXCHANGE", "ATTACH"}
)
"""Statements that need room. An ALTER cut short would cost more than rows: the table's own definition."""


def attempts() -> int | None:
    """How often this process has called write, in vain or not; None where the system does not tell (it does on Linux,
    cheaply, where the engine's answer costs milliseconds)."""
    try:
        with Path("/proc/self/io").open() as lines:
            return next((int(line.partition(":")[2]) for line in lines if line.startswith("syscw:")), None) or None
    except (OSError, ValueError):
        return None


class Counts(Protocol):
    """The engine, as far as its writes go."""

    def refused_writes(self) -> int: ...


class Writes:
    """The writes of one engine on the file system of ``folder``."""

    def __init__(self, engine: Counts, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._looked_at = time.monotonic()
        self._tried: int | None = None
        self._lost = threading.Event()
        self._tell: Callable[[], object] = lambda: None

    @property
    def lost(self) -> bool:
        """Whether one was seen to be refused."""
        return self._lost.is_set()

    def when_lost(self, tell: Callable[[], object]) -> None:
        """Call ``tell``, once, from whatever thread, when one is."""
        self._tell = tell
        if self.lost:
            tell()

    def before(self, keyword: str) -> None:
        """Refusal when a statement of this kind must not begin."""
        if self.lost:
            raise room.no_room("A write found no room on the disk: the store starts anew")
        if keyword in SPENDING and room.free(self._folder) < room.RESERVE:
            raise room.no_room(f"The disk is full: less than {room.RESERVE >> 20} MiB are free")

    def after(self) -> None:
        """Refusal when a write was refused before this moment: the statement's own or another's."""
        if self.look():
            raise room.no_room("A write found no room on the disk: what this statement wrote may be gone")

    def next_look_s(self) -> float:
        """Until the count must be looked at again: each statement that wrote has done so, and its look counts, too."""
        return self._looked_at + LOOK_S - time.monotonic()

    def look_again(self) -> bool:
        """``look``, unless this process wrote nothing since the last one."""
        if (tried := attempts()) is not None and tried == self._tried:
            self._looked_at = time.monotonic()
            return self.lost
        return self.look()

    def look(self) -> bool:
        """Ask the engine; whether a write was refused since it was opened."""
        self._looked_at, before = time.monotonic(), attempts()
        if not self.lost and (count := self._engine.refused_writes()):
            _LOG.error("the system refused %d writes of the engine, most likely for lack of room", count)
            self._lost.set()
            self._tell()
        after = attempts()
        # The answer itself takes one write, to a pipe. A second one meanwhile may be what the next look is for.
        self._tried = after if before is not None and after is not None and after - before <= 1 else None
        return self.lost
