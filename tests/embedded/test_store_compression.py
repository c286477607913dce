"""Fresh parts are fast to write and read again, parts that stay are small: what the shipped section makes of them."""

from __future__ import annotations

from infra.embedded.store.config import COMPRESSION
from infra.embedded.store.process import StoreProcess
from tests.embedded.test_store_client import connect

CODEC = (
    "SELECT DISTINCT default_compression_codec FROM system.parts"
    " WHERE active AND database = 'default' AND table = 'compressed'"
)


def test_a_part_that_stays_is_compressed_better_than_a_fresh_one(store: StoreProcess) -> None:
    with connect(store) as operator:
        assert "<min_part_size>268435456<" in COMPRESSION.read_text()
        operator.command("CREATE TABLE compressed (s String CODEC(Default)) ENGINE = MergeTree ORDER BY tuple()")
        operator.command("SYSTEM STOP MERGES compressed")
        for _ in range(2):
            operator.command("INSERT INTO compressed SELECT randomString(1048576) FROM numbers(140)")
        assert operator.query(CODEC).result_rows == [("LZ4",)]
        operator.command("SYSTEM START MERGES compressed")
        operator.command("OPTIMIZE TABLE compressed FINAL")
        assert operator.query(CODEC).result_rows == [("ZSTD(1)",)]
        operator.command("DROP TABLE compressed SYNC")
