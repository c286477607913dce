"""A small file system in memory, whose room is taken away and given back: real ENOSPC, no ballast."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


class Disk:
    """Mounted on a folder. ``mount`` makes one."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        self.folder = folder
        self._size_mb = size_mb
        self.full = False

    @classmethod
    def mount(cls, folder: Path, size_mb: int) -> Disk | None:
        """On the folder, where we may (root on Linux); None elsewhere."""
        if sys.platform != "linux" or os.geteuid() != 0:
            return None
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "gpufleet-chaos", str(folder)],
            capture_output=True,
            check=False,
        )
        return cls(folder, size_mb) if done.returncode == 0 else None

    def fill(self) -> None:
        """No room from now on, in the middle of writes: the file system shrinks to what it holds."""
        while True:
            held = os.statvfs(self.folder)
            if self._remount(str((held.f_blocks - held.f_bfree) * held.f_frsize)):
                break  # refused when something was written between the two
        self.full = True

    def make_room(self) -> None:
        """As before."""
        if not self._remount(f"{self._size_mb}m"):
            raise OSError(f"{self.folder} cannot be given its room again")
        self.full = False

    def unmount(self) -> None:
        """Even while somebody has files open."""
        subprocess.run(["umount", "-l", str(self.folder)], check=False)

    def _remount(self, size: str) -> bool:
        arguments = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        return subprocess.run(arguments, capture_output=True, check=False).returncode == 0
