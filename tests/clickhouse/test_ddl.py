from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from infra.clickhouse import generate
from infra.clickhouse.migrate import load
from infra.clickhouse.render import Render
from infra.clickhouse.statements import split
from infra.clickhouse.users import OPERATOR, READER, WRITER, Account, closed, statements
from schemas import catalogue, ddl
from schemas.catalogue import KINDS, Schema, TenantFrom
from tests.clickhouse.support import Database

pytestmark = pytest.mark.store


def test_the_committed_migrations_are_what_the_schemas_say() -> None:
    made = generate.files()
    stale = [name for name, text in made.items() if (generate.MIGRATIONS / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run python -m infra.clickhouse.generate"


def test_every_published_schema_version_has_its_migration() -> None:
    assert set(generate.FILES) == {(schema.kind.topic, schema.version) for schema in catalogue.published()}


@pytest.mark.parametrize(
    ("avro", "dictionary", "expected"),
    [
        ("string", False, "String"),
        ("string", True, "LowCardinality(String)"),
        ("bytes", False, "String"),
        ("boolean", False, "Bool"),
        ("int", False, "Int32"),
        ("long", False, "Int64"),
        ("float", False, "Float32"),
        ("double", False, "Float64"),
        ({"type": "long", "logicalType": "timestamp-micros"}, False, "DateTime64(6, 'UTC')"),
        (["null", {"type": "long", "logicalType": "timestamp-micros"}], False, "Nullable(DateTime64(6, 'UTC'))"),
        ({"type": "fixed", "name": "Uuid", "size": 16}, False, "FixedString(16)"),
        ({"type": "array", "items": "float"}, False, "Array(Float32)"),
        ({"type": "map", "values": "long"}, False, "Map(String, Int64)"),
    ],
)
def test_avro_types_land_in_their_column_types(avro: Any, dictionary: bool, expected: str) -> None:
    assert ddl.clickhouse_type(avro, dictionary=dictionary) == expected


def test_a_type_that_no_event_may_use_is_refused() -> None:
    with pytest.raises(ValueError, match="no column type"):
        ddl.clickhouse_type({"type": "record", "name": "R", "fields": []})


def test_every_table_holds_every_field_and_what_the_store_adds(db: Database) -> None:
    for kind in KINDS.values():
        fields = [field["name"] for field in catalogue.latest(kind.topic).fields]
        added = ["tenant"] if kind.tenant is TenantFrom.LEASE else []
        found = [
            row[0]
            for row in db.rows(
                "SELECT name FROM system.columns WHERE database = 'gpufleet' AND table ="
                f" '{kind.table}' ORDER BY position"
            )
        ]
        assert found == [*fields, *added, "flaws", "stored_at"]


def test_every_table_and_column_says_what_it_is(db: Database) -> None:
    silent = db.rows(
        "SELECT table, name FROM system.columns WHERE database = 'gpufleet' AND comment = '' AND table NOT IN"
        " (SELECT name FROM system.tables WHERE database = 'gpufleet' AND engine = 'Dictionary')"
    )
    assert silent == []
    assert db.rows("SELECT name FROM system.tables WHERE database = 'gpufleet' AND comment = ''") == []


def test_comments_hold_doc_and_unit(db: Database) -> None:
    found = db.value(
        "SELECT comment FROM system.columns WHERE database = 'gpufleet' AND table = 'node_telemetry'"
        " AND name = 'temp_gpu_c'"
    )
    assert found == "Temperature of the GPU core. -1 = no reading. [Cel]"


def test_inserts_are_on_disk_before_they_are_acknowledged(db: Database) -> None:
    for kind in KINDS.values():
        made = db.value(
            f"SELECT create_table_query FROM system.tables WHERE database = 'gpufleet' AND name = '{kind.table}'"
        )
        assert "fsync_after_insert = 1" in made
        assert "fsync_part_directory = 1" in made
        sort = db.value(f"SELECT sorting_key FROM system.tables WHERE database = 'gpufleet' AND name = '{kind.table}'")
        assert sort == ", ".join((*ddl.sorting_key(kind), "producer_id", "run_id", "seq"))


def _second_version(topic: str, change: Any) -> tuple[Schema, Schema]:
    old = catalogue.versions(topic)[0]
    definition = copy.deepcopy(old.definition)
    change(definition["fields"])
    return old, Schema(old.kind, 2, 9999, definition, "")


def test_a_table_that_exists_and_one_made_today_end_up_the_same(db: Database) -> None:
    new = {
        "name": "humidity",
        "type": ["null", "double"],
        "default": None,
        "doc": "Humidity.",
        "unit": "ratio",
        "kind": "gauge",
    }

    def change(fields: list[dict[str, Any]]) -> None:
        fields.insert(7, new)
        fields[6]["doc"] = "Asset, and nothing else."

    old, second = _second_version("facility-telemetry", change)
    fill = Render().text
    for name, scripts in {
        "grown": [ddl.create_table(old), ddl.alter_table(old, second), ddl.alter_table(old, second)],
        "made": [ddl.create_table(second)],
    }.items():
        db.client.command(f"DROP DATABASE IF EXISTS {name}")
        db.client.command(f"CREATE DATABASE {name}")
        for script in scripts:
            for statement in split(fill(script)):
                db.client.command(statement.replace("gpufleet.facility_telemetry", f"{name}.facility_telemetry"))
    columns = (
        "SELECT name, type, default_kind, default_expression, comment, compression_codec FROM"
        " system.columns WHERE database = '{}' ORDER BY position"
    )
    grown = db.rows(columns.format("grown"))
    assert grown == db.rows(columns.format("made"))
    assert any(row[0] == "humidity" and row[4] == "Humidity. [ratio]" for row in grown)
    db.client.command("DROP DATABASE grown")
    db.client.command("DROP DATABASE made")


def test_a_version_that_takes_away_or_changes_a_type_gets_no_migration() -> None:
    def drop(fields: list[dict[str, Any]]) -> None:
        del fields[-1]

    def widen(fields: list[dict[str, Any]]) -> None:
        fields[9]["type"] = "long"

    with pytest.raises(ValueError, match=r"not additive.*valve_open"):
        ddl.alter_table(*_second_version("facility-telemetry", drop))
    with pytest.raises(ValueError, match=r"not additive.*interval_ms"):
        ddl.alter_table(*_second_version("facility-telemetry", widen))


def test_the_whole_of_it_parses_for_a_cluster_too(db: Database) -> None:
    render = Render(cluster="main", dictionary_credentials="NAME gpufleet_dictionary")
    for migration in load():
        for statement in migration.statements(render):
            db.client.query(f"EXPLAIN AST {statement}")
            assert "ON CLUSTER 'main'" in statement
            engines = re.findall(r"ENGINE = (\w+)", statement)
            assert all(engine.startswith("Replicated") for engine in engines), engines
            assert "SOURCE" not in statement or "NAME gpufleet_dictionary" in statement


ACCOUNTS = [
    Account("gpufleet", "0" * 64, role=WRITER),
    Account("grafana", "1" * 64, role=READER),
    Account("oncall", "2" * 64, role=OPERATOR),
    Account("anthropic", "3" * 64, tenant="anthropic"),
]


@pytest.mark.parametrize("cluster", ["", "main"])
def test_users_parse_on_a_server_and_on_a_cluster(db: Database, cluster: str) -> None:
    made = statements(ACCOUNTS, Render(cluster=cluster))
    for statement in made:
        db.client.query(f"EXPLAIN AST {statement}")
        assert not cluster or "ON CLUSTER 'main'" in statement


def test_a_tenant_is_granted_nothing_without_a_filter_and_no_function_of_dictionaries() -> None:
    made = [s for s in statements(ACCOUNTS) if "`anthropic`" in s]
    [grant] = [s for s in made if s.startswith("GRANT")]
    assert made[-1] == grant, "the policies stand before anything is granted"
    granted = set(re.findall(r"SELECT ON gpufleet\.(\w+)", grant))
    assert re.sub(r"SELECT ON gpufleet\.\w+,? ?", "", grant) == "GRANT TO `anthropic` WITH REPLACE OPTION"
    assert granted.isdisjoint(closed())
    assert "node_telemetry" in granted
    assert "gpu_samples" in granted
    assert (
        "CREATE ROW POLICY OR REPLACE `gpufleet_anthropic` ON gpufleet.gpu_1m FOR SELECT USING"
        " tenant = 'anthropic' TO `anthropic`" in made
    )


def test_the_operator_reads_usage_only_while_a_lease_says_so() -> None:
    made = [s for s in statements(ACCOUNTS) if f"TO {OPERATOR}, {READER}" in s]
    usage = {m[1] for s in made if "usage_grant_at" in s and (m := re.search(r"ON gpufleet\.(\w+) FOR", s))}
    assert usage == {"tenant_usage", "usage_1m", "usage_1h", "usage_1d", "tenant_limits"}


@pytest.mark.parametrize(
    "account",
    [
        {"name": "a b", "password_sha256": "0" * 64, "tenant": "t"},
        {"name": "a", "password_sha256": "secret", "tenant": "t"},
        {"name": "a", "password_sha256": "0" * 64},
        {"name": "a", "password_sha256": "0" * 64, "tenant": "b"},
        {"name": "a", "password_sha256": "0" * 64, "tenant": "t", "role": WRITER},
    ],
)
def test_an_account_that_makes_no_sense_is_refused(account: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Account(**account)
