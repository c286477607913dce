"""Room on the disk: how little is too little, and a start that waits for more."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.embedded.store.errors import NOT_ENOUGH_SPACE, Refusal

if TYPE_CHECKING:
    from aiohttp import web

_LOG = logging.getLogger(__name__)
RESERVE: Final = 64 << 20
"""Bytes. With less than this free nothing new is written: what is being written, merges that free space and a start
still find room."""
LOOK_S: Final = 0.5
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


def free(folder: Path) -> int:
    """Bytes that may still be written below ``folder``."""
    held = os.statvfs(folder)
    return held.f_bavail * held.f_frsize


def enough(folder: Path) -> bool:
    """Whether there is room for a start: said by the file system, and tried, since a quota is not in what it says."""
    if free(folder) < RESERVE:
        return False
    if not hasattr(os, "posix_fallocate"):  # macOS
        return True
    path = folder / "room"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE // 2)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return True


def lacks(error: Exception) -> bool:
    """Whether this is what lack of room looks like, be it in the words of the engine."""
    return any(getattr(error, "errno", None) == code or os.strerror(code) in str(error) for code in _NO_ROOM)


def no_room(what: str) -> Refusal:
    """The refusal that clients of ClickHouse know a full disk by, and try again after."""
    return Refusal(NOT_ENOUGH_SPACE, "NOT_ENOUGH_SPACE", what)


async def wait(folder: Path, host: str, port: int) -> bool:
    """Until there is room for a start; False when told to stop (SIGTERM, SIGINT) before. Whoever asks the store
    meanwhile is told so, on the address that it will have. OSError when that is not free."""
    if enough(folder):
        return True
    _LOG.warning("waiting for %d MiB of free space", RESERVE >> 20)
    from aiohttp import web

    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    app = web.Application(client_max_size=1 << 40)
    app.router.add_route("*", "/{anything:.*}", _refuse)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        while not told.is_set() and not enough(folder):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), LOOK_S)
    finally:
        await runner.cleanup()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return not told.is_set()


async def _refuse(_request: web.Request) -> web.Response:
    from aiohttp import web

    refusal = no_room(f"The disk is full: the store starts when {RESERVE >> 20} MiB are free")
    headers = {"X-ClickHouse-Exception-Code": str(refusal.code)}
    return web.Response(status=refusal.status, text=f"{refusal}\n", headers=headers)
