"""Reading just enough SQL to route a statement: what kind it is, where an INSERT's data begins.

Nothing here decides what a tenant may do (gate.py asks the engine's own parser for that); a statement misread here
is at worst refused by the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(
    rb"""
    (?P<space>[\s\x00]++|--[^\n]*+|\#(?=[\ !])[^\n]*+|/\*.*?(?:\*/|\Z))
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*+)
  | (?P<quoted>'(?:[^'\\]++|\\.|'')*+(?:'|\\?\Z) | "(?:[^"\\]++|\\.|"")*+(?:"|\\?\Z)
      | `(?:[^`\\]++|\\.|``)*+(?:`|\\?\Z))
  | (?P<heredoc>\$\w*+\$)
  | (?P<number>[0-9][A-Za-z0-9_.]*+)
  | (?P<symbol>.)
    """,
    re.DOTALL | re.VERBOSE,
)
"""What is opened and never closed goes on to the end, so that each byte is looked at a few times and not once more for
each that came before it."""
OPEN_HEREDOCS: Final = 16
"""Heredocs without an end that are taken for plain text (``$`` may stand in names); what follows one more is passed
over."""

KNOWN_BYTES: Final = 8 << 10
"""Statements up to this length are remembered."""

READING: Final = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK"})


class Token(NamedTuple):
    kind: str
    text: bytes
    start: int
    end: int


def tokens(query: bytes) -> Iterator[Token]:
    """The tokens of `query` without white space and comments."""
    at = unclosed = 0
    while found := _TOKEN.match(query, at):
        kind, start, at = found.lastgroup or "symbol", found.start(), found.end()
        if kind == "heredoc":
            close = query.find(found[0], at)
            if close < 0 and unclosed < OPEN_HEREDOCS:
                unclosed += 1
                kind, at = "symbol", start + 1
            else:
                kind, at = "quoted", close + len(found[0]) if close >= 0 else len(query)
        if kind != "space":
            yield Token(kind, query[start:at], start, at)


@dataclass(frozen=True)
class Statement:
    """A statement and the data that follows it in the same body."""

    keyword: str
    """First word in upper case: SELECT, INSERT, CREATE, ..."""
    sql: bytes
    """The statement without trailing data."""
    format: str | None
    """FORMAT it names, if any."""
    takes_data: bool
    """True for INSERT ... FORMAT X: rows follow, in the same body or in the next one."""
    data_at: int
    """Where data begins in the bytes that were read; their length if there is none."""
    infile_at: int
    """Where FROM INFILE '...' goes."""


def head(query: bytes) -> Statement:
    """What `query` begins with; the data of an INSERT may be cut off anywhere."""
    return _known(query) if len(query) <= KNOWN_BYTES else _head(query)


@lru_cache(256)
def _known(query: bytes) -> Statement:
    """Programs say the same again and again."""
    return _head(query)


def _head(query: bytes) -> Statement:
    depth = 0
    keyword = ""
    previous, previous_at = b"", 0
    form: str | None = None
    settings_at: int | None = None
    for token in tokens(query):
        upper = token.text.upper() if token.kind == "word" else b""
        if not keyword:
            if token.text == b"(":
                depth += 1
                continue
            keyword = upper.decode() or "?"
        elif token.kind == "symbol":
            depth += token.text == b"("
            depth -= token.text == b")"
        elif keyword == "INSERT" and depth == 0:
            if previous == b"FORMAT" and token.kind == "word":
                form = token.text.decode()
                at = _data_start(query, token.end)
                infile = settings_at if settings_at is not None else previous_at
                return Statement("INSERT", query[: token.end], form, True, at, infile)
            if upper == b"VALUES":
                sql = query[: token.start] + b"FORMAT Values"
                infile = settings_at if settings_at is not None else token.start
                return Statement("INSERT", sql, "Values", True, token.end, infile)
            if upper in (b"SELECT", b"WITH"):
                return Statement("INSERT", query, None, False, len(query), len(query))
            if upper == b"SETTINGS" and settings_at is None:
                settings_at = token.start
        elif previous == b"FORMAT" and token.kind == "word" and depth == 0:
            form = token.text.decode()
        previous, previous_at = upper, token.start
    return Statement(keyword, query, form, False, len(query), len(query))


def _data_start(query: bytes, end: int) -> int:
    """Data begins after one line break, or after blanks on the FORMAT's own line (ClickHouse's own rule)."""
    at = end
    while at < len(query) and query[at : at + 1] in b" \t\r;":
        at += 1
    return at + 1 if query[at : at + 1] == b"\n" else at


def several(query: bytes) -> bool:
    """True if a second statement follows a semicolon."""
    ended = False
    for token in tokens(query):
        if ended and token.text != b";":
            return True
        ended = ended or token.text == b";"
    return False
