"""Sessions of the administrator (URL parameter session_id): SET, USE and temporary tables outlive their request.

clickhouse-connect names a session in every request by default and hardly ever needs one, so that a session gets a
connection of its own only when a statement leaves something behind.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from infra.embedded.store.engine import Connection, literal
from infra.embedded.store.errors import SESSION_IS_LOCKED, SESSION_NOT_FOUND, TOO_MANY_QUERIES, Refusal

MOST: Final = 64
"""Sessions with a connection at the same time."""
LONGEST_S: Final = 3600.0
_LASTING: Final = re.compile(rb"\s*(?:SET|USE|CREATE\s+(?:OR\s+REPLACE\s+)?TEMPORARY)\b", re.IGNORECASE)


@dataclass
class _Session:
    connection: Connection
    expires: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sessions:
    """The sessions of this process, by (user, session id). Used from worker threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._sessions: dict[tuple[str, str], _Session] = {}

    def wanted(self, key: tuple[str, str], sql: bytes) -> bool:
        """True if the statement must run in the session's own connection."""
        self._expire()
        return key in self._sessions or _LASTING.match(sql) is not None

    def check(self, key: tuple[str, str]) -> None:
        """session_check=1: Refusal (372) unless the session is there."""
        self._expire()
        if key not in self._sessions:
            raise Refusal(SESSION_NOT_FOUND, "SESSION_NOT_FOUND", f"Session {key[1]} not found")

    @contextmanager
    def use(
        self,
        key: tuple[str, str],
        timeout_s: float,
        make: Callable[[], Connection],
        database: str,
        settings: Mapping[str, str],
    ) -> Iterator[Connection]:
        """The session's connection, for one statement with `database` and `settings` that end with it.

        Refusal (373) while another statement of the session runs.
        """
        with self._guard:
            session = self._sessions.get(key)
            if session is None:
                if len(self._sessions) >= MOST:
                    raise Refusal(TOO_MANY_QUERIES, "TOO_MANY_SIMULTANEOUS_QUERIES", f"more than {MOST} sessions")
                session = self._sessions[key] = _Session(make(), 0.0)
            if not session.lock.acquire(blocking=False):
                raise Refusal(SESSION_IS_LOCKED, "SESSION_IS_LOCKED", f"Session {key[1]} is locked by a query")
        try:
            undo = _apply(session.connection, database, settings)
            try:
                yield session.connection
            finally:
                for statement in undo:
                    session.connection.run(statement)
        finally:
            session.expires = self._clock() + min(timeout_s, LONGEST_S)
            session.lock.release()

    def _expire(self) -> None:
        now = self._clock()
        with self._guard:
            for key, session in list(self._sessions.items()):
                if session.expires < now and session.lock.acquire(blocking=False):
                    session.connection.close()
                    del self._sessions[key]

    def close(self) -> None:
        """Close every session's connection."""
        with self._guard:
            for session in self._sessions.values():
                session.connection.close()
            self._sessions.clear()


def _apply(connection: Connection, database: str, settings: Mapping[str, str]) -> list[str]:
    """Set what one statement needs; the statements that undo it."""
    undo = []
    if settings:
        names = ", ".join(map(literal, settings))
        rows = connection.run(
            f"SELECT name, value, changed FROM system.settings WHERE name IN ({names})", "JSONCompactEachRow"
        )
        for name, value, changed in map(json.loads, rows.bytes().splitlines()):
            undo.append(f"SET `{name}` = {literal(value) if changed else 'DEFAULT'}")
        connection.set(settings)
    if database and database != "default":
        before = json.loads(connection.run("SELECT currentDatabase()", "JSONCompactEachRow").bytes())[0]
        if before == "default":  # the URL's database counts until the session says USE
            connection.use(database)
            undo.append(f"USE `{before}`")
    return undo
