"""The engine's configuration files: limits for a small machine, and who sees which rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

OPEN_SYSTEM_TABLES = ("one", "settings", "numbers", "numbers_mt", "zeros", "zeros_mt", "time_zones", "licenses")
"""System tables that say nothing about anybody's data; clickhouse-connect reads system.settings when it connects."""

OPEN_VIEW = "*"
"""In the policies: a view that tenants may read, filtered by the tables beneath it."""


@dataclass(frozen=True)
class Limits:
    """What the engine may use. Bytes unless said otherwise."""

    memory: int = 0
    """For all queries together; 0 = half of the machine's."""
    mark_cache: int = 256 << 20
    uncompressed_cache: int = 0
    query_memory: int = 0
    """For one query; 0 = three quarters of `memory`."""
    merge_threads: int = 2
    threads: int = 0
    """For one query; 0 = the number of cores."""


def machine_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def row_filters(policies: Mapping[str, str | None], database: str, operator: str) -> str:
    """The <databases> section of users.xml.

    A row is seen if the connection's carrier (setting log_comment) is the operator's secret or the row's tenant.
    The policies with an empty table name are the engine's database-wide default: tables that are not listed, also
    those created later, and the system tables, show nothing to a tenant.
    """
    carrier = "getSetting('log_comment')"
    only_operator = f"{carrier} = '{operator}'"
    tables = []
    for table, column in sorted(policies.items()):
        if column == OPEN_VIEW:
            rule = "1"
        elif column:
            quoted = "`" + column.replace("\\", "\\\\").replace("`", "\\`") + "`"
            rule = f"{carrier} IN ('{operator}', toString({quoted}))"
        else:
            rule = only_operator
        tables.append(_table(table, rule))
    tables.append(_table("", only_operator))
    lines = ["<databases>", f"<{database}>", *tables, f"</{database}>"]
    if database != "default":
        lines += ["<default>", _table("", only_operator), "</default>"]
    lines += ["<system>", *(_table(name, "1") for name in OPEN_SYSTEM_TABLES), _table("", only_operator), "</system>"]
    for schema in ("information_schema", "INFORMATION_SCHEMA"):
        lines += [f"<{schema}>", _table("", only_operator), f"</{schema}>"]
    lines.append("</databases>")
    return "\n".join(lines)


def _table(name: str, rule: str) -> str:
    return f"<table name={quoteattr(name)}><filter>{escape(rule)}</filter></table>"


def write(folder: Path, log: Path, limits: Limits, filters: str, operator: str, boot: str) -> Path:
    """Write config.xml and users.xml into `folder`; the path of config.xml.

    The profile makes every connection the operator's, since dictionaries and background work read through the same
    filters and cannot be given a carrier of their own; Engine.tenant takes it away. `boot` is
    this start's identifier, readable as SELECT getMacro('gpufleet_boot') or from system.macros.
    """
    memory = limits.memory or machine_memory() // 2
    query_memory = limits.query_memory or memory * 3 // 4
    threads = limits.threads or os.cpu_count() or 1
    users = folder / "users.xml"
    users.write_text(
        f"""<clickhouse>
<profiles><default>
<log_comment>{operator}</log_comment>
<max_memory_usage>{query_memory}</max_memory_usage>
<max_threads>{threads}</max_threads>
</default></profiles>
<users><default>
<password></password>
<networks><ip>::/0</ip></networks>
<profile>default</profile>
<quota>default</quota>
{filters}
</default></users>
<quotas><default/></quotas>
</clickhouse>
""",
        encoding="utf-8",
    )
    config = folder / "config.xml"
    config.write_text(
        f"""<clickhouse>
<logger>
<log>{escape(str(log))}</log>
<size>20M</size>
<count>3</count>
</logger>
<users_config>{escape(str(users))}</users_config>
<macros><gpufleet_boot>{escape(boot)}</gpufleet_boot></macros>
<max_server_memory_usage>{memory}</max_server_memory_usage>
<mark_cache_size>{limits.mark_cache}</mark_cache_size>
<uncompressed_cache_size>{limits.uncompressed_cache}</uncompressed_cache_size>
<background_pool_size>{limits.merge_threads}</background_pool_size>
<background_merges_mutations_concurrency_ratio>2</background_merges_mutations_concurrency_ratio>
<background_schedule_pool_size>4</background_schedule_pool_size>
<background_common_pool_size>2</background_common_pool_size>
</clickhouse>
""",
        encoding="utf-8",
    )
    return config
