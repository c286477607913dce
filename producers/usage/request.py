"""One request of a gateway's log, whatever the file's form."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

from producers.checks import dimension, micros
from producers.errors import InputError


class Request(NamedTuple):
    """One request; tokens count as the log gives them."""

    ts: int
    """When it began, microseconds since 1970, UTC."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    workspace: str = ""
    product: str = ""
    model: str = ""
    tier: str = ""
    status: int = 200
    """HTTP status; 429 = throttled."""
    ttft_ms: float | None = None
    """Time to first token; None = not measured."""
    latency_ms: float | None = None
    """Whole latency; None = not measured."""


class Dimensions(NamedTuple):
    """What usage is counted by, beside tenant and window."""

    workspace: str = ""
    product: str = ""
    model: str = ""
    tier: str = ""


class MalformedError(InputError):
    """A line is not a request; the message says what is wrong with it."""


FIELDS = (
    *("timestamp", "input_tokens", "output_tokens", "cached_tokens", "tenant"),
    *("workspace", "product", "model", "tier", "status", "ttft_ms", "latency_ms"),
)
REQUIRED = ("timestamp", "input_tokens", "output_tokens")
_ALIASES = {
    **{name.replace("_", ""): name for name in FIELDS},
    "contexttokens": "input_tokens",
    "generatedtokens": "output_tokens",
    "timetofirsttokenms": "ttft_ms",
}
MAX_TOKENS = 10**10
"""Of one request; beyond it a log is wrong, and sums would leave 64 bits."""
MAX_MS = 1e12
_DIMENSIONS = Dimensions._fields
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,12}")


@cache
def field_of(name: str) -> str | None:
    """The field that a column or key names: case and underscores do not matter (ContextTokens, context_tokens)."""
    return _ALIASES.get(name.replace("_", "").replace(" ", "").lower())


def from_texts(fields: Mapping[str, str], tenant: str, defaults: Dimensions) -> Request:
    """A request from a CSV line's texts by field; an empty text is an absent field. MalformedError otherwise."""
    return _request({name: text for name, text in fields.items() if text}, tenant, defaults, _TEXTS)


def from_values(fields: Mapping[str, Any], tenant: str, defaults: Dimensions) -> Request:
    """A request from a JSON object's values by field; null is an absent field. MalformedError otherwise."""
    present = {name: value for name, value in fields.items() if value is not None}
    return _request(present, tenant, defaults, _VALUES)


def timestamp(value: object) -> int:
    """Microseconds since 1970 of 2023-11-16 18:15:46.6805900 (no zone = UTC; beyond microseconds is cut off)."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise MalformedError(f"timestamp must look like 2023-11-16T18:15:46.680Z, found {value!r:.60}")
    try:
        when = datetime.fromisoformat(value)
        us = micros(when if when.tzinfo else when.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise MalformedError(f"timestamp {value!r} is not a time: {error}") from None
    if not 0 <= us < 4_102_444_800_000_000:
        raise MalformedError(f"timestamp must lie between 1970 and 2100, found {value!r}")
    return us


def _count(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_TOKENS:
        raise MalformedError(f"{what} must be a whole number from 0 to {MAX_TOKENS}, found {value!r:.40}")
    return value


def _count_text(value: object, what: str) -> int:
    if not isinstance(value, str) or not _DIGITS.fullmatch(value):
        raise MalformedError(f"{what} must be a whole number from 0 to {MAX_TOKENS}, found {value!r:.40}")
    return _count(int(value), what)


def _milliseconds(value: object, what: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_MS:
        raise MalformedError(f"{what} must be milliseconds, 0 or more, found {value!r:.40}")
    return float(value)


def _milliseconds_text(value: object, what: str) -> float:
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise MalformedError(f"{what} must be milliseconds, 0 or more, found {value!r:.40}")
    return _milliseconds(number, what)


_Convert = Mapping[str, Callable[[object, str], Any]]
_TEXTS: _Convert = {"count": _count_text, "ms": _milliseconds_text}
_VALUES: _Convert = {"count": _count, "ms": _milliseconds}


def _request(fields: Mapping[str, Any], tenant: str, defaults: Dimensions, convert: _Convert) -> Request:
    for name in REQUIRED:
        if name not in fields:
            raise MalformedError(f"{name} is missing")
    if fields.get("tenant", tenant) != tenant:
        raise MalformedError(f"belongs to tenant {fields['tenant']!r:.80}, this replay is of {tenant!r}")
    count, ms = convert["count"], convert["ms"]
    status = count(fields["status"], "status") if "status" in fields else 200
    if not 100 <= status <= 599:
        raise MalformedError(f"status must be an HTTP status, 100 to 599, found {status}")
    try:
        names = Dimensions(*(dimension(fields.get(what, defaults[i]), what) for i, what in enumerate(_DIMENSIONS)))
    except InputError as error:
        raise MalformedError(str(error)) from None
    return Request(
        ts=timestamp(fields["timestamp"]),
        input_tokens=count(fields["input_tokens"], "input_tokens"),
        output_tokens=count(fields["output_tokens"], "output_tokens"),
        cached_tokens=count(fields["cached_tokens"], "cached_tokens") if "cached_tokens" in fields else 0,
        workspace=names.workspace,
        product=names.product,
        model=names.model,
        tier=names.tier,
        status=status,
        ttft_ms=ms(fields["ttft_ms"], "ttft_ms") if "ttft_ms" in fields else None,
        latency_ms=ms(fields["latency_ms"], "latency_ms") if "latency_ms" in fields else None,
    )
