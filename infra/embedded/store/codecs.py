"""Content encodings of bodies: gzip, deflate, lz4 (frame), zstd."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, Protocol

import lz4.frame
import zstandard

from infra.embedded.store.errors import CANNOT_DECOMPRESS, Refusal

ENCODINGS: Final = ("lz4", "zstd", "gzip", "deflate")


class Codec(Protocol):
    """Turns a body into another, piece by piece."""

    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class _Reader:
    """Decodes; one frame after another if the body has several."""

    def __init__(self, name: str, make: Callable[[], object], error: type[Exception]) -> None:
        self._name, self._make, self._error = name, make, error
        self._raw: object = make()
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        parts = []
        while data:
            try:
                if getattr(self._raw, "eof", False):
                    self._raw = self._make()
                self._begun = True
                parts.append(self._raw.decompress(data))  # type: ignore[attr-defined]
            except (self._error, RuntimeError) as error:
                raise Refusal(CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", f"{self._name} body: {error}", 400) from None
            data = getattr(self._raw, "unused_data", b"") or b""
        return b"".join(parts)

    def finish(self) -> bytes:
        if self._begun and not getattr(self._raw, "eof", True):
            raise Refusal(CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", f"{self._name} body ends in the middle", 400)
        return b""


class _Writer:
    def __init__(self, feed: Callable[[bytes], bytes], finish: Callable[[], bytes], head: bytes = b"") -> None:
        self._feed, self._finish, self._head = feed, finish, head

    def feed(self, data: bytes) -> bytes:
        head, self._head = self._head, b""
        return head + self._feed(data)

    def finish(self) -> bytes:
        return self._head + self._finish()


def decoder(encoding: str) -> Codec | None:
    """The decoder of a request body's Content-Encoding; None for plain. Refusal for one that is not known."""
    match encoding:
        case "" | "identity":
            return None
        case "gzip":
            return _Reader("gzip", lambda: zlib.decompressobj(31), zlib.error)
        case "deflate":
            return _Reader("deflate", zlib.decompressobj, zlib.error)
        case "lz4":
            return _Reader("lz4", lz4.frame.LZ4FrameDecompressor, RuntimeError)
        case "zstd":
            return _Reader("zstd", lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError)
    known = ", ".join(ENCODINGS)
    raise Refusal(CANNOT_DECOMPRESS, "UNKNOWN_COMPRESSION_METHOD", f"Content-Encoding {encoding!r}, not {known}", 400)


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
