"""Signs messages: with the keys a producer was handed, or with those of its whole site."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from schemas import signing
from schemas.identity import producer_part
from schemas.signing import Scope
from schemas.signing_keys import ProducerKey, SiteKey, SiteKeys, Watched, derived

ENTRIES_MAX = 65_536
"""Keys held ready: 300 bytes each."""
LOOK_S = 5.0
"""Time between two looks at the key file and the clock."""
Sign = Callable[[str, bytes, bytes, bytes], bytes]
"""(topic, Kafka key, identity header, value) -> the signature header."""


class NoKeyError(RuntimeError):
    """There is no key that may write this; the message says what there is."""


class _Entry(NamedTuple):
    claim: bytes
    secret: bytes
    topic: bytes
    key: bytes


class Signer:
    """Signs for the producers whose keys it has. Follows changes of its key file within seconds. Thread-safe."""

    def __init__(
        self,
        keys: Watched[SiteKeys] | Watched[tuple[ProducerKey, ...]],
        site: str,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic: Callable[[], float] = time.monotonic,
        look_s: float = LOOK_S,
    ) -> None:
        self._keys, self._site, self._now_us, self._monotonic, self._look_s = keys, site, now_us, monotonic, look_s
        self._entries: dict[tuple[str, bytes, bytes], _Entry] = {}
        self._known: SiteKeys | tuple[ProducerKey, ...] = keys.value
        self._in_use: SiteKey | None = None
        self._look_at = 0.0

    def __call__(self, topic: str, key: bytes, header: bytes, value: bytes) -> bytes:
        """The signature header of a message. NoKeyError when no key may write it."""
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + self._look_s
            self._follow()
        producer = producer_part(header)
        entry = self._entries.get((topic, producer, key))
        if entry is None:
            entry = self._make(topic, producer, key, len(header))
            if len(self._entries) >= ENTRIES_MAX:
                self._entries = {}
            self._entries[topic, producer, key] = entry
        return entry.claim + signing.mac(entry.secret, entry.topic, entry.key, header, value)

    def key_for(self, topic: str, producer_id: str, key: str) -> ProducerKey:
        """The key that signs such a message. NoKeyError when there is none."""
        keys = self._keys.value
        if isinstance(keys, SiteKeys):
            site_key = keys.newest(self._site, self._now_us())
            if site_key is None:
                known = ", ".join(sorted({k.site for k in keys.keys}))
                raise NoKeyError(f"no signing key of site {self._site!r} is in use today; there are keys of {known}")
            scope, subject = scope_of(topic, producer_id, key)
            return derived(keys, site_key, scope, subject, producer_id)
        for held in reversed(keys):
            if (held.site, held.producer_id) == (self._site, producer_id) and may_write(held, topic, key):
                return held
        there = ", ".join(f"{k.producer_id} of {k.site} as {k.claim.scope.word} {k.claim.subject}" for k in keys)
        raise NoKeyError(
            f"no signing key for producer {producer_id!r} of site {self._site!r} that may write {topic} for {key!r}; "
            f"there are keys for {there}"
        )

    def _follow(self) -> None:
        """Forget what was derived when the file changed, or another site key's time has come."""
        self._keys.refresh()
        keys = self._keys.value
        in_use = keys.newest(self._site, self._now_us()) if isinstance(keys, SiteKeys) else None
        if keys is not self._known or in_use != self._in_use:
            self._entries = {}
        self._known, self._in_use = keys, in_use

    def _make(self, topic: str, producer: bytes, key: bytes, header_size: int) -> _Entry:
        producer_id = producer.decode()
        found = self.key_for(topic, producer_id, key.decode())
        claim = signing.pack_claim(found.claim, producer_id)
        return _Entry(claim, found.secret, signing.bind_topic(topic), signing.bind_key(key, header_size))


def may_write(key: ProducerKey, topic: str, kafka_key: str) -> bool:
    """Whether the key's scope covers such a message."""
    scope = key.claim.scope
    return topic in signing.TOPICS[scope] and (scope not in signing.BOUND or key.claim.subject == kafka_key)


def scope_of(topic: str, producer_id: str, key: str) -> tuple[Scope, str]:
    """The narrowest scope (and its subject) that may write such a message."""
    if topic == "tenant-usage":
        return Scope.TENANT, key
    if topic in signing.TOPICS[Scope.NODE] and producer_id == key:
        return Scope.NODE, key
    return _OTHERS[topic], producer_id


_OTHERS = {
    "facility-telemetry": Scope.FACILITY,
    "allocations": Scope.SCHEDULER,
    "dead-letters": Scope.PIPELINE,
    "node-telemetry": Scope.NODE,
    "node-counters": Scope.NODE,
    "node-events": Scope.OPERATOR,
    "inventory": Scope.OPERATOR,
    "leases": Scope.OPERATOR,
    "tenant-limits": Scope.OPERATOR,
}
