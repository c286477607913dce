"""The users of a running store: read at its start, and again whenever a file changes.

Two files: users.toml belongs to whoever starts the store and is written anew at every start; tenants.toml belongs to
`gpufleet tenant` and outlives restarts. It holds tenants only, so that whoever may write it makes nobody mightier.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from infra.embedded.store import users
from infra.embedded.store.errors import StoreError
from infra.embedded.store.users import Kind, User

_LOG: Final = logging.getLogger(__name__)
_Stamp = tuple[int, int, int]


class UserBook:
    """Users by name. StoreError when the files cannot be read at the start; later the last good content stays."""

    def __init__(self, own: Path, tenants: Path) -> None:
        self._own, self._tenants = own, tenants
        self._stamps = self._look()
        self._users = self._read()

    def find(self, name: str) -> User | None:
        """The user of that name, as of the last ``refresh``."""
        return self._users.get(name)

    def refresh(self) -> frozenset[str]:
        """Look at the files again (two stat calls when nothing changed); names of those who may no longer do what
        they did: gone, or another kind or tenant under the same name."""
        stamps = self._look()
        if stamps == self._stamps:
            return frozenset()
        self._stamps = stamps
        try:
            fresh = self._read()
        except StoreError as error:
            _LOG.error("%s; the users stay as they were", error)
            return frozenset()
        before, self._users = self._users, fresh
        _LOG.info("users read again: %d", len(fresh))
        return frozenset(name for name, user in before.items() if not _same(user, fresh.get(name)))

    def _read(self) -> dict[str, User]:
        found = users.read(self._own)
        if self._tenants.exists():
            for name, user in users.read(self._tenants, empty=True).items():
                if user.kind is not Kind.TENANT:
                    raise StoreError(f"{self._tenants}: user {name}: expected a tenant, found kind {user.kind.value}")
                if name in found:
                    raise StoreError(f"{self._tenants}: user {name} is in {self._own}, too")
                found[name] = user
        return found

    def _look(self) -> tuple[_Stamp | None, ...]:
        return tuple(_stamp(path) for path in (self._own, self._tenants))


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _same(before: User, after: User | None) -> bool:
    return after is not None and (before.kind, before.tenant) == (after.kind, after.tenant)
