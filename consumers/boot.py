"""Tells when the store was restarted: its last acknowledged seconds may then be gone."""

from __future__ import annotations

from dataclasses import replace

from consumers.store import Boot

SLACK_US = 250_000
"""Steps of the server's clock smaller than this are no restart."""


class BootWatch:
    """Compares looks at the same server. A server that names its starts is taken at its word.

    Others tell their uptime in whole seconds, so each look bounds the start to a second, and looks at the same start
    overlap; the bounds are narrowed as they come. A clock step looks like a restart, which costs a second reading.
    """

    def __init__(self) -> None:
        self._known: dict[str, Boot] = {}

    def restarted(self, seen: Boot) -> bool:
        """Whether this server started anew since the last look at it; False at the first look."""
        known = self._known.get(seen.host)
        if known is None:
            self._known[seen.host] = seen
            return False
        if known.identifier or seen.identifier:
            changed = known.identifier != seen.identifier
        else:
            changed = seen.earliest_us > known.latest_us + SLACK_US or seen.latest_us < known.earliest_us - SLACK_US
        if changed:
            self._known[seen.host] = seen
        elif not seen.identifier:
            earliest = max(known.earliest_us, seen.earliest_us)
            latest = min(known.latest_us, seen.latest_us)
            if earliest <= latest:
                self._known[seen.host] = replace(known, earliest_us=earliest, latest_us=latest)
        return changed
