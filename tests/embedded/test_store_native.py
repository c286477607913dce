"""FORMAT Native for clients that name a protocol revision: what is spliced in, and nothing else."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from infra.embedded.store import native
from infra.embedded.store.columns import Unsupported, arguments, layout
from infra.embedded.store.errors import Refusal
from infra.embedded.store.process import StoreProcess

pytestmark = pytest.mark.store

INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
"""Block info as ClickHouse's BlockInfo::write sends it: field 1 = 0, field 2 = -1 (Int32), end."""
SENTINEL = b"\x06zz_end\x05UInt8"

# One expression a type, by the row number n (UInt64), so that every block has different lengths.
COLUMNS = [
    "toUInt8(n)", "toUInt16(n)", "toUInt32(n)", "n", "toUInt128(n)", "toUInt256(n)",
    "toInt8(n)", "toInt16(n)", "toInt32(n)", "toInt64(n)", "toInt128(n)", "toInt256(n)",
    "toFloat32(n)", "toFloat64(n)", "toBFloat16(n)", "n % 2 = 1", "CAST(n % 2 AS Bool)",
    "toDecimal32(n, 2)", "toDecimal64(n, 3)", "toDecimal128(n, 4)", "toDecimal256(n, 5)",
    "toDate(n)", "toDate32(n)", "toDateTime(n)", "toDateTime(n, 'Asia/Tokyo')", "toDateTime64(n, 6, 'UTC')",
    "toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0')", "toIPv4('1.2.3.4')", "toIPv6('::1')",
    "CAST(n % 2 + 1 AS Enum8('a' = 1, 'b) x' = 2))", "CAST(n % 2 + 1 AS Enum16('it''s, (' = 1, 'b' = 2))",
    "repeat('x', n % 300)", "''", "toFixedString('abc', 5)", "toFixedString('abc', 16)",
    "toIntervalSecond(n)", "NULL", "tuple()", "[]",
    "if(n % 3 = 0, NULL, n)", "if(n % 3 = 0, NULL, repeat('y', n % 200))", "CAST(NULL AS Nullable(FixedString(3)))",
    "if(n % 2 = 0, NULL, toDateTime64(n, 3, 'UTC'))", "CAST(n AS Nullable(Decimal(38, 3)))",
    "range(n % 5)", "arrayMap(i -> repeat('z', i), range(n % 6))", "arrayMap(i -> range(i), range(n % 4))",
    "arrayMap(i -> if(i % 2 = 0, NULL, toString(i)), range(n % 5))", "emptyArrayString()", "[[], [toInt8(1)]]",
    "map('a', n, 'b', n + 1)", "mapFromArrays(arrayMap(i -> toString(i), range(n % 4)), range(n % 4))",
    "map('k', [n])", "map(toLowCardinality('k'), toLowCardinality(toString(n % 7)))", "map('k', map(n, 'v'))",
    "tuple(n)", "(n, toString(n), [n])", "CAST((n, 'x') AS Tuple(id UInt64, `odd name, (` String))",
    "((n, 'a'), [(n, 'b'), (n, 'c')])", "CAST((n, NULL) AS Tuple(a UInt8, b Nullable(String)))",
    "toLowCardinality(toString(n % 7))", "toLowCardinality(if(n % 3 = 0, NULL, toString(n % 5)))",
    "toLowCardinality(toFixedString(toString(n % 5), 4))", "toLowCardinality(toString(n))",
    "CAST(n % 3 AS LowCardinality(UInt32))", "CAST(toDate(n % 3) AS LowCardinality(Date))",
    "arrayMap(i -> toLowCardinality(toString(i)), range(n % 4))", "CAST([] AS Array(LowCardinality(String)))",
    "arrayMap(i -> (toLowCardinality(toString(i)), toLowCardinality(toString(i % 2))), range(n % 4))",
    "(toLowCardinality('a'), n, toLowCardinality(toString(n % 3)))",
    "CAST([(n, 'a')] AS Nested(x UInt64, y String))", "[map('a', [(n, toLowCardinality('q'))])]",
    "CAST((1.5, 2.5) AS Point)", "CAST([(1., 2.), (toFloat64(n), 4.)] AS Ring)",
    "CAST([[(1., 2.), (toFloat64(n), 4.)]] AS Polygon)",
    "CAST(n AS SimpleAggregateFunction(sum, UInt64))",
    "CAST('x' AS SimpleAggregateFunction(anyLast, Nullable(String)))",
    "CAST(if(n % 2 = 0, n::Variant(UInt64, String), toString(n)::Variant(UInt64, String)) AS Variant(String, UInt64))",
    "CAST([n::Variant(UInt64, Array(String)), ['a']::Variant(UInt64, Array(String)), NULL] AS "
    "Array(Variant(Array(String), UInt64)))",
    "toTime64(toDateTime64(n, 3, 'UTC'), 3)",
]  # fmt: skip


@pytest.fixture(scope="module")
def client(store: StoreProcess) -> Iterator[Client]:
    with clickhouse_connect.get_client(
        host=store.host, port=store.port, username=store.username, password=store.password
    ) as opened:
        opened.command("CREATE DATABASE IF NOT EXISTS store_native")
        yield opened


def fetch(store: StoreProcess, query: str, revision: int, body: bytes = b"") -> bytes:
    parameters = {"query": query, "client_protocol_version": str(revision), "enable_time_time64_type": "1"}
    parameters |= {"allow_suspicious_low_cardinality_types": "1", "allow_experimental_bfloat16_type": "1"}
    parameters |= {"allow_suspicious_variant_types": "1", "use_variant_as_common_type": "0"}
    headers = {"X-ClickHouse-User": store.username, "X-ClickHouse-Key": store.password}
    request = urllib.request.Request(f"{store.url}/?{urllib.parse.urlencode(parameters)}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            data: bytes = answer.read()
    except urllib.error.HTTPError as error:
        raise ValueError(error.read().decode()) from None
    return data


def header(plain: bytes) -> int:
    """Where the first column's data begins: after two varints (below 128 columns; rows) and two short strings."""
    at = 1
    while plain[at] >= 0x80:
        at += 1
    at += 1
    at += 1 + plain[at]
    size, shift = 0, 0
    while True:
        size |= (plain[at] & 0x7F) << shift
        shift += 7
        at += 1
        if plain[at - 1] < 0x80:
            return at + size


@pytest.mark.parametrize("rows", [0, 1, 257])
@pytest.mark.parametrize("column", COLUMNS)
def test_each_type_is_spliced(store: StoreProcess, column: str, rows: int) -> None:
    """One column and a sentinel behind it: where the bytes must go is known without knowing the type's length."""
    query = f"SELECT {column} AS c, toUInt8(7) AS zz_end FROM (SELECT number AS n FROM numbers({rows})) FORMAT Native"
    plain = fetch(store, query, 0)
    if not rows:
        assert plain == b""
        assert fetch(store, query, 54460) == b""
        return
    assert plain.count(SENTINEL) == 1
    first = header(plain)
    at = plain.index(SENTINEL) + len(SENTINEL)
    assert fetch(store, query, 54405) == INFO + plain
    spliced = INFO + plain[:first] + b"\0" + plain[first:at] + b"\0" + plain[at:]
    assert fetch(store, query, 54460) == spliced
    for revision, data in ((0, plain), (54405, INFO + plain), (54460, spliced)):
        assert native.unsplice(data, revision) == plain


@pytest.mark.parametrize("revision", [0, 54405, 54460])
def test_native_inserts_of_every_revision(store: StoreProcess, client: Client, revision: int) -> None:
    """What a client of a revision reads, it can send back; all columns at once, several blocks."""
    wanted = [c for c in COLUMNS if c not in ("NULL", "tuple()", "[]") and "Point" not in c]
    columns = ", ".join(f"{column} AS c{number}" for number, column in enumerate(wanted))
    select = f"SELECT {columns} FROM (SELECT number AS n FROM numbers(200000)) SETTINGS max_block_size = 60000"
    name = f"store_native.all_{revision}"
    fetch(store, f"CREATE OR REPLACE TABLE {name} ENGINE = MergeTree ORDER BY tuple() EMPTY AS {select}", 0)
    select = select.replace("200000", "1000").replace("60000", "300")
    data = fetch(store, f"{select} FORMAT Native", revision)
    fetch(store, f"INSERT INTO {name} FORMAT Native", revision, data)
    assert fetch(store, f"SELECT * FROM {name} ORDER BY c3 FORMAT RowBinary", 0) == fetch(
        store, f"{select.replace(' SETTINGS', ' ORDER BY n SETTINGS')} FORMAT RowBinary", 0
    )


def test_clickhouse_connect_reads_what_was_meant(client: Client) -> None:
    result = client.query(
        "SELECT toLowCardinality(toString(number % 3)), [number, 1], map('a', number), (number, 'x'), "
        "if(number = 1, NULL, toString(number)) FROM numbers(3)"
    )
    assert result.result_rows == [
        ("0", [0, 1], {"a": 0}, (0, "x"), "0"),
        ("1", [1, 1], {"a": 1}, (1, "x"), None),
        ("2", [2, 1], {"a": 2}, (2, "x"), "2"),
    ]


def test_clickhouse_connect_inserts_columns(client: Client) -> None:
    client.command(
        "CREATE OR REPLACE TABLE store_native.inserted (a Array(Nullable(String)), "
        "m Map(LowCardinality(String), Int8), t Tuple(x Int8, y String), "
        "l LowCardinality(Nullable(String)), u UUID, f FixedString(4)) "
        "ENGINE = MergeTree ORDER BY tuple()"
    )
    rows: list[list[Any]] = [
        [["a", None], {"k": 1}, (1, "y"), None, "61f0c404-5cb3-11e7-907b-a6006ad3dba0", b"abcd"],
        [[], {}, (2, ""), "low", "61f0c404-5cb3-11e7-907b-a6006ad3dba0", b"\x00\xff\x00\xff"],
    ]
    client.insert("store_native.inserted", rows, column_names=list("amtluf"))
    query = "SELECT a, m, t.x, t.y, l, toString(u), hex(f) FROM store_native.inserted ORDER BY t.x"
    assert client.query(query).result_rows == [
        (["a", None], {"k": 1}, 1, "y", None, "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "61626364"),
        ([], {}, 2, "", "low", "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "00FF00FF"),
    ]


def test_a_type_without_a_known_length_is_refused(store: StoreProcess) -> None:
    query = "SELECT sumState(number) AS s, 1 AS x FROM numbers(3) FORMAT Native"
    assert fetch(store, query, 54405).startswith(INFO)
    with pytest.raises(ValueError, match="cannot carry type AggregateFunction here"):
        fetch(store, query, 54460)


@pytest.mark.parametrize("cut", [1, 9, 20, 40])
def test_data_that_ends_early_is_refused(cut: int) -> None:
    block = b"\x01\x02\x01c\x06String" + b"\x03abc" + b"\x20" + b"x" * 32
    assert native.splice(block, 2, 54460) == INFO + block[:11] + b"\0" + block[11:]
    with pytest.raises(Refusal, match="ends in the middle"):
        native.splice(block[:-cut], 2, 54460)


def test_type_names_are_taken_apart() -> None:
    assert arguments("a Enum8('x, (' = 1), `b ,` Array(Tuple(Int8, String)), c DateTime64(3, 'UTC')") == [
        "a Enum8('x, (' = 1)",
        "`b ,` Array(Tuple(Int8, String))",
        "c DateTime64(3, 'UTC')",
    ]
    with pytest.raises(Unsupported):
        layout("Array(Dynamic)")
