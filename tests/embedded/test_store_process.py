"""The store as a process: start, stop, kill, what survives, and what it says when it cannot start."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from infra.embedded.store.errors import StoreError, StoreLocked
from infra.embedded.store.main import EXIT_LOCKED, PortInUse, loopback
from infra.embedded.store.passwords import hash_password
from infra.embedded.store.process import StoreProcess
from infra.embedded.store.users import Kind, User

pytestmark = pytest.mark.store

TABLE = "CREATE TABLE kept (x Int64) ENGINE = MergeTree ORDER BY x "
TABLE += "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"


def connect(store: StoreProcess) -> Client:
    return clickhouse_connect.get_client(
        host=store.host, port=store.port, username=store.username, password=store.password
    )


def boot(client: Client) -> str:
    return str(client.query("SELECT getMacro('gpufleet_boot')").result_rows[0][0])


def test_what_was_acknowledged_survives_a_kill_and_a_stop(tmp_path: Path) -> None:
    store = StoreProcess(tmp_path / "data")
    with store:
        port = store.port
        client = connect(store)
        client.command(TABLE)
        acknowledged = 0
        for start in range(0, 300, 10):
            client.insert("kept", [[x] for x in range(start, start + 10)], column_names=["x"])
            acknowledged += 10
        first = boot(client)
        client.close()
        store.kill()
        assert not store.alive()
        store.start()
        assert store.port == port
        client = connect(store)
        assert client.query("SELECT count(), sum(x) FROM kept").result_rows == [(acknowledged, sum(range(300)))]
        second = boot(client)
        client.close()
        store.restart()
        client = connect(store)
        assert client.query("SELECT count() FROM kept").result_rows == [(acknowledged,)]
        assert len({first, second, boot(client)}) == 3
        client.close()
    assert not store.ping()
    spool = hashlib.sha256(str(store.data / "spool").encode()).hexdigest()[:16]
    assert not list(Path("/dev/shm").glob(f"gpufleet-store-{spool}-*"))
    assert not (store.data / "ready.json").exists()


def test_a_stop_finishes_what_runs(tmp_path: Path) -> None:
    answers: list[bytes] = []
    with StoreProcess(tmp_path) as store:

        def ask() -> None:
            query = urllib.parse.urlencode({"query": "SELECT sleep(3), 'done'"})
            headers = {"X-ClickHouse-User": store.username, "X-ClickHouse-Key": store.password}
            with urllib.request.urlopen(urllib.request.Request(f"{store.url}/?{query}", headers=headers)) as answer:
                answers.append(answer.read())

        thread = threading.Thread(target=ask)
        with connect(store) as client:
            thread.start()
            running = "SELECT count() FROM system.processes WHERE query LIKE '%sleep(3)%' AND query NOT LIKE '%system%'"
            while client.query(running).result_rows == [(0,)]:
                assert thread.is_alive()
        store.stop()
        thread.join(10)
    assert answers == [b"0\tdone\n"]


def test_a_second_store_on_the_folder_is_refused(tmp_path: Path) -> None:
    with StoreProcess(tmp_path) as first:
        with pytest.raises(StoreLocked, match=rf"in use by process {first.pid}"):
            StoreProcess(tmp_path, password=first.password).start()
        assert first.ping()
        ran = subprocess.run(
            [sys.executable, "-m", "infra.embedded.store", "--data", str(tmp_path)], capture_output=True, text=True
        )
        assert ran.returncode == EXIT_LOCKED
        assert "Traceback" not in ran.stderr
        assert connect(first).ping()
        assert (tmp_path / "ready.json").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"port {port} of 127\.0\.0\.1 is in use"):
            StoreProcess(tmp_path, port).start()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="expected a writable data folder"):
        StoreProcess(tmp_path / "file" / "data").start()
    full = tmp_path / "full"
    full.mkdir()
    (full / "lock").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="No space left on device"):
        StoreProcess(full).start()


def test_other_addresses_need_a_word(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="add --allow-remote"):
        StoreProcess(tmp_path, host="0.0.0.0").start()
    assert [loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "example")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_secrets_are_kept_from_other_users_of_the_machine(tmp_path: Path) -> None:
    user = User("anna", Kind.TENANT, hash_password("annas-password"), "anna")
    with StoreProcess(tmp_path, users=[user], policies={"t": "tenant"}) as store:
        for name in ("admin.password", "users.toml"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "etc").stat().st_mode) == 0o700
        users = (tmp_path / "users.toml").read_text()
        assert store.password not in users
        assert "annas-password" not in users
        again = StoreProcess(tmp_path)
        assert again.password == store.password
        written = "".join(path.read_text(errors="replace") for path in (tmp_path / "log").iterdir())
        assert store.password not in written


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"expected \[users\.NAME\] sections"),
        ("[users", "is not TOML"),
        ('[users.a]\nkind = "king"\npassword = "x"', "expected kind to be one of admin, writer, operator"),
        ('[users.a]\nkind = "tenant"\npassword = "x"', "`tenant` goes with kind"),
        ('[users.a]\nkind = "reader"\npassword = "plain"', "expected scrypt"),
        ('[users.a]\nkind = "reader"\nsecret = "plain"', "found also secret"),
    ],
)
def test_a_wrong_users_file_is_explained(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "users.toml").write_text(text)
    ran = subprocess.run(
        [sys.executable, "-m", "infra.embedded.store", "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1
    assert re.search(reason, ran.stderr), ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_store_follows_its_parent(tmp_path: Path) -> None:
    """A kill -9 of whoever started it ends the store too, so that the folder is free again."""
    program = (
        "import os, sys; from pathlib import Path; from infra.embedded.store.process import StoreProcess; "
        "s = StoreProcess(Path(sys.argv[1])).start(); print(s.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == -9
    pid = int(ran.stdout)
    for _ in range(1_200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        threading.Event().wait(0.05)
    with StoreProcess(tmp_path) as store:
        assert store.ping()


def test_a_full_body_spool_refuses_and_goes_on(tmp_path: Path) -> None:
    with StoreProcess(tmp_path, arguments=["--max-body-bytes", "100000"]) as store, connect(store) as client:
        client.command("CREATE TABLE t (x String) ENGINE = MergeTree ORDER BY x")
        headers = {"X-ClickHouse-User": store.username, "X-ClickHouse-Key": store.password}
        url = f"{store.url}/?{urllib.parse.urlencode({'query': 'INSERT INTO t FORMAT TSV'})}"
        with pytest.raises(urllib.error.HTTPError, match="413"):
            urllib.request.urlopen(urllib.request.Request(url, b"a\n" * 60_000, headers))
        assert client.query("SELECT count() FROM t").result_rows == [(0,)]
        urllib.request.urlopen(urllib.request.Request(url, b"a\n" * 40_000, headers)).close()
        assert client.query("SELECT count() FROM t").result_rows == [(40_000,)]
