"""The embedded store as a child process: started, waited for, stopped, killed, restarted."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from infra.embedded.store import lock
from infra.embedded.store import users as user_files
from infra.embedded.store.config import Policies
from infra.embedded.store.errors import StoreError, StoreLocked
from infra.embedded.store.main import EXIT_LOCKED, EXIT_PORT_IN_USE, PortInUse
from infra.embedded.store.passwords import hash_password, new_password
from infra.embedded.store.users import Kind, User
from infra.processes import PARENT_VARIABLE

ADMIN: Final = "gpufleet"
"""Name of the administrator, who is always there."""


class StoreProcess:
    """An embedded store on the folder `data`.

    `port` 0 takes a free port at the first start and keeps it for restarts. `password` is the
    administrator's (`username`, "gpufleet"); without one, the password in DATA/admin.password is used, made up if
    missing. `users` are further users; tenants may be added to DATA/tenants.toml while the store runs (users.py).
    `policies` says of each table of `database` who sees which rows (config.Policies); those not named are closed to
    tenants.
    """

    def __init__(
        self,
        data: Path,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        password: str | None = None,
        users: Sequence[User] = (),
        policies: Policies | None = None,
        database: str = "gpufleet",
        arguments: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.data, self.host, self.port, self.database = data.absolute(), host, port, database
        self.username = ADMIN
        self._given = password
        self._password = password
        self._users, self._policies = tuple(users), dict(policies or {})
        self._arguments, self._clock = tuple(arguments), clock
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def password(self) -> str:
        """The administrator's password; known from the first start on."""
        if self._password is None:
            self._password = self._kept_password()
        return self._password

    @property
    def url(self) -> str:
        """http://host:port"""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id. StoreError if it does not run."""
        if self._process is None:
            raise StoreError("the store has not been started")
        return self._process.pid

    @property
    def log(self) -> Path:
        """The store's own log; the engine's is beside it (engine.log)."""
        return self.data / "log" / "store.log"

    def alive(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 60.0) -> Self:
        """Start and wait until /ping answers. StoreError (StoreLocked, PortInUse) with the store's own words."""
        if self.alive():
            return self
        lock.hold(self.data).close()  # before anything of a store that runs there is touched
        self._write_files()
        ready = self.data / "ready.json"
        output = self.data / "log" / "start.log"
        with output.open("wb") as stream:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "infra.embedded.store", "--data", str(self.data), "--host", self.host,
                    "--port", str(self.port), "--database", self.database,
                    "--policies", str(self.data / "policies.json"), *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
                start_new_session=True,
            )  # fmt: skip
        deadline = self._clock() + timeout_s
        while self._clock() < deadline:
            if self._process.poll() is not None:
                raise self._failure(self._process.returncode, output)
            with contextlib.suppress(OSError, ValueError):
                state = json.loads(ready.read_text(encoding="utf-8"))
                if state["pid"] == self._process.pid:
                    self.port = state["port"]
                    if self.ping():
                        return self
            time.sleep(0.02)
        self.kill()
        raise StoreError(f"the store did not answer within {timeout_s:.0f} s; see {self.log}")

    def ping(self, timeout_s: float = 2.0) -> bool:
        """True if the store answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self, timeout_s: float = 40.0) -> None:
        """SIGTERM: finish what runs, then end; killed when that takes longer than `timeout_s`."""
        if self._process is None:
            return
        if self.alive():
            self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """SIGKILL, at once."""
        if self._process is not None:
            if self.alive():
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def restart(self, timeout_s: float = 60.0) -> Self:
        """Stop (if it runs) and start again on the same port and folder."""
        self.stop()
        return self.start(timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _kept_password(self) -> str:
        path = self.data / "admin.password"
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                return path.read_text(encoding="utf-8").strip()
            password = new_password()
            user_files.write_secret(path, password + "\n")
        except OSError as error:
            raise _unwritable(self.data, error) from None
        return password

    def _write_files(self) -> None:
        admin = User(self.username, Kind.ADMIN, hash_password(self.password))
        try:
            (self.data / "log").mkdir(parents=True, exist_ok=True)
            user_files.write(self.data / "users.toml", (admin, *self._users))
            (self.data / "policies.json").write_text(json.dumps(self._policies, indent=1), encoding="utf-8")
        except OSError as error:
            raise _unwritable(self.data, error) from None

    def _failure(self, code: int, output: Path) -> StoreError:
        said = output.read_text(errors="replace").strip().splitlines()
        text = said[-1].removeprefix("store: ") if said else f"it ended with exit code {code} and said nothing"
        if code == EXIT_LOCKED:
            return StoreLocked(text)
        if code == EXIT_PORT_IN_USE:
            return PortInUse(text)
        return StoreError(f"the store did not start: {text}")


def _unwritable(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"expected a writable data folder at {folder}, found: {error.strerror or error}. "
        "Choose another folder, or free some space there."
    )
