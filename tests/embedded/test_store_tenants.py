"""A tenant asks for what is not his, in every way we could think of, and gets nothing of it."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from infra.embedded.store.passwords import hash_password
from infra.embedded.store.process import StoreProcess
from infra.embedded.store.users import Kind, User

pytestmark = pytest.mark.store

SECRET = "bettys-secret"
"""Stands in every row that is not Anna's, and nowhere else."""
POLICIES = {
    "samples": "tenant",
    "agg": "tenant",
    "closed": None,
    "seen": "*",
    "definer": "*",
    "not_a_view": "*",
}
SETUP = [
    "CREATE DATABASE gpufleet",
    "CREATE DATABASE other",
    "CREATE TABLE gpufleet.samples (x Int64, note String, tenant LowCardinality(String)) ENGINE = MergeTree ORDER BY x",
    f"INSERT INTO gpufleet.samples SELECT number, 'fine', 'anna' FROM numbers(5) "
    f"UNION ALL SELECT number + 1000, '{SECRET}', 'betty' FROM numbers(7) UNION ALL SELECT 5000, '{SECRET}', ''",
    "CREATE TABLE gpufleet.agg (m String, tenant String) ENGINE = ReplacingMergeTree ORDER BY m",
    f"INSERT INTO gpufleet.agg VALUES ('fine', 'anna'), ('{SECRET}', 'betty')",
    "CREATE TABLE gpufleet.closed (x String) ENGINE = MergeTree ORDER BY x",
    f"INSERT INTO gpufleet.closed VALUES ('{SECRET}')",
    "CREATE TABLE gpufleet.later (x String, tenant String) ENGINE = MergeTree ORDER BY x",
    f"INSERT INTO gpufleet.later VALUES ('{SECRET}', 'betty')",
    "CREATE TABLE gpufleet.not_a_view (x String) ENGINE = MergeTree ORDER BY x",
    f"INSERT INTO gpufleet.not_a_view VALUES ('{SECRET}')",
    "CREATE TABLE other.t ENGINE = MergeTree ORDER BY x AS SELECT * FROM gpufleet.samples",
    "CREATE VIEW gpufleet.seen AS SELECT x, note FROM gpufleet.samples",
    "CREATE VIEW gpufleet.unlisted AS SELECT x, note FROM gpufleet.samples",
    "CREATE VIEW gpufleet.definer DEFINER = default SQL SECURITY DEFINER AS SELECT x, note FROM gpufleet.samples",
    "CREATE MATERIALIZED VIEW gpufleet.mv ENGINE = MergeTree ORDER BY x POPULATE AS SELECT * FROM gpufleet.samples",
    "CREATE DICTIONARY gpufleet.notes (x Int64, note String, tenant String) PRIMARY KEY x "
    "SOURCE(CLICKHOUSE(TABLE 'samples' DB 'gpufleet')) LAYOUT(HASHED()) LIFETIME(0)",
    "CREATE TABLE gpufleet.joined (x Int64, note String) ENGINE = Join(ANY, LEFT, x)",
    f"INSERT INTO gpufleet.joined VALUES (1001, '{SECRET}')",
    "CREATE TABLE gpufleet.memory (x String) ENGINE = Memory",
    f"INSERT INTO gpufleet.memory VALUES ('{SECRET}')",
    "CREATE FUNCTION peek AS () -> (SELECT groupArray(note) FROM other.t)",
    "CREATE TABLE gpufleet.merged AS gpufleet.samples ENGINE = Merge(gpufleet, '^samples$')",
]
HOSTILE = [
    # plain tables that are closed, unlisted, or somewhere else
    "SELECT * FROM gpufleet.closed",
    "SELECT * FROM gpufleet.later",
    "SELECT * FROM gpufleet.memory",
    "SELECT * FROM gpufleet.joined",
    "SELECT * FROM gpufleet.merged WHERE tenant != 'anna'",
    "SELECT * FROM gpufleet.mv",
    "SELECT * FROM gpufleet.`.inner.mv`",
    "SELECT * FROM gpufleet.notes",
    "SELECT * FROM gpufleet.unlisted WHERE x > 4",
    "SELECT * FROM gpufleet.definer WHERE x > 4",
    "SELECT * FROM gpufleet.not_a_view",
    "SELECT * FROM other.t WHERE x > 4",
    "SELECT * FROM `other`.`t` WHERE x > 4",
    'SELECT * FROM "other"."t" WHERE x > 4',
    "SELECT * FROM /**/ other /* . */ . -- x\n t WHERE x > 4",
    # his own tables, asked for others' rows
    "SELECT * FROM gpufleet.samples WHERE tenant = 'betty'",
    "SELECT * FROM gpufleet.samples WHERE tenant = ''",
    "SELECT * FROM gpufleet.samples WHERE x > 4 OR 1",
    "SELECT * FROM gpufleet.samples PREWHERE tenant = 'betty'",
    "SELECT * FROM gpufleet.samples PREWHERE ignore(throwIf(note != 'fine'))  WHERE x > 4",
    "SELECT toInt64(note) FROM gpufleet.samples WHERE note != 'fine'",
    "SELECT throwIf(tenant = 'betty', 'bettys-secret rows') FROM gpufleet.samples WHERE x > 4",
    "SELECT max(note) FROM gpufleet.samples HAVING max(note) != 'fine'",
    "SELECT * FROM gpufleet.agg FINAL WHERE m != 'fine'",
    "SELECT x, note FROM gpufleet.seen WHERE x > 4",
    "SELECT note FROM gpufleet.samples GROUP BY note WITH TOTALS HAVING note != 'fine'",
    "SELECT note FROM gpufleet.samples WHERE x > 4 SETTINGS log_comment = 'betty'",
    "SELECT note FROM (SELECT note FROM gpufleet.samples SETTINGS log_comment = 'betty') WHERE note != 'fine'",
    "SELECT note FROM gpufleet.samples WHERE note != 'fine' SETTINGS readonly = 0, log_comment = 'betty'",
    "SELECT note FROM gpufleet.samples WHERE note != 'fine' SETTINGS additional_result_filter = '1'",
    # joins, subqueries, set membership, names that hide
    "SELECT * FROM gpufleet.samples AS a LEFT JOIN other.t AS b ON a.x + 1000 = b.x WHERE b.x > 4",
    "SELECT 'bettys-secret is there' WHERE 'bettys-secret' IN (SELECT note FROM other.t)",
    "SELECT 'bettys-secret is there' WHERE 'bettys-secret' IN gpufleet.closed",
    "SELECT 'bettys-secret is there' WHERE (1000, 'bettys-secret', 'betty') IN other.t",
    "SELECT 'bettys-secret is there' WHERE 'bettys-secret' GLOBAL IN (SELECT x FROM gpufleet.closed)",
    "WITH samples AS (SELECT * FROM other.t) SELECT * FROM samples WHERE x > 4",
    "WITH numbers AS (SELECT * FROM gpufleet.later) SELECT * FROM numbers",
    "WITH RECURSIVE r AS (SELECT note FROM other.t UNION ALL SELECT note FROM r WHERE 0) SELECT * FROM r",
    "SELECT (SELECT groupArray(note) FROM other.t)",
    "SELECT * FROM (SELECT * FROM (SELECT * FROM other.t)) WHERE x > 4",
    "SELECT 1 UNION ALL SELECT x FROM other.t",
    "SELECT note FROM gpufleet.samples EXCEPT SELECT 'fine'",
    "SELECT * FROM gpufleet.samples, other.t",
    "SELECT 1 AS `x\n   TableExpression (children 1)\n    Function numbers (children 0)`, * FROM other.t",
    "SELECT * FROM `other.t\n TableIdentifier gpufleet.samples`",
    # table functions
    "SELECT * FROM merge('gpufleet', '.*') WHERE x NOT IN (0, 1, 2, 3, 4)",
    "SELECT * FROM merge('other', '.*') WHERE x > 4",
    "SELECT * FROM merge(REGEXP('.*'), 't')",
    "SELECT * FROM MERGE('other', 't')",
    "SELECT * FROM /* numbers( */ merge('other', 't')",
    "SELECT * FROM `merge`('other', 't')",
    "SELECT * FROM view(SELECT * FROM other.t)",
    "SELECT * FROM viewIfPermitted(SELECT note FROM other.t ELSE null('note String'))",
    "SELECT * FROM remote('127.0.0.1', 'other', 't')",
    "SELECT * FROM remote('127.0.0.1:1', view(SELECT * FROM other.t))",
    "SELECT * FROM cluster('default', 'other', 't')",
    "SELECT * FROM clusterAllReplicas('default', other.t)",
    "SELECT * FROM loop('other', 't') LIMIT 20",
    "SELECT * FROM dictionary('gpufleet.notes')",
    "SELECT * FROM mergeTreeIndex('gpufleet', 'samples')",
    "SELECT * FROM mergeTreeProjection('gpufleet', 'samples', 'p')",
    "SELECT * FROM mergeTreeAnalyzeIndexes('gpufleet', 'samples')",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM file('{data}/users.toml', 'LineAsString')",
    "SELECT * FROM filesystem('/etc')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM `/etc/passwd`",
    "SELECT * FROM default.`/etc/passwd`",
    "SELECT * FROM s3('http://127.0.0.1:1/b/k.csv', 'CSV', 'x String')",
    "SELECT * FROM S3('http://127.0.0.1:1/b/k.csv', NOSIGN, 'CSV', 'x String')",
    "SELECT * FROM gcs('http://127.0.0.1:1/b/k.csv', 'CSV', 'x String')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString', 'x String')",
    "SELECT * FROM urlCluster('default', 'http://127.0.0.1:1/', 'LineAsString', 'x String')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:1/x', 'CSV', 'x String')",
    "SELECT * FROM azureBlobStorage('a', 'b', 'c')",
    "SELECT * FROM executable('id', 'LineAsString', 'x String')",
    "SELECT * FROM Python(os)",
    "SELECT * FROM python('sys.modules')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM mongodb('127.0.0.1:1', 'a', 'b', 'c', 'd', 'x String')",
    "SELECT * FROM redis('127.0.0.1:1', 'k', 'k String')",
    "SELECT * FROM sqlite('{data}/x.db', 't')",
    "SELECT * FROM odbc('DSN=x', 'a', 'b')",
    "SELECT * FROM jdbc('x', 'y')",
    "SELECT * FROM iceberg('http://127.0.0.1:1/b')",
    "SELECT * FROM deltaLake('http://127.0.0.1:1/b')",
    "SELECT * FROM input('x String')",
    "SELECT * FROM eval('SELECT * FROM other.t')",
    "SELECT * FROM generateRandom('x String')",
    "SELECT 1 IN merge('other', 't')",
    # functions that reach outside their arguments
    "SELECT dictGet('gpufleet.notes', 'note', 1001)",
    "SELECT DICTGET('gpufleet.notes', 'note', 1001)",
    "SELECT dictGetOrDefault('gpufleet.notes', 'note', 1001, '')",
    "SELECT dictGetString('gpufleet.notes', 'note', toUInt64(1001))",
    "SELECT dictHas('gpufleet.notes', 1001) ? 'bettys-secret' : ''",
    "SELECT arrayMap(i -> dictGet('gpufleet.notes', 'note', i), [1001])",
    "SELECT * APPLY(i -> dictGet('gpufleet.notes', 'note', toUInt64(1001))) FROM gpufleet.samples",
    "SELECT COLUMNS('x') APPLY(file) FROM gpufleet.samples",
    "SELECT * REPLACE (dictGet('gpufleet.notes', 'note', 1001) AS x) FROM gpufleet.samples",
    "SELECT joinGet('gpufleet.joined', 'note', toInt64(1001))",
    "SELECT joinGetOrNull('gpufleet.joined', 'note', toInt64(1001))",
    "SELECT peek()",
    "SELECT file('/etc/passwd')",
    "SELECT File('{data}/operator.password')",
    "SELECT getServerSetting('path')",
    "SELECT getMacro('gpufleet_boot')",
    "SELECT serverUUID(), hostName(), getServerPort('http_port')",
    "SELECT addressToLine(1), demangle('x')",
    "SELECT sleep(3)",
    "SELECT aiGenerate('x')",
    "SELECT filesystemCapacity()",
    "SELECT hasColumnInTable('other', 't', 'note')",
    # system tables and schemas
    "SELECT * FROM system.tables",
    "SELECT * FROM `system`.`parts`",
    "SELECT * FROM SYSTEM.parts",
    "SELECT * FROM system.columns",
    "SELECT * FROM system.processes",
    "SELECT * FROM system.query_log",
    "SELECT * FROM system.row_policies",
    "SELECT * FROM system.users",
    "SELECT * FROM system.dictionaries",
    "SELECT * FROM system.databases",
    "SELECT * FROM system.parts_columns",
    "SELECT * FROM system.macros",
    "SELECT * FROM system.server_settings",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM INFORMATION_SCHEMA.COLUMNS",
    "SELECT 1 WHERE 'other' IN (SELECT name FROM system.databases)",
    "SELECT 1 WHERE 'x' IN system.tables",
    # statements that are not SELECT
    "EXPLAIN ESTIMATE SELECT * FROM gpufleet.samples",
    "EXPLAIN PLAN indexes = 1 SELECT * FROM gpufleet.samples WHERE x > 4",
    "EXPLAIN AST SELECT 1",
    "SELECT * FROM (EXPLAIN ESTIMATE SELECT * FROM gpufleet.samples)",
    "SHOW TABLES FROM other",
    "SHOW CREATE TABLE other.t",
    "SHOW DATABASES",
    "DESCRIBE TABLE other.t",
    "EXISTS TABLE other.t",
    "CHECK TABLE gpufleet.samples",
    "SET log_comment = 'betty'",
    "SET readonly = 0",
    "USE other",
    "INSERT INTO gpufleet.samples VALUES (9, 'x', 'betty')",
    "INSERT INTO gpufleet.samples SELECT 9, 'x', 'betty'",
    "INSERT INTO FUNCTION file('{data}/out.tsv', 'TSV', 'x Int8') SELECT 1",
    "CREATE TABLE gpufleet.mine ENGINE = Memory AS SELECT * FROM other.t",
    "CREATE TEMPORARY TABLE mine AS SELECT * FROM other.t",
    "CREATE VIEW gpufleet.mine AS SELECT * FROM other.t",
    "CREATE FUNCTION mine AS x -> x",
    "ALTER TABLE gpufleet.samples DELETE WHERE 1",
    "DELETE FROM gpufleet.samples WHERE 1",
    "TRUNCATE TABLE gpufleet.samples",
    "DROP TABLE gpufleet.samples",
    "RENAME TABLE gpufleet.samples TO gpufleet.gone",
    "OPTIMIZE TABLE gpufleet.samples FINAL",
    "SYSTEM STOP MERGES",
    "SYSTEM RELOAD DICTIONARIES",
    "SYSTEM SHUTDOWN",
    "KILL QUERY WHERE 1",
    "GRANT ALL ON *.* TO default",
    "BACKUP TABLE gpufleet.samples TO File('x')",
    "ATTACH TABLE gpufleet.x",
    "SELECT 1 PARALLEL WITH SELECT * FROM other.t",
    "SELECT * FROM gpufleet.samples INTO OUTFILE '{data}/out.tsv'",
    "SELECT * FROM gpufleet.samples WHERE x > 4; SELECT * FROM other.t",
    "SELECT 1; DROP TABLE gpufleet.samples",
    "SELECT '\\'; SELECT * FROM other.t",
    "SELECT ‘a’ FROM other.t",
    "SELECT $$'$$, * FROM other.t",
    "",
    ";",
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    secret = hash_password("pw")
    users = [User("anna", Kind.TENANT, secret, "anna"), User("betty", Kind.TENANT, secret, "betty")]
    users += [User("quote", Kind.TENANT, secret, "o'ne\t\\x"), User("reader", Kind.READER, secret)]
    users += [User("writer", Kind.WRITER, secret)]
    with StoreProcess(tmp_path_factory.mktemp("tenants"), users=users, policies=POLICIES) as process:
        client = connect(process, process.username, process.password)
        for statement in SETUP:
            client.command(statement)
        client.close()
        yield process


def connect(process: StoreProcess, user: str, password: str = "pw") -> Client:
    return clickhouse_connect.get_client(
        host=process.host, port=process.port, username=user, password=password, autogenerate_session_id=False
    )


def ask(process: StoreProcess, user: str, query: str, **parameters: str) -> tuple[int, str]:
    """Status and text of one query, straight over HTTP."""
    url = f"{process.url}/?{urllib.parse.urlencode(parameters)}"
    password = process.password if user == process.username else "pw"
    headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password}
    request = urllib.request.Request(url, query.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


@pytest.mark.parametrize("query", HOSTILE)
def test_nothing_of_others_is_read(fleet: StoreProcess, query: str) -> None:
    """Whatever is answered holds no value of another tenant, no file and no name of what is hidden."""
    query = query.replace("{data}", str(fleet.data))
    status, text = ask(fleet, "anna", query)
    shown = text.replace(query, "")
    if status == 200:
        assert SECRET not in text
        assert "root:" not in text
        assert text.strip() in ("", "Ok.") or "betty" not in text
    else:
        assert text.startswith("Code: ")
        # an error may repeat the question (constants of it), never a value that was read
        assert SECRET in query or SECRET not in shown
        assert "root:" not in shown
        assert fleet.password not in shown


def test_the_store_is_as_it_was(fleet: StoreProcess) -> None:
    """After all of it, nothing was changed and nothing written; and the secrets are there to be found."""
    status, text = ask(
        fleet,
        fleet.username,
        f"SELECT (SELECT count() FROM gpufleet.samples), (SELECT countIf(note = '{SECRET}') FROM other.t), "
        f"(SELECT x FROM gpufleet.closed), dictGet('gpufleet.notes', 'note', 1001), "
        "(SELECT count() FROM system.tables WHERE database = 'gpufleet' AND name IN ('mine', 'gone'))",
    )
    assert (status, text) == (200, f"13\t8\t{SECRET}\t{SECRET}\t0\n")
    assert not list(fleet.data.glob("out.tsv*"))


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


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE gpufleet.samples",
        "CREATE TABLE gpufleet.w (x Int8) ENGINE = Memory",
        "ALTER TABLE gpufleet.samples DELETE WHERE 1",
        "TRUNCATE TABLE gpufleet.samples",
        "INSERT INTO other.t (x) VALUES (1)",
        "INSERT INTO FUNCTION file('/tmp/x') SELECT 1",
        "INSERT INTO gpufleet.samples SELECT 1, file('/etc/passwd'), 'anna'",
        "INSERT INTO gpufleet.samples FROM INFILE '/etc/passwd' FORMAT LineAsString",
        "INSERT INTO gpufleet.samples VALUES (1, file('/etc/hostname'), 'anna')",
        "SELECT * FROM s3('http://127.0.0.1:1/b/k.csv', 'CSV', 'x String')",
        "SELECT file('/etc/passwd')",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SET max_threads = 1",
        "SYSTEM STOP MERGES",
        "SELECT * FROM other.t",
    ],
)
@pytest.mark.parametrize("user", ["writer", "reader"])
def test_writers_and_readers_keep_to_their_rights(fleet: StoreProcess, user: str, statement: str) -> None:
    before = ask(fleet, fleet.username, "SELECT count() FROM gpufleet.samples")
    status, text = ask(fleet, user, statement)
    assert status >= 400, text
    assert "root:" not in text
    assert ask(fleet, fleet.username, "SELECT count() FROM gpufleet.samples") == before


def test_writers_insert_and_read(fleet: StoreProcess) -> None:
    client = connect(fleet, "writer")
    rows = client.query("SELECT count() FROM gpufleet.memory").result_rows
    client.insert("gpufleet.memory", [["a"], ["b"]], column_names=["x"])
    client.raw_insert("gpufleet.memory", ["x"], b"c\nd\n", fmt="TSV", settings={"async_insert": 0})
    client.command("INSERT INTO gpufleet.memory VALUES ('e')")
    client.command("INSERT INTO gpufleet.memory SELECT 'f' FROM numbers(2)")
    assert client.query("SELECT count() FROM gpufleet.memory").result_rows == [(rows[0][0] + 7,)]
    client.close()


def test_readers_see_everything_of_the_database(fleet: StoreProcess) -> None:
    assert ask(fleet, "reader", "SELECT count() FROM gpufleet.samples SETTINGS max_threads = 1") == (200, "13\n")
    assert ask(fleet, "reader", "SELECT count() > 0 FROM system.parts") == (200, "1\n")
    assert "samples" in ask(fleet, "reader", "SHOW TABLES FROM gpufleet")[1]
    status, text = ask(fleet, "reader", "INSERT INTO gpufleet.memory VALUES ('x')")
    assert (status, text[:9]) == (403, "Code: 497")
