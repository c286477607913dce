"""A network interface's driver statistics (``ethtool -S``) by ioctl: pause frames and discards are only there."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946
ETHTOOL_GSSET_INFO = 0x37
ETHTOOL_GSTRINGS = 0x1B
ETHTOOL_GSTATS = 0x1D
SET_STATISTICS = 1
NAME_BYTES = 32


class EthtoolStatistics:
    """Statistics of interfaces; the names of each are asked for once."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._names: dict[str, list[str]] = {}

    def read(self, interface: str) -> dict[str, int]:
        """Name -> count; empty when the driver has no statistics or the interface is gone."""
        try:
            names = self._names.get(interface)
            if names is None:
                names = self._names[interface] = self._ask_names(interface)
            if not names:
                return {}
            request = array.array("B", struct.pack("=II", ETHTOOL_GSTATS, len(names)) + bytes(8 * len(names)))
            self._ioctl(interface, request)
        except OSError:
            self._names.pop(interface, None)
            return {}
        return dict(zip(names, struct.unpack_from(f"={len(names)}Q", request, 8), strict=True))

    def close(self) -> None:
        """Let go of the socket; the next read opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask_names(self, interface: str) -> list[str]:
        request = array.array("B", struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << SET_STATISTICS, 0))
        self._ioctl(interface, request)
        (mask, count) = struct.unpack_from("=QI", request, 8)
        if not mask or not count:
            return []
        head = struct.pack("=III", ETHTOOL_GSTRINGS, SET_STATISTICS, count)
        request = array.array("B", head + bytes(NAME_BYTES * count))
        self._ioctl(interface, request)
        text = request.tobytes()[len(head) :]
        return [text[at : at + NAME_BYTES].split(b"\0")[0].decode() for at in range(0, len(text), NAME_BYTES)]

    def _ioctl(self, interface: str, request: array.array[int]) -> None:
        address, _ = request.buffer_info()
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        fcntl.ioctl(self._socket, SIOCETHTOOL, struct.pack("16sP16x", interface.encode()[:15], address))
