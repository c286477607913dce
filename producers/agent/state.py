"""What the agent keeps on disk between runs, and how it is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

_KERNEL_LOG = "kernel-log.json"


def write_atomically(path: Path, text: str) -> None:
    """Replace the file's content in one step: a reader, or the next run, sees the old text or the new one."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def boot_id(procfs: Path) -> str:
    """The kernel's boot id; empty where the system has none (macOS)."""
    try:
        return (procfs / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def save_kernel_position(state_dir: Path, boot: str, sequence: int) -> bool:
    """Remember the last record of the kernel log that was reported in this boot; whether the disk took it."""
    try:
        write_atomically(state_dir / _KERNEL_LOG, json.dumps({"boot_id": boot, "sequence": sequence}))
    except OSError:
        return False  # a full disk; at worst the next run reports a few lines again
    return True


def kernel_position(state_dir: Path, boot: str) -> int | None:
    """The record reported last in this boot; None when there is none, or the host has rebooted since."""
    try:
        stored = json.loads((state_dir / _KERNEL_LOG).read_text())
        return int(stored["sequence"]) if stored["boot_id"] == boot else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
