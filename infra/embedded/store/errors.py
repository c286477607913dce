"""Errors of the embedded store, in ClickHouse's own form.

StoreError                what a person must know: lock held, folder not writable, port in use
  StoreLocked             another process has the data folder
Refusal                   an answer to a client: ClickHouse's code and HTTP status
"""

from __future__ import annotations

import re
from typing import Final

UNKNOWN_FORMAT: Final = 73
SYNTAX_ERROR: Final = 62
BAD_ARGUMENTS: Final = 36
TOO_LARGE: Final = 307
READONLY: Final = 164
AUTHENTICATION_FAILED: Final = 516
ACCESS_DENIED: Final = 497
TOO_MANY_QUERIES: Final = 202
SESSION_NOT_FOUND: Final = 372
SESSION_IS_LOCKED: Final = 373
CANNOT_DECOMPRESS: Final = 271
TOO_MANY_ROWS_OR_BYTES: Final = 396
NOT_ENOUGH_SPACE: Final = 243
UNKNOWN_EXCEPTION: Final = 1002

_CODE = re.compile(r"Code: (\d+)\. DB::(?:NetException|Exception|ErrnoException)")

# ClickHouse, src/Server/HTTP/exceptionCodeToHTTPStatus.cpp, as documented for its HTTP interface.
_STATUS: Final[dict[int, int]] = {
    516: 403,  # AUTHENTICATION_FAILED; a missing password is 401, see Refusal.status
    497: 403,  # ACCESS_DENIED
    164: 500,  # READONLY
    36: 400,
    62: 400,
    6: 400,
    26: 400,
    27: 400,
    38: 400,
    41: 400,
    43: 400,
    53: 400,
    72: 400,
    456: 400,
    47: 404,
    46: 404,
    50: 404,
    60: 404,
    81: 404,
    115: 404,
    73: 404,
    61: 404,
    28: 404,
    48: 501,
    307: 413,
    202: 429,
    241: 500,
    159: 408,
    373: 500,
    372: 404,
}


class StoreError(Exception):
    """The store cannot do its work, said in words for the person who started it."""


class StoreLocked(StoreError):  # noqa: N818 - names the state
    """Another process has the data folder open."""


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """What a client asked for is refused: `code` is ClickHouse's, `status` the HTTP status."""

    def __init__(self, code: int, name: str, message: str, status: int | None = None) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message} ({name})")
        self.code = code
        self.status = status if status is not None else _STATUS.get(code, 500)


def code_of(message: str) -> int:
    """ClickHouse's error code in an exception text; 1002 (UNKNOWN_EXCEPTION) if it has none."""
    found = _CODE.search(message)
    return int(found[1]) if found else UNKNOWN_EXCEPTION


def status_of(code: int) -> int:
    """The HTTP status that goes with a ClickHouse error code."""
    return _STATUS.get(code, 500)
