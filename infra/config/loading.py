"""Putting the settings together: defaults, file, running ``up``, environment, flags; each value knows its origin."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, SecretStr, ValidationError

from infra.config import runtime
from infra.config.leaves import PREFIX, Leaf, by_variable, leaves, nearest, tables
from infra.config.models import Sections
from infra.config.secrets import secret_option
from infra.errors import ConfigError

RESERVED = frozenset({"GPUFLEET_CONFIG", "GPUFLEET_DATA", "GPUFLEET_DEBUG", "GPUFLEET_PARENT", "GPUFLEET_REQUIRE"})
"""Variables with our prefix that are no settings; so is everything that starts with GPUFLEET_TEST_."""
DEFAULT_FILE = Path("gpufleet.toml")


@dataclass(frozen=True, slots=True)
class Value:
    """A value as one layer gave it."""

    value: Any
    origin: str
    rank: int
    """Order of the layer: a higher one wins."""


class Settings(Sections):
    """All settings, validated, with the origin of each. Made by ``load``; frozen."""

    _given: dict[str, Value] = PrivateAttr(default_factory=dict)

    def origin(self, key: str) -> str:
        """Where the value of a dotted key came from: ``default``, a file, a variable, a flag."""
        given = self._given.get(key)
        return given.origin if given else "default"

    def with_flags(self, flags: Mapping[str, Any]) -> Settings:
        """A copy with a command's own flags laid on top; None = the flag was not given."""
        given = dict(self._given)
        _merge_tables(given, _of_flags({key: value for key, value in flags.items() if value is not None}))
        return _build(given)


def load(
    config: Path | None = None,
    *,
    data: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """The settings in effect. ConfigError names the key, where it stands, and the nearest valid one.

    ``config`` must exist when given; else $GPUFLEET_CONFIG, else ./gpufleet.toml if there is one. A running ``up`` in
    ``data`` (or $GPUFLEET_DATA; it must run then), or in ./gpufleet-data when no file was named, comes above the file.
    """
    environ = os.environ if environ is None else environ
    cwd = cwd or Path.cwd()
    named = config or (Path(environ["GPUFLEET_CONFIG"]) if environ.get("GPUFLEET_CONFIG") else None)
    given: dict[str, Value] = {}
    if named is not None or (cwd / DEFAULT_FILE).exists():
        given.update(_of_file(cwd / (named or DEFAULT_FILE), rank=1))
    running = _running(data or (Path(environ["GPUFLEET_DATA"]) if environ.get("GPUFLEET_DATA") else None), named, cwd)
    if running is not None:
        given.update(_of_file(running, rank=2))
    _merge_tables(given, _of_environment(environ))
    _merge_tables(given, _of_flags(flags or {}))
    return _build(given)


def _running(data: Path | None, named: Path | None, cwd: Path) -> Path | None:
    if data is None and named is not None:
        return None
    path = cwd / (data or runtime.DEFAULT_FOLDER) / runtime.FILE
    if runtime.running_pid(path) is not None:
        return path
    if data is not None:
        raise ConfigError(f"expected a running `gpufleet up --data {data}`, found none; start it, or leave --data out")
    return None


def _merge_tables(below: dict[str, Value], above: Mapping[str, Value]) -> None:
    """Higher layers replace values, but only add to free tables such as kafka.librdkafka."""
    for key, new in above.items():
        old = below.get(key)
        if old is not None and isinstance(old.value, dict) and isinstance(new.value, dict):
            new = Value({**old.value, **new.value}, f"{old.origin}; {new.origin}", new.rank)
        below[key] = new


def _of_file(path: Path, rank: int) -> dict[str, Value]:
    shown = _shown(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no settings file {shown}; `gpufleet config init {shown}` writes one") from None
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {shown}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{shown}: expected UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{shown}: not valid TOML: {error}") from None
    if rank == 2:
        document.pop("runtime", None)
    given: dict[str, Value] = {}
    wrong: list[str] = []
    for key, value in _flatten(document, ""):
        leaf = leaves().get(key)
        if leaf is None:
            wrong.append(_unknown(shown, key))
            continue
        hidden = [key] if leaf.secret else [f"{key}.{k}" for k in value if secret_option(k)] if _table(value) else []
        if hidden:
            wrong.append(f"{shown}: {hidden[0]} is a secret and does not belong into a settings file; {_instead(leaf)}")
            continue
        if Path in leaf.types and isinstance(value, str):
            value = path.parent / Path(value).expanduser() if value else None
        given[key] = Value(value, f"file {shown}", rank)
    if wrong:
        raise ConfigError("\n".join(wrong))
    return given


def _instead(leaf: Leaf) -> str:
    if leaf.secret:
        return f"set {leaf.key}_file, or the variable {leaf.variable}"
    return f"set the variable {leaf.variable} to a JSON object that holds it"


def _table(value: Any) -> bool:
    return isinstance(value, dict)


def _flatten(table: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys of a TOML document; a table that is itself a setting stays whole."""
    for name, value in table.items():
        key = f"{path}{name}"
        if key in leaves() or not isinstance(value, dict) or (not value and key not in tables()):
            yield key, value
        else:
            yield from _flatten(value, f"{key}.")


def _unknown(shown: str, key: str) -> str:
    if key in tables():
        return f"{shown}: expected a table [{key}], found a single value"
    section = key.rpartition(".")[0]
    among = [k for k in leaves() if k.rpartition(".")[0] == section] if section in tables() else []
    near = nearest(key, among) or nearest(key, [*leaves(), *tables()])
    if near is None and section and section not in tables():
        table = nearest(section, tables())
        near = f"[{table}]" if table else None
    return f"{shown}: unknown setting {key!r}; " + (
        f"did you mean {near!r}?" if near else "`gpufleet config show` lists the valid ones"
    )


def _of_environment(environ: Mapping[str, str]) -> dict[str, Value]:
    known = by_variable()
    given: dict[str, Value] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in RESERVED or variable.startswith(f"{PREFIX}TEST_"):
            continue
        leaf = known.get(variable)
        if leaf is None:
            near = nearest(variable, known)
            hint = f"did you mean {near}?" if near else "`gpufleet config show` lists the valid ones"
            raise ConfigError(f"environment: unknown variable {variable}; {hint}")
        origin = f"environment {variable}"
        given[leaf.key] = Value(_parse(leaf, environ[variable], origin), origin, 3)
    return given


def _of_flags(flags: Mapping[str, Any]) -> dict[str, Value]:
    given: dict[str, Value] = {}
    for key, value in flags.items():
        leaf = leaves().get(key)
        if leaf is None:
            raise ConfigError(_unknown("flag", key))
        if leaf.secret:
            raise ConfigError(f"{key} is a secret and would show in the list of processes; {_instead(leaf)}")
        parsed = _parse(leaf, value, "flag") if isinstance(value, str) else value
        if _table(parsed) and any(secret_option(k) for k in parsed):
            raise ConfigError(f"{key}: a secret option would show in the list of processes; {_instead(leaf)}")
        given[key] = Value(parsed, "flag", 4)
    return given


def _parse(leaf: Leaf, text: str, origin: str) -> Any:
    """A text from outside as the leaf's kind of value; pydantic checks the rest."""
    if dict in leaf.types:
        if not text.lstrip().startswith("{"):
            pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
            if all(equals for _, equals, _ in pairs):
                return {name.strip(): value.strip() for name, _, value in pairs}
        else:
            try:
                return {str(k): _plain(v) for k, v in json.loads(text).items()}
            except ValueError:
                pass
        raise ConfigError(f"{leaf.key} ({origin}): expected name=value[,name=value ...] or a JSON object")
    if Path in leaf.types:
        return Path(text).expanduser() if text else None
    return text


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def _build(given: dict[str, Value]) -> Settings:
    given = dict(given)
    _read_secret_files(given)
    nested: dict[str, Any] = {}
    for key, entry in given.items():
        *path, name = key.split(".")
        table = nested
        for part in path:
            table = table.setdefault(part, {})
        table[name] = {k: _plain(v) for k, v in entry.value.items()} if _table(entry.value) else entry.value
    try:
        settings = Settings.model_validate(nested)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, given))) from None
    settings._given = given
    return settings


def _read_secret_files(given: dict[str, Value]) -> None:
    """Fill secrets from their files, unless a higher layer gives the secret itself."""
    for leaf in leaves().values():
        file_key = f"{leaf.key}_file"
        file = given.get(file_key)
        if not leaf.secret or file is None or file.value is None:
            continue
        own = given.get(leaf.key)
        if own is not None and own.rank > file.rank:
            continue
        if own is not None and own.rank == file.rank and not own.origin.startswith("secret file"):
            raise ConfigError(f"{leaf.key} and {file_key} are both set ({own.origin}, {file.origin}); keep one")
        try:
            text = Path(file.value).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(f"{file_key} ({file.origin}): cannot read {file.value}: {why}") from None
        given[leaf.key] = Value(SecretStr(text), f"secret file {file.value}", file.rank)


def _explain(error: ValidationError, given: Mapping[str, Value]) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_context=False, include_input=True):
        key = ".".join(str(part) for part in problem["loc"])
        leaf = leaves().get(key)
        message = problem["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if leaf is None:  # a rule over a whole section: say where its values came from
            origins = sorted({v.origin for k, v in given.items() if k.startswith(f"{key}.")})
            yield f"{key} ({', '.join(origins) or 'default'}): {message}"
            continue
        entry = given.get(key)
        found = "" if leaf.secret or _table(problem["input"]) or "found" in message else f", found {problem['input']!r}"
        yield f"{key} ({entry.origin if entry else 'default'}): {message}{found}"


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
