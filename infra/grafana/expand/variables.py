"""Variables in a text, as Grafana's frontend replaces them before a query leaves the browser.

``$name``, ``${name}``, ``${name:format}``, ``${name.field:format}`` and ``[[name:format]]``; one pass, so that a value
that looks like a variable stays what it is. A name that nobody knows stays as it stands, for the back end's macros.
Without a format the ClickHouse data source writes one value as it is, and several as ``'a','b'``: neither is safe
for a value from outside, which is why boards write ``decodeURLComponent('${name:percentencode}')``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from infra.grafana.expand.formats import Plain, formatted
from infra.grafana.expand.timerange import TimeRange, interval_text

ALL: Final = "$__all"
"""The value that the choice All has in a model and in an address."""
ALL_TEXT: Final = "All"

_REFERENCE = re.compile(
    r"\$(?P<plain>\w+)"
    r"|\[\[(?P<square>\w+?)(?::(?P<square_format>\w+))?\]\]"
    r"|\$\{(?P<braced>\w+)(?:\.(?P<field>[^:^}]+))?(?::(?P<format>[^}]+))?\}",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Value:
    """What a variable stands for."""

    value: Plain
    """One text, or a list where several are chosen (or All, which stands for every option)."""
    text: str | None = None
    """What the picker shows; None = the value."""
    custom_all: bool = False
    """The value is the variable's own text for All: written as it is, whatever the format."""


Variables = Mapping[str, "Value | str | Sequence[str]"]


def interpolate(text: str, values: Mapping[str, Value]) -> str:
    """The text with every known variable replaced."""

    def replaced(found: re.Match[str]) -> str:
        name = found["plain"] or found["square"] or found["braced"]
        value = values.get(name)
        if value is None or found["field"]:
            return found[0]
        return _written(name, value, found["square_format"] or found["format"] or "", values)

    return _REFERENCE.sub(replaced, text)


def scope(
    variables: Variables, time_range: TimeRange, interval_ms: int, extra: Mapping[str, str] | None = None
) -> dict[str, Value]:
    """Every name that a query's text may use: the dashboard's variables and what Grafana itself provides."""
    own = {
        name: value if isinstance(value, Value) else Value(value if isinstance(value, str) else list(value))
        for name, value in variables.items()
    }
    built_in = {
        "__interval": interval_text(interval_ms),
        "__interval_ms": str(interval_ms),
        "__from": str(time_range.from_ms),
        "__to": str(time_range.to_ms),
        **(extra or {}),
    }
    # What the query runner hands over with a query goes before a dashboard's variable of the same name.
    return {**own, **{name: Value(value) for name, value in built_in.items()}}


def selected(value: Plain, options: Sequence[str] = (), all_value: str = "") -> Value:
    """A choice as a Value. All becomes the variable's own text for it, or else the list of its options."""
    first = value if isinstance(value, str) else next(iter(value), "")
    if first != ALL:
        return Value(value)
    return Value(all_value, ALL_TEXT, custom_all=True) if all_value else Value(list(options), ALL_TEXT)


def _written(name: str, value: Value, spec: str, values: Mapping[str, Value]) -> str:
    if value.custom_all:
        return _custom_all(name, value, spec, values)
    if not spec:
        return value.value if isinstance(value.value, str) else "'" + "','".join(value.value) + "'"
    return formatted(value.value, spec, name, value.text)


def _custom_all(name: str, value: Value, spec: str, values: Mapping[str, Value]) -> str:
    """A variable's own text for All is written as it is, and may name other variables."""
    plain = value.value if isinstance(value.value, str) else ",".join(value.value)
    if spec == "text":
        return ALL_TEXT
    if spec == "percentencode":
        plain = formatted(plain, spec, name)
    elif spec == "queryparam":
        plain = formatted(ALL_TEXT, spec, name)
    others = {other: each for other, each in values.items() if other != name}
    return interpolate(plain, others)
