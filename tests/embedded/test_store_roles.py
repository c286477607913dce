"""Writers, readers and operators keep to their rights; of tenants' usage people see what leases open."""

from __future__ import annotations

import json
import urllib.request

import pytest

from infra.embedded.store.process import StoreProcess
from tests.embedded.fleet import PRIVATE, ask, connect

pytestmark = pytest.mark.store


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
@pytest.mark.parametrize("user", ["writer", "reader", "operator"])
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


@pytest.mark.parametrize("user", ["writer", "reader", "operator"])
def test_what_was_let_through_once_is_looked_at_again_when_databases_come_and_go(
    fleet: StoreProcess, user: str
) -> None:
    statement = "SELECT n.number FROM numbers(1) AS n"
    for _ in range(2):
        assert ask(fleet, user, statement) == (200, "0\n")
    assert ask(fleet, fleet.username, "CREATE DATABASE n")[0] == 200
    try:
        status, text = ask(fleet, user, statement)
        assert (status, "n.number is outside the database" in text) == (403, True), text
    finally:
        ask(fleet, fleet.username, "DROP DATABASE n")
    assert ask(fleet, user, statement) == (200, "0\n")
    assert ask(fleet, user, "SELECT * FROM other.t")[0] == 403
    assert ask(fleet, user, "SELECT * FROM other.t")[0] == 403, "a refusal is not taken for a yes"


def test_readers_see_everything_of_the_database(fleet: StoreProcess) -> None:
    assert ask(fleet, "reader", "SELECT count() FROM gpufleet.samples SETTINGS max_threads = 1") == (200, "13\n")
    assert ask(fleet, "reader", "SELECT count() > 0 FROM system.parts") == (200, "1\n")
    assert "samples" in ask(fleet, "reader", "SHOW TABLES FROM gpufleet")[1]
    status, text = ask(fleet, "reader", "INSERT INTO gpufleet.memory VALUES ('x')")
    assert (status, text[:9]) == (403, "Code: 497")


SETTINGS = [
    "SELECT * FROM gpufleet.private SETTINGS log_comment = 'anna'",
    "SELECT * FROM gpufleet.private SETTINGS `log_comment` = 'anna'",
    "SELECT * FROM gpufleet.private SETTINGS log_comment = DEFAULT",
    "SELECT * FROM gpufleet.private SETTINGS profile = 'default'",
    "SELECT * FROM (SELECT * FROM gpufleet.private SETTINGS log_comment = 'anna')",
    "SELECT * FROM (SELECT * FROM gpufleet.private SETTINGS profile = 'default')",
    "SELECT * FROM gpufleet.private SETTINGS use_query_cache = 1",
    "SELECT * FROM gpufleet.private SETTINGS additional_result_filter = '1'",
    "SELECT * FROM gpufleet.private SETTINGS readonly = 0",
]
PRIVATE_QUERIES = [
    "SELECT * FROM gpufleet.private",
    "SELECT * FROM private WHERE tenant = 'anna'",
    "SELECT sum(amount), max(amount) FROM gpufleet.private",
    "SELECT * FROM gpufleet.private PREWHERE amount > 11",
    "SELECT * FROM gpufleet.daily",
    "SELECT throwIf(amount > 11, 'there is more') FROM gpufleet.private",
    "SELECT intDiv(1, amount - 90210042) FROM gpufleet.private",
    "SELECT * FROM merge('gpufleet', 'private')",
    "SELECT * FROM view(SELECT * FROM gpufleet.private)",
    "SELECT * FROM gpufleet.samples AS s INNER JOIN gpufleet.private AS p ON s.tenant = p.tenant",
    "SELECT 1 WHERE 90210042 IN (SELECT amount FROM gpufleet.private) SETTINGS max_threads = 1",
    "SELECT dictGet('gpufleet.private', 'amount', 1)",
    "INSERT INTO gpufleet.projector_requests SELECT toString(amount) FROM gpufleet.private",
    "EXPLAIN PLAN actions = 1 SELECT * FROM gpufleet.private",
    "EXPLAIN ESTIMATE SELECT * FROM gpufleet.private WHERE amount = 90210042",
    "EXPLAIN ESTIMATE SELECT * FROM gpufleet.samples WHERE x IN private",
    "EXPLAIN ESTIMATE SELECT * FROM gpufleet.daily",
    "EXPLAIN indexes = 1 SELECT * FROM gpufleet.private WHERE amount = 90210042",
    "DESCRIBE TABLE gpufleet.private",
    "SELECT query, Settings FROM system.processes",
    "SELECT * FROM system.row_policies",
    "SELECT * FROM system.users",
    "SELECT * FROM system.settings_profile_elements",
    *SETTINGS,
]


@pytest.mark.parametrize("query", PRIVATE_QUERIES)
@pytest.mark.parametrize("user", ["operator", "reader"])
def test_what_a_tenant_does_not_open_is_not_read(fleet: StoreProcess, user: str, query: str) -> None:
    """Neither Anna's figure nor the secret of a connection that sees it comes out."""
    status, text = ask(fleet, user, query)
    shown = text.replace(query, "") if status != 200 else text
    assert f"{PRIVATE}" not in shown or f"{PRIVATE}" in query
    assert "there is more" not in shown or status != 200 or "there is more" in query
    if query.startswith("SELECT * FROM gpufleet.private") and status == 200:
        assert text in ("", "11\tbetty\n")
    if "INTO" in query:
        found = ask(fleet, fleet.username, "SELECT groupUniqArray(x) FROM gpufleet.projector_requests")[1]
        assert str(PRIVATE) not in found


@pytest.mark.parametrize("user", ["operator", "reader"])
def test_what_a_tenant_opens_is_read(fleet: StoreProcess, user: str) -> None:
    assert ask(fleet, user, "SELECT * FROM gpufleet.private") == (200, "11\tbetty\n")
    assert ask(fleet, user, "SELECT * FROM gpufleet.daily") == (200, "betty\t11\n")
    assert ask(fleet, fleet.username, "SELECT sum(amount) FROM gpufleet.private") == (200, f"{PRIVATE + 11}\n")
    assert ask(fleet, "writer", "SELECT sum(amount) FROM gpufleet.private") == (200, f"{PRIVATE + 11}\n")
    assert ask(fleet, "anna", "SELECT * FROM gpufleet.private") == (200, f"{PRIVATE}\tanna\n")


@pytest.mark.parametrize("query", SETTINGS)
def test_the_filters_carrier_cannot_be_changed(fleet: StoreProcess, query: str) -> None:
    """Refused by the engine itself, or without effect."""
    _, text = ask(fleet, "operator", query)
    assert str(PRIVATE) not in text


@pytest.mark.parametrize(
    "parameters",
    [
        {"log_comment": "anna"},
        {"profile": "default"},
        {"readonly": "0"},
        {"readonly": "1"},
        {"readonly": "2", "log_comment": "anna"},
        {"use_query_cache": "1"},
        {"database": "other"},
        {"session_id": "shared"},
        {"role": "admin"},
    ],
)
def test_url_parameters_open_nothing_to_operators(fleet: StoreProcess, parameters: dict[str, str]) -> None:
    status, text = ask(fleet, "operator", "SELECT * FROM gpufleet.private", **parameters)
    assert str(PRIVATE) not in text
    assert status != 200 or text == "11\tbetty\n"


def test_operators_look_around_and_ask_the_projector(fleet: StoreProcess) -> None:
    assert ask(fleet, "operator", "SELECT count() FROM gpufleet.samples SETTINGS max_threads = 1") == (200, "13\n")
    assert ask(fleet, "operator", "SELECT x FROM closed")[0] == 200
    assert "Granules" in ask(fleet, "operator", "EXPLAIN indexes = 1 SELECT * FROM gpufleet.samples WHERE x > 4")[1]
    assert ask(fleet, "operator", "SELECT dictGet('gpufleet.opened', 'granted', 'betty')") == (200, "1\n")
    assert ask(fleet, "operator", "INSERT INTO projector_requests VALUES ('please')")[0] == 200
    assert ask(fleet, "operator", "INSERT INTO gpufleet.memory VALUES ('x')")[0] == 403
    assert ask(fleet, "reader", "INSERT INTO gpufleet.projector_requests VALUES ('x')")[0] == 403


@pytest.mark.parametrize("user", ["operator", "reader"])
def test_how_much_was_read_is_told_of_what_is_seen_whole(fleet: StoreProcess, user: str) -> None:
    """By the primary key a count says which values there are: one question a bit, and a name is read."""
    assert read_rows(fleet, user, "SELECT count() FROM gpufleet.samples WHERE x > 4") > 0
    for table in ("gpufleet.private", "gpufleet.daily", "gpufleet.samples WHERE x IN (SELECT amount FROM private)"):
        assert read_rows(fleet, user, f"SELECT count() FROM {table}") == 0
    for statement, why in (
        ("EXPLAIN ESTIMATE SELECT count() FROM gpufleet.private WHERE amount > 11", "see a part of"),
        ("EXPLAIN indexes = 1 SELECT count() FROM gpufleet.daily", "see a part of"),
        ("SELECT count() FROM gpufleet.private FORMAT JSONEachRowWithProgress", "is for the administrator"),
        ("SELECT count() FROM gpufleet.private SETTINGS max_rows_to_read = 1", "should not be changed"),
        ("SELECT 1 FROM gpufleet.private SETTINGS output_format_write_statistics = 1", "should not be changed"),
    ):
        status, text = ask(fleet, user, statement)
        assert status != 200, statement
        assert why in text, (statement, text)
    assert "rows_read" not in ask(fleet, user, "SELECT count() FROM gpufleet.private FORMAT JSON")[1]
    assert ask(fleet, user, "EXPLAIN SYNTAX SELECT amount FROM gpufleet.private")[0] == 200


@pytest.mark.parametrize("others", ["betty", "carol", "nobody"])
def test_a_tenants_question_looks_at_its_own_part_of_the_table(fleet: StoreProcess, others: str) -> None:
    """So that it takes no longer where others have rows than where nobody has."""
    assert ask(fleet, "anna", "SELECT count(), max(x) FROM gpufleet.keyed") == (200, "1000\t2997\n")
    before = marks(fleet)
    assert ask(fleet, "anna", f"SELECT count() FROM gpufleet.keyed WHERE tenant = '{others}' AND x > 5") == (200, "0\n")
    assert marks(fleet) == before
    assert ask(fleet, "anna", "SELECT count() FROM gpufleet.keyed WHERE x > 5")[0] == 200
    assert before < marks(fleet) <= before + 1000 // 16 + 2


@pytest.mark.parametrize("user", ["anna", "operator"])
def test_extremes_are_shown_to_who_asks_for_them(fleet: StoreProcess, user: str) -> None:
    status, text = ask(fleet, user, "SELECT x FROM gpufleet.samples WHERE x < 3 FORMAT JSON", extremes="1")
    assert (status, json.loads(text)["extremes"]) == (200, {"min": {"x": 0}, "max": {"x": 2}})


def read_rows(fleet: StoreProcess, user: str, query: str) -> int:
    """What X-ClickHouse-Summary says."""
    request = urllib.request.Request(fleet.url, query.encode(), {"X-ClickHouse-User": user, "X-ClickHouse-Key": "pw"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return int(json.loads(response.headers["X-ClickHouse-Summary"])["read_rows"])


def marks(fleet: StoreProcess) -> int:
    """Pieces of tables that were looked at since the store began; nothing else asks it."""
    sql = "SELECT sum(value) FROM system.events WHERE event = 'SelectedMarks'"
    return int(ask(fleet, fleet.username, sql)[1])
