from __future__ import annotations

import pytest

from infra.clickhouse.render import Render, RenderError
from infra.clickhouse.statements import SqlTextError, bare, split, tokens


def test_semicolons_in_strings_names_and_comments_do_not_end_a_statement() -> None:
    sql = """SELECT ';', 'it''s; \\'; ', `a;b`, "c;d" -- one; two
    FROM t /* three; four */ ; SELECT 2"""
    first, second = split(sql)
    assert first.endswith("/* three; four */")
    assert first.startswith("SELECT ';'")
    assert second == "SELECT 2"


def test_what_holds_only_comments_is_no_statement() -> None:
    assert split("-- nothing here;\n ; /* nor here */ ;; SELECT 1;\n-- the end") == ["SELECT 1"]


def test_tokens_join_to_the_text_again() -> None:
    sql = "CREATE TABLE `x y` (a String COMMENT 'it''s') -- c\nENGINE = Null;"
    assert "".join(text for _, text in tokens(sql)) == sql


@pytest.mark.parametrize("sql", ["SELECT 'open", "SELECT `open", "SELECT 1 /* open"])
def test_what_is_never_closed_is_named_with_its_line(sql: str) -> None:
    with pytest.raises(SqlTextError, match=r"line 3: .* never closed"):
        split("\n\n" + sql)


def test_comments_are_left_out_of_the_bare_statement() -> None:
    assert bare("-- grain: one row\nSELECT /* all */ 1 -- done").split() == ["SELECT", "1"]


def test_retention_is_filled_in() -> None:
    assert Render(raw_days=3).text("TTL ts + INTERVAL {{raw_days}} DAY") == "TTL ts + INTERVAL 3 DAY"


def test_an_unknown_placeholder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RenderError, match=r"\{\{rawdays\}\}.*raw_days"):
        Render().text("{{rawdays}}")


def test_nothing_is_kept_for_less_than_a_day() -> None:
    with pytest.raises(RenderError, match="minute_days must be at least 1 day, found 0"):
        Render(minute_days=0)


@pytest.mark.parametrize(
    ("plain", "clustered"),
    [
        (
            "CREATE TABLE IF NOT EXISTS g.t (a Int8 COMMENT 'ENGINE = MergeTree') ENGINE ="
            " ReplacingMergeTree(v) ORDER BY a",
            "CREATE TABLE IF NOT EXISTS g.t ON CLUSTER 'c' (a Int8 COMMENT 'ENGINE = MergeTree')"
            " ENGINE = ReplicatedReplacingMergeTree(v) ORDER BY a",
        ),
        (
            "-- CREATE TABLE x\nCREATE OR REPLACE VIEW g.v AS SELECT 'CREATE TABLE y'",
            "-- CREATE TABLE x\nCREATE OR REPLACE VIEW g.v ON CLUSTER 'c' AS SELECT 'CREATE TABLE y'",
        ),
        ("ALTER TABLE g.t MODIFY TTL x", "ALTER TABLE g.t ON CLUSTER 'c' MODIFY TTL x"),
        ("SYSTEM RELOAD DICTIONARY g.d", "SYSTEM RELOAD DICTIONARY g.d ON CLUSTER 'c'"),
        (
            "CREATE ROW POLICY OR REPLACE `a-b` ON g.t USING 1 TO r",
            "CREATE ROW POLICY OR REPLACE `a-b` ON CLUSTER 'c' ON g.t USING 1 TO r",
        ),
        ("GRANT SELECT ON g.* TO r", "GRANT ON CLUSTER 'c' SELECT ON g.* TO r"),
        ("SELECT 1", "SELECT 1"),
    ],
)
def test_a_cluster_changes_the_objects_and_engines_and_nothing_else(plain: str, clustered: str) -> None:
    assert Render(cluster="c").statement(plain) == clustered
    assert Render().statement(plain) == plain
