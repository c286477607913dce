"""FORMAT Native for clients that say which protocol revision they speak.

The engine writes revision 0. A client that names a revision expects, before every block, the block's info (revision
above 0), and after every column's type a byte that says how the column is serialised (revision 54454 and later, 0 =
plainly). Putting that byte in means knowing where each column ends; finding it is what this module does. The other
way round, the same is taken out of data that such a client sends.

Layout of a revision-0 block: columns and rows as varints, then per column its name, its type (strings: varint length
and bytes) and, if there are rows, its data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from infra.embedded.store.columns import Layout, Unsupported, layout, varint
from infra.embedded.store.errors import BAD_ARGUMENTS, Refusal

BLOCK_INFO: Final = bytes.fromhex("010002ffffffff00")
"""Field 1: is_overflows = 0; field 2: bucket_num = -1; 0 ends."""
CUSTOM_SERIALIZATION: Final = 54454


def splice(data: bytes, rows: int, revision: int) -> bytes:
    """Blocks as revision 0 writes them -> as `revision` expects them. `rows` is their number in all."""
    if revision <= 0 or not data:
        return data
    if revision < CUSTOM_SERIALIZATION:
        _, at = varint(data, 0)
        if varint(data, at)[0] == rows:  # one block: nothing but its beginning changes
            return BLOCK_INFO + data
    flag = b"\x00" if revision >= CUSTOM_SERIALIZATION else b""
    out = []
    at = 0
    while at < len(data):
        out.append(BLOCK_INFO)
        begin = at
        for type_end, end in _columns(data, at, flagged=False):
            out += (data[begin:type_end], flag)
            begin = type_end
            at = end
        if begin == at:  # a block without columns
            at = _bare(data, at)
        out.append(data[begin:at])
    return b"".join(out)


def unsplice(data: bytes, revision: int) -> bytes:
    """Blocks as a client of `revision` sends them -> as revision 0 reads them."""
    if revision <= 0:
        return data
    flagged = revision >= CUSTOM_SERIALIZATION
    out = []
    at = 0
    while at < len(data):
        at = _skip_info(data, at)
        begin = at
        for type_end, end in _columns(data, at, flagged=flagged):
            out.append(data[begin:type_end])
            begin = type_end + flagged
            at = end
        if begin == at:
            at = _bare(data, at)
        out.append(data[begin:at])
    return b"".join(out)


def _bare(data: bytes, at: int) -> int:
    """Where the block at ``at`` ends, which has no columns."""
    try:
        _, after = varint(data, at)
        return varint(data, after)[1]
    except IndexError:
        raise _cut() from None


def _cut() -> Refusal:
    return Refusal(BAD_ARGUMENTS, "CANNOT_READ_ALL_DATA", "Native data ends in the middle of a block")


def _skip_info(data: bytes, at: int) -> int:
    while True:
        try:
            field, at = varint(data, at)
        except IndexError:
            raise _cut() from None
        if field == 0:
            return at
        if field == 1:
            at += 1
        elif field == 2:
            at += 4
        else:
            raise Refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"Native block info has field {field}, expected 1 and 2")


def _columns(data: bytes, at: int, *, flagged: bool) -> Iterator[tuple[int, int]]:
    """(end of the column's type, end of its data) of every column of the block at `at`."""
    try:
        columns, at = varint(data, at)
        rows, at = varint(data, at)
        for _ in range(columns):
            size, at = varint(data, at)
            at += size
            size, at = varint(data, at)
            name = data[at : at + size].decode()
            at += size
            if at > len(data):
                raise IndexError
            type_end = at
            if flagged:
                if data[at] != 0:
                    raise Unsupported("a column in custom (sparse) serialisation")
                at += 1
            if rows:
                at = _skip(layout(name), data, at, rows)
            if at > len(data):
                raise IndexError
            yield type_end, at
    except Unsupported as error:
        raise Refusal(
            BAD_ARGUMENTS,
            "BAD_ARGUMENTS",
            f"FORMAT Native with client_protocol_version cannot carry {error} here: "
            "convert the column (toString, finalizeAggregation), or use another format",
        ) from None
    except (IndexError, UnicodeDecodeError):
        raise _cut() from None


def _skip(column: Layout, data: bytes, at: int, rows: int) -> int:
    return column.data(data, column.prefix(data, at), rows)
