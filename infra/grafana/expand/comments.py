"""Where quoted texts and comments end in ClickHouse SQL, as macropro 1.0 (the parser of plugin 4.19) sees it."""

from __future__ import annotations

import re

_DOLLAR = re.compile(r"\$[A-Za-z0-9_]*\$")


def quoted_end(sql: str, at: int, *, backslash: bool) -> int:
    """The place behind the quoted text that opens at ``at``; doubled (``backslash``: and escaped) quotes are inside."""
    mark = sql[at]
    at += 1
    while at < len(sql):
        if backslash and sql[at] == "\\" and at + 1 < len(sql):
            at += 2
        elif sql[at] != mark:
            at += 1
        elif sql[at + 1 : at + 2] == mark:
            at += 2
        else:
            return at + 1
    return at


def without_comments(sql: str) -> str:
    """The SQL with ``--`` and ``/* */`` comments as blanks of the same length; quoted texts are left alone."""
    out, at = [], 0
    while at < len(sql):
        end = _region_end(sql, at)
        if end is not None:
            out.append(sql[at:end])
        else:
            end = _comment_end(sql, at)
            out.append(" " * (end - at) if end > at else sql[at])
            end = max(end, at + 1)
        at = end
    return "".join(out)


def _region_end(sql: str, at: int) -> int | None:
    """End of the quoted region that begins here, if one does."""
    if sql[at] in "'\"":
        return quoted_end(sql, at, backslash=True)
    if sql[at] == "`":
        return quoted_end(sql, at, backslash=False)
    tag = _DOLLAR.match(sql, at)
    if tag is None:
        return None
    close = sql.find(tag[0], tag.end())
    return None if close < 0 else close + len(tag[0])


def _comment_end(sql: str, at: int) -> int:
    """End of the comment that begins here; ``at`` itself where none does."""
    if sql.startswith("--", at):
        line = re.compile(r"[\r\n]").search(sql, at)
        return line.start() if line else len(sql)
    if sql.startswith("/*", at):
        close = sql.find("*/", at + 2)
        return len(sql) if close < 0 else close + 2
    return at
