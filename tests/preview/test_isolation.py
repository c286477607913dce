"""Whose rows a view shows, on a store with three tenants: the store decides, whatever the browser asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.errors import UsageError
from infra.preview.boards import Boards
from infra.preview.serving import running
from infra.preview.stores import Stores
from tests.preview.support import panel, run, served, write_boards

if TYPE_CHECKING:
    from tests.story import Story

pytestmark = pytest.mark.store
LEASES = (
    "SELECT tenant, count() AS n FROM gpufleet.health_1m FINAL WHERE ts <= $__toTime GROUP BY tenant ORDER BY tenant"
)
USAGE = "SELECT DISTINCT tenant FROM gpufleet.usage_1m FINAL WHERE ts <= $__toTime"


def boards(folder: Path) -> Boards:
    """The same queries as an operator's and as a customer's board."""
    panels = [
        panel(1, "table", LEASES),
        panel(2, "table", USAGE),
        panel(3, "table", "SELECT count() FROM gpufleet.ingest_ledger"),
    ]
    return write_boards(folder, operator_all={"panels": panels}, customer_mine={"panels": panels})


def body(story: Story, board: str, number: int, tenant: str = "") -> dict[str, Any]:
    end = story.range.to_ms
    asked = {"board": board, "role": "panel", "name": f"{number}.A", "from": story.range.from_ms, "to": end}
    return asked | ({"as": tenant} if tenant else {})


def test_each_tenant_sees_its_own_rows_and_the_operator_everybodys(story: Story, tmp_path: Path) -> None:
    async def work() -> None:
        async with served(boards(tmp_path), Stores(story.settings)) as site:

            async def tenants(board: str, number: int, tenant: str = "") -> set[str]:
                status, answer = await site.query(**body(story, board, number, tenant))
                assert status == 200, answer
                return {row[0] for row in answer["data"]}

            assert await tenants("all", 1) >= set(story.tenants)
            for tenant in story.tenants:
                assert await tenants("mine", 1, tenant) == {tenant}
                assert await tenants("mine", 2, tenant) <= {tenant}
            assert await tenants("mine", 2, story.tenants[0]) == {story.tenants[0]}

    run(work)


def test_a_tenants_view_of_what_is_closed_to_tenants_is_an_error_or_empty(story: Story, tmp_path: Path) -> None:
    async def work() -> None:
        async with served(boards(tmp_path), Stores(story.settings)) as site:
            status, answer = await site.query(**body(story, "all", 3))
            assert status == 200
            assert answer["data"][0][0] > 0
            status, answer = await site.query(**body(story, "mine", 3, story.tenants[0]))
            assert status == 422 or answer["data"] == [[0]], answer
            assert (await site.query(**body(story, "all", 1, story.tenants[0])))[0] == 400
            assert (await site.query(**body(story, "mine", 1)))[0] == 400
            assert (await site.query(**body(story, "mine", 1, "../operator")))[0] == 400

    run(work)


def test_nothing_that_the_browser_gets_holds_a_password(story: Story) -> None:
    folder = story.settings.store.tenant_password_dir
    assert folder is not None
    secrets = [path.read_text().strip() for path in folder.glob("*.password")]
    secrets += [path.read_text().strip() for path in (folder.parent / "store").glob("*.password")]
    assert len(secrets) > 3

    async def work() -> None:
        async with served(Boards(), Stores(story.settings)) as site:
            for path in ("/", "/api/boards", *(f"/api/boards/{board.dashboard.uid}" for board in Boards())):
                status, text, headers = await site.get(path)
                assert status == 200
                assert not [secret for secret in secrets if secret in text + json.dumps(dict(headers))]
                assert story.settings.store.url not in text

    run(work)


def test_a_page_for_a_tenant_without_credentials_is_not_served(story: Story) -> None:
    async def work() -> None:
        async with running(story.settings, host="127.0.0.1", port=0, tenant="mallory"):
            raise AssertionError("it listens")

    with pytest.raises(UsageError, match="no credentials for tenant 'mallory'"):
        run(work)


def test_a_store_that_is_gone_is_said_in_every_panel(story: Story, tmp_path: Path) -> None:
    nowhere = story.settings.with_flags({"store.url": "http://127.0.0.1:9"})

    async def work() -> None:
        async with served(boards(tmp_path), Stores(nowhere)) as site:
            status, answer = await site.query(**body(story, "all", 1))
            assert status == 503
            assert "http://127.0.0.1:9" in answer["error"]

    run(work)
