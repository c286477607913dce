"""Limits as people declare them, in TOML.

    [[limit]]
    tenant = "acme"
    name = "input_tokens"              # requests, input_tokens, output_tokens, messages; gpu_quota, power_cap
    window = "1m"                      # 1m, 5h, 7d ...; left out for gpu_quota and power_cap
    product = "api"                    # left out = all; also model, tier
    value = 4_000_000
    from = 2026-11-01T00:00:00Z        # left out = from now on

A limit that shall be no more: ``remove = true`` in place of ``value``.
"""

from __future__ import annotations

import math
from pathlib import Path

from producers.checks import dimension, duration_us, tenant_name, zoned_time
from producers.declared import Entry, entries, load
from producers.errors import InputError, nearest
from producers.limits.model import LEVELS, RATES, Limit, LimitKey

KEYS = ("tenant", "name", "window", "product", "model", "tier", "value", "from", "remove")
MAX_WINDOW_S = 366 * 86_400


def read_limits(path: Path) -> list[Limit]:
    """The limits a file declares, in its order. InputError says which limit and key are wrong."""
    limits = [_limit(entry) for entry in entries(load(path), "limit", KEYS)]
    seen: set[LimitKey] = set()
    for limit in limits:
        if limit.key in seen:
            raise InputError(f"limit {limit.key} is declared twice")
        seen.add(limit.key)
    return limits


def _limit(entry: Entry) -> Limit:
    tenant = entry.checked("tenant", tenant_name)
    name = entry.text("name")
    if name not in RATES + LEVELS:
        raise InputError(f"{entry.where}: unknown limit name {name!r:.80}; {nearest(name, RATES + LEVELS)}")
    key = LimitKey(
        tenant,
        name,
        _window(entry, name),
        *(_dimension(entry, what) for what in KEYS[3:6]),
    )
    remove = entry.flag("remove", False)
    if remove == ("value" in entry.values):
        raise InputError(f"{entry.where}: give either value = NUMBER or remove = true")
    value = None if remove else entry.number("value", 0, math.inf)
    valid_from = entry.checked("from", lambda given: zoned_time(given, "`from`")) if "from" in entry.values else None
    return Limit(key, value, valid_from)


def _dimension(entry: Entry, what: str) -> str:
    found: str = entry.checked(what, lambda value: dimension(value, what), "")
    return found


def _window(entry: Entry, name: str) -> int:
    if name in LEVELS:
        if "window" in entry.values:
            raise InputError(f"{entry.where}: {name} is a level, not a rate: it has no window")
        return 0
    if "window" not in entry.values:
        raise InputError(f'{entry.where}: {name} counts over a window: give window = "1m", "5h" or "7d"')
    window_us: int = entry.checked(
        "window", lambda value: duration_us(value if isinstance(value, str) else repr(value))
    )
    if window_us % 1_000_000 or not 0 < window_us <= MAX_WINDOW_S * 1_000_000:
        raise entry.wrong("window", "whole seconds, from 1s to 366d")
    return window_us // 1_000_000
