"""Times for people."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(us: int) -> str:
    """Microseconds since 1970 for people; the number itself where no calendar reaches."""
    try:
        return datetime.fromtimestamp(us / 1e6, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{us} us since 1970"
