"""Formats in which people and tenants may have an answer: those that hold the rows of the result, and nothing else.

JSONEachRowWithProgress and its kin tell how many rows the engine has read, others' rows among them, and by the primary
key that says which names there are. Wire formats, templates and AvroConfluent write what a setting or a file says.
"""

from __future__ import annotations

from typing import Final

_NAMED: Final = ("", "WithNames", "WithNamesAndTypes")
_ROWS: Final = (
    "CSV", "CustomSeparated", "JSONCompactEachRow", "JSONCompactStringsEachRow", "Raw", "RowBinary", "TabSeparated",
    "TabSeparatedRaw", "TSV", "TSVRaw",
)  # fmt: skip
_PRETTY: Final = ("Pretty", "PrettyCompact", "PrettySpace")
_OTHERS: Final = (
    "Arrow", "ArrowStream", "Avro", "BSONEachRow", "JSON", "JSONColumns", "JSONColumnsWithMetadata", "JSONCompact",
    "JSONCompactColumns", "JSONEachRow", "JSONL", "JSONLines", "JSONObjectEachRow", "JSONStrings",
    "JSONStringsEachRow", "LineAsString", "Markdown", "MD", "MsgPack", "Native", "NDJSON", "Npy", "Null", "ORC",
    "Parquet", "PrettyJSONEachRow", "PrettyJSONLines", "PrettyNDJSON", "SQLInsert", "TSKV", "Values", "Vertical", "XML",
)  # fmt: skip
_OPEN: Final = frozenset(
    name.lower()
    for name in (
        *(f"{name}{suffix}" for name in _ROWS for suffix in _NAMED),
        *(f"{name}{suffix}" for name in _PRETTY for suffix in ("", "NoEscapes", "MonoBlock", "NoEscapesMonoBlock")),
        *_OTHERS,
    )
)


def is_open(name: str) -> bool:
    """Whether an answer in this format says no more than its rows do. The engine takes names in any case."""
    return name.lower() in _OPEN
