"""Where a running ``gpufleet up`` says how to reach it: ``<data folder>/runtime.toml``.

The file holds settings like any other, plus a table ``[runtime]`` with the process that vouches for them. Once that
process is gone the file is stale and is not used.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.config.leaves import leaves
from infra.config.toml import render

FILE = "runtime.toml"
DEFAULT_FOLDER = Path("gpufleet-data")


def write_runtime(folder: Path, values: Mapping[str, Any], pid: int | None = None) -> Path:
    """Publish settings (dotted keys) of the running process ``pid`` (default: this one) in ``folder``.

    Written beside and renamed, so that a reader never sees half a file. KeyError for a key that is no setting;
    ValueError for a secret, which belongs into a file named by its ``_file`` companion.
    """
    for key in values:
        if leaves()[key].secret:
            raise ValueError(f"{key} is a secret: write {key}_file instead")
    path = folder / FILE
    fresh = folder / f".{FILE}.new"
    header = "# Written by `gpufleet up` while it runs; other commands find it here. Changes are lost.\n"
    fresh.write_text(header + render({**values, "runtime.pid": pid or os.getpid()}))
    fresh.replace(path)
    return path


def remove_runtime(folder: Path) -> None:
    """The process that wrote it stops."""
    (folder / FILE).unlink(missing_ok=True)


def running_pid(path: Path) -> int | None:
    """Process behind a runtime file; None when there is no file, or it is stale."""
    try:
        pid = tomllib.loads(path.read_text())["runtime"]["pid"]
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return pid if isinstance(pid, int) and _alive(pid) else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
