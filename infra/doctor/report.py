"""What a check says: how things stand, what was seen, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import click


class Status(StrEnum):
    """How things stand."""

    OK = "ok"
    WARN = "warn"
    """It works, but not as it should, or not for long."""
    FAIL = "fail"
    """It does not work."""
    SKIP = "skip"
    """Not used here, or it cannot be known."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    area: str
    check: str
    status: Status
    seen: str
    advice: str = ""
    """What to do; empty when there is nothing to do."""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "status": self.status.value}


Check = Callable[[], Iterable[Finding]]


def ok(area: str, check: str, seen: str) -> Finding:
    return Finding(area, check, Status.OK, seen)


def warn(area: str, check: str, seen: str, advice: str) -> Finding:
    return Finding(area, check, Status.WARN, seen, advice)


def fail(area: str, check: str, seen: str, advice: str) -> Finding:
    return Finding(area, check, Status.FAIL, seen, advice)


def skip(area: str, check: str, seen: str) -> Finding:
    return Finding(area, check, Status.SKIP, seen)


def run(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Every check's findings as they come; a check that breaks is a finding of its own and stops no other."""
    for area, check in checks:
        try:
            yield from check()
        except click.ClickException as error:
            yield fail(area, "reach", error.format_message(), "")
        except Exception as error:  # noqa: BLE001 - a doctor that dies of what it finds helps nobody
            yield fail(area, "check", f"{type(error).__name__}: {str(error).strip()}", "")


def worst(findings: Iterable[Finding]) -> Status:
    """The report's verdict: fail if anything failed, else warn if anything warned."""
    seen = {finding.status for finding in findings}
    return Status.FAIL if Status.FAIL in seen else Status.WARN if Status.WARN in seen else Status.OK
