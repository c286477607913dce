"""Starting and ending the page's server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web

from infra.config import Settings
from infra.errors import UnreachableError, UsageError
from infra.preview.boards import FOLDER, Boards
from infra.preview.guard import Guard
from infra.preview.server import Preview
from infra.preview.stores import Stores

_LOG = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def running(
    settings: Settings, *, host: str, port: int, any_port: bool = False, tenant: str = "", boards: Path = FOLDER
) -> AsyncIterator[str]:
    """A running server's address. ``any_port``: take a free one when ``port`` is in use; else UnreachableError."""
    stores = Stores(settings)
    if tenant and tenant not in stores.tenants():
        known = ", ".join(stores.tenants()) or "nobody"
        raise UsageError(
            f"no credentials for tenant {tenant!r} in store.tenant_password_dir; there are those of {known}"
        )
    guard = Guard(host)
    preview = Preview(Boards(boards), stores, guard, tenant, settings.site.name)
    runner = web.AppRunner(preview.application(), access_log=None, handler_cancellation=True, shutdown_timeout=2.0)
    await runner.setup()
    try:
        yield await _listen(runner, host, port, any_port) + (f"?token={guard.token}" if guard.token else "")
    finally:
        await runner.cleanup()
        preview.close()


async def _listen(runner: web.AppRunner, host: str, port: int, any_port: bool) -> str:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        if not any_port:
            raise UnreachableError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
        await web.TCPSite(runner, host, 0).start()
    taken = runner.addresses[-1][1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - shown, not bound
    return f"http://{f'[{shown}]' if ':' in shown and not shown.startswith('[') else shown}:{taken}/"


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    any_port: bool = False,
    tenant: str = "",
    ready: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve until SIGINT or SIGTERM. ``ready`` gets the address."""

    async def until_stopped() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with running(settings, host=host, port=port, any_port=any_port, tenant=tenant) as url:
            ready(url)
            await stop.wait()

    asyncio.run(until_stopped())


def write_ready(path: Path, url: str) -> None:
    """Tell the process that started this one where the page is."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps({"pid": os.getpid(), "url": url}), encoding="utf-8")
    fresh.replace(path)
