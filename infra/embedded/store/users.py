"""Who may ask, and for what: users.toml.

[users.gpufleet]
kind = "admin"               # admin | writer | operator | reader | tenant
password = "scrypt$14$..."   # passwords.py

[users.anthropic]
kind = "tenant"
tenant = "anthropic"
password = "scrypt$14$..."
previous = "scrypt$14$..."   # while a password is rotated: the one before is good, too
"""

from __future__ import annotations

import enum
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.embedded.store.errors import StoreError
from infra.embedded.store.passwords import check_form

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")


class Kind(enum.Enum):
    """What a user may do."""

    ADMIN = "admin"
    """Everything, without any filter: migrations, projector, audit. Nobody's own login."""
    WRITER = "writer"
    """SELECT and INSERT on the gpufleet database, without any filter; no DDL: the consumer."""
    OPERATOR = "operator"
    """As a reader, and may ask the projector for work."""
    READER = "reader"
    """SELECT on the gpufleet database and on system tables; of tenants' usage only what leases open."""
    TENANT = "tenant"
    """SELECT of its own rows."""


@dataclass(frozen=True)
class User:
    """One user; `password` is a hash in the form of passwords.py."""

    name: str
    kind: Kind
    password: str
    tenant: str = ""
    previous: str = ""
    """The hash of the password before this one, while it is still good; empty = there is none."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"expected a user name of letters, digits and _.@-, found {self.name!r}")
        if (self.kind is Kind.TENANT) != bool(self.tenant):
            raise ValueError(f'user {self.name}: `tenant` goes with kind = "tenant", and only with it')
        try:
            check_form(self.password)
            if self.previous:
                check_form(self.previous)
        except ValueError as error:
            raise ValueError(f"user {self.name}: password: {error}") from None


def read(path: Path, *, empty: bool = False) -> dict[str, User]:
    """Users by name. StoreError says which entry is wrong, or that there is none (unless ``empty``)."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise StoreError(f"cannot read the users file {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is not TOML: {error}") from None
    entries = content.get("users", {})
    if not isinstance(entries, dict) or not (entries or empty):
        raise StoreError(f"{path}: expected [users.NAME] sections, found none")
    users: dict[str, User] = {}
    for name, entry in entries.items():
        try:
            users[name] = _user(name, entry if isinstance(entry, dict) else {})
        except ValueError as error:
            raise StoreError(f"{path}: {error}") from None
    return users


def _user(name: str, entry: Mapping[str, object]) -> User:
    unknown = set(entry) - {"kind", "password", "previous", "tenant"}
    if unknown:
        raise ValueError(
            f"user {name}: expected kind, password, previous and tenant, found also {', '.join(sorted(unknown))}"
        )
    try:
        kind = Kind(entry.get("kind"))
    except ValueError:
        names = ", ".join(kind.value for kind in Kind)
        raise ValueError(f"user {name}: expected kind to be one of {names}, found {entry.get('kind')!r}") from None
    return User(
        name, kind, str(entry.get("password", "")), str(entry.get("tenant", "")), str(entry.get("previous", ""))
    )


def write(path: Path, users: Iterable[User]) -> None:
    """Write a users file, readable by its owner only."""
    lines = ["# Users of the embedded store; passwords are salted hashes. A running store follows changes."]
    for user in users:
        lines += ["", f'[users."{user.name}"]', f'kind = "{user.kind.value}"', f'password = "{user.password}"']
        if user.previous:
            lines.append(f'previous = "{user.previous}"')
        if user.tenant:
            lines.append(f"tenant = {_quoted(user.tenant)}")
    write_secret(path, "\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{escaped}"'


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read (mode 0600 from the first byte)."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)
