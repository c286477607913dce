"""Tenants of a running embedded store: its file tenants.toml, which it follows by itself.

What a tenant may do and see needs no statement there: the store's filters know every table of tenancy.py, and its gate
lets a tenant do nothing but read (docs/embedded.md).
"""

from __future__ import annotations

import base64
import fcntl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from infra.embedded.store import users
from infra.embedded.store.errors import StoreError
from infra.embedded.store.passwords import hash_password
from infra.embedded.store.users import Kind, User
from infra.errors import UnreachableError
from infra.tenants.steps import Step, Tenant

PATIENCE_S: Final = 10.0
"""A store follows its file within a second, a busy one later."""


class EmbeddedTenants:
    """Tenants in ``file``, of the store that answers at ``url``."""

    def __init__(self, file: Path, url: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._file, self._url, self._sleep = file, url, sleep

    def known(self) -> list[Tenant]:
        """Those there are, by name."""
        found = self._read()
        return [Tenant(name, 2 if found[name].previous else 1, True) for name in sorted(found)]

    def prepare(self) -> list[Step]:
        """Nothing: the store knows its kinds of users by itself."""
        return []

    def add(self, name: str, password: str) -> list[Step]:
        """The user, and the proof that the store knows it."""
        if name in self._read():
            return []
        return [
            Step(
                f'{self._file}: add [users."{name}"] kind = "tenant", password = "[hidden]"',
                lambda: self._change(name, User(name, Kind.TENANT, hash_password(password), name)),
            ),
            self._knows(name, password),
        ]

    def rotate(self, name: str, password: str, *, at_once: bool) -> list[Step]:
        """A new password; the one before stays good, unless ``at_once``."""

        def run() -> None:
            user = self._read()[name]
            previous = "" if at_once else user.password
            self._change(name, replace(user, password=hash_password(password), previous=previous))

        kept = "" if at_once else ', previous = "[hidden]"'
        return [Step(f'{self._file}: [users."{name}"] password = "[hidden]"{kept}', run), self._knows(name, password)]

    def finish(self, name: str) -> list[Step]:
        """Only the newest password is good."""
        return [
            Step(
                f'{self._file}: [users."{name}"] without previous',
                lambda: self._change(name, replace(self._read()[name], previous="")),
            )
        ]

    def remove(self, name: str) -> list[Step]:
        """The user; the store refuses it from then on and ends what it has running."""
        if name not in self._read():
            return []
        return [Step(f'{self._file}: remove [users."{name}"]; the store ends its queries', lambda: self._change(name))]

    def close(self) -> None:
        """Nothing is held."""

    def _read(self) -> dict[str, User]:
        if not self._file.exists():
            return {}
        try:
            return users.read(self._file, empty=True)
        except StoreError as error:
            raise UnreachableError(str(error)) from None

    def _change(self, name: str, user: User | None = None) -> None:
        with _locked(self._file):
            found = self._read()
            found.pop(name, None)
            if user is not None:
                found[name] = user
            try:
                users.write(self._file, (found[known] for known in sorted(found)))
            except OSError as error:
                raise UnreachableError(f"cannot write {self._file}: {error.strerror or error}") from None

    def _knows(self, name: str, password: str) -> Step:
        return Step(f"{self._url}: wait until {name} may ask", lambda: self._wait(name, password))

    def _wait(self, name: str, password: str) -> None:
        basic = base64.b64encode(f"{name}:{password}".encode()).decode()
        query = urllib.parse.urlencode({"query": "SELECT 1"})
        request = urllib.request.Request(f"{self._url}/?{query}", headers={"Authorization": f"Basic {basic}"})  # noqa: S310 - the setting allows http and https only
        waited = 0.0
        while True:
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S):  # noqa: S310
                    return
            except urllib.error.HTTPError as error:
                if error.code not in (401, 403):
                    return  # it was let in
                found = "it does not know the user yet"
            except OSError as error:
                found = str(error)
            if waited >= PATIENCE_S:
                raise UnreachableError(
                    f"{self._file} is written, but the store at {self._url} does not follow it ({found}): is it the"
                    " file of that store (store.tenants_file)? Its log says more"
                )
            self._sleep(0.1)
            waited += 0.1


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One change at a time, so that none is lost."""
    try:
        with file.with_name(file.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except PermissionError as error:
        raise UnreachableError(f"cannot change {file}: {error.strerror}") from None
