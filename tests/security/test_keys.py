"""Key files and `gpufleet keys`: made once, private, handed out narrowly, rotated and revoked; never shown."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from infra.cli.main import cli
from schemas.signer import NoKeyError, Signer
from schemas.signing import Scope
from schemas.signing_keys import (
    KeyFileError,
    SiteKeys,
    Watched,
    parse_producer_keys,
    parse_site_keys,
    read_private,
    render_producer_keys,
    render_site_keys,
)
from tests.security.support import SITE, key_of, secret, signed_with, site_keys, write_keys


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *arguments])


def listed(file: Path) -> dict[str, Any]:
    result = keys("list", "--file", str(file), "--json")
    assert result.exit_code == 0, result.output
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "site.keys"
    assert keys("new", "--file", str(path), "--site", SITE).exit_code == 0
    return path


def test_a_site_key_is_made_private_and_never_shown(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = keys("new", "--file", str(file), "--site", SITE)
    shown = again.output + keys("list", "--file", str(file)).output + json.dumps(listed(file))
    secrets = re.findall(r'secret = "([0-9a-f]{64})"', file.read_text())
    assert len(set(secrets)) == 2, "two random keys, one after the other"
    assert not any(part in shown for part in secrets)
    assert [row["state"] for row in listed(file)["site_keys"]] == ["accepted", "signs"]
    held = parse_site_keys(file.read_text(), "file")
    assert secrets[0] not in repr(held)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
def test_a_key_file_that_others_may_use_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    result = keys("list", "--file", str(file))
    assert result.exit_code == 2
    assert f"{file} can be used by others (mode {mode:03o}): `chmod 600 {file}`" in result.output
    with pytest.raises(KeyFileError, match="can be used by others"):
        read_private(file)


@pytest.mark.shows_secrets  # a producer's keys, to whoever asked for them
def test_a_producer_s_keys_are_the_same_every_time_and_good_for_it_alone(file: Path, tmp_path: Path) -> None:
    first = keys("derive", "--file", str(file), "--site", SITE, "--node", "n1", "--node", "n2")
    again = keys("derive", "--file", str(file), "--site", SITE, "--node", "n2", "--node", "n1")
    made = {key.producer_id: key for key in parse_producer_keys(first.stdout, "stdout")}
    assert {key.producer_id: key for key in parse_producer_keys(again.stdout, "stdout")} == made
    assert made["n1"].secret != made["n2"].secret
    assert not any(secret in first.stdout for secret in re.findall(r'secret = "(\w+)"', file.read_text()))

    folder = tmp_path / "agents"
    assert keys(
        "derive", "--file", str(file), "--site", SITE, "--node", "n1", "--node", "n2", "--output", str(folder)
    ).exit_code == 0  # fmt: skip
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "n1.keys": 0o600,
        "n2.keys": 0o600,
    }
    assert parse_producer_keys((folder / "n2.keys").read_text(), "n2.keys") == (made["n2"],)


@pytest.mark.shows_secrets
def test_rotation_and_revocation_by_command(file: Path) -> None:
    [old] = [row["id"] for row in listed(file)["site_keys"]]
    alone = keys("retire", old, "--at", "2096-12-01T00:00:00Z", "--file", str(file))
    assert alone.exit_code == 2
    assert "would have no key left" in alone.output
    keys("new", "--file", str(file), "--site", SITE)
    new = listed(file)["site_keys"][1]["id"]
    assert keys("retire", old, "--at", "2096-12-01T00:00:00Z", "--file", str(file), "--dry-run").exit_code == 0
    assert listed(file)["site_keys"][0]["until"] == ""
    assert keys("retire", old, "--at", "2096-12-01T00:00:00Z", "--file", str(file)).exit_code == 0
    assert listed(file)["site_keys"][0] | {"from": ""} == {
        "id": old, "site": SITE, "state": listed(file)["site_keys"][0]["state"], "from": "",
        "until": "2096-12-01T00:00:00Z",
    }  # fmt: skip
    derive = ("derive", "--file", str(file), "--site", SITE, "--node", "n1")
    [before] = parse_producer_keys(keys(*derive).stdout, "stdout")
    assert before.claim.key_id.hex() == new
    [by_old] = parse_producer_keys(keys(*derive, "--key", old).stdout, "stdout")
    assert by_old.claim.key_id.hex() == old
    assert keys("revoke", "--file", str(file), "--site", SITE, "--node", "n1").exit_code == 0
    [after] = parse_producer_keys(keys(*derive).stdout, "stdout")
    assert (before.claim.serial, after.claim.serial) == (0, 1)
    assert before.secret != after.secret
    [gone] = listed(file)["revoked"]
    assert (gone["scope"], gone["subject"], gone["below"]) == ("node", "n1", 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["derive", "--node", "n1", "--producer", "p"], "leave --producer out"),
        (["derive", "--tenant", "acme"], "say which producer"),
        (["derive", "--tenant", "acme", "--node", "n1"], "say whose"),
        (["derive"], "say whose"),
        (["derive", "--node", "n1", "--site", "elsewhere"], "no such site key of elsewhere"),
        (["derive", "--node", "n1", "--site", SITE, "--key", "abcd0123"], "no such site key"),
        (["retire", "abcd0123", "--at", "2096-12-01T00:00:00Z"], "no site key abcd0123"),
        (["retire", "abcd0123", "--at", "tomorrow"], "--at expects a time with its zone, as 2026-11-01T00:00:00Z"),
        (["revoke", "--node", "n1", "--site", "elsewhere"], "no site key of elsewhere in"),
        (["derive", "--node", "a/b", "--site", SITE], "a name that an agent can have, as a host's; found 'a/b'"),
        (["derive", "--node", "n1", "--node", "n2", "--site", SITE, "--output", "/dev/null"], "is a folder"),
    ],
)
def test_mistakes_are_told_in_one_line(file: Path, arguments: list[str], expected: str) -> None:
    result = keys(*arguments, "--file", str(file))
    assert result.exit_code == 2
    assert expected in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_file_that_cannot_be_written_is_named_as_it_was_given(file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for output in ("/proc/n1.keys", str(file / "n1.keys")):
        result = keys("derive", "--node", "n1", "--site", SITE, "--file", str(file), "--output", output)
        assert result.exit_code == 1
        assert result.output.strip().startswith(f"gpufleet: cannot write {output}: ")
        assert len(result.output.strip().splitlines()) == 1
    before = file.read_bytes()
    blocked = keys("new", "--file", str(tmp_path / "taken"), "--site", SITE)
    assert blocked.exit_code
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site.keys", "taken"], "no file half written stays"


def test_files_say_what_is_wrong_with_them_and_nothing_of_what_they_hold() -> None:
    good = render_site_keys(site_keys("one", "two"))
    hexed = secret("one").hex()
    broken = {
        "not valid TOML": good.replace("[[site_key]]", "[[site_key", 1),
        "expected tables": good + "\n[other]\nx = 1\n",
        "64 hexadecimal digits": good.replace(hexed, hexed[:-2]),
        "in hexadecimal digits": good.replace(hexed, "z" * 64),
        "says it is another": good.replace(hexed, "ab" * 32),
        "have the same secret": good + good,
        "expected site as a text": good.replace(f'site = "{SITE}"', 'site = ""', 1),
        r"found none; `gpufleet keys new`": "",
    }
    for wanted, text in broken.items():
        with pytest.raises(KeyFileError, match=re.escape(wanted)) as caught:
            parse_site_keys(text, "site.keys")
        assert not re.search(r"[0-9a-f]{16}", str(caught.value)), wanted
    with pytest.raises(KeyFileError, match="expected a scope of node, tenant"):
        parse_producer_keys(
            render_producer_keys([key_of(site_keys(), Scope.NODE, "n1")]).replace('"node"', '"king"'), "n1.keys"
        )


def test_names_that_toml_must_quote_come_back_as_they_were() -> None:
    name = 'gateway/"a\\b"\tü\n'
    key = key_of(site_keys(), Scope.TENANT, "acme", name)
    assert parse_producer_keys(render_producer_keys([key]), "file") == (key,)


def test_a_file_that_breaks_while_it_is_followed_leaves_the_keys_as_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_keys(tmp_path / "site.keys", render_site_keys(site_keys("one")))
    now = [0.0]
    watched: Watched[SiteKeys] = Watched(parse_site_keys, path, every_s=5.0, monotonic=lambda: now[0])
    before = watched.value
    path.write_text("nonsense " + secret("one").hex())
    assert not watched.refresh()
    now[0] = 6.0
    assert not watched.refresh()
    assert watched.value == before
    assert "stay as they were" in caplog.text
    assert secret("one").hex() not in caplog.text
    write_keys(path, render_site_keys(site_keys("one", "two")))
    now[0] = 12.0
    assert watched.refresh()
    assert len(watched.value.keys) == 2
    path.unlink()
    now[0] = 18.0
    assert not watched.refresh()
    assert len(watched.value.keys) == 2


def test_a_signer_takes_the_newest_key_whose_time_has_come() -> None:
    both = site_keys("one", "two", site=SITE)
    later = SiteKeys((both.keys[0], both.keys[1].__class__(SITE, secret("two"), 5_000_000)))
    now = [1_000_000]
    sign = Signer(Watched(parse_site_keys, None, render_site_keys(later)), SITE, now_us=lambda: now[0], look_s=0.0)
    assert sign.key_for("leases", "lease-cli@h", "l1").claim.key_id == later.keys[0].id
    header = b"\x01\x01" + bytes(24) + b"n1"
    first = sign("node-telemetry", b"n1", header, b"value")
    now[0] = 6_000_000
    second = sign("node-telemetry", b"n1", header, b"value")
    assert (first[4:8], second[4:8]) == (later.keys[0].id, later.keys[1].id)
    with pytest.raises(NoKeyError, match="there are keys of site-a"):
        Signer(Watched(parse_site_keys, None, render_site_keys(later)), "site-b").key_for("leases", "x", "l")


def test_the_signature_is_what_its_documentation_says() -> None:
    """Computed anew with nothing but hashlib, so that another language's producer can be written from the text."""
    import hashlib
    import hmac
    import struct

    from schemas import identity
    from schemas import signing as wire
    from tests.consumers.fleet import Node

    def sized(text: str) -> bytes:
        return struct.pack(">H", len(text.encode())) + text.encode()

    [site_key] = site_keys("one").keys
    sent = signed_with(key_of(site_keys("one"), Scope.TENANT, "acme", "gw"), Node("gw", SITE).event("tenant-usage"))
    header = dict(sent.headers)[identity.HEADER]
    text = b"gpufleet producer key 1\0" + sized(SITE) + bytes([2]) + struct.pack(">H", 0) + sized("acme") + sized("gw")
    derived = hmac.new(site_key.secret, text, hashlib.sha256).digest()
    event = b"gpufleet event 1\0" + sized("tenant-usage") + struct.pack(">I", len(sent.key)) + sent.key
    event += struct.pack(">H", len(header)) + header + sent.value
    mac = hmac.new(derived, event, hashlib.sha256).digest()[:16]
    named = hmac.new(site_key.secret, b"gpufleet key id 1\0" + sized(SITE), hashlib.sha256).digest()[:4]
    assert dict(sent.headers)[wire.HEADER] == bytes([1, 2, 0, 0]) + named + b"acme" + mac
