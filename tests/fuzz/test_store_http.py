"""The store's HTTP endpoint under requests of every shape, as a tenant: it lives, and shows nobody else's rows."""

from __future__ import annotations

import base64
import contextlib
import gzip
import re
import socket
import time
import urllib.parse
import zlib

import lz4.frame
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.embedded.store.process import StoreProcess
from tests.embedded.fleet import SECRET, ask
from tests.embedded.test_store_hostile import HOSTILE

pytestmark = pytest.mark.store
HONEST = [
    "SELECT * FROM gpufleet.samples",
    "SELECT x, note FROM samples WHERE x > {low:Int64} ORDER BY x",
    "SELECT count(), uniqExact(tenant) FROM gpufleet.agg",
    "SELECT 1; ",
    "SELECT * FROM gpufleet.seen LIMIT 3",
    "INSERT INTO gpufleet.samples FORMAT CSV\n7,'x',betty",
]
FORMATS = [
    "",
    "JSON",
    "JSONEachRow",
    "Native",
    "CSV",
    "Arrow",
    "Parquet",
    "Avro",
    "Null",
    "XML",
    "Template",
    "a b",
    "DataFrame",
]
ENCODINGS = {
    "": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "lz4": lz4.frame.compress,
    "zstd": zstandard.compress,
    "br": bytes,
}
NAMES = [
    "query", "database", "default_format", "user", "password", "query_id", "session_id", "session_timeout", "role",
    "session_check", "compress", "decompress", "enable_http_compression", "wait_end_of_query", "log_comment",
    "client_protocol_version", "param_low", "param_x", "quota_key", "readonly", "max_result_rows", "allow_ddl",
    "SQL_tenant", "additional_table_filters", "additional_result_filter", "format_schema", "format_template_row",
    "output_format_json_quote_64bit_integers", "session_timezone", "insert_deduplication_token", "log_queries",
    "output_format_write_statistics", "extremes", "stacktrace", "close_session", "buffer_size", "query_cache_tag",
]  # fmt: skip
VALUES = [
    "", "0", "1", "2", "-1", "9" * 30, "betty", "anna", "gpufleet", "other", "system", "default", "\x00",
    "a\r\nX-Evil: 1",
    "{'gpufleet.samples':'1'}", "tenant = 'betty'", "/etc/passwd", "JSON", "UTC", "Mars/Base", "\u2028", "%00", "'",
]  # fmt: skip
HEADERS = [
    ("X-ClickHouse-Format", "JSON"), ("X-ClickHouse-Database", "other"), ("X-ClickHouse-User", "betty"),
    ("X-ClickHouse-Quota", "x"), ("Accept-Encoding", "zstd;q=0.1, lz4"), ("Accept-Encoding", ",;,=q"),
    ("Content-Type", "multipart/form-data"), ("Content-Type", "multipart/form-data; boundary=b"),
    ("Content-Type", "application/x-www-form-urlencoded"), ("Expect", "100-continue"), ("Range", "bytes=0-1"),
    ("X-Forwarded-For", "127.0.0.1"), ("Transfer-Encoding", "chunked"), ("Content-Length", "3"), ("Upgrade", "h2c"),
]  # fmt: skip
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT * FROM other.t\r\n--b\r\n'
    b'Content-Disposition: form-data; name="log_comment"\r\n\r\nbetty\r\n--b--\r\n'
)


@st.composite
def statements(draw: st.DrawFn) -> str:
    """A statement from the lists, or two of them joined at white space, maybe with a form."""
    one = draw(st.sampled_from(HONEST + HOSTILE))
    if draw(st.booleans()):
        other = draw(st.sampled_from(HONEST + HOSTILE)).split(" ")
        words = one.split(" ")
        one = " ".join(words[: draw(st.integers(0, len(words)))] + other[draw(st.integers(0, len(other))) :])
    form = draw(st.sampled_from(FORMATS))
    return f"{one} FORMAT {form}" if form and draw(st.booleans()) else one


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, str]:
    """A whole request as it goes over the wire, and the statement in it."""
    statement = draw(statements())
    names = st.sampled_from(NAMES)
    parameters = draw(st.lists(st.tuples(names, st.sampled_from(VALUES)), max_size=4))
    where = draw(st.sampled_from(["body", "url", "both", "form"]))
    if where in ("url", "both"):
        parameters.append(("query", statement))
    body = statement.encode() if where in ("body", "both") else FORM if where == "form" else b""
    encoding = draw(st.sampled_from(sorted(ENCODINGS)))
    body = ENCODINGS[encoding](body)
    if draw(st.integers(0, 5)) == 0:
        body = body[: draw(st.integers(0, len(body)))]
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    if where == "form":
        headers.append(("Content-Type", "multipart/form-data; boundary=b"))
    if encoding:
        headers.append(("Content-Encoding", encoding))
    who = draw(st.sampled_from(["headers", "basic", "url"]))
    if who == "headers":
        headers = [*headers, ("X-ClickHouse-User", "anna"), ("X-ClickHouse-Key", "pw")]
    elif who == "basic":
        headers.append(("Authorization", "Basic " + base64.b64encode(b"anna:pw").decode()))
    else:
        parameters += [("user", "anna"), ("password", "pw")]
    headers.append(("Content-Length", str(len(body))))
    method = draw(st.sampled_from(["POST", "POST", "GET", "PUT", "HEAD", "OPTIONS", "FUZZ"]))
    path = draw(st.sampled_from(["/", "/", "/", "/ping", "//", "/../", "/x"]))
    lines = [f"{method} {path}?{urllib.parse.urlencode(parameters)} HTTP/1.1", "Host: store", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body, statement


def answer(store: StoreProcess, request: bytes) -> bytes:
    """All that comes back before the store hangs up; what is there when it waits for more of the request."""
    with socket.create_connection((store.host, store.port), timeout=30) as wire:
        parts = []
        with contextlib.suppress(ConnectionError, TimeoutError):
            wire.sendall(request)
            while part := wire.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)


def shown(reply: bytes) -> str:
    """The answer as text, unpacked where it was packed."""
    head, _, body = reply.partition(b"\r\n\r\n")
    unpacked = b""
    try:
        if b"zstd" in head:
            unpacked = zstandard.ZstdDecompressor().decompressobj().decompress(body)
        elif b"Content-Encoding: lz4" in head:
            unpacked = lz4.frame.decompress(body)
    except (zstandard.ZstdError, RuntimeError):
        pass
    return (reply + unpacked).decode(errors="replace")


def test_no_request_of_a_tenant_reads_others_or_ends_the_store(fleet: StoreProcess) -> None:
    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(requests())
    def holds(made: tuple[bytes, str]) -> None:
        request, statement = made
        request = request.replace(b"{data}", str(fleet.data).encode())
        reply = shown(answer(fleet, request))
        assert SECRET not in reply.replace(statement, "") or SECRET in statement
        assert "root:" not in reply
        head = re.split(r"[\r\n]+", reply.partition("\r\n\r\n")[0])
        assert not [line for line in head if line.startswith("X-Evil")], "a header of its own"
        assert fleet.password not in reply
        answered.append(request.startswith((b"POST", b"GET")) and b" 200 OK" in reply.encode()[:20])
        assert fleet.ping()

    answered: list[bool] = []
    holds()
    assert sum(answered) > 10, "some of it is understood"
    assert ask(fleet, fleet.username, "SELECT count() FROM gpufleet.samples") == (200, "13\n")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "lz4", "zstd"])
def test_a_small_body_that_unpacks_to_gigabytes_is_refused_in_little_memory(fleet: StoreProcess, encoding: str) -> None:
    import psutil

    bomb = ENCODINGS[encoding](b"SELECT 1 " + bytes(200 << 20))
    bomb = bomb * (12 if encoding != "deflate" else 1)
    before = psutil.Process(fleet.pid).memory_info().rss
    head = (
        f"POST / HTTP/1.1\r\nHost: s\r\nConnection: close\r\nX-ClickHouse-User: anna\r\nX-ClickHouse-Key: pw\r\n"
        f"Content-Encoding: {encoding}\r\nContent-Length: {len(bomb)}\r\n\r\n"
    )
    reply = answer(fleet, head.encode() + bomb)
    assert b"Code: 62" in reply
    assert psutil.Process(fleet.pid).memory_info().rss - before < 150 << 20


def test_requests_of_one_tenant_that_never_end_keep_nobody_else_out(fleet: StoreProcess) -> None:
    head = (
        b"POST / HTTP/1.1\r\nHost: s\r\nX-ClickHouse-User: anna\r\nX-ClickHouse-Key: pw\r\n"
        b"Content-Length: 1000000\r\n\r\nSELECT "
    )
    with contextlib.ExitStack() as wires:
        for _ in range(64):
            wire = wires.enter_context(socket.create_connection((fleet.host, fleet.port), timeout=30))
            wire.sendall(head)
        deadline = time.monotonic() + 30
        while ask(fleet, "anna", "SELECT 1")[0] != 429:
            assert time.monotonic() < deadline, "the next one is refused"
            time.sleep(0.1)
        assert ask(fleet, "betty", "SELECT 1") == (200, "1\n")
        assert ask(fleet, fleet.username, "SELECT 1") == (200, "1\n")
    deadline = time.monotonic() + 30
    while ask(fleet, "anna", "SELECT 1") != (200, "1\n"):
        assert time.monotonic() < deadline, "she may ask again once they are gone"
        time.sleep(0.1)


def test_a_long_statement_does_not_keep_others_waiting(fleet: StoreProcess) -> None:
    """A megabyte of what makes a careless reader look back and back again."""
    for piece in (b"/*", b"$a%d$", b"'\\", b"1,", b"(", b"\"'"):
        text = b"SELECT " + b"".join(piece % n if b"%" in piece else piece for n in range((1 << 20) // len(piece)))
        head = (
            f"POST / HTTP/1.1\r\nHost: s\r\nConnection: close\r\nX-ClickHouse-User: anna\r\n"
            f"X-ClickHouse-Key: pw\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        assert b"Code: 62" in answer(fleet, head.encode() + text)[:2000]
        assert fleet.ping(timeout_s=20)
