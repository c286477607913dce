"""How each kind of user works on the engine: which connection, which settings, which statement in the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from infra.embedded.store.engine import Connection, Engine
from infra.embedded.store.errors import ACCESS_DENIED, READONLY, Refusal
from infra.embedded.store.gate import Gate
from infra.embedded.store.users import Kind, User
from infra.embedded.store.work import MARK, Job

_HARMLESS: Final = re.compile(
    r"output_format_\w+|date_time_output_format|session_timezone|extremes|format_csv_delimiter"
)
"""Settings a tenant may send: how an answer looks, not what it is made of."""
_STAFF: Final = (Kind.OPERATOR, Kind.READER)
"""People: what they see of tenants' usage is up to the leases."""
_SCHEMA_FILES: Final = re.compile(r"output_format_schema|format_schema\w*|format_template\w*")


@dataclass(frozen=True)
class TenantLimits:
    """What one query of a tenant may take."""

    execution_s: int = 30
    memory_bytes: int = 2 << 30
    result_rows: int = 1_000_000
    result_bytes: int = 512 << 20
    threads: int = 2
    queries: int = 4
    """At the same time; more wait."""

    def settings(self) -> dict[str, str]:
        """As ClickHouse settings."""
        return {
            "max_execution_time": str(self.execution_s),
            "max_memory_usage": str(self.memory_bytes),
            "max_result_rows": str(self.result_rows),
            "max_result_bytes": str(self.result_bytes),
            "result_overflow_mode": "throw",
            "timeout_overflow_mode": "throw",
            "max_threads": str(self.threads),
            "allow_introspection_functions": "0",
            "allow_ddl": "0",
        }


class Access:
    """Opens connections as users may have them, and clears their statements."""

    def __init__(self, engine: Engine, gate: Gate, database: str, limits: TenantLimits) -> None:
        self._engine, self._gate, self._database, self._limits = engine, gate, database, limits
        self.forget = gate.forget

    def clear(self, user: User, job: Job) -> Job:
        """The job as it may run. Refusal if it may not; RuntimeError if it cannot be parsed."""
        if user.kind is Kind.ADMIN:
            return job
        database = job.database if job.database not in ("", "default") else self._database
        if user.kind is Kind.TENANT and database != self._database:
            raise Refusal(ACCESS_DENIED, "ACCESS_DENIED", f"Not enough privileges: the database is {self._database}")
        if database not in (self._database, "system", "information_schema", "INFORMATION_SCHEMA"):
            raise Refusal(ACCESS_DENIED, "ACCESS_DENIED", f"Not enough privileges: the database is {self._database}")
        checking = self._engine.admin()
        try:
            text, form = job.body.sql.decode("utf-8", "replace"), job.default_format
            cleared = self._gate.check(user.kind, text, form, job.parameters, checking)
        finally:
            checking.close()
        settings = dict(job.settings)
        if user.kind is Kind.TENANT:
            settings = self._tenant_settings(settings)
            job = replace(job, max_rows=self._limits.result_rows, max_bytes=self._limits.result_bytes)
        if user.kind in _STAFF:
            settings.pop("readonly", None)  # it is 2, or the statement an INSERT that the gate let through
        if job.body.head.keyword == "INSERT":
            # VALUES would otherwise evaluate any expression, file() among them.
            settings["input_format_values_interpret_expressions"] = "0"
            settings["input_format_values_deduce_templates_of_expressions"] = "0"
        body = job.body.with_sql(cleared.sql.encode())
        return replace(job, body=body, database=database, settings=settings, counts=cleared.counts)

    def connect(self, user: User, job: Job) -> Connection:
        """A fresh connection for a cleared job, its database and settings in place."""
        settings = {**job.settings, MARK: job.mark} if job.selects and job.mark else job.settings
        inserts = job.body.head.keyword == "INSERT"
        if user.kind is Kind.TENANT:
            return self._engine.tenant(user.tenant, {**settings, **self._limits.settings()}, job.database)
        if user.kind in _STAFF:
            return self._engine.operator(settings, job.database, readonly=not inserts)
        connection = self._engine.admin()
        try:
            if job.database and job.database != "default":
                connection.use(job.database)
            connection.set(settings)
            if user.kind is Kind.WRITER and not inserts:
                connection.set({"readonly": "2"})
        except BaseException:
            connection.close()
            raise
        return connection

    def _tenant_settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        kept = {}
        for name, value in settings.items():
            if _HARMLESS.fullmatch(name) and not _SCHEMA_FILES.fullmatch(name):
                kept[name] = value
            elif name not in self._limits.settings() and name != "readonly":
                raise Refusal(READONLY, "READONLY", f"Cannot modify '{name}' setting in readonly mode.")
        return kept
