"""Showing settings to people: the values in effect, a file to start from, the reference page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from infra.config.leaves import Leaf, leaves, tables
from infra.config.loading import Settings
from infra.config.secrets import HIDDEN, secret_option
from infra.config.toml import literal


@dataclass(frozen=True, slots=True)
class Row:
    """One setting in effect."""

    key: str
    value: Any
    """Plain JSON value; secrets replaced."""
    origin: str


def rows(settings: Settings) -> list[Row]:
    """Every setting in effect with its origin; secrets are hidden, and said to be set or not."""
    return [Row(key, _shown(_value(settings, key)), settings.origin(key)) for key in leaves()]


def _value(settings: Settings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: HIDDEN if secret_option(name) else text for name, text in value.items()}
    return value


def template() -> str:
    """A settings file with every setting commented out at its default."""
    parts = [
        "# Settings of gpufleet. Every line that is commented out shows the default.\n"
        "# Order: this file, then GPUFLEET_* variables, then flags. `gpufleet config show` says what is in effect and\n"
        "# where it came from. Relative paths count from this file's folder. Passwords do not belong here: name their\n"
        "# file, or set the variable.\n"
    ]
    for table, meaning in tables().items():
        lines = [f"\n# {meaning}\n[{table}]\n"]
        for leaf in _of(table):
            if leaf.secret:
                lines.append(f"# {leaf.name}: from {leaf.name}_file, or the variable {leaf.variable}\n")
                continue
            lines.append(f"# {leaf.field.description}" + (f" ({leaf.type_text})" if leaf.choices else "") + "\n")
            lines.append(f"#{leaf.name} = {_default(leaf)}\n")
        parts.append("".join(lines))
    return "".join(parts)


def reference() -> str:
    """The reference page of all settings, Markdown; docs/configuration.md is this text."""
    parts = [_HEAD]
    for table, meaning in tables().items():
        parts.append(f"\n## [{table}]\n\n{meaning}\n\n| setting | default | meaning |\n|---|---|---|\n")
        for leaf in _of(table):
            default = "" if leaf.default is None else f"`{_default(leaf)}`"
            choices = f" One of {', '.join(f'`{c}`' for c in leaf.choices if c)}." if leaf.choices else ""
            secret = " Secret." if leaf.secret else ""
            parts.append(f"| `{leaf.name}` | {default} | {leaf.field.description}{choices}{secret} |\n")
    return "".join(parts)


def _of(table: str) -> list[Leaf]:
    return [leaf for leaf in leaves().values() if leaf.section == table]


def _default(leaf: Leaf) -> str:
    return literal("" if leaf.default is None else leaf.default)


_HEAD = """# Configuration

<!-- Generated from infra/config/models.py by `gpufleet config reference`; a test keeps it fresh. -->

Every command takes its settings from these places; a later one wins:

1. the defaults below;
2. a TOML file: `--config FILE`, else `$GPUFLEET_CONFIG`, else `./gpufleet.toml` if there is one;
3. a running `gpufleet up`: the one in `--data DIR` (or `$GPUFLEET_DATA`), else, when no file was named, the one in
   `./gpufleet-data`. So `gpufleet sql`, `audit` and `doctor` find it by themselves;
4. environment variables: `GPUFLEET_`, the section, the name, in capitals with underscores: `kafka.bootstrap` is
   `GPUFLEET_KAFKA_BOOTSTRAP`, `agent.dcgm_exporter.url` is `GPUFLEET_AGENT_DCGM_EXPORTER_URL`;
5. flags: a command's own, or `--set kafka.bootstrap=broker:9092` for any setting.

`gpufleet config show` prints every value and where it came from. `gpufleet config init` writes a commented file. A
name that does not exist, in the file or among the variables, is an error that names the nearest valid one.

**Secrets** come from files or from variables, never from the settings file or a flag: `password_file = "..."` (its
last line break is dropped), or `GPUFLEET_STORE_PASSWORD`. They are never printed or logged; a reference says only
whether one is set. A variable beats the file named in a settings file.

**Paths** in a settings file count from that file's folder; in variables and flags from the working directory; `~` is
the home folder. An empty text means "not set".

**Any librdkafka option** goes into the table `[kafka.librdkafka]`, name and value as librdkafka's documentation has
them, values as text; they are applied last. As a variable: `GPUFLEET_KAFKA_LIBRDKAFKA='{"socket.timeout.ms": "5000"}'`
or `socket.timeout.ms=5000,log_level=3`; it adds to the file's table. Options that hold secrets (`*password*`,
`*secret*`, `*.pem` ...) are only taken from the variable.

Other variables: `GPUFLEET_CONFIG` and `GPUFLEET_DATA` (above), `GPUFLEET_DEBUG=1` (tracebacks for every error).
Names with `_s` are seconds, `_ms` milliseconds, `_days` days, `_mb` units of 2**20 bytes.
"""
