"""A statement as the engine itself reads it: its canonical text and its syntax tree, neither of them run.

`formatQuerySingleLine` parses exactly one statement, handed over as a string parameter, and writes it back without
comments and with one way of quoting; `EXPLAIN AST` of that text lists the tree, one node a line. What is checked is
therefore what runs, and no second reading of SQL has to agree with ClickHouse's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infra.embedded.store.engine import Connection
from infra.embedded.store.errors import ACCESS_DENIED, Refusal

_LINE: Final = re.compile(
    r"(?P<indent> *)(?P<kind>[A-Za-z]+(?:::[A-Za-z]+)?)(?: +(?P<rest>.*?))?(?: \(children (?P<children>\d+)\))?"
)
_ALIAS: Final = re.compile(r"(?P<name>.*?)(?: \(alias .*\))?", re.DOTALL)


@dataclass(frozen=True)
class Node:
    """One line of EXPLAIN AST."""

    depth: int
    kind: str
    name: str
    """What follows the kind, without the alias."""


def canonical(connection: Connection, sql: str) -> str:
    """The statement as ClickHouse writes it, on one line. RuntimeError (code 62) unless it is exactly one."""
    result = connection.run("SELECT formatQuerySingleLine({q:String}) AS q", "JSONEachRow", {"q": escaped(sql)})
    text: str = json.loads(result.bytes())["q"]
    return text


def escaped(text: str) -> str:
    """A value as HTTP parameters carry it: backslash, tab, line break and NUL escaped."""
    for plain, code in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"), ("\0", "\\0")):
        text = text.replace(plain, code)
    return text


def tree(connection: Connection, statement: str, parameters: Mapping[str, str]) -> list[Node]:
    """The syntax tree of a canonical statement, parameters put in, root first. Refusal for a line that is not a node.

    A name holding a line break could add lines, but never take one away: every real node begins a line of its own,
    so that a check of all lines sees all nodes.
    """
    result = connection.run(f"EXPLAIN AST {statement}", "JSONEachRow", parameters)
    nodes = []
    for record in result.bytes().splitlines():
        text = json.loads(record)["explain"]
        if not text.strip():
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            raise Refusal(ACCESS_DENIED, "ACCESS_DENIED", "Names with line breaks or the like are not allowed here")
        alias = _ALIAS.fullmatch(found["rest"] or "")
        assert alias is not None
        nodes.append(Node(len(found["indent"]), found["kind"], alias["name"].strip()))
    return nodes
