"""The audit's benchmark audits what it filled, and finds what it planted. Its figures are not judged here."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.bench import audit
from infra.errors import GpufleetError

pytestmark = pytest.mark.store


def test_the_planted_gap_and_double_are_found_and_every_event_is_counted(tmp_path: Path) -> None:
    pytest.importorskip("chdb")
    said: list[str] = []
    report = audit.bench(tmp_path, nodes=40, minutes=3, repeats=2, say=said.append)
    # 12 events of the fast lane and one of the slow lane a minute; one is missing and one is there twice
    assert report["rows"] == 40 * 3 * 13 - 1 + 1
    assert len(report["runs"]) == 2
    assert all(run["events_per_s"] > 0 for run in report["runs"])


def test_an_audit_that_finds_something_else_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("chdb")
    monkeypatch.setattr(audit, "REPEAT", "SELECT {producer:String}")
    with pytest.raises(GpufleetError, match="one gap and one double"):
        audit.bench(tmp_path, nodes=5, minutes=2, repeats=1, say=lambda _text: None)
