"""Declarations in TOML: files that people write, read with checks that name the place and the remedy."""

from __future__ import annotations

import math
import sys
import tomllib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producers.errors import InputError, nearest


@dataclass(frozen=True, slots=True)
class Entry:
    """One table of a ``[[name]]`` array, and where it stands for messages."""

    where: str
    values: dict[str, Any]

    def wrong(self, key: str, expected: str) -> InputError:
        """The error that ``key`` holds something else than ``expected``."""
        return InputError(f"{self.where}: {key} must be {expected}, found {self.values.get(key)!r:.80}")

    def text(self, key: str, default: str | None = None) -> str:
        """A text; the default when it is absent, an error when there is none."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "text")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number from ``low`` to ``high``."""
        value = self._get(key, default)
        bad = isinstance(value, bool) or not isinstance(value, int | float)
        if bad or not low <= value <= high or (isinstance(value, float) and not math.isfinite(value)):
            limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of {low:g} or more"
            raise self.wrong(key, f"a number {limits}")
        try:
            return float(value)
        except OverflowError:  # a whole number beyond what a float holds
            raise self.wrong(key, f"a number below {sys.float_info.max:g}") from None

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts; an empty one when it is absent."""
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of texts")
        return value

    def checked(self, key: str, check: Callable[[object], Any], default: Any = None) -> Any:
        """What ``check`` makes of the value; its InputError gets the place put in front."""
        try:
            return check(self._get(key, default))
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key, default)
        if value is None:
            raise InputError(f"{self.where}: {key} is missing")
        return value


def load(path: Path) -> dict[str, Any]:
    """A TOML file. InputError with line and column where it is not one, or cannot be read."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start + 1}") from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"not TOML: {error}") from None


def entries(document: dict[str, Any], name: str, keys: Collection[str], top: Collection[str] = ()) -> list[Entry]:
    """The tables of ``[[name]]``; unknown keys, here and at the top, are errors that name the nearest valid one."""
    for key in document:
        if key != name and key not in top:
            raise InputError(f"unknown key {key!r} at the top; {nearest(key, [name, *top])}")
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"expected tables that begin with [[{name}]], found {name} = {tables!r:.60}")
    if not tables:
        raise InputError(f"holds no [[{name}]]: nothing is declared")
    found = []
    for number, table in enumerate(tables, 1):
        label = table.get("id")
        where = f"{name} {label!r:.100}" if isinstance(label, str) else f"[[{name}]] number {number}"
        for key in table:
            if key not in keys:
                raise InputError(f"{where}: unknown key {key!r}; {nearest(key, keys)}")
        found.append(Entry(where, table))
    return found
