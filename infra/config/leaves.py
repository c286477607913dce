"""The settings as a flat list of dotted keys, read off the models: for look-ups, documentation and typos."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from infra.config.models import Sections

PREFIX = "GPUFLEET_"


@dataclass(frozen=True)
class Leaf:
    """One setting."""

    key: str
    """Dotted path, e.g. ``kafka.bootstrap``."""
    field: FieldInfo
    types: tuple[type, ...]
    """What it may hold, without None."""
    choices: tuple[Any, ...]
    """The values allowed, when they are few."""

    @property
    def variable(self) -> str:
        """Name of its environment variable."""
        return PREFIX + self.key.replace(".", "_").upper()

    @property
    def section(self) -> str:
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]

    @property
    def secret(self) -> bool:
        return SecretStr in self.types

    @property
    def default(self) -> Any:
        return self.field.get_default(call_default_factory=True)

    @property
    def type_text(self) -> str:
        if self.choices:
            return " | ".join(f'"{choice}"' for choice in self.choices)
        names = {str: "text", Path: "path", SecretStr: "secret", float: "number", int: "integer", bool: "true | false"}
        return " | ".join(names.get(kind, "table") for kind in self.types)


@cache
def leaves() -> dict[str, Leaf]:
    """Every setting by its key, in the order of the models."""
    return {leaf.key: leaf for leaf in _walk(Sections, "")}


@cache
def tables() -> dict[str, str]:
    """Every section and sub-section with its one-line meaning."""
    return dict(_tables(Sections, ""))


def by_variable() -> dict[str, Leaf]:
    """Every setting by its environment variable."""
    return {leaf.variable: leaf for leaf in leaves().values()}


def nearest(word: str, among: typing.Iterable[str]) -> str | None:
    """The most similar of the known names, if any is similar at all."""
    found = difflib.get_close_matches(word, list(among), n=1, cutoff=0.6)
    return found[0] if found else None


def _walk(model: type[BaseModel], path: str) -> Iterator[Leaf]:
    for name, field in model.model_fields.items():
        inner = _model_of(field)
        if inner is not None:
            yield from _walk(inner, f"{path}{name}.")
        else:
            kinds, choices = _types_of(field.annotation)
            yield Leaf(f"{path}{name}", field, kinds, choices)


def _tables(model: type[BaseModel], path: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        inner = _model_of(field)
        if inner is not None:
            yield f"{path}{name}", (inner.__doc__ or "").strip()
            yield from _tables(inner, f"{path}{name}.")


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _types_of(annotation: Any) -> tuple[tuple[type, ...], tuple[Any, ...]]:
    origin = get_origin(annotation)
    if origin is Literal:
        return (str,), get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return tuple(part for part in get_args(annotation) if part is not type(None)), ()
    return (origin or annotation,), ()
