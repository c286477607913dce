"""Every threshold that colours a panel, with where it comes from. Alert rules have their own; these only colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from infra.grafana.colours import BAD, GOOD, NEUTRAL, WARN


@dataclass(frozen=True, slots=True)
class Steps:
    """Colours from the lowest value up: (from which value on, colour); the first has no lower end."""

    steps: tuple[tuple[float | None, str], ...]
    source: str
    """Who says so."""


def above(warn: float, bad: float, source: str) -> Steps:
    """The higher, the worse."""
    return Steps(((None, GOOD), (warn, WARN), (bad, BAD)), source)


def below(bad: float, warn: float, source: str) -> Steps:
    """The lower, the worse."""
    return Steps(((None, BAD), (bad, WARN), (warn, GOOD)), source)


PLAIN: Final = Steps(((None, NEUTRAL),), "no judgement: a figure")
ANY_IS_BAD: Final = Steps(((None, GOOD), (1, BAD)), "none is the only good number")
ANY_IS_NOTICE: Final = Steps(((None, GOOD), (1, WARN)), "none is best; one is worth a look")

COMPLETENESS: Final = below(0.98, 0.999, "own: 0.1 % missing is one GPU of a thousand, 2 % a row of racks")
HEALTHY_SHARE: Final = below(0.95, 0.99, "own: Llama 3 saw 1.97e-5 interruptions per GPU-hour, far below 1 % at a time")
DELIVERED_SHARE: Final = below(
    0.99, 0.999, "SLAs of the field promise 99.9 % (Nebius: 99.90 %, credits from there down)"
)
GPU_TEMPERATURE: Final = above(85, 93, "Azure's health agent warns above 93 C")
MEMORY_TEMPERATURE: Final = above(95, 105, "HBM slows down at about 105 C")
POWER_SHARE: Final = above(0.90, 0.97, "own: the site's cap leaves 6 % over full load (292 of 310 MW)")
FEED_SHARE: Final = above(0.85, 0.95, "own: a feed has to take over from its neighbour")
HEADROOM_SHARE: Final = below(0.03, 0.10, "own: the rest of POWER_SHARE")
SUPPLY_TEMPERATURE: Final = above(40, 45, "ASHRAE class W40 and W45: facility water up to 40 and 45 C")
CLOCK_OFFSET: Final = above(0.1, 0.5, "DOMAIN: more than 0.5 s off is an alert")
SLOWED_SHARE: Final = above(0.001, 0.01, "own: slowdown by heat or hardware is a fault, not load (mask 0xE8, Azure)")
STRAGGLER_RATIO: Final = below(0.87, 0.95, "own: -15 % is what the alert must name; 5 % is noise of clocks")
CAP_SHARE: Final = above(0.80, 0.95, "own: time enough to ask for a raise")
TIME_TO_CAP: Final = below(3600, 86400, "own: an hour is too late to ask, a day is not")
THROTTLED_SHARE: Final = above(0.01, 0.05, "own: one request in a hundred is felt, one in twenty hurts")
FAILED_SHARE: Final = above(0.001, 0.01, "own: 99.9 % of requests without a server error")
FRESHNESS: Final = above(12, 60, "DESIGN: p99 below 12 s from tick to queryable at full load")
DATA_AGE: Final = above(180, 600, "a minute's window closes within two minutes of its end")
PROJECTOR_LAG: Final = above(60, 300, "the projector looks every few seconds; a minute behind is a queue")
INSERT_TIME: Final = above(1000, 5000, "measured: an insert of a full batch takes some hundred milliseconds")
PARTS: Final = above(1000, 2500, "ClickHouse slows inserts from 1,000 and refuses from 3,000 parts in a partition")
DISTANCE: Final = Steps(((None, BAD), (0, GOOD)), "the lease's own promise")
