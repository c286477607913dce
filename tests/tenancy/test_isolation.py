"""As each tenant of a fleet's day, and as its operator: what others have does not come out, by value.

A question may be refused or may be answered with the tenant's own rows. Either way the whole answer, headers and error
text included, is searched for what only others have: their names, nodes, leases, jobs and figures.
"""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.story import Story
from tests.tenancy.hostile import HOSTILE, OUTSIDE

pytestmark = pytest.mark.store


@dataclass(frozen=True)
class Asker:
    """One user of the story's store, and what its answers must not hold."""

    story: Story
    user: str
    password: str
    words: frozenset[str]
    """Names that only others have."""
    numbers: frozenset[str]
    """Figures that only others' rows add up to."""
    names: Mapping[str, str]
    """What the questions speak of."""

    def ask(self, asked: str, headers: Mapping[str, str] | None = None, /, **parameters: str) -> tuple[int, str, str]:
        """Status, body and headers of one question."""
        url = f"{self.story.settings.store.url}/?{urllib.parse.urlencode({'database': 'gpufleet', **parameters})}"
        given = {"X-ClickHouse-User": self.user, "X-ClickHouse-Key": self.password, **(headers or {})}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, asked.encode(), given), timeout=120) as answer:
                return answer.status, answer.read().decode(errors="replace"), str(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace"), str(error.headers)

    def check(self, query: str, status: int, body: str, headers: str) -> None:
        """Fails when anything of others is in the answer. An error may repeat what the question itself says."""
        shown = body + re.sub(r'"elapsed_ns":"\d+"', "", headers)  # as long as the figures of others, and any number
        found = set(re.findall(r"[A-Za-z0-9_-]+", shown))
        said = set(re.findall(r"[A-Za-z0-9_-]+", query)) if status != 200 else set()
        assert not (found & self.words) - said, query
        assert not (found & self.numbers) - said, query
        assert "leak-found" not in shown or status != 200, query
        assert "root:" not in shown, query


def rows(story: Story, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in story.admin.query(sql).result_rows]


def column(story: Story, sql: str) -> set[str]:
    return {str(row[0]) for row in rows(story, sql)}


def figures(story: Story, condition: str, tables: tuple[str, ...], *, counts: bool = True) -> set[str]:
    """Counts and sums over rows, of each tenant and of all; small numbers could be anything's."""
    found: set[str] = set()
    for table in tables:
        sums = ["count()"] if counts else []
        if "usage" in table:
            sums += ["sum(requests)", "sum(input_tokens)", "sum(output_tokens)", "max(input_tokens)"]
        for group in (f"WHERE {condition} GROUP BY tenant", ""):
            for row in rows(story, f"SELECT {', '.join(sums)} FROM {table} {group}"):
                found |= {str(number) for number in row}
    return {number for number in found if len(number) >= 5}


TABLES = ("tenant_usage", "usage_1m", "usage_1h", "usage_1d", "node_telemetry", "gpu_1m", "fleet_10s", "health_1m")
USAGE = TABLES[:4]


@pytest.fixture(scope="module")
def askers(story: Story) -> dict[str, Asker]:
    """Every tenant of the story."""
    folder = story.settings.store.tenant_password_dir
    assert folder is not None
    made = {}
    held = column(story, "SELECT DISTINCT tenant FROM leases")
    for tenant in story.tenants:
        mine = f"tenant = '{tenant}'"
        own_nodes = column(story, f"SELECT DISTINCT node_id FROM lease_segments WHERE {mine}")
        nodes = column(story, "SELECT DISTINCT node_id FROM inventory") - own_nodes
        leases = column(story, f"SELECT DISTINCT lease_id FROM leases WHERE tenant != '{tenant}'")
        jobs = column(story, f"SELECT DISTINCT job_id FROM job_1m WHERE tenant != '{tenant}'") - column(
            story, f"SELECT DISTINCT job_id FROM job_1m WHERE {mine}"
        )
        others = {*held, *story.tenants} - {tenant, ""}
        own_figures = {
            str(number)
            for table in TABLES
            for row in rows(story, f"SELECT count() FROM {table} WHERE {mine}")
            for number in row
        }
        made[tenant] = Asker(
            story,
            tenant,
            (folder / f"{tenant}.password").read_text().strip(),
            frozenset(others | nodes | leases | (jobs - {""})),
            frozenset(figures(story, f"NOT ({mine})", TABLES) - own_figures),
            {
                "other": sorted(others)[0],
                "node": sorted(nodes)[0],
                "lease": sorted(leases)[0],
                "data": str(story.stack.data / "store"),
                "url": story.settings.store.url,
            },
        )
        assert len(made[tenant].words) > 10
        assert len(made[tenant].numbers) > 10
    return made


@pytest.mark.parametrize("query", HOSTILE)
def test_nothing_of_others_comes_out(askers: dict[str, Asker], query: str) -> None:
    for asker in askers.values():
        text = query.format(**asker.names)
        asker.check(text, *asker.ask(text))


@pytest.mark.parametrize(
    "parameters",
    [
        {"log_comment": "{other}"},
        {"user": "{other}"},
        {"user": "gpufleet", "password": ""},
        {"profile": "default"},
        {"readonly": "0"},
        {"role": "admin"},
        {"database": "system"},
        {"session_id": "x", "session_timeout": "60"},
        {"query_id": "mine", "quota_key": "{other}"},
        {"additional_table_filters": "{{'usage_1m': '1'}}"},
        {"param_t": "{other}"},
        {"default_format": "JSON"},
        {"default_format": "JSONCompact", "wait_end_of_query": "1", "send_progress_in_http_headers": "1"},
        {"query": "SELECT tenant FROM facility_1m UNION ALL "},
        {"use_query_cache": "1", "query_cache_share_between_users": "1"},
    ],
)
def test_what_comes_along_opens_nothing(askers: dict[str, Asker], parameters: dict[str, str]) -> None:
    for asker in askers.values():
        filled = {key: value.format(**asker.names) for key, value in parameters.items()}
        for query in (
            "SELECT tenant, sum(requests) FROM usage_1m GROUP BY tenant",
            "SELECT DISTINCT node_id FROM node_telemetry WHERE tenant = {t:String}",
        ):
            asker.check(" ".join([query, *filled.values()]), *asker.ask(query, None, **filled))


@pytest.mark.parametrize(
    "name", ["X-ClickHouse-Database", "X-ClickHouse-Quota", "X-ClickHouse-Format", "X-Forwarded-For"]
)
def test_headers_open_nothing(askers: dict[str, Asker], name: str) -> None:
    for asker in askers.values():
        for value in ("system", asker.names["other"]):
            query = "SELECT tenant, count() FROM usage_1m GROUP BY tenant"
            asker.check(f"{query} {value}", *asker.ask(query, {name: value}))


PROBES = (
    ("SELECT count() FROM usage_1m WHERE tenant = '{name}'", "other"),
    ("SELECT tenant, sum(requests) FROM usage_1d WHERE tenant = '{name}' GROUP BY tenant", "other"),
    ("SELECT count() FROM gpu_1h WHERE node_id = '{name}'", "node"),
    ("SELECT count() FROM lease_segments WHERE lease_id = '{name}'", "lease"),
)


def test_a_name_that_others_have_is_answered_as_one_that_nobody_has(askers: dict[str, Asker]) -> None:
    """In every format that the engine has: to the byte, and with the same counts."""
    asker = next(iter(askers.values()))
    formats = column(asker.story, "SELECT name FROM system.formats WHERE is_output")
    assert len(formats) > 50
    answered = 0
    for form in sorted(formats):
        for query, kind in PROBES:
            said = [asker.names[kind], "nosuch" + "x" * (len(asker.names[kind]) - 6)]
            answers = []
            for name in said:
                status, body, headers = asker.ask(query.format(name=name), {}, default_format=form)
                shown = re.sub(r'"elapsed_ns":"\d+"|(?m:^(Date|X-ClickHouse-Query-Id|.*-Tag): .*$)', "", headers)
                answers.append((status, body.replace(name, ""), shown.replace(name, "")))
            assert answers[0] == answers[1], (form, query)
            answered += answers[0][0] == 200
    assert answered > 30 * len(PROBES)


def test_the_same_question_is_answered_to_each_with_its_own(askers: dict[str, Asker]) -> None:
    """In turn and twice, so that nothing that the engine keeps for the next question crosses over."""
    sql = "SELECT tenant, sum(requests) FROM usage_1h FINAL WHERE requests > 0 GROUP BY tenant"
    for _ in range(2):
        for asker in askers.values():
            [expected] = rows(asker.story, sql.replace("WHERE", f"WHERE tenant = '{asker.user}' AND"))
            assert asker.ask(sql)[:2] == (200, f"{expected[0]}\t{expected[1]}\n")


def test_who_takes_all_that_is_allowed_takes_nothing_from_others(askers: dict[str, Asker]) -> None:
    """More questions at a time than a tenant has turns; another is answered meanwhile, and the first in the end."""
    greedy, other = list(askers.values())[:2]
    heavy = "SELECT max(cityHash64(number)) > 0 FROM numbers(60000000)"
    answers: list[tuple[int, str, str]] = []
    threads = [threading.Thread(target=lambda: answers.append(greedy.ask(heavy))) for _ in range(7)]
    for thread in threads:
        thread.start()
    assert other.ask("SELECT DISTINCT tenant FROM usage_1m")[:2] == (200, f"{other.user}\n")
    for thread in threads:
        thread.join()
    assert [answer[:2] for answer in answers] == [(200, "1\n")] * 7
    status, body, _ = greedy.ask("SELECT number FROM numbers(3000000)", wait_end_of_query="1")
    assert (status, body[:9]) == (500, "Code: 396")


@pytest.fixture(scope="module")
def operator(story: Story) -> Asker:
    """People on the operator's side, and what the one tenant whose lease opens nothing has used."""
    closed = column(story, "SELECT DISTINCT tenant FROM lease_current WHERE NOT operator_reads_usage")
    closed -= column(story, "SELECT DISTINCT tenant FROM lease_current WHERE operator_reads_usage")
    assert closed == {"anthropic"}
    mine = "tenant IN ('anthropic')"
    secret = {
        name
        for kind in ("workspace", "product")
        for name in column(story, f"SELECT DISTINCT {kind} FROM usage_1m WHERE {mine}")
        - column(story, f"SELECT DISTINCT {kind} FROM usage_1m WHERE NOT ({mine})")
    }
    password = story.settings.store.password
    assert password is not None
    return Asker(
        story,
        story.settings.store.user,
        password.get_secret_value(),
        frozenset(word for word in secret if len(word) > 3),
        frozenset(figures(story, mine, USAGE, counts=False)),
        {"other": "anthropic", "node": "x", "lease": "x", "data": "/", "url": story.settings.store.url},
    )


OPERATORS = [
    "SELECT * FROM usage_1m WHERE tenant = 'anthropic' LIMIT 100",
    "SELECT workspace, product, sum(requests), sum(input_tokens), sum(output_tokens) FROM usage_1m GROUP BY ALL",
    "SELECT tenant, sum(requests), sum(input_tokens), max(input_tokens) FROM tenant_usage GROUP BY tenant",
    "SELECT sum(requests), sum(input_tokens), sum(output_tokens), count() FROM usage_1h",
    "SELECT * FROM tenant_usage_daily",
    "SELECT * FROM tenant_headroom WHERE limit_name NOT IN ('gpu_quota', 'power_cap') AND tenant = 'anthropic'",
    "SELECT * FROM tenant_limits WHERE tenant = 'anthropic' AND limit_name LIKE '%tokens%'",
    "SELECT * FROM flawed_events LIMIT 100",
    "SELECT workspace, product, input_tokens FROM tenant_usage SETTINGS log_comment = 'anthropic'",
    "SELECT workspace, product, input_tokens FROM tenant_usage SETTINGS profile = 'default'",
    "SELECT * FROM (SELECT workspace, product FROM tenant_usage SETTINGS profile = 'default')",
    "SELECT l.tenant, u.product, u.input_tokens FROM leases AS l RIGHT JOIN usage_1m AS u USING (tenant) LIMIT 100",
    "SELECT throwIf(input_tokens > 0, concat('x', product)) FROM usage_1m WHERE tenant = 'anthropic'",
    "SELECT dictGet('gpufleet.usage_1m', 'product', 1)",
    "INSERT INTO projector_requests (reason) SELECT product FROM usage_1m",
    "SELECT minMap(map(product, 1)) FROM usage_1d WHERE tenant = 'anthropic'",
]


@pytest.mark.parametrize("query", [*OPERATORS, *OUTSIDE])
def test_the_operator_reads_no_usage_that_no_lease_opens(operator: Asker, query: str) -> None:
    text = query.format(**operator.names)
    status, body, headers = operator.ask(text)
    operator.check(text, status, body, headers)


def test_the_operator_reads_what_a_lease_opens(operator: Asker) -> None:
    sql = "SELECT tenant, sum(requests), sum(output_tokens) FROM usage_1h FINAL GROUP BY tenant ORDER BY tenant"
    expected = [row for row in rows(operator.story, sql) if row[0] != "anthropic"]
    assert len(expected) == 2
    assert operator.ask(sql)[:2] == (200, "".join("\t".join(map(str, row)) + "\n" for row in expected))
    kinds = "SELECT DISTINCT limit_name FROM tenant_limits WHERE tenant = 'anthropic' ORDER BY limit_name"
    assert set(operator.ask(kinds)[1].split()) <= {"gpu_quota", "power_cap"}


def test_after_all_of_it_nothing_was_changed(askers: dict[str, Asker], story: Story) -> None:
    assert column(story, "SELECT name FROM system.tables WHERE database = 'gpufleet' AND name = 'mine'") == set()
    assert not list((story.stack.data / "store").glob("out.tsv*"))
    assert rows(story, "SELECT count() FROM usage_1m WHERE site = 'x'") == [(0,)]
    assert askers["anthropic"].ask("SELECT count() > 0 FROM usage_1m")[:2] == (200, "1\n")
