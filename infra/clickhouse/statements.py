"""SQL text cut into statements and words, with strings, quoted names and comments left whole."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n]*|/\*.*?\*/)
    | (?P<string>'(?:[^'\\]|\\.|'')*')
    | (?P<name>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
    | (?P<space>\s+)
    | (?P<word>[A-Za-z_][A-Za-z_0-9]*)
    | (?P<end>;)
    | (?P<broken>'|`|"|/\*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


class SqlTextError(ValueError):
    """SQL text that cannot be cut: a string, name or comment that does not end."""


def tokens(sql: str) -> Iterator[tuple[str, str]]:
    """The text as (kind, text) pairs that join to it again: comment, string, name, space, word, end, other."""
    for match in _TOKEN.finditer(sql):
        kind = str(match.lastgroup)
        if kind == "broken":
            line = sql.count("\n", 0, match.start()) + 1
            raise SqlTextError(f"line {line}: {match.group()} is opened and never closed")
        yield kind, match.group()


def split(sql: str) -> list[str]:
    """The statements of a script, without their final semicolons; comments stay with the statement they precede.

    What holds nothing but comments and space is no statement.
    """
    statements, current, meaning = [], "", False
    for kind, text in tokens(sql):
        if kind == "end":
            if meaning:
                statements.append(current.strip())
            current, meaning = "", False
            continue
        current += text
        meaning = meaning or kind not in ("comment", "space")
    if meaning:
        statements.append(current.strip())
    return statements


def bare(statement: str) -> str:
    """The statement without comments."""
    return "".join(text if kind != "comment" else " " for kind, text in tokens(statement)).strip()
