"""A tenant asks for what is not his, in every way we could think of, and gets nothing of it."""

from __future__ import annotations

import pytest

from infra.embedded.store.process import StoreProcess
from tests.embedded.fleet import SECRET, ask

pytestmark = pytest.mark.store

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
    "SELECT File('{data}/admin.password')",
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
