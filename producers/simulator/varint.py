"""Avro's variable-length integers for a whole matrix at once.

An Avro int or long is its zigzag form, seven bits a byte, least significant first, the high bit set on all but the
last byte (Avro 1.11 specification, "Binary Encoding").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Longs = NDArray[np.int64]


def encode_rows(values: Longs) -> tuple[bytes, list[int]]:
    """The varints of a (rows, columns) matrix, row after row, and where each row starts.

    The offsets have rows + 1 entries: row i is ``blob[offsets[i] : offsets[i + 1]]``.
    """
    flat = values.reshape(-1)
    zigzag = ((flat << 1) ^ (flat >> 63)).view(np.uint64)
    width = np.ones(len(flat), np.int8)
    top = int(zigzag.max(initial=0))
    steps = max(0, (top.bit_length() + 6) // 7 - 1)
    for step in range(1, steps + 1):
        width += zigzag >= np.uint64(1 << 7 * step)
    ends = np.cumsum(width, dtype=np.int64)
    starts = ends - width
    out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    out[starts] = zigzag.astype(np.uint8) & 0x7F | (width > 1).view(np.uint8) << 7
    where = np.arange(0)
    for step in range(1, steps + 1):
        where = np.flatnonzero(width > step) if step == 1 else where[width[where] > step]
        part = (zigzag[where] >> np.uint64(7 * step)).astype(np.uint8) & 0x7F
        out[starts[where] + step] = part | (width[where] > step + 1).view(np.uint8) << 7
    offsets = [0, *ends.reshape(values.shape)[:, -1].tolist()] if values.size else [0] * (len(values) + 1)
    return out.tobytes(), offsets


def encode(value: int) -> bytes:
    """The varint of one int or long."""
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)
