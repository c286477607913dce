"""What operators, readers, writers and tenants may say: every node of a syntax tree is on a list, or it is refused.

The engine does the isolation of tenants (row filters, read-only connection). This closes what read-only does not:
table functions that reach outside (s3, Python), functions that read files, dictionaries and the server itself, other
databases, system tables, EXPLAIN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from infra.embedded.store import formats, syntax
from infra.embedded.store.config import OPEN_SYSTEM_TABLES, OPEN_VIEW, Policy
from infra.embedded.store.engine import Connection
from infra.embedded.store.errors import ACCESS_DENIED, UNKNOWN_FORMAT, Refusal
from infra.embedded.store.syntax import Node
from infra.embedded.store.users import Kind

TABLE_FUNCTIONS: Final = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "generateseries", "generate_series", "values", "null"}
)
"""Table functions that make rows out of nothing."""

_CATEGORIES: Final = frozenset(
    {
        "Arithmetic", "Arrays", "Bit", "Bitmap", "Comparison", "Conditional", "Dates and Times", "Distance", "Encoding",
        "Encryption", "Financial", "Geo", "Geo Polygon", "Hash", "IP Address", "JSON", "Logical", "Map", "Mathematical",
        "Null", "NumericIndexedVector", "QBit", "Random Number", "Rounding", "String", "String Replacement",
        "String Search", "String Splitting", "Time Window", "Tuple", "Type Conversion", "UUID", "URL",
    }
)  # fmt: skip
"""Categories of system.functions whose functions work on their arguments alone."""

_FUNCTIONS: Final = frozenset(
    {
        "_cast", "bar", "blocknumber", "bytesize", "casewithexpression", "casewithoutexpression", "countdigits",
        "currentdatabase", "currentuser", "defaultvalueofargumenttype", "defaultvalueoftypename", "errorcodetoname",
        "exists", "finalizeaggregation", "formatreadabledecimalsize", "formatreadablequantity", "formatreadablesize",
        "formatreadabletimedelta", "getsetting", "getsubcolumn", "identity", "ignore", "indexhint",
        "initializeaggregation", "isconstant", "isdecimaloverflow", "lambda", "lowcardinalityindices",
        "lowcardinalitykeys", "materialize", "minsamplesizecontinuous", "minsamplesizeconversion", "neighbor",
        "rownumberinallblocks", "rownumberinblock", "runningaccumulate", "runningdifference",
        "runningdifferencestartingwithfirstvalue", "parsereadablesize", "parsereadablesizeornull",
        "parsereadablesizeorzero", "parsetimedelta", "servertimezone", "throwif", "timezone", "tocolumntypename",
        "totypename", "transform", "uptime", "variantelement", "varianttype", "version", "visiblewidth",
    }
)  # fmt: skip
"""Further harmless functions, lower case; _CAST is what a query parameter becomes."""

_ABOUT_SERVER: Final = frozenset({"hostname", "fqdn", "serveruuid", "getmacro"})
"""For those who may read the server's system tables anyway: a consumer tells one start of a server from another."""

_SELECT_NODES: Final = frozenset(
    {
        "ArrayJoin", "Asterisk", "ColumnsExceptTransformer", "ColumnsListMatcher", "ColumnsRegexpMatcher",
        "ColumnsReplaceTransformer", "ColumnsReplaceTransformer::Replacement", "ColumnsTransformerList",
        "ExpressionList", "Function", "Identifier", "InterpolateElement", "Literal", "OrderByElement",
        "QualifiedAsterisk", "QualifiedColumnsListMatcher", "QualifiedColumnsRegexpMatcher", "SampleRatio",
        "SelectIntersectExceptQuery", "SelectQuery", "SelectWithUnionQuery", "Subquery", "TableExpression",
        "TableIdentifier", "TableJoin", "TablesInSelectQuery", "TablesInSelectQueryElement", "WindowDefinition",
        "WindowListElement", "WithElement",
    }
)  # fmt: skip
_LOOK_NODES: Final = frozenset(
    {"DescribeQuery", "ExistsTableQuery", "Explain", "ShowTables", "ShowColumns", "ShowCreateTableQuery"}
)
_FORMATTED: Final = frozenset({"SelectWithUnionQuery", "DescribeQuery", "Explain"})
"""Statements of which an identifier right under the root is the FORMAT."""
_EXPLAINS_TEXT: Final = frozenset({"EXPLAIN AST", "EXPLAIN SYNTAX", "EXPLAIN QUERY TREE"})
"""What EXPLAIN says of a statement without looking at a table."""
OPERATOR_INSERTS: Final = frozenset({"projector_requests"})
"""What people on the operator's side may put into the store: requests to compute windows again."""
KNOWN: Final = 256
"""Statements whose verdict is remembered, ..."""
KNOWN_BYTES: Final = 16 << 10
"""... each of at most so many characters."""
_FILES: Final = re.compile(r"\b(?:IN|OUT)FILE\b", re.IGNORECASE)
_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


@dataclass(frozen=True)
class Cleared:
    """A statement that may run."""

    sql: str
    counts: bool
    """May its answer say how much the engine read? Not where rows are among it that the asker does not see."""


@dataclass(frozen=True)
class Rights:
    """What one kind of user may do."""

    databases: frozenset[str]
    """Databases whose tables may be named."""
    settings: bool
    """May a statement carry SETTINGS?"""
    insert: frozenset[str] | None = frozenset()
    """Tables of the database that rows may be put into; None = all."""
    look: bool = False
    """DESCRIBE, EXISTS, SHOW, EXPLAIN, and functions that ask dictionaries (leases and topology, no usage)."""


class Gate:
    """Checks statements of everybody but the administrator."""

    def __init__(self, connection: Connection, database: str, policies: Mapping[str, Policy]) -> None:
        self._database = database
        self._views = frozenset(name for name, policy in policies.items() if policy.tenant == OPEN_VIEW)
        self._listed = frozenset(policies)
        self._whole = frozenset(name for name, policy in policies.items() if policy.operator == "1")
        self._functions, self._dictionaries = _allowed(connection)
        self._combinators = tuple(_column(connection, "SELECT name FROM system.aggregate_function_combinators"))
        self._passed: dict[tuple[Kind, str, str], Cleared] = {}
        self._generation = 0
        inside = frozenset({database, "system", "information_schema", "INFORMATION_SCHEMA"})
        self._rights = {
            Kind.TENANT: Rights(frozenset({database}), settings=False),
            Kind.READER: Rights(inside, settings=True, look=True),
            Kind.OPERATOR: Rights(inside, settings=True, look=True, insert=OPERATOR_INSERTS),
            Kind.WRITER: Rights(inside, settings=True, look=True, insert=None),
        }

    def check(self, kind: Kind, sql: str, form: str, parameters: Mapping[str, str], connection: Connection) -> Cleared:
        """The statement to run in place of `sql`, whose answer has the format `form` unless it names one. Refusal when
        it goes beyond the rights of `kind`; RuntimeError with ClickHouse's text when it cannot be parsed. `connection`
        is the admin's; nothing is run on it.

        What a program says again and again, word for word, is let through from memory, since a look takes 10 ms of
        CPU; what a tenant says never is."""
        known = self._passed.get((kind, sql, form))
        if known is not None and not parameters:
            return known
        generation = self._generation
        cleared = self._checked(kind, sql, form, parameters, connection)
        if kind is not Kind.TENANT and not parameters and len(sql) <= KNOWN_BYTES:
            if len(self._passed) >= KNOWN:
                self._passed.clear()
            self._passed[kind, sql, form] = cleared
            if generation != self._generation:
                self._passed.clear()
        return cleared

    def forget(self) -> None:
        """Databases may have come or gone: a name may mean something else now."""
        self._generation += 1
        self._passed.clear()

    def _checked(
        self, kind: Kind, sql: str, form: str, parameters: Mapping[str, str], connection: Connection
    ) -> Cleared:
        rights = self._rights[kind]
        statement = syntax.canonical(connection, sql)
        if _FILES.search(_QUOTED.sub("''", statement)):
            raise _denied("INTO OUTFILE and FROM INFILE are for the administrator")
        nodes = syntax.tree(connection, statement, parameters)
        databases = frozenset(_column(connection, "SELECT name FROM system.databases")) | {"default"}
        self._root(nodes[0], rights)
        table_next = False
        for node in nodes:
            self._node(node, rights)
            if node.kind == "Function":
                self._function(node.name, rights, table=table_next)
            elif node.kind in ("Identifier", "TableIdentifier"):
                self._name(node, rights, databases, table=table_next)
            table_next = node.kind == "TableExpression"
        if nodes[0].kind == "InsertQuery":
            self._target(nodes, rights)
        if kind is Kind.TENANT:
            self._own_names(nodes)
            self._open_views(nodes, connection)
        counts = kind is Kind.WRITER or (kind is not Kind.TENANT and self._sees_all_of(nodes, connection))
        if kind is not Kind.WRITER:
            self._format(nodes, form)
            self._explain(nodes[0], counts=counts)
        return Cleared(statement, counts)

    def _sees_all_of(self, nodes: list[Node], connection: Connection) -> bool:
        """Whether people on the operator's side see every row of every table that a statement names. A view may read
        any."""
        sql = "SELECT name FROM system.tables WHERE database = {d:String} AND engine LIKE '%MergeTree'"
        whole = self._whole.intersection(_column(connection, sql, {"d": syntax.escaped(self._database)}))
        for node in nodes:
            database, _, name = node.name.rpartition(".")
            ours = database in ("", self._database)
            if node.kind == "TableIdentifier" and not (ours and name in whole) and database.lower() != "system":
                return False
            if node.kind == "Identifier" and ours and name in self._listed - whole:
                return False
        return True

    def _format(self, nodes: list[Node], form: str) -> None:
        named = [n.name for n in nodes if n.depth == 1 and n.kind == "Identifier" and nodes[0].kind in _FORMATTED]
        for name in (form, *named):
            if not formats.is_open(name):
                raise Refusal(UNKNOWN_FORMAT, "UNKNOWN_FORMAT", f"The format {name} is for the administrator")

    def _explain(self, root: Node, *, counts: bool) -> None:
        if root.kind == "Explain" and not counts and root.name not in _EXPLAINS_TEXT:
            kinds = ", ".join(sorted(_EXPLAINS_TEXT))
            raise _denied(
                f"how a table or view that you see a part of is read is for the administrator; {kinds} are not"
            )

    def _own_names(self, nodes: list[Node]) -> None:
        """The engine looks at its own columns (_part, _partition_id, ...) before it filters rows."""
        for node in nodes:
            if node.kind.endswith("Identifier") and any(part.startswith("_") for part in node.name.split(".")):
                raise _denied(f"{node.name}: names that begin with _ are the engine's own")

    def _root(self, node: Node, rights: Rights) -> None:
        kind = node.kind
        if kind == "SelectWithUnionQuery" or (kind == "InsertQuery" and rights.insert != frozenset()):
            return
        if kind in _LOOK_NODES and rights.look:
            return
        raise _denied(f"only {_able(rights)}, not {kind}")

    def _node(self, node: Node, rights: Rights) -> None:
        if node.kind in _SELECT_NODES or (node.kind in _LOOK_NODES and rights.look and node.depth == 0):
            return
        if node.kind == "InsertQuery" and rights.insert != frozenset() and node.depth == 0:
            return
        if node.kind == "Set":
            if rights.settings:
                return
            raise _denied("a SETTINGS clause is not allowed")
        raise _denied(f"{node.kind} is not allowed")

    def _function(self, name: str, rights: Rights, *, table: bool) -> None:
        if table:
            if name.lower() not in TABLE_FUNCTIONS:
                raise _denied(f"table function {name} is not allowed; {', '.join(sorted(TABLE_FUNCTIONS))} are")
        elif not self._known(name) and not (rights.look and name.lower() in self._dictionaries | _ABOUT_SERVER):
            raise _denied(f"function {name} is not allowed")

    def _known(self, name: str) -> bool:
        if name.lower() in self._functions:
            return True
        for suffix in self._combinators:
            base = name[: -len(suffix)]
            if base and name.endswith(suffix) and self._known(base):
                return True
        return False

    def _name(self, node: Node, rights: Rights, databases: Collection[str], *, table: bool) -> None:
        first, dot, rest = node.name.partition(".")
        if not dot:
            return
        system = first.lower() == "system" and rest in OPEN_SYSTEM_TABLES
        if first in rights.databases or system:
            return
        if table or first in databases or first.lower() in ("system", "information_schema"):
            raise _denied(f"{node.name} is outside the database {self._database}")

    def _target(self, nodes: list[Node], rights: Rights) -> None:
        names = []
        for node in nodes[1:]:
            if node.depth == 1 and node.kind in ("Literal", "Function"):
                raise _denied("INSERT goes into tables only")
            if node.depth == 1 and node.kind == "Identifier":
                names.append(node.name)
        if len(names) > 1 and names[0] != self._database:
            raise _denied(f"INSERT goes into tables of {self._database} only, not of {names[0]}")
        if rights.insert is not None and not (names and names[-1] in rights.insert):
            raise _denied(f"INSERT goes into {', '.join(sorted(rights.insert))} only")

    def _open_views(self, nodes: list[Node], connection: Connection) -> None:
        """An entry that the policies call a view must be one, and read as whoever asks."""
        named = {node.name.removeprefix(f"{self._database}.") for node in nodes if node.kind.endswith("Identifier")}
        for name in named & self._views:
            rows = connection.run(
                "SELECT engine, create_table_query FROM system.tables "
                "WHERE database = {d:String} AND name = {t:String}",
                "JSONEachRow",
                {"d": syntax.escaped(self._database), "t": syntax.escaped(name)},
            )
            for row in map(json.loads, rows.bytes().splitlines()):
                made = _QUOTED.sub("''", row["create_table_query"])
                if row["engine"] != "View" or re.search(r"SQL\s+SECURITY\s+(?:DEFINER|NONE)", made, re.IGNORECASE):
                    raise _denied(f"{name} is not a plain view that reads as whoever asks")


def _able(rights: Rights) -> str:
    verbs = ["SELECT"]
    if rights.insert != frozenset():
        verbs.append("INSERT")
    if rights.look:
        verbs += ["SHOW", "DESCRIBE", "EXISTS", "EXPLAIN"]
    return ", ".join(verbs)


def _denied(why: str) -> Refusal:
    return Refusal(ACCESS_DENIED, "ACCESS_DENIED", f"Not enough privileges: {why}")


def _allowed(connection: Connection) -> tuple[frozenset[str], frozenset[str]]:
    """Names, in lower case, of the harmless functions and of those that ask dictionaries."""
    result = connection.run(
        "SELECT name, alias_to, is_aggregate, categories FROM system.functions WHERE origin = 'System'", "JSONEachRow"
    )
    rows = [json.loads(line) for line in result.bytes().splitlines()]
    by_name = {row["name"].lower(): row for row in rows}
    allowed, dictionaries = set(_FUNCTIONS), set[str]()
    for row in rows:
        real = by_name.get(row["alias_to"].lower(), row)
        name = real["name"].lower()
        if real["is_aggregate"] or name in _FUNCTIONS or real["categories"] in _CATEGORIES:
            allowed.add(row["name"].lower())
        elif real["categories"] == "Dictionary":
            dictionaries.add(row["name"].lower())
    return frozenset(allowed), frozenset(dictionaries)


def _column(connection: Connection, query: str, parameters: Mapping[str, str] | None = None) -> list[str]:
    lines = connection.run(query, "JSONCompactEachRow", parameters).bytes().splitlines()
    return [json.loads(line)[0] for line in lines]
