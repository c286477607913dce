"""What is done for a tenant, one step after the other; shown without secrets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Step:
    """One statement or change of a file."""

    shown: str
    """What it does, secrets hidden: for --dry-run."""
    run: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's user as the store has it."""

    name: str
    passwords: int
    """2 or more while a password is being rotated."""
    complete: bool
    """Whether it has every right and filter of today's tables, and no other."""

    def as_dict(self) -> dict[str, Any]:
        return {"tenant": self.name, "passwords": self.passwords, "complete": self.complete}


class Tenants(Protocol):
    """A store's tenants. Steps do nothing until they are run; each may be run again."""

    def known(self) -> list[Tenant]:
        """Those there are, by name."""

    def prepare(self) -> list[Step]:
        """Roles, profiles and the roles' row policies: what every user stands on. Part of ``add``, too."""

    def add(self, name: str, password: str) -> list[Step]:
        """Make the tenant; of one that exists, bring rights and filters up to date and leave the password."""

    def rotate(self, name: str, password: str, *, at_once: bool) -> list[Step]:
        """Make the password good, the ones before too unless ``at_once``."""

    def finish(self, name: str) -> list[Step]:
        """End a rotation: only the newest password is good."""

    def remove(self, name: str) -> list[Step]:
        """Take access away first, end what runs, then the rest."""

    def close(self) -> None:
        """Give the connection back."""
