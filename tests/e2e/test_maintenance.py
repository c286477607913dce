"""Maintenance as an operator declares it: out of service at once, back as before, and mistakes told in a line."""

from __future__ import annotations

import json

import pytest

from tests.e2e.support import Up, gpufleet, one_line, query, until

pytestmark = pytest.mark.kafka
NODE = "gb200-r0001-n17"
SIMULATOR = NODE
"""Its events come from the node's own producer."""


def told(live: Up) -> list[dict[str, object]]:
    """What `list` says of the node, the simulator's own repairs aside."""
    done = gpufleet(live.folder, "maintenance", "list", "--json", "--data", live.data)
    assert done.returncode == 0, done.stderr
    return [each for each in json.loads(done.stdout) if each["node"] == NODE and each["said_by"] != SIMULATOR]


def test_a_node_goes_out_of_service_and_comes_back(live: Up) -> None:
    lifecycle = f"""SELECT lifecycle, count() AS gpus FROM gpu_lifecycle
        WHERE node_id = '{NODE}' AND valid_to > now() + 1 GROUP BY lifecycle"""
    options = ("--data", live.data)
    with live.client() as client:
        until(lambda: query(client, f"SELECT 1 FROM node_place FINAL WHERE node_id = '{NODE}' AND notEmpty(gpu_index)"))
        [before] = query(client, lifecycle)
        assert before["gpus"] == 4
        assert before["lifecycle"] != "maintenance"

        begin = ("maintenance", "begin", NODE, "--reason", "a tray's pump", *options)
        dry = gpufleet(live.folder, *begin, "--dry-run", "--json")
        assert (dry.returncode, json.loads(dry.stdout)["sent"], told(live)) == (0, 0, [])
        unasked = gpufleet(live.folder, *begin)
        assert (unasked.returncode, "say --yes" in one_line(unasked)) == (2, True)
        sent = gpufleet(live.folder, *begin, "--yes")
        assert sent.returncode == 0, sent.stderr
        assert f"maintenance begins: {NODE}" in sent.stdout
        until(lambda: query(client, lifecycle) == [{"lifecycle": "maintenance", "gpus": 4}])
        [shown] = told(live)
        assert (shown["gpu"], shown["reason"]) == (None, "a tray's pump")
        assert str(shown["said_by"]).startswith("maintenance-cli@")
        again = gpufleet(live.folder, *begin, "--yes")
        assert (again.returncode, "in maintenance already" in again.stdout) == (0, True)

        assert gpufleet(live.folder, "maintenance", "end", NODE, "--yes", *options).returncode == 0
        until(lambda: query(client, lifecycle) == [before])
        until(lambda: not told(live))
        assert query(
            client, f"SELECT count() AS n FROM node_events WHERE node_id = '{NODE}' AND source = 'operator'"
        ) == [{"n": 2}]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("begin", "gb200-r0001-n99", "--reason", "x"), "is not in the inventory of site"),
        (("begin", "gb200-r0001-n0[1-", "--reason", "x"), "bracket without its partner"),
        (("begin", "--rack", "gb200-r0009", "--reason", "x"), "gb200-r0009"),
        (("begin", "--reason", "x"), "name a NODE"),
        (("begin", "gb200-r0001-n16"), "--reason"),
        (("begin", "gb200-r0001-n16", "--gpu", "7", "--reason", "x"), "has no GPU 7: it has 0, 1, 2, 3"),
        (("end", "gb200-r0001-n16"), "is not in maintenance, as far as the store knows"),
    ],
)
def test_a_mistake_is_told_and_sends_nothing(live: Up, arguments: tuple[str, ...], why: str) -> None:
    with live.client() as client:
        known = "SELECT node_id FROM node_place FINAL WHERE notEmpty(gpu_index) AND node_id = 'gb200-r0001-n16'"
        until(lambda: query(client, known))
    done = gpufleet(live.folder, "maintenance", *arguments, "--yes", "--data", live.data)
    assert (done.returncode, why in done.stderr) == (2, True), done.stderr
