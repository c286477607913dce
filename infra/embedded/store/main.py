"""The store's process: arguments, data folder, engine, HTTP server, orderly end.

Exit codes: 0 stopped as asked, 1 it cannot work (folder, users file, engine), 2 usage, 4 the data folder is in use
by another store, 5 the port is in use.

When the engine has lost a write (writes.py), the process replaces itself: the same process id, port and arguments, and
--after-lost-writes, with which it waits for room (room.py) and removes the parts that the engine sets aside
(leftovers.py). Whoever started it sees no end, and needs to do nothing.
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
from collections.abc import Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from infra.embedded.store import config, lock, room
from infra.embedded.store.errors import StoreError, StoreLocked
from infra.embedded.store.leftovers import Leftovers
from infra.embedded.store.user_book import UserBook
from infra.processes import follow_parent

if TYPE_CHECKING:
    from infra.embedded.store.server import Server
    from infra.embedded.store.writes import Writes

EXIT_FAILED: Final = 1
EXIT_LOCKED: Final = 4
EXIT_PORT_IN_USE: Final = 5
READ_AHEAD_BYTES: Final = 1 << 20
"""Of a body, for each connection: with the usual 64 KiB, receiving a large insert takes a fifth more CPU."""
PATIENCE_S: Final = 5.0
"""For how long a store that lost a write lets its clients have their answers."""

_LOG = logging.getLogger(__name__)


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
    parser.add_argument("--after-lost-writes", action="store_true", help="start when there is room, and tidy up")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the store; the exit code."""
    environment = dict(os.environ)
    follow_parent()
    options = arguments(argv)
    given = list(sys.argv[1:] if argv is None else argv)

    def anew(port: int) -> NoReturn:
        told = [] if options.after_lost_writes else ["--after-lost-writes"]
        program = [sys.executable, "-m", "infra.embedded.store", *given, *told, "--port", str(port)]
        os.execve(sys.executable, program, environment)  # noqa: S606 - this program

    try:
        try:
            return run(options, anew)
        except (OSError, StoreError) as error:
            if not (options.after_lost_writes and room.lacks(error)):
                raise
            _LOG.warning("the room that was waited for is gone again: %s", error)
            time.sleep(room.LOOK_S)
            anew(options.port)
    except StoreLocked as error:
        print(f"store: {error}", file=sys.stderr)
        return EXIT_LOCKED
    except PortInUse as error:
        print(f"store: {error}", file=sys.stderr)
        return EXIT_PORT_IN_USE
    except StoreError as error:
        print(f"store: {error}", file=sys.stderr)
        return EXIT_FAILED


def run(options: argparse.Namespace, anew: Callable[[int], NoReturn]) -> int:
    """Open the folder and serve. StoreError when that is not possible. ``anew`` starts this process again, on the port
    given."""
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
        if options.after_lost_writes and not _wait_for_room(data, options.host, options.port):
            return 0
        leftovers = _leftovers(data) if options.after_lost_writes else None
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
            from infra.embedded.store.writes import Writes
        except ImportError as error:
            raise StoreError(f"the embedded store needs {error.name}: pip install 'gpufleet[embedded]'") from None
        spool = Spool(data / "spool", options.max_body_bytes, options.max_waiting_bytes)
        engine = Engine(data / "db", file, carriers)
        if leftovers is not None:
            _LOG.warning("removed parts with missing bytes: %s", ", ".join(leftovers.remove()) or "none")
        try:
            writes = Writes(engine, data)
            server = Server(engine, users, policies, spool, writes, options.database, time.monotonic)
            try:
                ready = options.ready_file or data / "ready.json"
                asyncio.run(_serve(server, writes, options.host, options.port, ready, anew))
            finally:
                server.close()
        finally:
            engine.close()
            spool.close()
    return 0


async def _serve(
    server: Server, writes: Writes, host: str, port: int, ready: Path, anew: Callable[[int], NoReturn]
) -> None:
    from aiohttp import web

    runner = web.AppRunner(
        server.application(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=30.0,
        auto_decompress=False,
        read_bufsize=READ_AHEAD_BYTES,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise _unheard(host, port, error) from None
        chosen = runner.addresses[0][1]
        temporary = ready.with_name(ready.name + ".new")
        temporary.write_text(json.dumps({"pid": os.getpid(), "host": host, "port": chosen}), encoding="utf-8")
        temporary.replace(ready)
        print(f"listening on http://{host}:{chosen}", flush=True)
        stop, woken = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def end() -> None:
            stop.set()
            woken.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        writes.when_lost(lambda: loop.call_soon_threadsafe(woken.set))
        await woken.wait()
        if not stop.is_set():
            await server.quiet(PATIENCE_S)
        if not stop.is_set():
            # Without closing anything, as after a kill: what the engine holds is not to be written any more.
            _LOG.warning("starting anew")
            ready.unlink(missing_ok=True)
            anew(chosen)
    finally:
        ready.unlink(missing_ok=True)
        await runner.cleanup()


def _wait_for_room(data: Path, host: str, port: int) -> bool:
    try:
        return asyncio.run(room.wait(data, host, port))
    except OSError as error:
        raise _unheard(host, port, error) from None


def _leftovers(data: Path) -> Leftovers:
    try:
        since = (data / "etc" / "config.xml").stat().st_mtime  # written at every start, and not yet at this one
    except OSError:
        since = time.time()
    return Leftovers(data / "db", since)


def _unheard(host: str, port: int, error: OSError) -> StoreError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"port {port} of {host} is in use. Choose another (setting embedded.store_port), or 0 for any free one."
        )
    return StoreError(f"cannot listen on {host}:{port}: {error.strerror or error}")


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
