"""Queries that show nothing on the story, at any of its occasions, and why that is right. The list is exact: a query
that is not in it must show something, one that is in it must not."""

from __future__ import annotations

from typing import Final

EMPTY: Final[dict[str, str]] = {
    "gpufleet-capacity/panel/12.A": "no node is leased twice",
    "gpufleet-health/panel/18.A": "no GPU is swapped",
    "gpufleet-usage/panel/2.A": "no cap is reached at the rate of the last minutes",
    "gpufleet-pipeline/panel/1.A": "events of March, told now, say nothing about freshness",
    "gpufleet-pipeline/panel/7.A": "nor about how far the projector is behind",
    "gpufleet-pipeline/panel/9.A": "nor about freshness over time",
    "gpufleet-pipeline/panel/5.A": "no audit has run",
    "gpufleet-pipeline/panel/19.A": "no audit has run",
    "gpufleet-pipeline/panel/17.A": "no message was refused",
    "gpufleet-pipeline/panel/18.A": "no event has a flaw",
    "gpufleet-pipeline/panel/20.A": "the simulator spools nothing",
}
"""``str(query)`` -> the reason."""
