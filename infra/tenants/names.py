"""Which names tenants may have, and the passwords that go with them."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

from infra.errors import UnreachableError, UsageError
from producers.checks import tenant_name
from producers.errors import InputError

RESERVED: Final = frozenset(
    {"admin", "all", "default", "gpufleet", "grafana", "nobody", "operator", "reader", "unleased", "writer"}
)
"""Names that users, roles or policies of the store's own bear, and words that boards use beside tenants."""


def checked(name: str) -> str:
    """The name, if a tenant may have it. UsageError with the rule."""
    try:
        tenant_name(name)
    except InputError as error:
        raise UsageError(str(error)) from None
    if name in RESERVED:
        raise UsageError(f"{name!r} is taken: {', '.join(sorted(RESERVED))} mean something else")
    return name


def new_password() -> str:
    """24 random bytes in URL-safe base64: nobody guesses it, so that a plain hash of it tells nothing."""
    return secrets.token_urlsafe(24)


def sha256(password: str) -> str:
    """As ClickHouse's sha256_hash takes it."""
    return hashlib.sha256(password.encode()).hexdigest()


class Secret:
    """A password on its way to a file: written beside it first, in place only when the store has taken it.

    A run that dies in between leaves ``NAME.password.next``; the next run goes on with that password.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._next = file.with_name(file.name + ".next") if file else None
        self.value = ""

    def prepare(self, *, keep: bool) -> str:
        """The password to use: what a run before left, with ``keep`` the one in the file, else a new one."""
        for path in (self._next, self.file if keep else None):
            if path is not None and path.exists():
                self.value = _read(path)
                return self.value
        self.value = new_password()
        if self._next is not None:
            _write(self._next, self.value)
        return self.value

    def done(self) -> None:
        """The store has taken it."""
        if self._next is not None and self.file is not None and self._next.exists():
            self._next.replace(self.file)


def forget(file: Path | None) -> bool:
    """Delete the file of a password that is good for nothing any more; whether there was one."""
    if file is None or not file.exists():
        return False
    file.unlink()
    return True


def _read(path: Path) -> str:
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreachableError(f"cannot read {path}: {error}") from None
    if len(found) < 16 or not found.isprintable():
        raise UsageError(f"{path} does not hold a password of 16 characters or more: delete it to have one made")
    return found


def _write(path: Path, text: str) -> None:
    """Only its owner may read it, from the first byte."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UnreachableError(f"cannot write {path}: {error.strerror or error}") from None
