"""Many events of one kind and shape encoded at once, column by column, into exactly valid Avro.

A caller names for each field of the schema a column of its values over the events. Neighbouring columns of the same
nature become one block: integers one matrix of varints, floats one matrix of fixed width, and what never changes
bytes made once. An event is then a join of some ten slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.simulator import varint
from schemas.container import avro_bytes

AnyArray = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Constant:
    """Encoded bytes made once: one for each event."""

    parts: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Scalars:
    """One number an event, shape (events,): an Avro int or long for integers, float or double for floats."""

    values: AnyArray


@dataclass(frozen=True, slots=True)
class Arrays:
    """One Avro array an event, shape (events, length): of int or long, float (float32) or double (float64)."""

    values: AnyArray


Column = Constant | Scalars | Arrays


def encode(columns: Sequence[Column], events: int) -> list[bytes]:
    """The Avro datums of ``events`` events, their columns in the schema's order."""
    pieces: list[Sequence[bytes]] = []
    for nature, group in groupby(columns, key=_nature):
        members = list(group)
        if nature == "constant":
            pieces += [column.parts for column in members if isinstance(column, Constant)]
        elif nature == "integer":
            pieces.append(_integers(members, events))
        else:
            pieces.append(_floats(members, events))
    return [b"".join(parts) for parts in zip(*pieces, strict=True)]


def text(value: str) -> bytes:
    """An Avro string."""
    return avro_bytes(value.encode())


def _nature(column: Column) -> str:
    if isinstance(column, Constant):
        return "constant"
    return "float" if column.values.dtype.kind == "f" else "integer"


def _integers(columns: Sequence[Column], events: int) -> list[bytes]:
    """Counts, values and the closing zero of each array are all varints, so a group is one matrix."""
    widths = [_integer_width(column) for column in columns]
    matrix = np.zeros((events, sum(widths)), np.int64)
    at = 0
    for column, width in zip(columns, widths, strict=True):
        if isinstance(column, Arrays):
            length = column.values.shape[1]
            if length:
                matrix[:, at] = length
                matrix[:, at + 1 : at + 1 + length] = column.values
        elif isinstance(column, Scalars):
            matrix[:, at] = column.values
        at += width
    blob, offsets = varint.encode_rows(matrix)
    return [blob[start:end] for start, end in pairwise(offsets)]


def _integer_width(column: Column) -> int:
    if isinstance(column, Arrays) and column.values.shape[1]:
        return int(column.values.shape[1]) + 2
    return 1


def _floats(columns: Sequence[Column], events: int) -> list[bytes]:
    """Floats have a fixed width: one packed record an event."""
    fields: list[tuple[Any, ...]] = []
    constants: list[tuple[str, bytes]] = []
    values: list[tuple[str, AnyArray]] = []
    for number, column in enumerate(columns):
        if isinstance(column, Constant):
            continue
        array = column.values
        kind = "<f8" if array.dtype == np.float64 else "<f4"
        if isinstance(column, Scalars):
            fields.append((f"v{number}", kind))
            values.append((f"v{number}", array))
            continue
        length = array.shape[1]
        if length:
            count = varint.encode(length)
            fields += [(f"c{number}", "u1", (len(count),)), (f"v{number}", kind, (length,))]
            constants.append((f"c{number}", count))
            values.append((f"v{number}", array))
        fields.append((f"z{number}", "u1"))
    packed = np.zeros(events, np.dtype(fields))
    for name, count in constants:
        packed[name] = np.frombuffer(count, np.uint8)
    for name, array in values:
        packed[name] = array
    blob, width = packed.tobytes(), packed.dtype.itemsize
    return [blob[start : start + width] for start in range(0, events * width, width)]
