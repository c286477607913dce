"""One colour per meaning, on every board."""

from __future__ import annotations

from typing import Final

GOOD: Final = "green"
WARN: Final = "orange"
BAD: Final = "red"
NEUTRAL: Final = "blue"
QUIET: Final = "#8e8e8e"
MISSING: Final = "purple"
"""No data: neither good nor bad."""

HEALTH: Final = {
    "healthy": GOOD,
    "unhealthy": BAD,
    "unknown": MISSING,
    "opted out": NEUTRAL,
    "not in service": QUIET,
}
"""By class of health, in the order they are stacked."""

MODELS: Final = {"H100": "#5794f2", "H200": "#37872d", "GB200": "#ff9830"}

DELIVERY: Final = {
    "leased": "#c0d8ff",
    "delivered": GOOD,
    "used": NEUTRAL,
    "unhealthy": BAD,
    "unknown": MISSING,
    "opted out": "#b877d9",
    "not in service": QUIET,
}

REQUESTS: Final = {"served": GOOD, "throttled": WARN, "failed": BAD}
TOKENS: Final = {"input": "#5794f2", "cached input": "#8ab8ff", "output": "#ff9830"}
THROTTLING: Final = {
    "software power cap (normal)": QUIET,
    "hardware slowdown": BAD,
    "software thermal": WARN,
    "hardware thermal": "#c4162a",
    "power brake": "#a352cc",
}
PERCENTILES: Final = {"p50": "#5794f2", "p95": WARN, "p99": BAD}

# State codes of the state timelines (query.GPU_STATE): text and colour.
STATES: Final = {
    0: ("healthy", GOOD),
    1: ("slowed down", WARN),
    2: ("sick", BAD),
    3: ("silent", MISSING),
    4: ("opted out", NEUTRAL),
    5: ("not in service", QUIET),
}
