"""The threat model and the page on signatures name things that exist."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.signing import TOPICS, Scope

ROOT = Path(__file__).parents[2]


def test_every_test_and_page_that_the_threat_model_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    folder = ""
    named = 0
    for path in re.findall(r"(?:tests|docs|infra)/[\w/.-]*\w|\btest_\w+\.py", text):
        full = path if "/" in path else f"{folder}/{path}"
        assert (ROOT / full).exists(), f"SECURITY.md names {full}"
        folder = full.rpartition("/")[0] if full.endswith(".py") else folder
        named += 1
    assert named >= 30


def test_the_table_of_scopes_is_the_code_s() -> None:
    text = (ROOT / "docs" / "signing.md").read_text()
    rows = re.findall(r"^\| `--(?:scope )?(\w+)[^|]*\| ([^|]+) \|", text, re.MULTILINE)
    assert {Scope[name.upper()]: frozenset(topics.split(", ")) for name, topics in rows} == {
        scope: topics for scope, topics in TOPICS.items() if scope is not Scope.PIPELINE
    }
