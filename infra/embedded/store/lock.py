"""The data folder: made, checked to be writable, and held by one process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from infra.embedded.store.errors import StoreError, StoreLocked


def hold(folder: Path) -> IO[str]:
    """The open, locked lock file; closing it (or dying) lets go. StoreLocked, StoreError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        lock = os.fdopen(descriptor, "r+", encoding="ascii")
    except OSError as error:
        raise StoreError(
            f"expected a writable data folder at {folder}, found: {error.strerror or error}. "
            "Choose another folder (--data) or give this user the right to write there."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = lock.read(32).strip() or "unknown"
        lock.close()
        raise StoreLocked(
            f"the data folder {folder} is in use by process {holder}. "
            "Stop that store, or start this one on another folder (--data)."
        ) from None
    try:
        os.pwrite(lock.fileno(), f"{os.getpid()}\n".encode(), 0)
        lock.truncate(len(f"{os.getpid()}\n"))
    except OSError as error:
        lock.close()
        raise StoreError(
            f"cannot write to the data folder {folder}: {error.strerror or error}. "
            "Free some space there, or choose another folder (--data)."
        ) from None
    return lock
