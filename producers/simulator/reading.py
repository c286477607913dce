"""A TOML table into a dataclass, strictly: unknown keys, wrong types and missing keys are told apart and named."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class ScenarioError(ValueError):
    """A scenario that cannot be simulated; the message says where, what was expected and what was found."""


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' when something known is near, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def read_table(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass ``kind`` from a table; ``where`` is the path of keys to it."""
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise ScenarioError(f"{where}{key}: no such key, expected one of {', '.join(known)}" + nearest(key, known))
        values[key] = _read(hints[key], value, f"{where}{key}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ScenarioError(f"{where}{name}: this key is missing")
    return kind(**values)


def _read(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        return _read_list(typing.get_args(hint), value, where)
    if isinstance(hint, types.GenericAlias):
        raise TypeError(f"{where}: cannot read {hint}")
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ScenarioError(f"{where}: expected a table, found {value!r}")
        return read_table(hint, value, f"{where}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ScenarioError(f"{where}: expected {_words(hint)}, found {value!r}")
    return value


def _read_list(of: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ScenarioError(f"{where}: expected a list, found {value!r}")
    if of[-1] is not Ellipsis and len(of) != len(value):
        raise ScenarioError(f"{where}: expected {len(of)} values, found {len(value)}")
    return tuple(_read(of[0], item, f"{where}[{number}]") for number, item in enumerate(value))


def _words(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))
