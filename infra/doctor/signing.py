"""Signatures: are the keys there, private, of this site, and good for longer?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from infra.config import Settings
from infra.doctor.report import Finding, fail, ok, skip, warn
from infra.errors import ConfigError
from infra.signing import NEEDED, producer_keys, site_keys
from schemas.signing_keys import SiteKeys

AREA = "machine"
SOON_US = 14 * 86_400 * 1_000_000
"""A key that ends sooner without a successor is told."""


def check(settings: Settings, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> Iterator[Finding]:
    """What this machine's settings sign and verify with."""
    given, site = settings.signing, settings.site.name
    try:
        of_site, of_producer = site_keys(settings), producer_keys(settings)
    except ConfigError as error:
        yield fail(AREA, "signing", error.format_message(), "see docs/signing.md")
        return
    if of_site is None and of_producer is None:
        if given.mode == "off":
            yield skip(AREA, "signing", "events are not signed here")
        else:
            yield fail(AREA, "signing", f"signing.mode is {given.mode} and there are no keys", NEEDED)
        return
    if of_site is not None:
        yield _site(of_site.value, site, given.mode, now_us())
    if of_producer is not None:
        mine = [key for key in of_producer.value if key.site == site]
        if mine:
            whose = ", ".join(f"{key.claim.scope.word} {key.claim.subject} as {key.producer_id}" for key in mine)
            yield ok(AREA, "signing key", f"{whose}; from site key {mine[-1].claim.key_id.hex()}")
        else:
            others = ", ".join(sorted({key.site for key in of_producer.value}))
            yield fail(
                AREA, "signing key", f"none for site {site}, some for {others}", "check site.name, or derive one"
            )


def _site(keys: SiteKeys, site: str, mode: str, now_us: int) -> Finding:
    signs = keys.newest(site, now_us)
    if signs is None:
        known = ", ".join(sorted({key.site for key in keys.keys}))
        return fail(AREA, "site keys", f"none of site {site} in use, there are keys of {known}", "`gpufleet keys new`")
    seen = f"mode {mode}; {signs.id.hex()} signs for {site}, {len(keys.keys)} accepted"
    if signs.until_us is not None and signs.until_us - now_us < SOON_US and keys.newest(site, signs.until_us) is None:
        end = datetime.fromtimestamp(signs.until_us / 1e6, tz=UTC)
        return warn(AREA, "site keys", f"{seen}; it ends at {end:%Y-%m-%d %H:%M} UTC", "`gpufleet keys new` in time")
    return ok(AREA, "site keys", seen)
