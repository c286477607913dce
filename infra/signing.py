"""From settings to keys: who signs with what, and what a consumer verifies with."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from infra.config import Settings
from infra.errors import ConfigError
from schemas.signer import NoKeyError, Signer
from schemas.signing_keys import (
    KeyFileError,
    ProducerKey,
    SiteKeys,
    Watched,
    parse_producer_keys,
    parse_site_keys,
)

if TYPE_CHECKING:
    from consumers.signatures import Signing

NEEDED = "set signing.key_file (`gpufleet keys derive`) or signing.site_keys_file (`gpufleet keys new`)"


def signer(
    settings: Settings, *, site: str = "", whole_site: bool = False, expect: Iterable[tuple[str, str, str]] = ()
) -> Signer | None:
    """What signs this process's events; None where no key is configured.

    ``expect`` names (topic, producer id, Kafka key) of events that it will have to sign; ``whole_site``: it speaks for
    every producer of the site. ConfigError when the keys cannot be read or do not cover that, or when signing.mode is
    require and there is none.
    """
    keys = None if whole_site else producer_keys(settings)
    chosen: Watched[SiteKeys] | Watched[tuple[ProducerKey, ...]] | None = keys or site_keys(settings)
    if chosen is None:
        if settings.signing.mode == "require":
            raise ConfigError(f"signing.mode is require and there is no key to sign with: {NEEDED}")
        return None
    found = Signer(chosen, site or settings.site.name)
    try:
        for topic, producer_id, key in expect:
            found.key_for(topic, producer_id, key)
    except NoKeyError as error:
        raise ConfigError(f"{error}; {NEEDED}") from None
    return found


def site_keys(settings: Settings) -> Watched[SiteKeys] | None:
    """The site's own keys, where they are configured. ConfigError when they cannot be used."""
    path, text = _source(settings, "site_keys")
    try:
        return Watched(parse_site_keys, path, text) if path or text else None
    except KeyFileError as error:
        raise ConfigError(f"signing.site_keys: {error}") from None


def consumer_signing(settings: Settings) -> Signing | None:
    """What a consumer verifies with, and signs its dead letters with; None with signing.mode off."""
    from consumers.signatures import Policy, Signing

    given = settings.signing
    if given.mode == "off":
        return None
    keys = site_keys(settings)
    if keys is None:
        raise ConfigError(f"signing.mode is {given.mode} and there are no site keys: set signing.site_keys_file")
    required = int(datetime.fromisoformat(given.required_from).timestamp() * 1e6) if given.required_from else 0
    sign = Signer(keys, settings.site.name)
    try:
        sign.key_for("dead-letters", "dlq", "")
    except NoKeyError as error:
        raise ConfigError(f"{error}: the consumer signs its dead letters as site.name") from None
    return Signing(keys, Policy(given.mode, dict(given.modes), required), sign)


def producer_keys(settings: Settings) -> Watched[tuple[ProducerKey, ...]] | None:
    """The keys handed to this producer, where they are configured. ConfigError when they cannot be used."""
    path, text = _source(settings, "key")
    try:
        return Watched(parse_producer_keys, path, text) if path or text else None
    except KeyFileError as error:
        raise ConfigError(f"signing.key: {error}") from None


def _source(settings: Settings, name: str) -> tuple[Path | None, str]:
    """The file, which is then followed, or the text where a variable holds it."""
    secret = getattr(settings.signing, name)
    file = getattr(settings.signing, f"{name}_file")
    if file is not None and settings.origin(f"signing.{name}").startswith("secret file"):
        return Path(file), ""
    return None, secret.get_secret_value() if secret else ""
