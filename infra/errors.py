"""What can go wrong for a person at the command line, by what they can do about it.

    GpufleetError (exit 1)          something was checked and found wrong
    ├── UsageError (exit 2)         the command was asked for something that makes no sense
    │   └── ConfigError (exit 2)    a setting is wrong, unknown or missing
    └── UnreachableError (exit 3)   a dependency does not answer or refuses the credentials

They are click exceptions, so that a command ends with one line on stderr and its exit code however it is invoked.
Messages say what was expected, what was found and what to do; they never hold a secret.
"""

from __future__ import annotations

from typing import IO, Any

import click

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it of SIGINT."""


class GpufleetError(click.ClickException):
    """Base of every error that is shown as one message and no traceback."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"gpufleet: {self.format_message()}", file=file, err=file is None)


class UsageError(GpufleetError):
    """The request makes no sense as given: an unknown name, options that contradict each other."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is wrong, unknown or missing; the message names the key and where the value came from."""


class UnreachableError(GpufleetError):
    """A dependency (broker, store, registry, file system) does not answer or refuses us; trying later may help."""

    exit_code = 3
