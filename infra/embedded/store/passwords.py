"""Passwords as they are kept: salted hashes, compared in constant time.

`scrypt$<log2 n>$<salt, hex>$<hash, hex>` (what is written here) or `sha256$<salt, hex>$<hash of salt + password, hex>`
(what a person can make with coreutils). scrypt costs tens of milliseconds, so that a password found good is
remembered for this process by a keyed hash.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

_LOG2_N = 14


def new_password() -> str:
    """A random password: 24 bytes from the operating system, in URL-safe base64."""
    return secrets.token_urlsafe(24)


def hash_password(password: str) -> str:
    """The salted scrypt hash of a password, as users.toml keeps it."""
    salt = secrets.token_bytes(16)
    return f"scrypt${_LOG2_N}${salt.hex()}${_scrypt(password, salt, _LOG2_N).hex()}"


def _scrypt(password: str, salt: bytes, log2_n: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << log2_n, r=8, p=1, maxmem=1 << 28, dklen=32)


def check_form(stored: str) -> None:
    """ValueError if `stored` is not a hash that `verify` can read."""
    kind, *parts = stored.split("$")
    if kind == "scrypt" and len(parts) == 3 and parts[0].isdigit() and 10 <= int(parts[0]) <= 17:
        parts = parts[1:]
    elif kind != "sha256" or len(parts) != 2:
        raise ValueError("expected scrypt$<log2 n>$<salt>$<hash> or sha256$<salt>$<hash>")
    salt, digest = (bytes.fromhex(part) for part in parts)
    if len(digest) != 32 or len(salt) < 8:
        raise ValueError("expected a salt of 8 bytes or more and a hash of 32 bytes")


class Verifier:
    """Compares passwords with stored hashes; remembers the good ones of this process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._good: dict[str, bytes] = {}

    def _mark(self, stored: str, password: str) -> bytes:
        return hmac.digest(self._key, f"{stored}\0{password}".encode(), "sha256")

    def known(self, stored: str, password: str) -> bool:
        """True if this password was found good before: cheap enough for the event loop."""
        return hmac.compare_digest(self._good.get(stored, b""), self._mark(stored, password))

    def verify(self, stored: str, password: str) -> bool:
        """True if `password` belongs to the hash `stored`. Tens of milliseconds the first time: call in a thread."""
        kind, *parts = stored.split("$")
        if kind == "scrypt":
            found = _scrypt(password, bytes.fromhex(parts[1]), int(parts[0]))
            expected = bytes.fromhex(parts[2])
        else:
            found = hashlib.sha256(bytes.fromhex(parts[0]) + password.encode()).digest()
            expected = bytes.fromhex(parts[1])
        good = hmac.compare_digest(found, expected)
        if good:
            self._good[stored] = self._mark(stored, password)
        return good
