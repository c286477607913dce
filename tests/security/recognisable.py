"""Secrets for tests that can be told from any other text wherever they turn up."""

from __future__ import annotations

import re
import secrets

PATTERN = re.compile(rb"gpfsecret-[0-9a-f]{24}")


def recognisable() -> str:
    """A password, random and to be found again. Not for test ids: every process of a run must name tests alike."""
    return f"gpfsecret-{secrets.token_hex(12)}"
