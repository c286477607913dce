"""Events written by every published version stay readable with the newest schema, and mean what they meant."""

from __future__ import annotations

import io
import json

import fastavro
import pytest

from schemas import catalogue
from schemas.catalogue import Schema
from tests.schemas.freeze import path, plain

NAMES = [f"{schema.kind.topic} v{schema.version}" for schema in catalogue.published()]


@pytest.mark.parametrize("schema", catalogue.published(), ids=NAMES)
def test_a_frozen_datum_decodes_with_the_newest_schema(schema: Schema) -> None:
    file = path(schema, "datum")
    assert file.exists(), "a published version needs its frozen datum: python -m tests.schemas.freeze"
    newest = catalogue.latest(schema.kind.topic)
    stream = io.BytesIO(file.read_bytes())
    found = fastavro.schemaless_reader(stream, schema.parsed, newest.parsed)
    assert stream.read() == b""
    assert isinstance(found, dict)
    meant = json.loads(path(schema, "json").read_text())
    assert {name: plain(found[name]) for name in meant} == meant
    for field in newest.fields:
        if field["name"] not in meant:
            assert plain(found[field["name"]]) == field["default"]


@pytest.mark.parametrize("schema", catalogue.published(), ids=NAMES)
def test_a_datum_cut_short_is_refused(schema: Schema) -> None:
    data = path(schema, "datum").read_bytes()
    with pytest.raises((EOFError, IndexError, ValueError)):
        fastavro.schemaless_reader(io.BytesIO(data[:-1]), schema.parsed, schema.parsed)


def test_no_datum_is_left_without_its_schema() -> None:
    wanted = {path(schema, suffix).name for schema in catalogue.published() for suffix in ("datum", "json")}
    found = {file.name for file in path(catalogue.published()[0], "datum").parent.iterdir()}
    assert found == wanted
