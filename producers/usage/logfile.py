"""Reading a request log line by line, CSV or JSON lines, in memory bounded by the longest line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, NoReturn

from producers.errors import InputError, nearest
from producers.usage.request import (
    FIELDS,
    REQUIRED,
    Dimensions,
    MalformedError,
    Request,
    field_of,
    from_texts,
    from_values,
)

MAX_LINE = 1 << 20
"""Bytes; a longer line is malformed and skipped without being held."""


@dataclass(slots=True)
class ReadReport:
    """What a log held, beside its requests."""

    lines: int = 0
    """Lines with something on them, the header left out."""
    malformed: int = 0
    ignored_fields: dict[str, str] = field(default_factory=dict)
    """Columns or keys with no meaning here -> a hint; not an error, logs carry more than usage."""


OnMalformed = Callable[[int, str], None]
"""Told the line number (from 1) and what is wrong; may raise to stop."""


class RequestLog:
    """A log's requests with their line numbers; ``report`` counts as they are read.

    The form is that of the first line: ``{`` starts JSON lines, else it is CSV with a header. InputError for a file
    that is neither.
    """

    def __init__(self, source: BinaryIO, tenant: str, defaults: Dimensions, on_malformed: OnMalformed) -> None:
        self._source = source
        self._tenant = tenant
        self._defaults = defaults
        self._on_malformed = on_malformed
        self.report = ReadReport()

    def __iter__(self) -> Iterator[tuple[int, Request]]:
        lines = self._lines()
        first = next(lines, None)
        if first is None:
            raise InputError("the log is empty: expected a CSV header or JSON lines")
        if isinstance(first[1], MalformedError):
            raise InputError(f"line {first[0]}: {first[1]}; expected a CSV header or JSON lines")
        parse: Callable[[str], Request]
        if first[1].lstrip().startswith("{"):
            parse = self._parse_json
            yield from self._request(first, parse)
        else:
            parse = partial(self._parse_csv, self._header(first[0], first[1]))
        for line in lines:
            yield from self._request(line, parse)

    def _lines(self) -> Iterator[tuple[int, str | MalformedError]]:
        """Line number and text without its end; blank lines are passed over."""
        number = 0
        while raw := self._source.readline(MAX_LINE):
            number += 1
            if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
                while (rest := self._source.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield number, MalformedError(f"longer than {MAX_LINE} bytes")
                continue
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                text = raw.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield number, MalformedError(f"not UTF-8 at byte {error.start + 1}")
                continue
            if text.strip():
                yield number, text

    def _request(
        self, line: tuple[int, str | MalformedError], parse: Callable[[str], Request]
    ) -> Iterator[tuple[int, Request]]:
        number, text = line
        self.report.lines += 1
        try:
            if isinstance(text, MalformedError):
                raise text
            request = parse(text)
        except MalformedError as error:
            self.report.malformed += 1
            self._on_malformed(number, str(error))
        else:
            yield number, request

    def _header(self, number: int, text: str) -> list[str | None]:
        columns = [self._field(name.strip()) for name in _split(text)]
        named = [name for name in columns if name]
        for name in named:
            if named.count(name) > 1:
                raise InputError(f"line {number}: two columns mean {name}: {text!r:.120}")
        for name in REQUIRED:
            if name not in named:
                raise InputError(
                    f"line {number}: no column for {name}: expected a header such as "
                    f"TIMESTAMP,ContextTokens,GeneratedTokens (more: {', '.join(FIELDS)}) or JSON lines, "
                    f"found {text!r:.120}"
                )
        return columns

    def _parse_csv(self, columns: list[str | None], text: str) -> Request:
        cells = _split(text)
        if len(cells) != len(columns):
            raise MalformedError(f"expected {len(columns)} columns, found {len(cells)}")
        fields = {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if name}
        return from_texts(fields, self._tenant, self._defaults)

    def _parse_json(self, text: str) -> Request:
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise MalformedError(f"expected a JSON object, found {text!r:.40}")
        fields = {}
        for key, item in value.items():
            name = self._field(key)
            if name in fields:
                raise MalformedError(f"two keys mean {name}")
            if name:
                fields[name] = item
        return from_values(fields, self._tenant, self._defaults)

    def _field(self, name: str) -> str | None:
        known = field_of(name[:64])
        if known is None and len(self.report.ignored_fields) < 100:
            self.report.ignored_fields.setdefault(name[:64], nearest(name[:64], FIELDS))
        return known


def _split(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration) as error:
        raise MalformedError(f"not CSV: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
