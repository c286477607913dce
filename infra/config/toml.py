"""Writing the little TOML that settings need: tables of texts, numbers, booleans, paths and flat tables of texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BARE = re.compile(r"^[A-Za-z0-9_-]+$")


def literal(value: Any) -> str:
    """One value as TOML. TypeError for anything settings do not hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(str(k))} = {literal(v)}" for k, v in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    raise TypeError(f"expected text, number, true/false or a table, found {type(value).__name__}")


def render(values: Mapping[str, Any]) -> str:
    """Dotted keys and their values as a TOML document, one table per section."""
    tables: dict[str, list[str]] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        tables.setdefault(section, []).append(f"{_key(name)} = {literal(value)}")
    return "".join(f"\n[{section}]\n" + "\n".join(lines) + "\n" for section, lines in tables.items())


def _key(name: str) -> str:
    return name if _BARE.match(name) else json.dumps(name)
