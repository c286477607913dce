"""How Grafana writes a variable's value into a text: ``${name:format}``.

The formats of grafana/scenes (formatRegistry.ts). A value is one text or a list of texts; a list stands for a
variable of several values, or for All. What no format says (an unknown name) is written as glob.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

Single = str
Several = Sequence[str]
Plain = Single | Several


def percent_encode(value: str) -> str:
    """JavaScript's encodeURIComponent, and also ``! ' ( ) *``: letters, digits and ``- . _ ~`` stay, nothing else.

    This is what makes ``decodeURLComponent('${x:percentencode}')`` proof against any value: no quote, backslash or
    control character survives, and what comes out of the decoding is the value itself.
    """
    return quote(value, safe="-_.~")


def encode_uri(value: str) -> str:
    """JavaScript's encodeURI, and also ``! ' ( ) *``: reserved characters of a whole address stay."""
    return quote(value, safe="-_.~;,/?:@&=+$#")


def formatted(value: Plain, spec: str, name: str, text: str | None = None) -> str:
    """The value in the format ``spec``: a name, and arguments behind colons (``date:YYYY-MM``, ``join:|``).

    ``name`` is the variable's, ``text`` what the picker shows for the value.
    """
    kind, *arguments = spec.split(":")
    if kind == "text":
        return text if text is not None else _joined(value, " + ")
    if kind in ("queryparam", "customqueryparam"):
        key, prefix = f"var-{name}", ""
        if kind == "customqueryparam":
            key = percent_encode(arguments[0] if arguments and arguments[0] else name)
            prefix = percent_encode(arguments[1]) if len(arguments) > 1 else ""
        return "&".join(f"{key}={prefix}{percent_encode(each)}" for each in _each(value))
    if kind == "distributed":
        return ",".join(each if number == 0 else f"{name}={each}" for number, each in enumerate(_each(value)))
    if kind == "join":
        return _joined(value, arguments[0] if arguments else ",")
    if kind == "date":
        return _date(_joined(value, ","), ":".join(arguments))
    return _FORMATS.get(kind, _glob)(value)


def _each(value: Plain) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _joined(value: Plain, separator: str) -> str:
    return separator.join(_each(value))


def _glob(value: Plain) -> str:
    several = _each(value)
    return "{" + ",".join(several) + "}" if len(several) > 1 else "".join(several)


def _braced(encode: Callable[[str], str]) -> Callable[[Plain], str]:
    return lambda value: encode(value if isinstance(value, str) else "{" + ",".join(value) + "}")


def _quoted(quote_mark: str, escaped: Callable[[str], str]) -> Callable[[Plain], str]:
    return lambda value: ",".join(f"{quote_mark}{escaped(each)}{quote_mark}" for each in _each(value))


def _regex(value: Plain) -> str:
    several = [re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", each) for each in _each(value)]
    return several[0] if len(several) == 1 else "(" + "|".join(several) + ")"


def _lucene(value: Plain) -> str:
    if isinstance(value, str):
        return _lucene_one(value)
    if not value:
        return "__empty__"
    return "(" + " OR ".join(f'"{_lucene_one(each)}"' for each in value) + ")"


def _lucene_one(value: str) -> str:
    if re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*|\s*", value, re.IGNORECASE):
        return value  # a number for JavaScript, and so is nothing
    return re.sub(r'[!*+\-=<>\s&|()\[\]{}^~?:\\/"]', r"\\\g<0>", value)


def _html(value: Plain) -> str:
    return (
        html.escape(_joined(value, ", "), quote=False)
        .replace("'", "&#39;")
        .replace("/", "&#47;")
        .replace('"', "&quot;")
    )


def _json(value: Plain) -> str:
    return value if isinstance(value, str) else json.dumps(list(value), ensure_ascii=False, separators=(",", ":"))


_FORMATS: Final[dict[str, Callable[[Plain], str]]] = {
    "glob": _glob,
    "raw": lambda value: _joined(value, ","),
    "csv": lambda value: _joined(value, ","),
    "pipe": lambda value: _joined(value, "|"),
    "regex": _regex,
    "lucene": _lucene,
    "html": _html,
    "json": _json,
    "percentencode": _braced(percent_encode),
    "uriencode": _braced(encode_uri),
    "singlequote": _quoted("'", lambda each: each.replace("'", "\\'")),
    "doublequote": _quoted('"', lambda each: each.replace('"', '\\"')),
    # Two single quotes, but a backslash before a double one: as scenes has it. A backslash stays: unfit for ClickHouse.
    "sqlstring": _quoted("'", lambda each: each.replace("'", "''").replace('"', '\\"')),
}

# moment.js to strftime; longest first. Only what a dashboard writes into SQL or a link.
_MOMENT: Final = (
    ("YYYY", "%Y"), ("MM", "%m"), ("DD", "%d"), ("HH", "%H"), ("mm", "%M"), ("ss", "%S"), ("ddd", "%a"), ("MMM", "%b"),
)  # fmt: skip


def _date(value: str, spec: str) -> str:
    number = re.match(r"\s*[-+]?\d+", value)
    if number is None:
        return "NaN"
    milliseconds = int(number[0])
    if spec == "ms":
        return value
    if spec == "seconds":
        return str((milliseconds + 500) // 1000)
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    if spec in ("", "iso"):
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
    pattern = "|".join(token for token, _ in sorted(_MOMENT, key=lambda pair: -len(pair[0])))
    return re.sub(pattern, lambda found: moment.strftime(dict(_MOMENT)[found[0]]), spec)
