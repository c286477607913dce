"""Content encodings of bodies: gzip, deflate, lz4 (frame), zstd."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import lz4.frame
import zstandard

from infra.embedded.store.errors import CANNOT_DECOMPRESS, Refusal

ENCODINGS: Final = ("lz4", "zstd", "gzip", "deflate")
PIECE_BYTES: Final = 8 << 20
"""Longest piece of plain text: 4096 bytes of gzip become 4 MiB at most, a block of lz4 4 MiB, 128 bytes of zstd some
32 blocks of 128 KiB and what was begun before."""
ZSTD_WINDOW_BYTES: Final = 8 << 20
"""What a frame may have its reader keep; that of every level up to 19."""


class Codec(Protocol):
    """Turns a body into another, piece by piece."""

    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class Decoder:
    """Decodes a body, one frame after another if it has several, never holding more than a piece of the plain text.

    A few bytes can stand for gigabytes. So the packed bytes go in by so few at a time that what comes out is bounded
    by the format's greatest ratio.
    """

    def __init__(self, name: str, step: int, make: Callable[[], object], error: type[Exception]) -> None:
        self._name, self._step, self._make, self._error = name, step, make, error
        self._raw: object = make()
        self._begun = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The plain text of so much of the body, none longer than ``PIECE_BYTES``. Refusal for what is not packed."""
        for at in range(0, len(data), self._step):
            yield from self._plain(data[at : at + self._step])

    def finish(self) -> None:
        """The body has ended. Refusal when a frame has not."""
        if self._begun and not getattr(self._raw, "eof", True):
            raise Refusal(CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", f"{self._name} body ends in the middle", 400)

    def _plain(self, data: bytes) -> Iterator[bytes]:
        while data:
            try:
                if getattr(self._raw, "eof", False):
                    self._raw = self._make()
                self._begun = True
                piece: bytes = self._raw.decompress(data)  # type: ignore[attr-defined]
            except (self._error, RuntimeError) as error:
                raise Refusal(CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", f"{self._name} body: {error}", 400) from None
            if piece:
                yield piece
            data = getattr(self._raw, "unused_data", b"") or b""


class _Writer:
    def __init__(self, feed: Callable[[bytes], bytes], finish: Callable[[], bytes], head: bytes = b"") -> None:
        self._feed, self._finish, self._head = feed, finish, head

    def feed(self, data: bytes) -> bytes:
        head, self._head = self._head, b""
        return head + self._feed(data)

    def finish(self) -> bytes:
        return self._head + self._finish()


def decoder(encoding: str) -> Decoder | None:
    """The decoder of a request body's Content-Encoding; None for plain. Refusal for one that is not known."""
    match encoding:
        case "" | "identity":
            return None
        case "gzip":
            return Decoder("gzip", 4096, lambda: zlib.decompressobj(31), zlib.error)
        case "deflate":
            return Decoder("deflate", 4096, zlib.decompressobj, zlib.error)
        case "lz4":
            return Decoder("lz4", 4096, lz4.frame.LZ4FrameDecompressor, RuntimeError)
        case "zstd":
            return Decoder("zstd", 128, _zstd, zstandard.ZstdError)
    known = ", ".join(ENCODINGS)
    raise Refusal(CANNOT_DECOMPRESS, "UNKNOWN_COMPRESSION_METHOD", f"Content-Encoding {encoding!r}, not {known}", 400)


def _zstd() -> object:
    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()


def choose(accepted: str) -> str:
    """The encoding for an answer from an Accept-Encoding header: the first that is known, else none."""
    for entry in accepted.split(","):
        name, _, quality = entry.partition(";")
        if name.strip() in ENCODINGS and quality.replace(" ", "") not in ("q=0", "q=0.0"):
            return name.strip()
    return ""


def encoder(encoding: str) -> Codec:
    """An encoder for an answer, at its fastest useful level."""
    match encoding:
        case "gzip":
            gzip = zlib.compressobj(3, zlib.DEFLATED, 31)
            return _Writer(gzip.compress, gzip.flush)
        case "deflate":
            deflate = zlib.compressobj(3)
            return _Writer(deflate.compress, deflate.flush)
        case "lz4":
            frame = lz4.frame.LZ4FrameCompressor()
            return _Writer(frame.compress, frame.flush, frame.begin())
        case "zstd":
            zstd = zstandard.ZstdCompressor(level=1).compressobj()
            return _Writer(zstd.compress, zstd.flush)
    raise ValueError(f"no encoder for {encoding!r}")
