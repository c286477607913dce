"""What a rebuild tells when some or all of what a table is made from is gone."""

from __future__ import annotations

import pytest

from consumers.rebuild.compare import Hour
from consumers.rebuild.report import Report
from infra.cli.rebuild import show

GONE = Hour(0, live=5, gone=True)
EQUAL = Hour(3_600, live=5, rebuilt=5)
DIFFERENT = Hour(7_200, live=5, rebuilt=4, extra=1)


@pytest.mark.parametrize(
    ("hours", "equal", "judged", "said"),
    [
        ([], True, 0, "usage is equal to what it is made from"),
        ([EQUAL], True, 1, "usage is equal to what it is made from"),
        ([GONE, EQUAL], True, 1, "equal to what it is made from; 1 more hours were not judged"),
        ([GONE], False, 0, "usage was not judged: what it is made from is gone"),
        ([GONE, DIFFERENT], False, 1, "usage DIFFERS in 1 hours"),
    ],
)
def test_only_what_was_compared_is_called_equal(
    hours: list[Hour], equal: bool, judged: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("usage", hours=hours)
    show(report)
    assert said in capsys.readouterr().out.strip().splitlines()[-1]
    told = report.to_dict()
    assert (told["equal"], told["judged"]) == (equal, judged)
