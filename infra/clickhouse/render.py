"""From the migrations' one source to the SQL of one deployment: retention, and a cluster if there is one."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from infra.clickhouse.statements import tokens

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_OBJECT = re.compile(
    r"""
    ^(?P<head>\s*
      (?: CREATE \s+ (?:OR \s+ REPLACE \s+)? (?:TABLE|VIEW|DICTIONARY|DATABASE|USER|ROLE|ROW \s+ POLICY|QUOTA
            |SETTINGS \s+ PROFILE)
        | DROP \s+ (?:TABLE|VIEW|DICTIONARY|DATABASE|USER|ROW \s+ POLICY|QUOTA)
        | ALTER \s+ (?:TABLE|USER)
        | SYSTEM \s+ RELOAD \s+ DICTIONARY )
      (?: \s+ IF \s+ (?:NOT \s+)? EXISTS | \s+ OR \s+ REPLACE )? \s+ )
    (?P<name> (?: `[^`]+` | \w+ ) (?: \. (?: `[^`]+` | \w+ ) )* )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ENGINE = re.compile(r"(\bENGINE\s*=\s*)((?:\w*)MergeTree\b)", re.IGNORECASE)


class RenderError(ValueError):
    """A migration names a placeholder that does not exist."""


@dataclass(frozen=True, slots=True)
class Render:
    """What differs between deployments."""

    raw_days: int = 9
    """Days that telemetry events are kept."""
    minute_days: int = 100
    """Days that rollups of a minute or less are kept."""
    hour_days: int = 1096
    """Days that hourly rollups are kept."""
    cluster: str = ""
    """Cluster name: adds ON CLUSTER and Replicated engines. Empty = one server."""
    dictionary_credentials: str = ""
    """How dictionaries read their source where the user `default` may not, e.g. ``NAME gpufleet_dictionary`` for a
    named collection of that name. Empty = as user default."""

    def __post_init__(self) -> None:
        for name in ("raw_days", "minute_days", "hour_days"):
            if getattr(self, name) < 1:
                raise RenderError(f"{name} must be at least 1 day, found {getattr(self, name)}")
        if self.cluster and not re.fullmatch(r"[\w{}.-]+", self.cluster):
            raise RenderError(f"a cluster name holds letters, digits, _ . - and {{}}, found {self.cluster!r}")

    def text(self, sql: str) -> str:
        """The text with every ``{{placeholder}}`` filled in. RenderError for an unknown one."""
        known = {field.name for field in fields(self)} - {"cluster"}

        def fill(match: re.Match[str]) -> str:
            if match.group(1) not in known:
                raise RenderError(f"unknown placeholder {match.group()}: expected one of {', '.join(sorted(known))}")
            return str(getattr(self, match.group(1)))

        return _PLACEHOLDER.sub(fill, sql)

    def statement(self, statement: str) -> str:
        """One statement (placeholders filled in) as it must run here."""
        return _on_cluster(statement, self.cluster) if self.cluster else statement


def _on_cluster(statement: str, cluster: str) -> str:
    """ON CLUSTER after the object's name, and Replicated before its engine. Strings and comments stay as they are."""
    lead = ""
    rest = statement
    while True:  # comments ahead of the first word
        kind, text = next(tokens(rest))
        if kind not in ("comment", "space"):
            break
        lead, rest = lead + text, rest[len(text) :]
    grant = re.match(r"(GRANT|REVOKE|KILL\s+QUERY)\b", rest, re.IGNORECASE)
    if grant:
        return f"{lead}{grant.group()} ON CLUSTER '{cluster}'{rest[grant.end() :]}"
    match = _OBJECT.match(rest)
    if match is None:
        return statement
    rest = f"{rest[: match.end()]} ON CLUSTER '{cluster}'{rest[match.end() :]}"
    # Engines are looked for outside of strings and comments, which a private character stands in for meanwhile.
    kept: list[str] = []
    outline = ""
    for kind, text in tokens(rest):
        if kind in ("string", "comment"):
            kept.append(text)
            text = "\ue000"
        outline += text
    outline = _ENGINE.sub(r"\1Replicated\2", outline)
    return lead + re.sub("\ue000", lambda _: kept.pop(0), outline)
