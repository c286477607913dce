"""One `gpufleet up` on a real Apache Kafka that the tests of commands against a running stack share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import missing
from tests.e2e.support import Up


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A running `up` with some minutes of past. Interrupted at the end, when everything must add up."""
    from infra.embedded.apache_kafka import KafkaUnavailable, java_program, kafka_jars

    try:
        java_program()
        kafka_jars()
    except KafkaUnavailable as error:
        missing("kafka", str(error))
    data = tmp_path_factory.mktemp("live") / "data"
    with Up(data, "--broker", "kafka", "--backfill-hours", "0.2", "--json") as up:
        yield up.ready()
        up.interrupt()
        code = up.end()
        answer = up.result()
    assert (code, answer["lost"], answer["duplicated"]) == (0, 0, 0), answer
    assert "audit" not in answer, answer["audit"]
