"""Writes a frozen datum for every published schema version that has none: ``python -m tests.schemas.freeze``.

A datum once written is never written again: it stands for the events of that version that are out there. Beside the
bytes stands what they mean, as JSON.
"""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import fastavro

from schemas import catalogue
from schemas.catalogue import Schema

FOLDER = Path(__file__).parent / "datums"
_GPUS, _TICKS, _NICS = 2, 3, 1
_LENGTHS = {"gpu": _GPUS, "gpu_tick": _GPUS * _TICKS, "tick": _TICKS, "nic": _NICS, "nic_tick": _NICS * _TICKS}


def path(schema: Schema, suffix: str) -> Path:
    return FOLDER / f"{schema.kind.topic}-v{schema.version}.{suffix}"


def value(kind: Any, name: str, place: int, shape: str) -> Any:
    """A value of a type that differs by field and place, so that swapped fields show."""
    number = crc32(name.encode()) % 1000 + place
    if isinstance(kind, list):
        return value(kind[1], name, place, shape)
    if isinstance(kind, dict):
        if kind.get("logicalType") == "timestamp-micros":
            return 1_764_000_000_000_000 + number
        if kind["type"] == "array":
            return [value(kind["items"], name, i, shape) for i in range(_LENGTHS.get(shape, 2))]
        if kind["type"] == "map":
            return {f"key{i}": value(kind["values"], name, i, shape) for i in range(2)}
        if kind["type"] == "fixed":
            return bytes((number + i) % 256 for i in range(kind["size"]))
    if name == "ticks":
        return _TICKS
    return {
        "string": f"{name}-{place}",
        "bytes": f"{name}-{place}".encode(),
        "boolean": number % 2 == 1,
        "int": number,
        "long": number * 1_000_003,
        "float": number / 8,
        "double": number / 16,
    }[kind]


def plain(found: Any) -> Any:
    """A decoded value as JSON can hold it: bytes in hex, times in microseconds since 1970."""
    if isinstance(found, bytes):
        return found.hex()
    if isinstance(found, datetime):
        delta = found - datetime(1970, 1, 1, tzinfo=UTC)
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    if isinstance(found, list):
        return [plain(entry) for entry in found]
    if isinstance(found, dict):
        return {key: plain(entry) for key, entry in found.items()}
    return found


def freeze() -> None:
    FOLDER.mkdir(exist_ok=True)
    for schema in catalogue.published():
        if path(schema, "datum").exists():
            continue
        record = {f["name"]: value(f["type"], f["name"], 0, f.get("shape", "")) for f in schema.fields}
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema.parsed, record, strict=True)
        path(schema, "datum").write_bytes(out.getvalue())
        path(schema, "json").write_text(json.dumps(plain(record), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    freeze()
