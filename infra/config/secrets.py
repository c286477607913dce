"""Telling secret options of librdkafka's from the rest, and hiding them."""

from __future__ import annotations

HIDDEN = "********"

_SECRET_WORDS = ("password", "secret", ".pem", "token", "jaas", "passphrase")


def secret_option(name: str) -> bool:
    """Whether a free option (``kafka.librdkafka``) holds a secret, by its name."""
    lowered = name.lower()
    return any(word in lowered for word in _SECRET_WORDS) and not lowered.endswith(("url", "file", "location"))
