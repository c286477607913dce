"""A variable's value from outside, on the real store: it comes out as it went in, and never as SQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.clickhouse.client import ClickHouse, connect
from infra.embedded.store.process import StoreProcess
from infra.grafana.expand import TimeRange, expand, run

pytestmark = pytest.mark.store
SQL = "SELECT decodeURLComponent('${x:percentencode}') AS value, $__timeFilter(toDateTime(0)) AS macro"
HOSTILE = [
    "",
    "'",
    "''",
    "\\",
    "\\'",
    "\\\\'",
    "' OR 1=1 --",
    "x') UNION ALL SELECT password FROM system.users --",
    "'; DROP TABLE gpufleet.leases; --",
    "/* */ -- # ;",
    '"`[]{}()<>!*~.-_',
    "%27 OR 1=1",
    "%",
    "%%",
    "%zz",
    "100%25",
    "+ a+b",
    "$__timeFilter(ts) $__fromTime ${x} [[x]] $x $tag$",
    "a\nb\r\n\tc\x0b\x0c",
    "\x00",
    "a\x00' OR '1'='1",
    "héllo wörld – 漢字 🚀 \u202e \ufeff",
    "\u2019 \uff07 \u02bc",
    "\x7f\x80\x9f\u2028\u2029",
    "{a:String} {x}",
    "?? ? %s %(x)s :x @x",
    "x" * 100_000,
    "'" * 20_000,
    "\\" * 20_000,
]


@pytest.fixture(scope="module")
def client(store: StoreProcess) -> Iterator[Client]:
    made = connect(ClickHouse(store.host, store.port, store.username, store.password))
    yield made
    made.close()


def evaluated(client: Client, value: str) -> str:
    """What the store makes of a variable of that value."""
    [row] = run(client, expand(SQL, TimeRange(0, 1000), {"x": value})).rows
    assert row[1] == 1, "the macro behind it is still one"
    return str(row[0])


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[1:24] or "empty")
def test_the_value_arrives_as_it_is(client: Client, value: str) -> None:
    assert evaluated(client, value) == value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(alphabet=st.one_of(st.characters(blacklist_categories=["Cs"]), st.sampled_from("'\\%$`\"\n"))))
def test_any_value_arrives_as_it_is(client: Client, value: str) -> None:
    assert evaluated(client, value) == value


@pytest.mark.parametrize("spec", ["", ":raw", ":csv", ":singlequote", ":sqlstring"])
def test_the_other_formats_would_not_do(client: Client, spec: str) -> None:
    """Why boards use no other: each of these lets some value end the string or change on its way."""
    wrong = 0
    for value in ("'", "\\", "\\'", "' || 'x"):
        quoted = f"${{x{spec}}}" if spec in (":singlequote", ":sqlstring") else f"'${{x{spec}}}'"
        try:
            [[found]] = run(client, expand(f"SELECT {quoted}", TimeRange(0, 1000), {"x": value})).rows
        except Exception:  # noqa: BLE001 - a syntax error is one way to be wrong
            wrong += 1
        else:
            wrong += found != value
    assert wrong
