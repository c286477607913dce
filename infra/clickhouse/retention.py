"""TTLs that follow the settings: a migration sets a table's TTL once, this keeps it true to the settings since."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from infra.clickhouse.render import Render

_TABLE = re.compile(
    r"CREATE TABLE IF NOT EXISTS gpufleet\.(?P<table>\w+)(?P<body>.*?)^TTL (?P<ttl>[^\n]*\{\{\w+_days\}\}[^\n]*)$",
    re.DOTALL | re.MULTILINE,
)
_DAYS = re.compile(r"\bTTL\b.*?toIntervalDay\((\d+)\)", re.DOTALL)


def tiers(scripts: Iterable[str]) -> dict[str, str]:
    """Table -> its TTL with the placeholder of its tier, from the text of the migrations (the last one holds)."""
    found: dict[str, str] = {}
    for sql in scripts:
        for piece in re.split(r"(?=CREATE TABLE IF NOT EXISTS gpufleet\.)", sql):
            match = _TABLE.match(piece)
            if match and ";" not in re.sub(r"'(?:[^'\\]|\\.|'')*'", "", match["body"]):
                found[match["table"]] = match["ttl"].rstrip("; ")
    return found


def changes(wanted: Mapping[str, str], created: Mapping[str, str], render: Render) -> list[str]:
    """ALTER statements for the tables whose TTL differs from the settings.

    ``wanted`` is table -> TTL with its placeholder, ``created`` is table -> CREATE statement as the server has it.
    """
    statements = []
    for table, ttl in sorted(wanted.items()):
        if table not in created:
            continue
        text = render.text(ttl)
        days = re.search(r"(\d+)\W*(?:DAY\W*)?$", text)
        stands = _DAYS.search(created[table])
        if days and (stands is None or stands[1] != days[1]):
            statements.append(render.statement(f"ALTER TABLE gpufleet.{table} MODIFY TTL {text}"))
    return statements
