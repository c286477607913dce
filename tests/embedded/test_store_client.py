"""clickhouse-connect, unchanged, against the embedded store."""

from __future__ import annotations

import datetime
import io
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import clickhouse_connect
import fastavro
import lz4.frame
import pytest
import zstandard
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, Error

from infra.embedded.store.process import StoreProcess

pytestmark = pytest.mark.store

AVRO = {"type": "record", "name": "r", "fields": [{"name": "x", "type": "long"}, {"name": "y", "type": "string"}]}


@pytest.fixture
def client(store: StoreProcess) -> Iterator[Client]:
    with connect(store) as opened:
        opened.command("CREATE DATABASE IF NOT EXISTS store_client")
        opened.command("DROP TABLE IF EXISTS store_client.t")
        opened.command("CREATE TABLE store_client.t (x Int64, y String) ENGINE = MergeTree ORDER BY x")
        yield opened


def connect(store: StoreProcess, **options: Any) -> Client:
    return clickhouse_connect.get_client(
        host=store.host, port=store.port, username=store.username, password=store.password, **options
    )


def raw(
    store: StoreProcess, body: bytes = b"", headers: dict[str, str] | None = None, **parameters: str
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of a request made by hand, as the operator unless `headers` say otherwise."""
    sent = {"X-ClickHouse-User": store.username, "X-ClickHouse-Key": store.password, **(headers or {})}
    url = f"{store.url}/?{urllib.parse.urlencode(parameters)}"
    request = urllib.request.Request(url, body, sent)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def avro(rows: int, start: int = 0) -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, AVRO, [{"x": start + i, "y": f"row {i}"} for i in range(rows)])
    return file.getvalue()


def test_the_client_speaks_native_with_its_own_revision(client: Client) -> None:
    assert client.protocol_version == 54405
    assert str(client.server_version).startswith("26.9.")
    assert str(client.server_tz) in ("UTC", "Etc/UTC")
    assert client.ping()


def test_parameters_keep_their_values(client: Client) -> None:
    awkward = 'it\'s a \\ back\\nslash\n\ttab ` "quoted" \x00 ünïcode ⚡'
    when = datetime.datetime(2026, 11, 22, 1, 2, 3, 456789, tzinfo=datetime.UTC)
    query = "SELECT {s:String}, {i:Int64}, {a:Array(String)}, {f:Float64}, {d:DateTime64(6, 'UTC')}, {n:Nullable(Int8)}"
    parameters = {"s": awkward, "i": -(2**63), "a": [awkward, ""], "f": 0.1, "d_64": when, "n": None}
    parameters["d"] = parameters.pop("d_64")
    row = client.query(query, parameters=parameters).result_rows[0]
    assert row == (awkward, -(2**63), [awkward, ""], 0.1, when.replace(tzinfo=row[4].tzinfo), None)


def test_parameters_in_a_form(store: StoreProcess) -> None:
    with connect(store, form_encode_query_params=True) as client:
        big = "x" * 100_000
        assert client.query(
            "SELECT length({s:String}), {t:String}", parameters={"s": big, "t": "a'b\\c"}
        ).result_rows == [(100_000, "a'b\\c")]


def test_settings_end_with_their_query(client: Client) -> None:
    query = "SELECT getSetting('max_block_size'), getSetting('max_threads')"
    before = client.query(query).result_rows
    assert client.query(query, settings={"max_block_size": 777, "max_threads": 1}).result_rows == [(777, 1)]
    assert client.query(query).result_rows == before


def test_a_session_keeps_what_it_set(store: StoreProcess) -> None:
    with connect(store, session_id="keeps") as client, connect(store, session_id="other") as other:
        client.command("SET max_block_size = 4242")
        client.command("CREATE TEMPORARY TABLE kept (x Int8)")
        client.command("INSERT INTO kept VALUES (1), (2)")
        query = "SELECT getSetting('max_block_size'), (SELECT sum(x) FROM kept)"
        assert client.query(query, settings={"max_threads": 1}).result_rows == [(4242, 3)]
        assert client.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 5}).result_rows == [(5,)]
        assert client.query(query).result_rows == [(4242, 3)]
        assert other.query("SELECT getSetting('max_block_size') = 4242").result_rows == [(False,)]
        with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
            other.query("SELECT * FROM kept")


def test_session_check_says_that_there_is_none(store: StoreProcess) -> None:
    status, body, headers = raw(store, b"SELECT 1", session_id="never-made", session_check="1")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (404, "372")
    assert body.startswith(b"Code: 372. DB::Exception: Session never-made not found")


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_insert_and_read_back_with_every_compression(store: StoreProcess, client: Client, compress: Any) -> None:
    with connect(store, compress=compress) as other:
        rows = [[i, f"value {i}" * 3] for i in range(20_000)]
        summary = other.insert("store_client.t", rows, column_names=["x", "y"])
        assert summary.written_rows == 20_000
        result = other.query("SELECT x, y FROM store_client.t ORDER BY x")
        assert [list(row) for row in result.result_rows] == rows
        assert other.query("SELECT number, toString(number) FROM numbers(300000)").row_count == 300_000


@pytest.mark.parametrize("encode", [None, lz4.frame.compress, zstandard.compress])
@pytest.mark.parametrize("as_file", [True, False])
def test_raw_insert_of_avro(client: Client, encode: Any, as_file: bool) -> None:
    body = avro(1000) if encode is None else encode(avro(1000))
    compression = {None: None, lz4.frame.compress: "lz4", zstandard.compress: "zstd"}[encode]
    summary = client.raw_insert(
        "store_client.t",
        insert_block=io.BytesIO(body) if as_file else body,
        fmt="Avro",
        compression=compression,
        settings={"async_insert": 0, "min_insert_block_size_rows": 1_000_000},
    )
    assert summary.written_rows == 1000
    assert client.query("SELECT count(), sum(x), uniqExact(y) FROM store_client.t").result_rows == [
        (1000, 499500, 1000)
    ]
    assert client.query("SELECT count() FROM system.parts WHERE database = 'store_client' AND active").result_rows == [
        (1,)
    ]


def test_a_refused_avro_body_stores_nothing(client: Client) -> None:
    for body in (avro(100)[:-30], b"Obj\x01rubbish", b"\x00" * 100):
        with pytest.raises(DatabaseError):
            client.raw_insert("store_client.t", insert_block=io.BytesIO(body), fmt="Avro", settings={"async_insert": 0})
    assert client.query("SELECT count() FROM store_client.t").result_rows == [(0,)]


def test_inserts_run_beside_each_other(store: StoreProcess, client: Client) -> None:
    failures: list[Error] = []

    def insert(start: int) -> None:
        try:
            with connect(store) as own:
                for part in range(5):
                    own.raw_insert("store_client.t", insert_block=io.BytesIO(avro(50, start + 50 * part)), fmt="Avro")
        except Error as error:
            failures.append(error)

    threads = [threading.Thread(target=insert, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert client.query("SELECT count(), uniqExact(x) FROM store_client.t").result_rows == [(2000, 2000)]


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("INSERT INTO store_client.t VALUES (1, 'a'), (2, 'b;c')", 2),
        ("INSERT INTO store_client.t (y, x) VALUES ('FORMAT', 1 + 1);", 1),
        ("insert into store_client.t settings async_insert = 0 values (1, 'a')", 1),
        ('INSERT INTO store_client.t FORMAT JSONEachRow\n{"x": 1, "y": "a"}\n{"x": 2, "y": "b"}', 2),
        ("INSERT /* FORMAT x */ INTO store_client.t (x, y) -- VALUES\n FORMAT TSV\n1\ta\n2\tb\n3\tc\n", 3),
        ("INSERT INTO store_client.t SETTINGS async_insert=0 FORMAT CSV 1,a", 1),
        ("INSERT INTO store_client.t SELECT number, 'FORMAT TSV' FROM numbers(4)", 4),
        ("INSERT INTO store_client.t WITH 2 AS n SELECT n, 'x' FROM numbers(2)", 2),
    ],
)
def test_inserts_with_their_data_in_the_body(store: StoreProcess, client: Client, statement: str, rows: int) -> None:
    status, body, headers = raw(store, statement.encode())
    assert (status, body) == (200, b"")
    assert json.loads(headers["X-ClickHouse-Summary"])["written_rows"] == str(rows)
    assert "X-ClickHouse-Format" not in headers
    assert client.query("SELECT count() FROM store_client.t").result_rows == [(rows,)]


def test_a_long_insert_is_spooled(store: StoreProcess, client: Client) -> None:
    lines = b"".join(b"%d\tvalue %d\n" % (i, i) for i in range(300_000))
    assert raw(store, b"INSERT INTO store_client.t FORMAT TSV\n" + lines)[0] == 200
    assert raw(store, lines, query="INSERT INTO store_client.t FORMAT TSV")[0] == 200
    assert client.query("SELECT count(), sum(x) FROM store_client.t").result_rows == [
        (600_000, 2 * sum(range(300_000)))
    ]


def test_a_query_split_between_url_and_body(store: StoreProcess) -> None:
    assert raw(store, b" + 1", query="SELECT 1")[1] == b"2\n"
    assert raw(store, b"", query="SELECT 1 AS x", default_format="JSONEachRow")[1] == b'{"x":1}\n'


def test_big_results_stream(client: Client) -> None:
    rows = 0
    with client.query_row_block_stream("SELECT number, toString(number) FROM numbers(1000000)") as stream:
        for block in stream:
            rows += len(block)
    assert rows == 1_000_000


def test_an_error_in_the_middle_of_a_stream_is_an_error(client: Client) -> None:
    query = (
        "SELECT throwIf(number = 900000, 'too far'), toString(number) FROM numbers(1000000) SETTINGS max_threads = 1"
    )
    with client.query_row_block_stream(query) as stream, pytest.raises(Error, match="too far"):
        list(stream)


def test_a_query_ends_when_its_client_leaves(store: StoreProcess, client: Client) -> None:
    slow = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
    headers = {"X-ClickHouse-User": store.username, "X-ClickHouse-Key": store.password}
    request = urllib.request.Request(f"{store.url}/?{urllib.parse.urlencode({'query': slow})}", headers=headers)
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(request, timeout=0.5)
    deadline = time.monotonic() + 20
    running = (
        "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64(number) = 1%' AND query NOT LIKE '%system%'"
    )
    while client.query(running).result_rows != [(0,)]:
        assert time.monotonic() < deadline, "the query runs on"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("SELECT nothing", 404, 47),
        ("SELEC 1", 400, 62),
        ("SELECT * FROM store_client.none", 404, 60),
        ("SELECT * FROM no_database.t", 404, 81),
        ("SELECT 1 SETTINGS no_setting = 1", 404, 115),
        ("SELECT 1 FORMAT Nonsense", 404, 73),
        ("SELECT 1 FORMAT DataFrame", 404, 73),
        ("SELECT throwIf(1)", 500, 395),
        ("SELECT 1; SELECT 2", 400, 62),
        ("INSERT INTO store_client.t FORMAT TSV\n5five\ttext\n", 400, 27),
    ],
)
def test_errors_look_like_clickhouse(store: StoreProcess, client: Client, query: str, status: int, code: int) -> None:
    found, body, headers = raw(store, query.encode())
    assert (found, headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert body.startswith(f"Code: {code}. DB::Exception: ".encode())
    with pytest.raises(DatabaseError, match=f"code: {code}"):
        client.command(query)


def test_headers_of_an_answer(store: StoreProcess, client: Client) -> None:
    client.command("INSERT INTO store_client.t SELECT number, '' FROM numbers(1000)")
    status, body, headers = raw(store, b"SELECT sum(x) FROM store_client.t FORMAT JSONEachRow", query_id="mine")
    summary = json.loads(headers["X-ClickHouse-Summary"])
    assert (status, body) == (200, b'{"sum(x)":499500}\n')
    assert (headers["X-ClickHouse-Format"], headers["X-ClickHouse-Query-Id"]) == ("JSONEachRow", "mine")
    assert headers["X-ClickHouse-Timezone"] in ("UTC", "Etc/UTC")
    assert headers["X-ClickHouse-Server-Display-Name"]
    assert (summary["read_rows"], summary["result_rows"]) == ("1000", "1")


def test_compression_is_only_used_when_asked_for(store: StoreProcess) -> None:
    query = b"SELECT repeat('x', 10000)"
    plain = raw(store, query, {"Accept-Encoding": "gzip"})
    packed = raw(store, query, {"Accept-Encoding": "br;q=1, zstd"}, enable_http_compression="1")
    assert "Content-Encoding" not in plain[2]
    assert packed[2]["Content-Encoding"] == "zstd"
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed[1]) == plain[1] == b"x" * 10_000 + b"\n"


def test_bodies_that_cannot_be_read_are_refused(store: StoreProcess, client: Client) -> None:
    for encoding, body in (("gzip", b"not gzip"), ("lz4", b"no"), ("zstd", b"no"), ("br", b"")):
        status, text, _ = raw(
            store, body, {"Content-Encoding": encoding}, query="INSERT INTO store_client.t FORMAT TSV"
        )
        assert (status, text[:9]) == (400, b"Code: 271"), encoding
    cut = lz4.frame.compress(b"1\ta\n" * 100_000)[:-20]
    status, text, _ = raw(store, cut, {"Content-Encoding": "lz4"}, query="INSERT INTO store_client.t FORMAT TSV")
    assert (status, text[:9]) == (400, b"Code: 271")
    assert raw(store, b"SELECT 1", decompress="1")[0] == 501
    assert client.query("SELECT count() FROM store_client.t").result_rows == [(0,)]


def test_who_may_not_come_in(store: StoreProcess) -> None:
    nobody = {"X-ClickHouse-User": "mallory", "X-ClickHouse-Key": "x"}
    wrong = {"X-ClickHouse-User": store.username, "X-ClickHouse-Key": "x"}
    for headers in (nobody, wrong, {**wrong, "X-ClickHouse-Key": ""}):
        status, body, answer = raw(store, b"SELECT 1", headers)
        assert status in (401, 403)
        assert answer["X-ClickHouse-Exception-Code"] == "516"
        assert b"Authentication failed: password is incorrect, or there is no user with such name" in body
    with urllib.request.urlopen(f"{store.url}/ping", timeout=5) as answer:
        assert answer.read() == b"Ok.\n"
    with urllib.request.urlopen(f"{store.url}/replicas_status", timeout=5) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{store.url}/?query=SELECT+1", timeout=5)
    inside = urllib.parse.urlencode({"query": "SELECT 1", "user": store.username, "password": store.password})
    with urllib.request.urlopen(f"{store.url}/?{inside}", timeout=5) as answer:
        assert answer.read() == b"1\n"


def test_the_engine_sees_what_the_operator_asks_for(client: Client) -> None:
    """The boot identifier that docs/embedded.md recommends is there, and stays while the store runs."""
    query = "SELECT getMacro('gpufleet_boot'), uptime()"
    (boot, up), (again, later) = client.query(query).result_rows[0], client.query(query).result_rows[0]
    assert boot == again
    assert len(boot) == 36
    assert later >= up
