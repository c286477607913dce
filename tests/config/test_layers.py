"""Where settings come from, and which place wins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.config import Settings, load, remove_runtime, write_runtime
from infra.errors import ConfigError


def loaded(folder: Path, text: str = "", environ: dict[str, str] | None = None, **options: object) -> Settings:
    if text:
        (folder / "gpufleet.toml").write_text(text)
    return load(environ=environ or {}, cwd=folder, **options)  # type: ignore[arg-type]


def test_defaults_without_any_source(tmp_path: Path) -> None:
    settings = loaded(tmp_path)
    assert settings.kafka.bootstrap == "127.0.0.1:9092"
    assert settings.origin("kafka.bootstrap") == "default"


def test_a_later_place_wins_and_each_value_knows_its_own(tmp_path: Path) -> None:
    text = '[kafka]\nbootstrap = "file:1"\nclient_id = "from-file"\npartitions = 3\n[site]\nname = "colossus"\n'
    environ = {"GPUFLEET_KAFKA_CLIENT_ID": "from-env", "GPUFLEET_KAFKA_PARTITIONS": "4"}
    settings = loaded(tmp_path, text, environ, flags={"kafka.partitions": "5"})
    assert (settings.kafka.bootstrap, settings.kafka.client_id, settings.kafka.partitions) == ("file:1", "from-env", 5)
    assert settings.origin("site.name").endswith("gpufleet.toml")
    assert settings.origin("kafka.client_id") == "environment GPUFLEET_KAFKA_CLIENT_ID"
    assert settings.origin("kafka.partitions") == "flag"


def test_a_flag_that_was_not_given_changes_nothing(tmp_path: Path) -> None:
    settings = loaded(tmp_path, '[kafka]\nbootstrap = "file:1"\n').with_flags(
        {"kafka.bootstrap": None, "site.name": "x"}
    )
    assert settings.kafka.bootstrap == "file:1"
    assert settings.origin("site.name") == "flag"


def test_the_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no settings file .*nowhere\.toml; `gpufleet config init"):
        load(Path("nowhere.toml"), environ={}, cwd=tmp_path)


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('[site]\nname = "mars"\n')
    assert load(environ={"GPUFLEET_CONFIG": "other.toml"}, cwd=tmp_path).site.name == "mars"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[kafka]\nbootstrp = "a:1"\n', "unknown setting 'kafka.bootstrp'; did you mean 'kafka.bootstrap'"),
        ('[kafak]\nbootstrap = "a:1"\n', "unknown setting 'kafak.bootstrap'; did you mean 'kafka.bootstrap'"),
        ("[agent.nvlm]\nenabled = false\n", "unknown setting 'agent.nvlm.enabled'; did you mean 'agent.nvml.enabled'"),
        ("kafka = 3\n", r"expected a table \[kafka\], found a single value"),
        ("[kafka\n", "not valid TOML"),
        ('[kafka]\nbootstrap = "broker"\n', r"kafka.bootstrap \(file .*\): expected host:port.*found 'broker'"),
        ("[kafka]\npartitions = 0\n", r"kafka.partitions \(file .*\): .*greater than or equal to 1, found 0"),
        ('[kafka]\nsecurity_protocol = "tls"\n', r"kafka.security_protocol \(file .*'plaintext'.*found 'tls'"),
        ('[kafka]\nsecurity_protocol = "sasl_ssl"\n', "'sasl_ssl' needs sasl_mechanism"),
        ("[agent]\ntick_ms = 7000\n", "an event must never cross a UTC minute.*7000"),
        ("[retention]\nraw_days = 200\n", "coarser tiers outlive finer ones.*200"),
        ('[store]\nurl = "localhost:8123"\n', "expected http://host:port"),
    ],
)
def test_a_mistake_in_the_file_names_the_key_and_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, text)


def test_every_unknown_key_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, '[kafka]\nbootstrp = "a:1"\npartition = 3\n')
    assert len(caught.value.message.splitlines()) == 2


def test_a_typo_in_the_environment_names_the_nearest_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="GPUFLEET_STORE_USR; did you mean GPUFLEET_STORE_USER"):
        loaded(tmp_path, environ={"GPUFLEET_STORE_USR": "x"})


def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path) -> None:
    loaded(tmp_path, environ={"GPUFLEET_REQUIRE": "kafka", "GPUFLEET_TEST_ANYTHING": "1", "OTHER": "2"})


def test_paths_in_a_file_count_from_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "fleet.toml").write_text('[agent]\nstate_dir = "state"\n[store]\nca = ""\n')
    settings = load(Path("etc/fleet.toml"), environ={}, cwd=tmp_path)
    assert settings.agent.state_dir == folder / "state"
    assert settings.store.ca is None


def test_free_options_add_up_over_the_layers(tmp_path: Path) -> None:
    text = '[kafka.librdkafka]\n"socket.timeout.ms" = "5000"\n"log_level" = 3\n"enable.idempotence" = true\n'
    settings = loaded(tmp_path, text, {"GPUFLEET_KAFKA_LIBRDKAFKA": "log_level=7,debug=broker"})
    assert settings.kafka.librdkafka == {
        "socket.timeout.ms": "5000",
        "log_level": "7",
        "enable.idempotence": "true",
        "debug": "broker",
    }
    more = settings.with_flags({"kafka.librdkafka": {"debug": "all"}})
    assert more.kafka.librdkafka == {**settings.kafka.librdkafka, "debug": "all"}


def test_free_options_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected name=value"):
        loaded(tmp_path, environ={"GPUFLEET_KAFKA_LIBRDKAFKA": "log_level"})


def test_a_running_up_is_found_in_the_working_folder(tmp_path: Path) -> None:
    data = tmp_path / "gpufleet-data"
    data.mkdir()
    write_runtime(data, {"kafka.bootstrap": "127.0.0.1:4242", "store.url": "http://127.0.0.1:4343"})
    settings = loaded(tmp_path, '[kafka]\nbootstrap = "production:9092"\n')
    assert settings.kafka.bootstrap == "127.0.0.1:4242"
    assert settings.origin("kafka.bootstrap").endswith("runtime.toml")
    assert settings.store.port == 4343
    remove_runtime(data)
    assert loaded(tmp_path).kafka.bootstrap == "production:9092"


def test_a_named_file_is_not_overridden_by_a_running_up_nearby(tmp_path: Path) -> None:
    (tmp_path / "gpufleet-data").mkdir()
    write_runtime(tmp_path / "gpufleet-data", {"kafka.bootstrap": "127.0.0.1:4242"})
    (tmp_path / "prod.toml").write_text('[kafka]\nbootstrap = "production:9092"\n')
    assert load(Path("prod.toml"), environ={}, cwd=tmp_path).kafka.bootstrap == "production:9092"


def test_a_dead_up_is_ignored_and_refused_when_asked_for(tmp_path: Path) -> None:
    data = tmp_path / "gpufleet-data"
    data.mkdir()
    write_runtime(data, {"kafka.bootstrap": "127.0.0.1:4242"}, pid=_unused_pid())
    assert loaded(tmp_path).kafka.bootstrap == "127.0.0.1:9092"
    with pytest.raises(ConfigError, match="expected a running `gpufleet up --data"):
        loaded(tmp_path, data=data)


def test_a_secret_is_never_written_into_the_runtime_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"store.password is a secret: write store.password_file"):
        write_runtime(tmp_path, {"store.password": "hunter2"})


def _unused_pid() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child
