"""What a new schema version may change, rule by rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from schemas import catalogue
from schemas.compatibility import check, type_text

Definition = dict[str, Any]
HEADER = [
    {"name": name, "type": kind, "doc": "d", "unit": "", "kind": "id"}
    for name, kind in [
        ("site", "string"),
        ("producer_id", "string"),
        ("run_id", "long"),
        ("seq", "long"),
        ("ts", {"type": "long", "logicalType": "timestamp-micros"}),
    ]
]


def record(*fields: Definition) -> Definition:
    return {"type": "record", "name": "E", "namespace": "n", "fields": [*copy.deepcopy(HEADER), *map(dict, fields)]}


def field(name: str, kind: Any, **extra: Any) -> Definition:
    return {"name": name, "type": kind, "doc": "d", "unit": "W", "kind": "gauge", **extra}


def told(new: Definition, *published: Definition) -> list[str]:
    return [str(problem) for problem in check(new, published)]


OLD = record(field("power_w", "int", shape="tick", blank=-1), field("note", "string", default=""))


def test_every_published_schema_obeys_the_rules() -> None:
    for schema in catalogue.published():
        before = [s.definition for s in catalogue.versions(schema.kind.topic) if s.version < schema.version]
        assert told(schema.definition, *before) == [], schema.kind.topic


def test_the_same_schema_is_compatible() -> None:
    assert told(copy.deepcopy(OLD), OLD) == []


def test_a_field_with_a_default_may_be_added() -> None:
    new = copy.deepcopy(OLD)
    new["fields"].append(field("fan_rpm", ["null", "int"], default=None))
    assert told(new, OLD) == []


def test_a_field_without_a_default_may_not() -> None:
    new = copy.deepcopy(OLD)
    new["fields"].append(field("fan_rpm", "int"))
    assert told(new, OLD) == ["field 'fan_rpm': expected a default (older events lack the field), found no default"]


def test_a_field_may_not_go() -> None:
    new = record(field("power_w", "int", shape="tick", blank=-1))
    assert told(new, OLD) == [
        "field 'note': expected the field to stay (fields are never removed), found no such field"
    ]


def change(name: str, **changes: Any) -> Callable[[Definition], None]:
    def apply(schema: Definition) -> None:
        found = next(f for f in schema["fields"] if f["name"] == name)
        found.update(changes)

    return apply


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (change("power_w", unit="kW"), "field 'power_w': expected unit to stay 'W', found 'kW'"),
        (change("power_w", kind="counter"), "field 'power_w': expected kind to stay 'gauge', found 'counter'"),
        (change("power_w", shape="gpu"), "field 'power_w': expected shape to stay 'tick', found 'gpu'"),
        (change("power_w", blank=0), "field 'power_w': expected blank to stay -1, found 0"),
        (change("power_w", type="string"), "field 'power_w': expected int or a type it is promoted to, found string"),
        (change("seq", type="int"), "field 'seq': expected long or a type it is promoted to, found int"),
        (change("ts", type="long"), "field 'ts': expected logical type 'timestamp-micros', found None"),
    ],
)
def test_what_a_field_means_may_not_change(changed: Callable[[Definition], None], message: str) -> None:
    new = copy.deepcopy(OLD)
    changed(new)
    assert message in told(new, OLD)


def test_a_default_may_not_be_taken_back() -> None:
    new = copy.deepcopy(OLD)
    del new["fields"][-1]["default"]
    assert told(new, OLD) == ["field 'note': expected the default '' to stay, found no default"]


def test_the_record_keeps_its_name() -> None:
    new = copy.deepcopy(OLD) | {"name": "F"}
    assert told(new, OLD) == ["the record: expected the name 'n.E', found 'n.F'"]


FIXED = {"type": "fixed", "name": "Uuid", "size": 16}


@pytest.mark.parametrize(
    ("writer", "reader", "resolves"),
    [
        # the promotions of the Avro specification, 1.12, Schema Resolution
        ("int", "long", True),
        ("int", "float", True),
        ("int", "double", True),
        ("long", "float", True),
        ("long", "double", True),
        ("float", "double", True),
        ("string", "bytes", True),
        ("bytes", "string", True),
        ("long", "int", False),
        ("double", "float", False),
        ("float", "long", False),
        ("boolean", "int", False),
        ("int", ["null", "long"], True),
        (["null", "int"], ["null", "long"], True),
        (["null", "int"], "int", False),
        ({"type": "array", "items": "int"}, {"type": "array", "items": "long"}, True),
        ({"type": "array", "items": "long"}, {"type": "array", "items": "int"}, False),
        ({"type": "array", "items": "int"}, "int", False),
        ({"type": "map", "values": "int"}, {"type": "map", "values": "double"}, True),
        ({"type": "map", "values": "string"}, {"type": "map", "values": "int"}, False),
        (FIXED, FIXED, True),
        (FIXED, {**FIXED, "size": 8}, False),
        (FIXED, {**FIXED, "name": "Other"}, False),
        ({"type": "enum", "name": "A", "symbols": ["x"]}, {"type": "enum", "name": "A", "symbols": ["x", "y"]}, True),
        ({"type": "enum", "name": "A", "symbols": ["x", "y"]}, {"type": "enum", "name": "A", "symbols": ["x"]}, False),
    ],
)
def test_types_change_by_promotion_only(writer: Any, reader: Any, resolves: bool) -> None:
    problems = told(record(field("x", reader)), record(field("x", writer)))
    assert (problems == []) is resolves


def test_every_published_version_counts_not_only_the_last() -> None:
    first = record(field("a", "int", default=0))
    second = record(field("b", "int", default=0))
    assert told(second, second) == []
    assert told(second, first, second) == [
        "field 'a': expected the field to stay (fields are never removed), found no such field"
    ]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"doc": ""}, "field 'x': expected a doc that says what it means, found none"),
        ({"kind": "guage"}, "field 'x': expected kind to be one of gauge, counter, state, id, found 'guage'"),
        ({"shape": "row"}, "field 'x': expected shape to be gpu, gpu_tick, tick, nic or nic_tick, found 'row'"),
        ({"default": "a"}, "field 'x': expected a default of its type int, found 'a'"),
        (
            {"type": {"type": "record", "name": "R", "fields": []}},
            "field 'x': expected no records inside records (their columns cannot grow), found a record",
        ),
    ],
)
def test_a_schema_by_itself(broken: Definition, message: str) -> None:
    assert told(record(field("x", "int") | broken)) == [message]


def test_a_field_without_a_unit_is_named() -> None:
    bare = field("x", "int")
    del bare["unit"]
    assert told(record(bare)) == ["field 'x': expected a unit (\"\" for none), found none"]


def test_a_schema_that_is_none() -> None:
    assert told({"type": "record", "name": "E", "fields": [{"name": "a", "type": "nonsense"}]})[0].startswith(
        "the record: expected a valid Avro record"
    )


def test_the_header_comes_first() -> None:
    new = record()
    new["fields"].reverse()
    assert told(new)[0] == "field 'site': expected the header's string 'site' at its place, found long 'ts'"


def test_types_read_well() -> None:
    assert type_text(["null", {"type": "array", "items": FIXED}]) == "null | array<fixed(16)>"
