"""Keys and signed messages for the tests: signed by the project's code, or wrongly by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from consumers.signatures import Policy, Signing
from schemas import identity, signing
from schemas.signer import Signer
from schemas.signing import Scope
from schemas.signing_keys import (
    ProducerKey,
    SiteKey,
    SiteKeys,
    Watched,
    derived,
    parse_site_keys,
    render_site_keys,
)
from tests.consumers.fleet import Sent

SITE = "site-a"


def secret(word: str) -> bytes:
    """32 bytes that differ by word."""
    return hashlib.sha256(word.encode()).digest()


def site_keys(*words: str, site: str = SITE, **times: Any) -> SiteKeys:
    """A site's keys, the last one the newest."""
    return SiteKeys(tuple(SiteKey(site, secret(word), at + 1, **times) for at, word in enumerate(words or ("one",))))


def still(keys: SiteKeys) -> Watched[SiteKeys]:
    """Keys that do not change."""
    return Watched(parse_site_keys, None, render_site_keys(keys))


def write_keys(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch()
    path.chmod(mode)
    path.write_text(text)
    return path


def key_of(keys: SiteKeys, scope: Scope, subject: str, producer_id: str = "", site_key: int = -1) -> ProducerKey:
    return derived(keys, keys.keys[site_key], scope, subject, producer_id or subject)


def signed_with(key: ProducerKey, sent: Sent) -> Sent:
    """The message with a signature by that key, whether or not the key may."""
    header = dict(sent.headers)[identity.HEADER]
    who = identity.unpack(header)
    claim = signing.pack_claim(key.claim._replace(subject=key.claim.subject), who.producer_id)
    mac = signing.mac(
        key.secret, signing.bind_topic(sent.topic), signing.bind_key(sent.key, len(header)), header, sent.value
    )
    return replace(sent, headers=[(identity.HEADER, header), (signing.HEADER, claim + mac)])


def signed(keys: SiteKeys, sent: Sent, site: str = SITE) -> Sent:
    """The message as a whole site's signer signs it."""
    header = dict(sent.headers)[identity.HEADER]
    signature = Signer(still(keys), site)(sent.topic, sent.key, header, sent.value)
    return replace(sent, headers=[(identity.HEADER, header), (signing.HEADER, signature)])


def with_signature(sent: Sent, change: Callable[[bytes], bytes]) -> Sent:
    headers = dict(sent.headers)
    return replace(
        sent, headers=[(identity.HEADER, headers[identity.HEADER]), (signing.HEADER, change(headers[signing.HEADER]))]
    )


def consumer_signing(keys: SiteKeys | Watched[SiteKeys], policy: Policy | None = None, site: str = SITE) -> Signing:
    watched = keys if isinstance(keys, Watched) else still(keys)
    return Signing(watched, policy or Policy(), Signer(watched, site))
