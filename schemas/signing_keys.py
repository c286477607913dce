"""Files of signing keys: a site's own secrets, and the keys handed to producers. TOML, private to their owner.

    [[site_key]]                            [[producer_key]]
    site = "memphis-1"                      site = "memphis-1"
    id = "3f2a91c4"                         scope = "node"
    secret = "64 hexadecimal digits"        subject = "r0001-n01"
    from = 2026-11-22T21:00:00Z             producer = "r0001-n01"
    until = 2026-12-01T00:00:00Z            serial = 0
                                            key_id = "3f2a91c4"
    [[revoked]]                             secret = "64 hexadecimal digits"
    site = "memphis-1"
    scope = "node"
    subject = "r0001-n01"
    producer = "r0001-n01"
    below = 1
    from = 2026-11-25T08:00:00Z

``id`` and ``from`` may be left out; ``until`` is there for a key that was retired. No message of an error repeats a
file's contents.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from schemas import signing
from schemas.signing import SECRET_BYTES, Claim, Scope

log = logging.getLogger(__name__)
T = TypeVar("T")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class KeyFileError(ValueError):
    """A key file is missing, open to others, or not what it should be; the message says which, and never its text."""


@dataclass(frozen=True, slots=True)
class SiteKey:
    """A secret of a site, from which its producers' keys come."""

    site: str
    secret: bytes = field(repr=False)
    since_us: int = 0
    """Signs from then on: microseconds since 1970."""
    until_us: int | None = None
    """Events that the broker appended later are refused."""

    @property
    def id(self) -> bytes:
        return signing.key_id(self.secret, self.site)


@dataclass(frozen=True, slots=True)
class Revoked:
    """A producer whose keys with a lower serial are refused, whatever site key they come from."""

    site: str
    scope: Scope
    subject: str
    producer_id: str
    below: int
    since_us: int = 0
    """In events that the broker appended from then on."""


@dataclass(frozen=True, slots=True)
class SiteKeys:
    """What a file of site keys holds."""

    keys: tuple[SiteKey, ...]
    revoked: tuple[Revoked, ...] = ()

    def serial(self, site: str, scope: Scope, subject: str, producer_id: str, append_us: int | None = None) -> int:
        """The lowest serial that a producer's key may have: in events appended then, or in all to come."""
        who = (site, scope, subject, producer_id)
        found = (r for r in self.revoked if (r.site, r.scope, r.subject, r.producer_id) == who)
        return max((r.below for r in found if append_us is None or r.since_us <= append_us), default=0)

    def newest(self, site: str, now_us: int) -> SiteKey | None:
        """The key to sign with: the latest that has begun and not ended."""
        usable = [k for k in self.keys if k.site == site and k.since_us <= now_us and not _over(k, now_us)]
        return max(reversed(usable), key=lambda k: k.since_us, default=None)


@dataclass(frozen=True, slots=True)
class ProducerKey:
    """What one producer signs with."""

    site: str
    claim: Claim
    producer_id: str
    secret: bytes = field(repr=False)


def _over(key: SiteKey, now_us: int) -> bool:
    return key.until_us is not None and key.until_us <= now_us


def derived(keys: SiteKeys, site_key: SiteKey, scope: Scope, subject: str, producer_id: str) -> ProducerKey:
    """A producer's key from a site's."""
    serial = keys.serial(site_key.site, scope, subject, producer_id)
    secret = signing.derive(site_key.secret, site_key.site, scope, subject, serial, producer_id)
    return ProducerKey(site_key.site, Claim(scope, subject, serial, site_key.id), producer_id, secret)


def parse_site_keys(text: str, where: str) -> SiteKeys:
    """The keys in the text of a file named ``where``. KeyFileError says what is wrong."""
    document = _document(text, where, {"site_key", "revoked"})
    keys = tuple(_site_key(table, where) for table in document.get("site_key", ()))
    if not keys:
        raise KeyFileError(f"{where}: expected a table [[site_key]], found none; `gpufleet keys new` makes one")
    if len({key.id for key in keys}) != len(keys):
        raise KeyFileError(f"{where}: two site keys have the same secret")
    revoked = tuple(
        Revoked(
            _text(t, "site", where), _scope(t, where), _text(t, "subject", where), _text(t, "producer", where),
            _serial(t, "below", where), _time(t, "from", where) or 0,
        )
        for t in document.get("revoked", ())
    )  # fmt: skip
    return SiteKeys(keys, revoked)


def parse_producer_keys(text: str, where: str) -> tuple[ProducerKey, ...]:
    """The keys handed to a producer, oldest first. KeyFileError says what is wrong."""
    tables = _document(text, where, {"producer_key"}).get("producer_key", ())
    if not tables:
        raise KeyFileError(f"{where}: expected a table [[producer_key]], found none; `gpufleet keys derive` makes one")
    return tuple(
        ProducerKey(
            _text(t, "site", where),
            Claim(_scope(t, where), _text(t, "subject", where), _serial(t, "serial", where), _id(t, "key_id", where)),
            _text(t, "producer", where),
            _secret(t, where),
        )
        for t in tables
    )


def render_site_keys(keys: SiteKeys) -> str:
    """The text of a file."""
    out = ["# Whoever has this file can sign for every producer. Theirs come from `gpufleet keys derive`.", ""]
    for key in keys.keys:
        out += [
            "[[site_key]]",
            f"site = {json.dumps(key.site)}",
            f'id = "{key.id.hex()}"',
            f'secret = "{key.secret.hex()}"',
        ]
        out += [f"from = {_toml_time(key.since_us)}"] if key.since_us else []
        out += [f"until = {_toml_time(key.until_us)}"] if key.until_us is not None else []
        out.append("")
    for one in keys.revoked:
        out += [
            "[[revoked]]",
            f"site = {json.dumps(one.site)}",
            f'scope = "{one.scope.word}"',
            f"subject = {json.dumps(one.subject)}",
        ]
        out += [f"producer = {json.dumps(one.producer_id)}", f"below = {one.below}"]
        out += [f"from = {_toml_time(one.since_us)}"] if one.since_us else []
        out.append("")
    return "\n".join(out)


def render_producer_keys(keys: Iterable[ProducerKey]) -> str:
    """The text of a file."""
    out: list[str] = []
    for key in keys:
        scope, subject, serial, key_id = key.claim
        out += [
            "[[producer_key]]",
            f"site = {json.dumps(key.site)}",
            f'scope = "{scope.word}"',
            f"subject = {json.dumps(subject)}",
        ]
        out += [f"producer = {json.dumps(key.producer_id)}", f"serial = {serial}", f'key_id = "{key_id.hex()}"']
        out += [f'secret = "{key.secret.hex()}"', ""]
    return "\n".join(out)


def read_private(path: Path) -> str:
    """Text of a file that only its owner may read. KeyFileError names the file and what to do."""
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _OTHERS:
                raise KeyFileError(f"{path} can be used by others (mode {mode & 0o777:03o}): `chmod 600 {path}`")
            return file.read()
    except UnicodeDecodeError:
        raise KeyFileError(f"{path}: expected UTF-8 text") from None
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from None


class Watched(Generic[T]):
    """What a file holds, read anew when the file changes; without a path, a text that never does.

    A file that became unreadable or wrong is told once and what was read before stays in use: a slip of the pen while
    keys are rotated must not stop anybody. KeyFileError at the start only.
    """

    def __init__(
        self,
        parse: Callable[[str, str], T],
        path: Path | None,
        text: str = "",
        *,
        every_s: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parse, self._path, self._every_s, self._monotonic = parse, path, every_s, monotonic
        self._seen = self._stamp()
        self.value = parse(read_private(path), str(path)) if path else parse(text, "the environment")
        self._next = monotonic() + every_s

    def refresh(self, *, at_once: bool = False) -> bool:
        """Look whether the file changed, at most once in ``every_s`` (``at_once``: in a second); whether it did."""
        now = self._monotonic()
        if self._path is None or now < self._next - (self._every_s - 1.0 if at_once else 0.0):
            return False
        self._next = now + self._every_s
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self.value = self._parse(read_private(self._path), str(self._path))
        except KeyFileError as error:
            log.error("signing keys stay as they were: %s", error)
            return False
        return True

    def _stamp(self) -> tuple[int, ...]:
        if self._path is not None:
            with contextlib.suppress(OSError):
                found = self._path.stat()
                return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode
        return ()


def _document(text: str, where: str, known: set[str]) -> dict[str, list[dict[str, Any]]]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise KeyFileError(f"{where}: not valid TOML") from None  # its message may repeat a part of a secret
    if set(document) - known or not all(_tables(part) for part in document.values()):
        raise KeyFileError(f"{where}: expected tables {', '.join(f'[[{name}]]' for name in sorted(known))} alone")
    return document


def _tables(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(table, dict) for table in part)


def _site_key(table: Mapping[str, Any], where: str) -> SiteKey:
    key = SiteKey(
        _text(table, "site", where),
        _secret(table, where),
        _time(table, "from", where) or 0,
        _time(table, "until", where),
    )
    if "id" in table and _id(table, "id", where) != key.id:
        raise KeyFileError(f"{where}: site key {key.id.hex()} of {key.site} says it is another: site or secret changed")
    return key


def _text(table: Mapping[str, Any], name: str, where: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not 0 < len(value.encode()) <= signing.SUBJECT_BYTES_MAX:
        raise KeyFileError(f"{where}: expected {name} as a text of 1 to {signing.SUBJECT_BYTES_MAX} bytes")
    return value


def _secret(table: Mapping[str, Any], where: str) -> bytes:
    secret = _hex(table, "secret", where)
    if len(secret) != SECRET_BYTES:
        raise KeyFileError(f"{where}: expected secret as {2 * SECRET_BYTES} hexadecimal digits")
    return secret


def _id(table: Mapping[str, Any], name: str, where: str) -> bytes:
    found = _hex(table, name, where)
    if len(found) != signing.KEY_ID_BYTES:
        raise KeyFileError(f"{where}: expected {name} as {2 * signing.KEY_ID_BYTES} hexadecimal digits")
    return found


def _hex(table: Mapping[str, Any], name: str, where: str) -> bytes:
    try:
        return bytes.fromhex(_text(table, name, where))
    except ValueError:
        raise KeyFileError(f"{where}: expected {name} in hexadecimal digits") from None


def _scope(table: Mapping[str, Any], where: str) -> Scope:
    try:
        return Scope[_text(table, "scope", where).upper()]
    except KeyError:
        raise KeyFileError(f"{where}: expected a scope of {', '.join(s.word for s in Scope)}") from None


def _serial(table: Mapping[str, Any], name: str, where: str) -> int:
    value = table.get(name, 0)
    if type(value) is not int or not 0 <= value <= signing.SERIAL_MAX:
        raise KeyFileError(f"{where}: expected {name} as a number of 0 to {signing.SERIAL_MAX}")
    return value


def _time(table: Mapping[str, Any], name: str, where: str) -> int | None:
    value = table.get(name)
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise KeyFileError(f"{where}: expected {name} as a time with its zone, e.g. 2026-12-01T00:00:00Z")
    return int(value.timestamp() * 1e6)


def _toml_time(us: int) -> str:
    return datetime.fromtimestamp(us // 1_000_000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sites(keys: SiteKeys) -> Iterator[str]:
    """The sites that have keys, each once."""
    yield from dict.fromkeys(key.site for key in keys.keys)
