"""`gpufleet doctor` about signing keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from infra.config import Settings, load
from infra.doctor import signing
from infra.doctor.report import Finding, Status
from schemas.signing import Scope
from schemas.signing_keys import SiteKeys, render_producer_keys, render_site_keys
from tests.security.support import SITE, key_of, site_keys, write_keys

NOW = 1_763_800_000_000_000
DAY_US = 86_400_000_000


def examined(
    folder: Path, keys: SiteKeys | None = None, mode: str = "require", flags: Mapping[str, str] | None = None
) -> list[Finding]:
    given = {"site.name": SITE, "signing.mode": mode, **(flags or {})}
    if keys is not None:
        given["signing.site_keys_file"] = str(write_keys(folder / "site.keys", render_site_keys(keys)))
    settings: Settings = load(environ={}, cwd=folder, flags=given)
    return list(signing.check(settings, lambda: NOW))


def test_what_is_signed_and_with_what_is_told(tmp_path: Path) -> None:
    keys = site_keys("one", "two")
    [nothing] = examined(tmp_path, mode="off")
    assert nothing.status is Status.SKIP
    [good] = examined(tmp_path, keys)
    assert (good.status, good.seen) == (
        Status.OK,
        f"mode require; {keys.keys[1].id.hex()} signs for {SITE}, 2 accepted",
    )
    own = write_keys(tmp_path / "own.keys", render_producer_keys([key_of(keys, Scope.NODE, "n1")]))
    [mine] = examined(tmp_path, flags={"signing.key_file": str(own)})
    assert mine.status is Status.OK
    assert "node n1 as n1" in mine.seen


def test_keys_that_are_missing_open_foreign_or_about_to_end_are_told(tmp_path: Path) -> None:
    keys = site_keys("one")
    [missing] = examined(tmp_path)
    assert (missing.status, "there are no keys" in missing.seen) == (Status.FAIL, True)
    [foreign] = examined(tmp_path, keys, flags={"site.name": "elsewhere"})
    assert (foreign.status, "none of site elsewhere" in foreign.seen) == (Status.FAIL, True)
    ending = SiteKeys((replace(keys.keys[0], until_us=NOW + DAY_US),))
    [soon] = examined(tmp_path, ending)
    assert (soon.status, "it ends at" in soon.seen) == (Status.WARN, True)
    [followed] = examined(tmp_path, SiteKeys((*ending.keys, replace(site_keys("two").keys[0], since_us=NOW + 60))))
    assert followed.status is Status.OK
    own = write_keys(tmp_path / "own.keys", render_producer_keys([key_of(keys, Scope.NODE, "n1")]))
    [elsewhere] = examined(tmp_path, flags={"signing.key_file": str(own), "site.name": "elsewhere"})
    assert (elsewhere.status, "some for site-a" in elsewhere.seen) == (Status.FAIL, True)
    own.chmod(0o644)
    [open_to_all] = examined(tmp_path, flags={"signing.key_file": str(own)})
    assert (open_to_all.status, "can be used by others" in open_to_all.seen) == (Status.FAIL, True)
