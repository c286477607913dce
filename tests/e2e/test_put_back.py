"""A broker that forgets is given leases and limits again: a restart does not make the log an empty truth."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.support import Up, gpufleet

RIVAL = """
[[lease]]
id = "rival-1"
tenant = "acme"
nodes = ["h100-r0001-n[01-08]"]
from = 2099-01-01T00:00:00Z
"""


def test_leases_and_limits_outlive_the_embedded_brokers_memory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    lists = []
    for _start in range(2):
        with Up(data, "--no-backfill", "--json") as up:
            up.ready()
            lists.append([gpufleet(tmp_path, kind, "list", "--data", data).stdout for kind in ("lease", "limit")])
            file = tmp_path / "rival.toml"
            file.write_text(RIVAL)
            rival = gpufleet(tmp_path, "lease", "apply", file, "-y", "--data", data)
            assert rival.returncode == 2, rival.stdout
            assert "lease-anthropic-1" in rival.stderr
            up.interrupt()
            assert up.end() == 0, up.stderr
            assert up.result()["duplicated"] == 0
    assert lists[0] == lists[1]
    assert all("anthropic" in text for text in lists[0])
