"""Thirty schedules of the chaos suite; ``make chaos`` does as many as an hour has room for."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.embedded.apache_kafka import KafkaUnavailable, java_program, kafka_jars
from tests.chaos.__main__ import again, run
from tests.chaos.plan import SPECIAL, plan
from tests.conftest import missing

FIRST_SEED = 20
SCHEDULES = 30
WORLDS = 2


@pytest.mark.store
@pytest.mark.kafka
@pytest.mark.timeout(1800)
def test_nothing_is_lost_and_nothing_doubled_whatever_happens(tmp_path: Path) -> None:
    pytest.importorskip("chdb")
    try:
        java_program()
        kafka_jars()
    except KafkaUnavailable as error:
        missing("kafka", str(error))
    assert {plan(FIRST_SEED + number).special for number in range(SCHEDULES)} >= set(SPECIAL)
    results, _ = run(FIRST_SEED, SCHEDULES, 1e9, WORLDS, tmp_path / "worlds.log")
    told = [f"{one['plan']}\n{one['failed']}\n{again(one['seed'])}" for one in results.failed]
    assert not told, "\n".join(told)
    assert results.passed == SCHEDULES, (tmp_path / "worlds.log").read_text()
