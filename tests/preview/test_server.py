"""The server: who it answers, what it never gives out, how it says that something went wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import aiohttp
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from yarl import URL

from infra.errors import UnreachableError
from infra.preview import charts
from infra.preview import server as preview_server
from infra.preview.boards import Boards
from infra.preview.guard import is_loopback
from tests.preview.support import FakeStores, run, served, usual_boards


@pytest.fixture
def boards(tmp_path: Path) -> Boards:
    return usual_boards(tmp_path)


def test_a_query_is_answered_as_the_store_answers(boards: Boards) -> None:
    async def work() -> None:
        stores = FakeStores(tenants=("xai",))
        async with served(boards, stores) as site:
            assert await site.query() == (200, {"meta": [{"name": "n", "type": "UInt8"}], "data": [[1]], "rows": 1})
            assert (await site.query(board="mine", **{"as": "xai"}))[0] == 200
            status, shown = await site.query("/api/sql", variables={"rack": "r1"})
        assert [tenant for _, tenant in stores.asked] == ["", "xai"]
        assert (status, shown["sql"].startswith("SELECT 'r1'")) == (200, True)

    run(work)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:9"}, 200),
        ({"Host": "localhost:3080"}, 200),
        ({"Host": "[::1]:3080"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost.evil.example:80"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_only_pages_of_this_machine_are_answered(boards: Boards, headers: dict[str, str], status: int) -> None:
    async def work() -> None:
        async with served(boards, FakeStores()) as site:
            assert (await site.get("/api/boards", **headers))[0] == status

    run(work)


def test_beyond_loopback_a_token_is_asked_for(boards: Boards) -> None:
    async def work() -> None:
        async with served(boards, FakeStores(), host="0.0.0.0") as site:
            assert (await site.get("/api/boards"))[0] == 401
            assert (await site.get("/?token=guess"))[0] == 401
            status, _, headers = await site.get(f"/d/fleet?token={site.token}&from=now-6h")
            assert (status, headers["Location"]) == (302, "/d/fleet?from=now-6h")
            assert "HttpOnly" in headers["Set-Cookie"]
            assert "SameSite=Strict" in headers["Set-Cookie"]
            cookie = headers["Set-Cookie"].partition(";")[0]
            assert (await site.get("/api/boards", Cookie=cookie))[0] == 200

    run(work)


def test_what_loopback_is() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.3.2.1")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "")] == [False] * 5


def test_every_answer_forbids_scripts_of_others_and_frames(boards: Boards) -> None:
    async def work() -> None:
        async with served(boards, FakeStores()) as site:
            for path in ("/", "/d/fleet", "/api/boards", "/static/main.js", "/nowhere", f"/lib/{charts.name()}"):
                _, _, headers = await site.get(path)
                policy = headers["Content-Security-Policy"]
                assert "default-src 'none'; script-src 'self';" in policy
                assert "frame-ancestors 'none'" in policy
                assert headers["X-Content-Type-Options"] == "nosniff"
            page = (await site.get("/"))[1]
        assert "<script>" not in page
        assert f'content="/lib/{charts.name()}"' in page

    run(work)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static//etc/passwd",
        "/static/index.html/",
        "/static/",
        "/lib/plotly.min.js",
        "/api/boards/..%2f..%2fsecrets",
        "/api/boards/nothing",
    ],
)
def test_nothing_else_of_the_disk_is_served(boards: Boards, path: str) -> None:
    async def work() -> None:
        async with served(boards, FakeStores()) as site:
            url = URL(f"{site.address}{path}", encoded=True)  # as it stands: a client would tidy it up
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                assert answer.status == 404
                assert set(await answer.json()) == {"error"}

    run(work)


def test_a_form_of_another_page_cannot_ask(boards: Boards) -> None:
    async def work() -> None:
        stores = FakeStores()
        async with served(boards, stores) as site:
            for kind, data in (("text/plain", "{}"), ("application/x-www-form-urlencoded", "board=fleet")):
                async with site.session.post("/api/query", data=data, headers={"Content-Type": kind}) as answer:
                    assert answer.status == 400
            async with site.session.post("/api/query", data=b"{", headers={"Content-Type": "application/json"}) as bad:
                assert (bad.status, await bad.json()) == (400, {"error": "expected JSON"})
            async with site.session.post("/api/query", json={"board": "x" * (65 << 10)}) as large:
                assert large.status == 413
        assert stores.asked == []

    run(work)


def test_a_query_that_fails_says_why_and_no_more(boards: Boards) -> None:
    def fail(_sql: str, tenant: str) -> BinaryIO:
        if tenant:
            raise UnreachableError("ClickHouse at http://127.0.0.1:1 as 'xai': refused")
        raise DatabaseError("Code: 60. DB::Exception: Unknown table 'racks'. (UNKNOWN_TABLE) (version 26.9.2.1)")

    async def work() -> None:
        async with served(boards, FakeStores(fail, ("xai",))) as site:
            assert await site.query() == (422, {"error": "Unknown table 'racks'. (UNKNOWN_TABLE) (code 60)"})
            assert (await site.query(board="mine", **{"as": "xai"}))[0] == 503
            assert await site.query(name="9.A") == (404, {"error": "fleet has no panel query '9.A'"})
            assert (await site.query(sql="SELECT 1"))[0] == 400

    run(work)


def test_an_answer_beyond_what_a_panel_can_show_has_no_end(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_server, "LARGEST_ANSWER", 200_000)

    async def work() -> None:
        async with served(boards, FakeStores(b"[" + b"1," * 200_000)) as site:
            with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
                await site.query()

    run(work)


def test_an_answer_that_breaks_off_has_no_end(boards: Boards) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(10)
            if not piece:
                raise ConnectionError("the store went away")
            return piece

    async def work() -> None:
        async with served(boards, FakeStores(lambda _sql, _tenant: Breaking(b"[1,2,3,4,5,6,7,8]"))) as site:
            with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
                await site.query()

    run(work)


def test_a_page_for_one_tenant_lists_and_gives_its_boards_only(boards: Boards) -> None:
    async def work() -> None:
        async with served(boards, FakeStores(tenants=("anthropic", "xai")), tenant="xai") as site:
            async with site.session.get("/api/boards") as answer:
                listed = await answer.json()
            assert [board["uid"] for board in listed["boards"]] == ["mine"]
            assert (listed["tenants"], listed["only"]) == (["xai"], "xai")
            assert (await site.get("/api/boards/fleet"))[0] == 400
            assert (await site.get("/api/boards/mine"))[0] == 200

    run(work)
