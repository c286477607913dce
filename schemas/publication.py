"""Publishing a schema version: a new .avsc file is checked and gets its id in ids.json, for ever."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas import catalogue, compatibility
from schemas.catalogue import KINDS
from schemas.compatibility import Problem

_FILE = re.compile(r"v([1-9][0-9]*)\.avsc")


class PublicationError(Exception):
    """A schema file cannot be published; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version's line in ids.json."""

    topic: str
    version: int
    id: int
    fingerprint: str


def root() -> Path:
    """The folder of this package, where ids.json and avsc/ are."""
    return Path(__file__).parent


def check_all(folder: Path | None = None) -> dict[str, list[Problem]]:
    """Every .avsc file, published or not, against its rules and all versions before it; also against ids.json."""
    folder = folder or root()
    ids = _ids(folder)
    frozen = {(entry.topic, entry.version): entry for entry in ids}
    result: dict[str, list[Problem]] = {}
    files = dict(_files(folder))
    for (topic, version), path in files.items():
        definition = _load(path)
        before = [_load(p) for (t, v), p in files.items() if t == topic and v < version]
        problems = compatibility.check(definition, before)
        entry = frozen.get((topic, version))
        if entry and not problems:
            fingerprint = catalogue.canonical_fingerprint(definition)
            if fingerprint != entry.fingerprint:
                problems = [
                    Problem("", f"the published form {entry.fingerprint[:12]} (make a new version)", fingerprint[:12])
                ]
        result[f"{topic} v{version}"] = problems
    for key in frozen.keys() - files.keys():
        result[f"{key[0]} v{key[1]}"] = [Problem("", f"its file avsc/{key[0]}/v{key[1]}.avsc", "no such file")]
    return result


def publish_new(folder: Path | None = None) -> list[Entry]:
    """Give every .avsc file without an id one, and write ids.json. PublicationError if any breaks the rules.

    A kind's ids share a hundred: 101 is version 1 of the first kind, 102 its version 2.
    """
    folder = folder or root()
    known = _ids(folder)
    found = check_all(folder)
    wrong = [f"{name}: {problem}" for name, problems in found.items() for problem in problems]
    if wrong:
        raise PublicationError("\n".join(wrong))
    new: list[Entry] = []
    for (topic, version), path in _files(folder):
        if any((entry.topic, entry.version) == (topic, version) for entry in known):
            continue
        if topic not in KINDS:
            raise PublicationError(f"{path}: expected a topic of schemas.catalogue.KINDS, found {topic!r}")
        own = [entry for entry in [*known, *new] if entry.topic == topic]
        if version != len(own) + 1:
            raise PublicationError(f"{path}: expected version {len(own) + 1} to be the next, found {version}")
        base = own[0].id // 100 if own else max((entry.id // 100 for entry in [*known, *new]), default=0) + 1
        new.append(Entry(topic, version, base * 100 + version, catalogue.canonical_fingerprint(_load(path))))
    if new:
        _write(folder, [*known, *new])
    return new


def _write(folder: Path, entries: list[Entry]) -> None:
    document = {
        str(entry.id): {"topic": entry.topic, "version": entry.version, "fingerprint": entry.fingerprint}
        for entry in sorted(entries, key=lambda entry: entry.id)
    }
    try:
        (folder / "ids.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise PublicationError(f"cannot write {folder / 'ids.json'}: {error.strerror}") from None


def _ids(folder: Path) -> list[Entry]:
    document: dict[str, dict[str, Any]] = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    return [Entry(e["topic"], e["version"], int(number), e["fingerprint"]) for number, e in document.items()]


def _files(folder: Path) -> Iterator[tuple[tuple[str, int], Path]]:
    """((topic, version), file) in the order of the kinds, then versions."""
    order = list(KINDS)
    found = []
    for path in (folder / "avsc").glob("*/*.avsc"):
        match = _FILE.fullmatch(path.name)
        if not match:
            raise PublicationError(f"{path}: expected v1.avsc, v2.avsc ..., found {path.name}")
        found.append(((path.parent.name, int(match[1])), path))
    known = [entry for entry in found if entry[0][0] in KINDS]
    unknown = [entry for entry in found if entry[0][0] not in KINDS]
    yield from sorted(known, key=lambda entry: (order.index(entry[0][0]), entry[0][1]))
    yield from sorted(unknown)


def _load(path: Path) -> dict[str, Any]:
    try:
        definition: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublicationError(f"{path}: not JSON: {error}") from None
    return definition
