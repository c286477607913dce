"""One projector at a time: a lock of claims in the store.

Two projectors would compute the same rows, but one that read before a lease was corrected could write after the
other's tombstones and leave the old tenant's window standing. A claim is a row (owner, since, until) by the store's
clock; the oldest claim that has not run out holds. A new claim counts only after ``settle_s``, and is given up when
the store took longer than that to take it, so that no older claim can appear behind it. A statement may run no longer
than the claim is sure to hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from consumers.projector.store import Store, rows, scalar

_NAME = "projector"


class OwnershipLostError(RuntimeError):
    """The claim ran out, or the store no longer has it: stop writing and claim anew."""


class StoreLock:
    """The lock as one process sees it. Not shared between threads.

    ``owner`` names the process; a restart under the same name takes over its own claim at once, so the name must be
    stable only where something else makes sure that there is one such process.
    """

    def __init__(
        self,
        owner: str,
        ttl_s: float = 60.0,
        settle_s: float = 0.5,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.owner = owner
        self._ttl, self._settle, self._monotonic = ttl_s, settle_s, monotonic
        self._since = 0
        self._renewal = 0
        self._renewed_at = 0.0
        self._settled_at = 0.0
        self._held = self._waiting = False

    @property
    def held(self) -> bool:
        """Whether this process held the lock when it last looked."""
        return self._held

    @property
    def waiting(self) -> bool:
        """Whether an older claim than this process's was seen when it last looked."""
        return self._waiting

    def acquire(self, store: Store) -> bool:
        """Claim, or look whether the claim has become the oldest. True when the lock is held. Never waits."""
        now = self._monotonic()
        if self._since and now - self._renewed_at > self._ttl * 0.8:
            self._forget()
        if not self._since:
            self._claim(store, now)
            return False
        if now < self._settled_at:
            return False
        if now - self._renewed_at > self._ttl / 4:
            self._write(store, self._ttl)
        self._held = self._oldest(store) == (self.owner, self._since)
        self._waiting = not self._held
        return self._held

    def check(self, store: Store) -> None:
        """Ahead of every write: renews when due. OwnershipLostError when the claim may have run out."""
        age = self._monotonic() - self._renewed_at
        if not self._held or age > self._ttl * 0.8:
            self._forget()
            raise OwnershipLostError("the projector's claim ran out; another projector may have taken over")
        if age > self._ttl / 4:
            self._write(store, self._ttl)

    def release(self, store: Store) -> None:
        """Let go, so that another projector need not wait for the claim to run out."""
        if self._since:
            self._write(store, 0.0)
        self._forget()

    def _claim(self, store: Store, now: float) -> None:
        own = f"name = '{_NAME}' AND owner = {_quoted(self.owner)} AND until > now64(6)"
        for since, renewal in rows(
            store,
            f"SELECT toUnixTimestamp64Micro(since), renewal FROM gpufleet.projector_lock FINAL WHERE {own}",
        ):
            self._since, self._renewal = int(since), int(renewal)  # of the process this one replaces
            self._write(store, 0.0)
        self._renewal = 0
        self._since = int(scalar(store, "SELECT toUnixTimestamp64Micro(now64(6))"))
        self._write(store, self._ttl)
        if self._monotonic() - now > self._settle:
            self._write(store, 0.0)
            self._forget()
        self._settled_at = self._monotonic() + self._settle

    def _write(self, store: Store, ttl_s: float) -> None:
        started = self._monotonic()
        self._renewal += 1
        store.command(
            f"INSERT INTO gpufleet.projector_lock (name, since, owner, until, renewal) SELECT '{_NAME}',"
            f" fromUnixTimestamp64Micro({self._since}, 'UTC'), {_quoted(self.owner)},"
            f" now64(6) + toIntervalMillisecond({int(ttl_s * 1000)}), {self._renewal}",
            settings={"async_insert": 0},
        )
        self._renewed_at = started

    def _oldest(self, store: Store) -> tuple[str, int] | None:
        found = rows(
            store,
            "SELECT owner, toUnixTimestamp64Micro(since) FROM gpufleet.projector_lock FINAL"
            f" WHERE name = '{_NAME}' AND until > now64(6) ORDER BY since, owner LIMIT 1",
        )
        return (str(found[0][0]), int(found[0][1])) if found else None

    def _forget(self) -> None:
        self._since, self._renewal, self._held, self._waiting = 0, 0, False, False


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
