"""What became of events that will never be sent, by sequence number: on disk before it happens, until it is told.

An account is written first and the file it is about is rewritten next: a crash in between leaves an account of events
that are sent after all, which an audit does not mind; the other order would lose them without a word.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from producers.spool.thin import flattened

THINNED, GIVEN_UP = "events_thinned", "events_dropped"
RANGES_LIMIT = 2_000
"""Ranges of one account; more make another one."""


@dataclass(frozen=True, slots=True)
class Account:
    """Events of one run and topic that are no longer there."""

    event: str
    """``THINNED``: part of other events now. ``GIVEN_UP``: gone."""
    topic: str
    producer_id: str
    run_id: int
    gone: str
    """Their sequence numbers, as ranges: 1-11,13-23."""
    events: int
    kept: int = 0
    """Thinned: events that were made of them and still go out."""
    first_ts: int = 0
    last_ts: int = 0
    interval_ms: int = 0
    """Thinned: the ticks that are left are this far apart."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the producer should tell as a node event."""

    event: str
    value: str
    message: str
    producer_id: str = ""
    occurrences: int = 1
    attributes: Mapping[str, str] = field(default_factory=dict)


def ranges(numbers: Iterable[int]) -> list[str]:
    """Numbers as texts of ranges, each short enough for one account."""
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in flattened(sorted(numbers))]
    return [",".join(parts[i : i + RANGES_LIMIT]) for i in range(0, len(parts), RANGES_LIMIT)]


def count(gone: str) -> int:
    """How many numbers a text of ranges names."""
    total = 0
    for part in gone.split(",") if gone else ():
        low, _, high = part.partition("-")
        total += int(high or low) - int(low) + 1
    return total


def notice(account: Account) -> Notice:
    """The account in words, and for programs."""
    if account.event == THINNED:
        message = (
            f"{account.events + account.kept} {account.topic} events were thinned to ticks of "
            f"{account.interval_ms / 1000:g} s: {account.reason}; {account.kept} are left"
        )
    else:
        message = f"{account.events} {account.topic or 'unknown'} events were given up: {account.reason}"
    attributes = {
        "run": str(account.run_id),
        "gone": account.gone,
        "kept": str(account.kept),
        "first_ts": str(account.first_ts),
        "last_ts": str(account.last_ts),
        "reason": account.reason,
    }
    if account.interval_ms:
        attributes["interval_ms"] = str(account.interval_ms)
    return Notice(
        account.event, account.topic, message, account.producer_id, max(1, account.events + account.kept), attributes
    )


class Accounts:
    """The accounts that were not told yet. Any thread."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._path, self._durable = path, durable
        self._lock = threading.Lock()
        self.open: tuple[Account, ...] = ()

    def load(self) -> None:
        """Read what an earlier process left; a line that was torn is passed over."""
        try:
            lines = self._path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return
        self.open = tuple(account for account in map(_parsed, lines) if account is not None)

    def add(self, accounts: Sequence[Account]) -> None:
        """Write accounts down. OSError: none of them counts."""
        if not accounts:
            return
        with self._lock, self._path.open("a") as file:
            # The line ahead may be torn: begin a new one.
            file.write("\n" + _text(accounts))
            file.flush()
            if self._durable:
                os.fsync(file.fileno())
            self.open += tuple(accounts)

    def settle(self, told: Sequence[Account]) -> None:
        """Forget accounts that were told. OSError: they may be told again, which does no harm."""
        with self._lock:
            self.open = tuple(account for account in self.open if account not in told)
            if not self.open:
                self._path.unlink(missing_ok=True)
                return
            partial = self._path.with_suffix(".partial")
            partial.write_text(_text(self.open))
            partial.rename(self._path)


def _text(accounts: Iterable[Account]) -> str:
    return "".join(json.dumps(asdict(account)) + "\n" for account in accounts)


def _parsed(line: str) -> Account | None:
    try:
        account = Account(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    for name, kind in _KINDS.items():
        value = getattr(account, name)
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 1 << 62):
            return None
    return account if account.event in (THINNED, GIVEN_UP) and _GONE.fullmatch(account.gone) else None


_KINDS: dict[str, type] = {field.name: int if field.type == "int" else str for field in dataclasses.fields(Account)}
_GONE = re.compile(r"(?:[0-9]{1,18}(?:-[0-9]{1,18})?(?:,(?!$)|$))*", re.ASCII)
"""1-11,13-23, or nothing."""
