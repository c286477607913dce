"""The dashboards' page beside a running stack: a process of its own, whose end ends nothing else."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.embedded.child import Child

_START_S = 60.0


class Preview:
    """``gpufleet preview serve`` on a data folder. It asks as the settings' user, who may read and no more."""

    def __init__(self, data: Path) -> None:
        self._data = data.absolute()
        self._ready = self._data / "preview.json"
        self._child: Child | None = None
        self.url = ""
        """Where it is; empty while it is not."""
        self.trouble = ""
        """Why it is not, in a line; empty when it is, or was not asked for."""

    def start(self) -> Self:
        """Start it and wait for its address. It never raises: what it says of itself is in ``trouble``."""
        if importlib.util.find_spec("plotly") is None or importlib.util.find_spec("aiohttp") is None:
            self.trouble = "it needs pip install 'gpufleet[embedded]'"
            return self
        self._ready.unlink(missing_ok=True)
        command = ["preview", "serve", "--data", str(self._data), "--ready-file", str(self._ready)]
        self._child = Child([sys.executable, "-m", "infra.cli.main", *command], self._data / "log" / "preview.log")
        deadline = time.monotonic() + _START_S
        while self._child.alive() and time.monotonic() < deadline:
            try:
                self.url = str(json.loads(self._ready.read_text(encoding="utf-8"))["url"])
                return self
            except (OSError, ValueError, KeyError):
                time.sleep(0.05)
        self.trouble = (self._child.tail(1) or "it did not start").removeprefix("gpufleet: ")
        self.stop()
        return self

    def stop(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.stop(5.0)
            self._child = None
        self._ready.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
