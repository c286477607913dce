"""Ranges of numbers, and the report as a program gets it."""

from __future__ import annotations

import pytest

from consumers.audit import AuditReport, Kind
from consumers.audit.report import Finding
from consumers.audit.sequences import ranges_of, without

TOPIC = "node-telemetry"


def test_the_report_as_json_keeps_the_wrong_ones() -> None:
    report = AuditReport()
    report.add(Finding(Kind.RETENTION, TOPIC, "old", first=i) for i in range(2000))
    report.add([Finding(Kind.GAP, TOPIC, "lost", first=7)])
    listed = report.to_dict()
    assert listed["findings"][0]["kind"] == "gap"
    assert listed["findings_unlisted"] == 1001
    assert len(listed["findings"]) == 1000
    assert listed["ok"] is False


@pytest.mark.parametrize(
    ("numbers", "ranges"), [([], []), ([3], [(3, 3)]), ([0, 1, 2, 5, 7, 8], [(0, 2), (5, 5), (7, 8)])]
)
def test_ranges_of(numbers: list[int], ranges: list[tuple[int, int]]) -> None:
    assert list(ranges_of(numbers)) == ranges


def test_a_range_without_some_numbers() -> None:
    assert list(without(3, 9, [])) == [(3, 9)]
    assert list(without(3, 9, [1, 3, 5, 6, 9, 12])) == [(4, 4), (7, 8)]
    assert list(without(3, 4, [3, 4])) == []
