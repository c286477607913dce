"""A tenant reads its own rows, within its limits, whatever it sends along."""

from __future__ import annotations

import http.client

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from infra.embedded.store.process import StoreProcess
from tests.embedded.fleet import SECRET, ask, connect

pytestmark = pytest.mark.store

OWN = [
    ("SELECT count(), max(x) FROM gpufleet.samples", "5\t4"),
    ("SELECT count() FROM samples", "5"),
    ("SELECT groupUniqArray(tenant) FROM gpufleet.samples", "['anna']"),
    ("SELECT count(), sum(x) FROM gpufleet.seen", "5\t10"),
    ("SELECT count() FROM gpufleet.agg FINAL", "1"),
    ("SELECT sum(number) FROM numbers(4)", "6"),
    ("SELECT count() > 1000 FROM system.settings", "1"),
    ("SELECT getSetting('log_comment')", "anna"),
    ("WITH big AS (SELECT x FROM samples WHERE x > 2) SELECT sum(x) FROM big WHERE x IN (SELECT x FROM big)", "7"),
    ("SELECT countIf(x > 2), quantileExactIf(0.5)(x, x > 0), uniqExactOrNull(x) FROM samples", "2\t3\t5"),
    ("SELECT CASE x WHEN 1 THEN 'a' ELSE 'b' END AS c, count() FROM samples GROUP BY c ORDER BY c", "a\t1\nb\t4"),
    ("SELECT arrayMap(i -> i + 1, [1, 2])[1], (1, 'a').2, toDate('2026-01-01') + INTERVAL 1 DAY", "2\ta\t2026-01-02"),
    ("SELECT x, sum(x) OVER (ORDER BY x) FROM samples ORDER BY x LIMIT 2 OFFSET 3", "3\t6\n4\t10"),
    ("SELECT 'infile; SELECT 1 -- \\' into outfile'", "infile; SELECT 1 -- \\' into outfile"),
    ("SELECT EXISTS(SELECT 1), x FROM samples WHERE x = {x:Int64} /* a comment */;", "1\t3"),
    ("SELECT length(bar(1, 0, 1, 10)) > 0, version() = version(), timezone()", "1\t1\tUTC"),
    ("SELECT toStartOfInterval(toDateTime(0), INTERVAL 1 HOUR), dateDiff('hour', toDateTime(0), toDateTime(7200))",
     "1970-01-01 00:00:00\t2"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "expected"), OWN)
def test_own_rows_are_read(fleet: StoreProcess, query: str, expected: str) -> None:
    assert ask(fleet, "anna", query, param_x="3") == (200, expected + "\n")


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("SELECT * FROM {t:Identifier}", {"param_t": "other.t"}),
        ("SELECT * FROM {d:Identifier}.{t:Identifier}", {"param_d": "system", "param_t": "tables"}),
        ("SELECT * FROM t", {"database": "other"}),
        ("SELECT * FROM tables", {"database": "system"}),
        ("SELECT * FROM samples WHERE x > 4", {"log_comment": "betty"}),
        ("SELECT * FROM samples WHERE x > 4", {"readonly": "0", "log_comment": "betty"}),
        ("SELECT * FROM samples", {"additional_table_filters": "{'samples': '1'}"}),
        ("SELECT * FROM numbers(10)", {"max_memory_usage": "0", "max_result_rows": "0", "role": "admin"}),
        ("SELECT 1", {"format_schema": "/etc/passwd"}),
        ("SELECT 1", {"format_template_resultset": "/etc/passwd"}),
        ("SELECT 1", {"allow_ddl": "1", "allow_introspection_functions": "1", "default_format": "DataFrame"}),
        ("SELECT * FROM samples WHERE x > 4", {"session_id": "shared"}),
    ],
)
def test_url_parameters_open_nothing(fleet: StoreProcess, query: str, parameters: dict[str, str]) -> None:
    ask(fleet, fleet.username, "SET max_threads = 1", session_id="shared")
    status, text = ask(fleet, "anna", query, **parameters)
    assert SECRET not in text
    assert "betty" not in text
    assert status != 200 or "\t" not in text
    assert ask(fleet, "anna", "SELECT count() FROM samples")[1] == "5\n"


def test_each_tenant_sees_its_own(fleet: StoreProcess) -> None:
    assert ask(fleet, "betty", "SELECT count(), min(x) FROM gpufleet.samples") == (200, "7\t1000\n")
    assert ask(fleet, "quote", "SELECT count() FROM gpufleet.samples") == (200, "0\n")
    assert ask(fleet, "quote", "SELECT getSetting('log_comment') = 'o\\'ne\\t\\\\x'") == (200, "1\n")


def test_limits_hold(fleet: StoreProcess) -> None:
    status, text = ask(fleet, "anna", "SELECT number FROM numbers(2000000)", wait_end_of_query="1")
    assert (status, text[:9]) == (500, "Code: 396")
    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(fleet, "anna", "SELECT number FROM numbers(2000000)")
    assert b"__exception__" in cut.value.partial
    status, text = ask(fleet, "anna", "SELECT groupArray(number), groupArray(number * 2) FROM numbers(200000000)")
    assert status == 500
    assert text.startswith(("Code: 241.", "Code: 159."))


def test_a_table_made_later_is_closed(fleet: StoreProcess) -> None:
    name = "made_later"
    ask(fleet, fleet.username, f"CREATE TABLE gpufleet.{name} (t String, tenant String) ENGINE = MergeTree ORDER BY t")
    ask(fleet, fleet.username, f"INSERT INTO gpufleet.{name} VALUES ('x', 'anna'), ('{SECRET}', 'betty')")
    assert ask(fleet, fleet.username, f"SELECT count() FROM gpufleet.{name}") == (200, "2\n")
    assert ask(fleet, "anna", f"SELECT count() FROM gpufleet.{name}") == (200, "0\n")


def test_clickhouse_connect_works_for_a_tenant(fleet: StoreProcess) -> None:
    client = connect(fleet, "anna")
    assert client.query("SELECT x, note FROM gpufleet.samples ORDER BY x LIMIT 1").result_rows == [(0, "fine")]
    with pytest.raises(DatabaseError, match="table function merge is not allowed"):
        client.query("SELECT * FROM merge('gpufleet', '.*')")
    client.close()
