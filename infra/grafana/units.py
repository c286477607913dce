"""Grafana's unit ids, by the units of the schema catalogue: a board shows a field in the unit that its schema names."""

from __future__ import annotations

from functools import cache
from typing import Final

from schemas import catalogue

IDS: Final = {
    "": "short",
    "1/s": "cps",
    "By": "bytes",
    "By/s": "Bps",
    "Cel": "celsius",
    "Gbit/s": "Gbits",
    "J": "joule",
    "MHz": "rotmhz",
    "W": "watt",
    "bitmask": "none",
    "bool": "bool",
    "currency": "short",
    "enum": "none",
    "kPa": "pressurekpa",
    "l/min": "flowlpm",
    "ms": "ms",
    "ns": "ns",
    "ratio": "percentunit",
    "s": "s",
    "us": "µs",
}
"""Unit in schemas/avsc -> Grafana's unit id. A test holds that none is missing."""

COUNT: Final = IDS[""]
PER_SECOND: Final = IDS["1/s"]
EVENTS_PER_SECOND: Final = "eps"
RATIO: Final = IDS["ratio"]
WATT: Final = IDS["W"]
WATT_HOUR: Final = "watth"
JOULE: Final = IDS["J"]
CELSIUS: Final = IDS["Cel"]
MEGAHERTZ: Final = IDS["MHz"]
BYTES: Final = IDS["By"]
BYTES_PER_SECOND: Final = IDS["By/s"]
SECONDS: Final = IDS["s"]
MILLISECONDS: Final = IDS["ms"]
HOURS: Final = "h"
LITRES_PER_MINUTE: Final = IDS["l/min"]
KILOPASCAL: Final = IDS["kPa"]
REQUESTS_PER_MINUTE: Final = "reqpm"
TIME: Final = "dateTimeAsIso"
TEXT: Final = "string"
WHOLE: Final = "none"
"""A number as it is, without k or M."""
EXACT: Final = "locale"
"""Every digit, in groups of three: what is billed is not rounded to a million."""


@cache
def of(topic: str, field: str) -> str:
    """Grafana's unit id of a field; KeyError for a topic, field or unit that nobody knows."""
    fields = {each["name"]: each for each in catalogue.latest(topic).fields}
    return IDS[fields[field].get("unit", "")]


def doc(topic: str, field: str) -> str:
    """What the schema says a field means."""
    return next(str(each["doc"]) for each in catalogue.latest(topic).fields if each["name"] == field)
