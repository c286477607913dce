"""The store's parts that need no engine: reading statements, passwords, encodings, row filters."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from xml.etree import ElementTree

import lz4.frame
import pytest
import zstandard

from infra.embedded.store import codecs, config
from infra.embedded.store.errors import Refusal
from infra.embedded.store.passwords import Verifier, check_form, hash_password
from infra.embedded.store.statement import head, several


@pytest.mark.parametrize(
    ("query", "keyword", "form", "data"),
    [
        (b"SELECT 1", "SELECT", None, None),
        (b"-- c\n /* INSERT */ (select 1) format JSON", "SELECT", "JSON", None),
        (b"SELECT 'FORMAT x' FORMAT CSV SETTINGS max_threads = 1", "SELECT", "CSV", None),
        (b"SELECT f(SELECT 1 FORMAT TSV)", "SELECT", None, None),
        (b"INSERT INTO t FORMAT TSV\n1\t2", "INSERT", "TSV", b"1\t2"),
        (b"INSERT INTO t FORMAT TSV 1", "INSERT", "TSV", b"1"),
        (b"INSERT INTO t FORMAT TSV\r\n\n1", "INSERT", "TSV", b"\n1"),
        (b"INSERT INTO `FORMAT x` (`a b`) SETTINGS s = 'F' FORMAT Native\n\0\xff", "INSERT", "Native", b"\0\xff"),
        (b"insert into t values (1)", "INSERT", "Values", b" (1)"),
        (b"INSERT INTO t SELECT * FROM u FORMAT", "INSERT", None, None),
        (b"EXPLAIN SELECT 1", "EXPLAIN", None, None),
        (b"", "", None, None),
    ],
)  # fmt: skip
def test_the_head_of_a_statement(query: bytes, keyword: str, form: str | None, data: bytes | None) -> None:
    found = head(query)
    assert (found.keyword, found.format, found.takes_data) == (keyword, form, data is not None)
    if data is not None:
        assert query[found.data_at :] == data


@pytest.mark.parametrize(
    ("query", "place"),
    [
        (b"INSERT INTO t (a) FORMAT TSV\n", b"INSERT INTO t (a) @FORMAT TSV"),
        (b"INSERT INTO t SETTINGS b = 'FORMAT x' FORMAT TSV\n", b"INSERT INTO t @SETTINGS b = 'FORMAT x' FORMAT TSV"),
        (b"INSERT INTO t VALUES (1)", b"INSERT INTO t @FORMAT Values"),
    ],
)  # fmt: skip
def test_where_the_infile_clause_goes(query: bytes, place: bytes) -> None:
    found = head(query)
    assert found.sql[: found.infile_at] + b"@" + found.sql[found.infile_at :] == place


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"SELECT 1", False),
        (b"SELECT 1;; -- x", False),
        (b"SELECT ';' /* ; SELECT 2 */;", False),
        (b"SELECT 1; SELECT 2", True),
    ],
)
def test_one_statement_or_several(query: bytes, expected: bool) -> None:
    assert several(query) is expected


def test_passwords() -> None:
    stored = hash_password("right")
    assert stored != hash_password("right")
    salt = b"12345678"
    by_hand = f"sha256${salt.hex()}${hashlib.sha256(salt + b'right').hexdigest()}"
    for form in (stored, by_hand):
        check_form(form)
        verifier = Verifier()
        assert not verifier.known(form, "right")
        assert verifier.verify(form, "right")
        assert verifier.known(form, "right")
        assert not verifier.verify(form, "wrong")
        assert not verifier.known(form, "wrong")
        assert not verifier.known(form, "")
    for wrong in ("right", "md5$00$00", "sha256$00$00", stored[:-2], "scrypt$30$" + "00" * 16 + "$" + "00" * 32):
        with pytest.raises(ValueError, match=r"expected|fromhex"):
            check_form(wrong)


GZIP: Callable[[bytes], bytes] = lambda data: zlib.compress(data, wbits=31)  # noqa: E731


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", GZIP),
        ("deflate", zlib.compress),
        ("lz4", lz4.frame.compress),
        ("zstd", zstandard.compress),
    ],
)
def test_encodings_of_bodies(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    text = bytes(range(256)) * 500
    body = encode(text) if encoding == "deflate" else encode(text[:70_000]) + encode(text[70_000:])
    reader = codecs.decoder(encoding)
    assert reader is not None
    assert b"".join(piece for i in range(0, len(body), 97) for piece in reader.pieces(body[i : i + 97])) == text
    reader.finish()
    writer = codecs.encoder(encoding)
    packed = b"".join([*(writer.feed(text[i : i + 1000]) for i in range(0, len(text), 1000)), writer.finish()])
    again = codecs.decoder(encoding)
    assert again is not None
    assert b"".join(again.pieces(packed)) == text
    cut = codecs.decoder(encoding)
    assert cut is not None
    assert len(b"".join(cut.pieces(packed[:-5]))) <= len(text)
    with pytest.raises(Refusal, match="ends in the middle"):
        cut.finish()


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [("", ""), ("identity", ""), ("br, zstd;q=0.5", "zstd"), ("gzip;q=0, lz4", "lz4"), ("lz4,zstd,gzip", "lz4")],
)
def test_the_encoding_of_an_answer(accepted: str, chosen: str) -> None:
    assert codecs.choose(accepted) == chosen


def test_row_filters_close_what_is_not_listed() -> None:
    policies = config.policies_of(
        {
            "open": "tenant",
            "odd": "te`na\\nt",
            "closed": None,
            "view": "*",
            "usage": {"tenant": "tenant", "operator": "a < b"},
            "hidden": {"tenant": None, "operator": "0"},
        }
    )
    tree = ElementTree.fromstring(config.row_filters(policies, "gpufleet", config.Carriers("ad<&>", "op")))
    rules = {
        (base.tag, table.get("name")): table.findtext("filter") for base in tree.iter() for table in base.iter("table")
    }
    own = "getSetting('log_comment')"
    staff = f"{own} IN ('ad<&>', 'op')"
    assert rules["gpufleet", "open"] == f"{staff} OR toString(`tenant`) = {own}"
    assert rules["gpufleet", "odd"] == f"{staff} OR toString(`te\\`na\\\\nt`) = {own}"
    assert rules["gpufleet", "closed"] == staff
    assert rules["gpufleet", "view"] == "1"
    admin = f"{own} = 'ad<&>'"
    assert rules["gpufleet", "usage"] == f"{admin} OR toString(`tenant`) = {own} OR ({own} = 'op' AND (a < b))"
    assert rules["gpufleet", "hidden"] == f"{admin} OR ({own} = 'op' AND (0))"
    # The engine joins these with every table's own by OR.
    for database in ("gpufleet", "default", "system"):
        assert rules[database, ""] == f"{own} = 'ad<&>'"
    for database in ("information_schema", "INFORMATION_SCHEMA"):
        assert rules[database, ""] == staff
    assert rules["system", "processes"] == f"{staff} AND {own} IN ('ad<&>', Settings['log_comment'])"
    assert rules["system", "one"] == "1"


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    for wrong in ({"tenant": "t"}, {"tenant": "t", "operator": ""}, {"tenant": "t", "operator": "1", "x": "y"}):
        with pytest.raises(ValueError, match="usage: expected the keys tenant and operator"):
            config.policies_of({"usage": wrong})
