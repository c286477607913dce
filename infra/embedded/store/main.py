"""The store's process: arguments, data folder, engine, HTTP server, orderly end.

Exit codes: 0 stopped as asked, 1 it cannot work (folder, users file, engine), 2 usage, 4 the data folder is in use
by another store, 5 the port is in use.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import ipaddress
import json
import logging
import os
import secrets
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.embedded.store import config, lock
from infra.embedded.store.errors import StoreError, StoreLocked
from infra.embedded.store.user_book import UserBook
from infra.processes import follow_parent

if TYPE_CHECKING:
    from aiohttp import web

EXIT_FAILED: Final = 1
EXIT_LOCKED: Final = 4
EXIT_PORT_IN_USE: Final = 5


class PortInUse(StoreError):  # noqa: N818 - names the state
    """Something else listens on the address."""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.embedded.store", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder, made if missing")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default 0: any free one)")
    parser.add_argument("--users", type=Path, help="users.toml (default: DATA/users.toml)")
    parser.add_argument("--tenants", type=Path, help="more users, tenants only (default: DATA/tenants.toml)")
    parser.add_argument("--policies", type=Path, help="JSON object: table -> who sees which rows (docs/embedded.md)")
    parser.add_argument("--database", default="gpufleet", help="database that writers and tenants may use")
    parser.add_argument("--ready-file", type=Path, help="written when the store answers (default: DATA/ready.json)")
    parser.add_argument("--allow-remote", action="store_true", help="let --host be other than a loopback address")
    parser.add_argument("--memory-bytes", type=int, default=0, help="memory for queries (default: half the machine's)")
    parser.add_argument("--max-body-bytes", type=int, default=512 << 20, help="longest request body, decompressed")
    parser.add_argument("--max-waiting-bytes", type=int, default=2 << 30, help="bodies held at the same time")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the store; the exit code."""
    follow_parent()
    options = arguments(argv)
    try:
        return run(options)
    except StoreLocked as error:
        print(f"store: {error}", file=sys.stderr)
        return EXIT_LOCKED
    except PortInUse as error:
        print(f"store: {error}", file=sys.stderr)
        return EXIT_PORT_IN_USE
    except StoreError as error:
        print(f"store: {error}", file=sys.stderr)
        return EXIT_FAILED


def run(options: argparse.Namespace) -> int:
    """Open the folder and serve. StoreError when that is not possible."""
    if not loopback(options.host):
        if not options.allow_remote:
            raise StoreError(
                f"--host {options.host} can be reached from other machines, and the store speaks plain HTTP. "
                "Use 127.0.0.1, or add --allow-remote behind a TLS proxy."
            )
        print(f"store: warning: listening on {options.host} without TLS", file=sys.stderr)
    data: Path = options.data.absolute()
    with lock.hold(data):
        log = _prepare(data)
        users = UserBook(options.users or data / "users.toml", options.tenants or data / "tenants.toml")
        policies = _policies(options.policies)
        carriers = config.Carriers(secrets.token_hex(16), secrets.token_hex(16))
        boot = str(uuid.uuid4())
        filters = config.row_filters(policies, options.database, carriers)
        limits = config.Limits(memory=options.memory_bytes)
        file = config.write(data / "etc", log / "engine.log", limits, filters, carriers.admin, boot)

        os.environ["TZ"] = "UTC"  # the engine takes its time zone from here, not from its configuration
        time.tzset()
        from infra.embedded.store.engine import Engine

        try:
            from infra.embedded.store.body import Spool
            from infra.embedded.store.server import Server
        except ImportError as error:
            raise StoreError(f"the embedded store needs {error.name}: pip install 'gpufleet[embedded]'") from None
        spool = Spool(data / "spool", options.max_body_bytes, options.max_waiting_bytes)
        engine = Engine(data / "db", file, carriers)
        try:
            server = Server(engine, users, policies, spool, options.database, time.monotonic)
            try:
                ready = options.ready_file or data / "ready.json"
                asyncio.run(_serve(server.application(), options.host, options.port, ready))
            finally:
                server.close()
        finally:
            engine.close()
            spool.close()
    return 0


async def _serve(application: web.Application, host: str, port: int, ready: Path) -> None:
    from aiohttp import web

    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, shutdown_timeout=30.0, auto_decompress=False
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"port {port} of {host} is in use. Choose another (--port), or 0 for any free one."
                ) from None
            raise StoreError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        chosen = runner.addresses[0][1]
        temporary = ready.with_name(ready.name + ".new")
        temporary.write_text(json.dumps({"pid": os.getpid(), "host": host, "port": chosen}), encoding="utf-8")
        temporary.replace(ready)
        print(f"listening on http://{host}:{chosen}", flush=True)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await stop.wait()
    finally:
        ready.unlink(missing_ok=True)
        await runner.cleanup()


def loopback(host: str) -> bool:
    """True for addresses that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _prepare(data: Path) -> Path:
    try:
        for name in ("etc", "log"):
            (data / name).mkdir(exist_ok=True)
            (data / name).chmod(0o700)
        handler = RotatingFileHandler(data / "log" / "store.log", maxBytes=10 << 20, backupCount=3)
    except OSError as error:
        raise StoreError(f"cannot write to the data folder {data}: {error.strerror or error}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return data / "log"


def _policies(path: Path | None) -> dict[str, config.Policy]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read the policies file {path}: {error}") from None
    if not isinstance(content, dict) or not all(v is None or isinstance(v, str | dict) for v in content.values()):
        raise StoreError(f"{path}: expected a JSON object of table -> tenant column, null or an object")
    try:
        return config.policies_of(content)
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from None
