"""Reading request logs: every line is a request or a named complaint, whatever is in the file."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.errors import InputError
from producers.usage.logfile import MAX_LINE, RequestLog
from producers.usage.request import Dimensions, MalformedError, Request, timestamp

NOON = 1_700_136_000_000_000  # 2023-11-16T12:00:00Z
HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def read(content: bytes, **defaults: str) -> tuple[list[tuple[int, Request]], dict[int, str], RequestLog]:
    complaints: dict[int, str] = {}
    log = RequestLog(io.BytesIO(content), "acme", Dimensions(**defaults), complaints.__setitem__)
    return list(log), complaints, log


def test_the_traces_form_with_crlf_and_no_newline_at_the_end() -> None:
    requests, complaints, log = read(
        HEADER + b"2023-11-16 12:00:00.6805900,374,44\r\n2023-11-16 12:00:01.0000019,0,9", model="m"
    )
    assert requests == [
        (2, Request(NOON + 680_590, 374, 44, model="m")),
        (3, Request(NOON + 1_000_001, 0, 9, model="m")),
    ]
    assert (complaints, log.report.lines, log.report.malformed) == ({}, 2, 0)


def test_more_columns_in_any_order_case_and_quotes() -> None:
    requests, complaints, _ = read(
        b"\xef\xbb\xbfmodel,Output_Tokens,workspace,status,inputtokens,timestamp,Time To First Token ms,latency_ms\n"
        b'"big, new",5,w1,429,7,2023-11-16T13:00:00+01:00,12.5,80\n'
        b",5,,,7,2023-11-16T12:00:00Z,,\n",
        workspace="def",
    )
    assert complaints == {}
    assert requests[0][1] == Request(
        NOON, 7, 5, workspace="w1", model="big, new", status=429, ttft_ms=12.5, latency_ms=80.0
    )
    assert requests[1][1] == Request(NOON, 7, 5, workspace="def")


def test_json_lines_mean_the_same() -> None:
    whole = {
        "timestamp": "2023-11-16T12:00:00Z",
        "input_tokens": 7,
        "output_tokens": 5,
        "cached_tokens": 2,
        "workspace": "w",
        "product": "api",
        "model": "m",
        "tier": "batch",
        "status": 503,
        "ttft_ms": 1,
        "latency_ms": 2.5,
        "tenant": "acme",
    }
    lines = [whole, {"TIMESTAMP": "2023-11-16 12:00:00", "ContextTokens": 1, "GeneratedTokens": 2, "status": None}]
    requests, complaints, _ = read("\n\n".join(json.dumps(line) for line in lines).encode())
    assert complaints == {}
    assert requests == [
        (1, Request(NOON, 7, 5, 2, "w", "api", "m", "batch", 503, 1.0, 2.5)),
        (3, Request(NOON, 1, 2)),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("2023-11-16 12:00:00,1", "expected 3 columns, found 2"),
        ("2023-11-16 12:00:00,1,2,3", "expected 3 columns, found 4"),
        ("2023-11-16 12:00:00,,2", "input_tokens is missing"),
        ("2023-11-16 12:00:00,-1,2", "input_tokens must be a whole number"),
        ("2023-11-16 12:00:00,1.5,2", "input_tokens must be a whole number"),
        ("2023-11-16 12:00:00,1,10000000001", "output_tokens must be a whole number"),
        ("2023-11-16 12:00:00,１,2", "input_tokens must be a whole number"),
        ("yesterday,1,2", "timestamp must look like"),
        ("2023-02-30 12:00:00,1,2", "is not a time"),
        ("1969-12-31 23:59:59,1,2", "between 1970 and 2100"),
        ("2023-11-16,1,2", "timestamp must look like"),
        ('"2023-11-16 12:00:00,1,2', "not CSV"),
    ],
)
def test_a_malformed_csv_line_is_named_and_the_rest_is_read(line: str, says: str) -> None:
    good = "2023-11-16 12:00:00,1,2"
    requests, complaints, log = read(HEADER + f"{good}\n{line}\n{good}\n".encode())
    assert [number for number, _ in requests] == [2, 4]
    assert list(complaints) == [3]
    assert says in complaints[3]
    assert (log.report.lines, log.report.malformed) == (3, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input_tokens": "7"}, "input_tokens must be a whole number"),
        ({"input_tokens": True}, "input_tokens must be a whole number"),
        ({"input_tokens": 7.0}, "input_tokens must be a whole number"),
        ({"context_tokens": 3}, "two keys mean input_tokens"),
        ({"output_tokens": None}, "output_tokens is missing"),
        ({"status": 42}, "status must be an HTTP status"),
        ({"latency_ms": -1}, "latency_ms must be milliseconds"),
        ({"ttft_ms": "fast"}, "ttft_ms must be milliseconds"),
        ({"timestamp": 1_700_000_000}, "timestamp must look like"),
        ({"model": 5}, "model must be printable text"),
        ({"model": "a\u0000b"}, "model must be printable text"),
        ({"model": "\ud800"}, "model must be printable text"),
        ({"workspace": "w" * 201}, "workspace must be printable text of at most 200"),
        ({"tenant": "rival"}, "belongs to tenant 'rival', this replay is of 'acme'"),
    ],
)
def test_a_malformed_json_line_is_named(change: dict[str, Any], says: str) -> None:
    good = {"timestamp": "2023-11-16T12:00:00Z", "input_tokens": 7, "output_tokens": 5}
    requests, complaints, _ = read(f"{json.dumps(good)}\n{json.dumps({**good, **change})}\n".encode())
    assert len(requests) == 1
    assert says in complaints[2]


@pytest.mark.parametrize("line", ["{", "[1]", "nonsense", '{"latency_ms": NaN}', "[" * 100_000, "9" * 5000, '"text"'])
def test_a_line_that_is_no_json_object_is_named(line: str) -> None:
    first = '{"timestamp": "2023-11-16T12:00:00Z", "input_tokens": 7, "output_tokens": 5}'
    requests, complaints, _ = read(f"{first}\n{line}\n{first}".encode())
    assert len(requests) == 2
    assert list(complaints) == [2]


def test_an_endless_line_is_skipped_without_being_held() -> None:
    content = HEADER + b"x" * (3 * MAX_LINE) + b"\n2023-11-16 12:00:00,1,2\n"
    requests, complaints, _ = read(content)
    assert [number for number, _ in requests] == [3]
    assert complaints == {2: f"longer than {MAX_LINE} bytes"}


def test_bytes_that_are_not_utf8_are_named_with_their_place() -> None:
    _, complaints, _ = read(HEADER + b"2023-11-16 12:00:00,1,\xff\n")
    assert "not UTF-8 at byte 23" in complaints[2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the log is empty"),
        (b"\r\n\r\n", "the log is empty"),
        (b"time,tokens\n1,2\n", "no column for timestamp"),
        (b"timestamp,ContextTokens,input_tokens,output_tokens\n", "two columns mean input_tokens"),
        (b"\x00\xff\xfe binary", "expected a CSV header or JSON lines"),
    ],
)
def test_a_file_that_is_no_log_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(content)


def test_names_without_a_meaning_here_are_reported_with_the_nearest_one() -> None:
    _, complaints, log = read(
        b'{"timestamp": "2023-11-16T12:00:00Z", "input_tokens": 7, "output_tokens": 5, "modle": "x"}\n'
    )
    assert complaints == {}
    assert log.report.ignored_fields == {"modle": "did you mean 'model'?"}


@given(st.binary(max_size=400))
def test_any_bytes_after_a_header_are_requests_or_complaints(noise: bytes) -> None:
    requests, complaints, log = read(HEADER + noise)
    assert len(requests) + len(complaints) == log.report.lines
    assert log.report.malformed == len(complaints)
    assert log.report.lines == sum(1 for line in noise.split(b"\n") if not _blank(line))


@given(st.binary(max_size=300))
def test_any_file_is_read_or_refused_in_words(content: bytes) -> None:
    try:
        requests, complaints, log = read(content)
    except InputError:
        return
    assert len(requests) + len(complaints) == log.report.lines


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["timestamp", "ContextTokens", "output_tokens", "model", "status", "ttft_ms", "tenant", "other"])


@given(st.lists(st.dictionaries(KEYS, JSON, max_size=8), max_size=5))
def test_any_json_objects_are_requests_or_complaints(objects: list[dict[str, Any]]) -> None:
    lines = ['{"first": 1}', *(json.dumps(item) for item in objects)]
    requests, complaints, log = read("\n".join(lines).encode())
    assert len(requests) + len(complaints) == log.report.lines == len(lines)
    for _, request in requests:
        assert request.input_tokens >= 0
        assert request.ts >= 0


@given(st.text(max_size=40))
def test_a_timestamp_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(MalformedError):
        assert timestamp(text) >= 0


def _blank(line: bytes) -> bool:
    try:
        return not line.decode().strip()
    except UnicodeDecodeError:
        return False
