"""How the one command finds its subcommands, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import click
import pytest

from infra.cli.common import explain, run_to_exit_code
from infra.cli.main import COMMANDS, cli
from infra.errors import ConfigError, GpufleetError, UnreachableError, UsageError


def gpufleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.cli.main", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_an_unknown_command_suggests_the_nearest() -> None:
    done = gpufleet("simulat")
    assert done.returncode == 2
    assert "did you mean 'simulate'?" in done.stderr
    assert done.stdout == ""


def test_help_lists_every_command_without_importing_them() -> None:
    code = (
        "import sys; from infra.cli.main import cli; cli.main(['--help'], standalone_mode=False);"
        "heavy = ('confluent_kafka', 'clickhouse_connect', 'numpy', 'pydantic');"
        "print([module for module in sys.modules if module.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    *text, loaded = done.stdout.splitlines()
    assert all(any(line.split()[:1] == [name] for line in text) for name in COMMANDS)
    assert loaded == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_says_what_it_does(name: str) -> None:
    command = import_module(f"infra.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.help


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GpufleetError("found something"), 1),
        (UsageError("makes no sense"), 2),
        (ConfigError("wrong key"), 2),
        (click.BadParameter("not a number"), 2),
        (UnreachableError("no broker"), 3),
        (PermissionError(13, "Permission denied", "/data"), 3),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (BrokenPipeError(), 0),
    ],
)
def test_exit_codes_and_one_message(error: BaseException, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_to_exit_code(raising(error)) == code
    told = capfd.readouterr().err
    assert "Traceback" not in told
    if code in (130, 0):
        assert told == ""
    else:
        assert len(told.strip().splitlines()) in (1, 3)  # click adds its usage lines when it has a context


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_to_exit_code(lambda: 1 // 0)


def test_a_missing_extra_names_the_installation() -> None:
    told = explain(ModuleNotFoundError("No module named 'chdb'", name="chdb"))
    assert told is not None
    assert "pip install 'gpufleet[embedded]'" in told.message
    assert explain(ModuleNotFoundError("No module named 'infra.nonsense'", name="infra.nonsense")) is None


def test_grafanas_extra_is_not_to_be_installed_beside_the_others() -> None:
    told = explain(ModuleNotFoundError("No module named 'yaml'", name="yaml"))
    assert told is not None
    assert "make grafana" in told.message
    assert "pip install" not in told.message


def test_a_closed_pipe_is_quiet() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m infra.cli.main config reference | head -1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "# Configuration\n"
    assert done.stderr == ""


def test_the_group_is_named_gpufleet() -> None:
    assert gpufleet("--version").stdout.startswith("gpufleet ")
    assert isinstance(cli, click.Group)


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("up", "--speed", "nan"), "expected a number, found nan"),
        (("simulate", "--speed", "inf", "--dry-run", "--for", "5s"), "expected a number, found inf"),
        (("usage", "replay", "x.csv", "--tenant", "a", "--speed", "nan"), "expected a number, found nan"),
        (("audit", "--in-flight", "nan"), "expected a number, found nan"),
        (("audit", "--in-flight", "-5"), "-5"),
        (("audit", "--since", "99999999999999d"), "before there was a calendar"),
        (("dlq", "list", "--since", "99999999999999d"), "before there was a calendar"),
        (("consume", "--set", "consume.flush_mb=inf"), "consume.flush_mb"),
        (("agent", "--for", "0s"), "--for expects more than no time"),
    ],
)
def test_a_number_that_is_none_is_refused_in_a_line(arguments: tuple[str, ...], why: str) -> None:
    done = gpufleet(*arguments)
    assert (done.returncode, "Traceback" in done.stderr, why in done.stderr) == (2, False, True), done.stderr
