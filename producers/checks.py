"""Checks on names and times that people write, shared by usage, leases and limits."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from producers.errors import InputError

_TENANT = re.compile(r"[a-z][a-z0-9-]{0,62}")
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_UNIT_US = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
MAX_NAME = 200


def tenant_name(value: object) -> str:
    """A tenant's name. It becomes a store user and a topic key, hence the narrow form."""
    if not isinstance(value, str) or not _TENANT.fullmatch(value):
        raise InputError(
            f"a tenant is named with 1 to 63 of a-z, 0-9 and '-', starting with a letter; found {value!r:.80}"
        )
    return value


def dimension(value: object, what: str) -> str:
    """A workspace, product, model or tier: printable text of at most 200 characters, or nothing."""
    if not isinstance(value, str) or len(value) > MAX_NAME or not value.isprintable():
        raise InputError(f"{what} must be printable text of at most {MAX_NAME} characters, found {value!r:.80}")
    return value


def duration_us(text: str) -> int:
    """Microseconds of a duration like 60s, 5m, 1h, 7d or 250ms."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise InputError(f"expected a duration like 60s, 5m, 1h or 7d, found {text!r:.40}")
    return int(match[1]) * _UNIT_US[match[2]]


def micros(when: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (when - _EPOCH) // _MICROSECOND


def utc(us: int) -> datetime:
    """The time at microseconds since 1970."""
    return _EPOCH + us * _MICROSECOND


def utc_text(us: int) -> str:
    """Microseconds since 1970 as 2026-11-01T00:00:00Z, with a fraction only when there is one."""
    return utc(us).isoformat().replace("+00:00", "Z")


def zoned_time(value: object, what: str) -> int:
    """Microseconds since 1970 of a time that names its zone: a TOML date-time with offset, or such a text."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime):
        raise InputError(f"{what} must be a time with a zone such as 2026-11-01T00:00:00Z, found {value!s:.60}")
    if value.tzinfo is None:
        raise InputError(f"{what} has no zone: write {value.isoformat()}Z for UTC, or an offset such as +01:00")
    try:
        us = micros(value)
    except OverflowError:
        us = -1
    if not 0 <= us < 4_102_444_800_000_000:
        raise InputError(f"{what} must lie between 1970 and 2100, found {value.isoformat()}")
    return us
