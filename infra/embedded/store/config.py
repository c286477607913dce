"""The engine's configuration files: limits for a small machine, and who sees which rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import infra.clickhouse

OPEN_SYSTEM_TABLES = ("one", "settings", "numbers", "numbers_mt", "zeros", "zeros_mt", "time_zones", "licenses")
"""System tables that say nothing about anybody's data; clickhouse-connect reads system.settings when it connects."""

STAFF_SYSTEM_TABLES = (
    "aggregate_function_combinators", "asynchronous_metrics", "build_options", "clusters", "codecs", "collations",
    "columns", "contributors", "data_skipping_indices", "data_type_families", "databases", "detached_parts",
    "dictionaries", "disks", "events", "formats", "functions", "macros", "merge_tree_settings", "merges",
    "metrics", "moves", "mutations", "part_moves_between_shards", "parts", "parts_columns", "projection_parts",
    "projections", "server_settings", "settings_changes", "storage_policies", "table_engines", "table_functions",
    "tables", "warnings",
)  # fmt: skip
"""System tables that people on the operator's side see: none of them holds a value of a row, or a setting of another's
connection."""

COMPRESSION = Path(infra.clickhouse.__file__).parent / "compression.xml"
"""When a part is compressed how: the same section that a server gets."""

OPEN_VIEW = "*"
"""In the policies: a view that tenants may read, filtered by the tables beneath it."""

MERGED_PARTS_S = 60
"""For how long the sources of a merge are kept. chDB's own default is 0, and neither would a merge whose write was lost
be noticed before they are gone (writes.py), nor is a merge synced to the disk."""

IDLE_S = 2
"""Before a table in which nothing was to be merged is looked at again; after an insert it is at once. With the usual
tenth of a second, seventy tables keep an idle store awake."""

COUNTING = (
    "output_format_write_statistics", "max_rows_to_read", "max_bytes_to_read", "max_rows_to_read_leaf",
    "max_bytes_to_read_leaf", "max_partitions_to_read", "max_estimated_execution_time", "force_primary_key",
    "force_index_by_date", "force_data_skipping_indices",
)  # fmt: skip
"""Settings by which an answer, or an error, tells how much the engine read or would read."""

GUARD = "guard"
"""The settings profile that takes away the right to change what row filters go by; it sets nothing itself."""


@dataclass(frozen=True)
class Policy:
    """Who sees which rows of a table."""

    tenant: str | None
    """Column that names the row's tenant; None = tenants see nothing of it; OPEN_VIEW."""
    operator: str = "1"
    """Condition on a row, in SQL, for people on the operator's side."""


Policies = Mapping[str, str | Mapping[str, str | None] | None]
"""Table -> column, None or OPEN_VIEW; or {"tenant": one of these, "operator": condition}. As policies.json holds it."""


@dataclass(frozen=True)
class Carriers:
    """The setting log_comment of connections that see more than one tenant: secrets, new at each start."""

    admin: str
    operator: str


def policies_of(content: Policies) -> dict[str, Policy]:
    """The policies as objects. ValueError for a key that is not known."""
    made = {}
    for table, rows in content.items():
        if rows is None or isinstance(rows, str):
            made[table] = Policy(rows)
            continue
        if set(rows) != {"tenant", "operator"} or not rows["operator"]:
            raise ValueError(f"{table}: expected the keys tenant and operator, found {', '.join(sorted(rows))}")
        made[table] = Policy(rows["tenant"], rows["operator"])
    return made


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


def row_filters(policies: Mapping[str, Policy], database: str, carriers: Carriers) -> str:
    """The <databases> section of users.xml.

    A row is seen if the connection's carrier (setting log_comment) is the administrator's secret, or the row's tenant,
    or the operators' secret and the row is one that operators see. Who asks is a constant of a query: a filter is
    either true or a comparison of the tenant. Where the primary key has the tenant, it skips what others have, whatever
    else a question asks for.

    The policies with an empty table name are database-wide. The engine joins them with a table's own by OR, so they
    let the administrator through and nobody else: tables that are not listed, also those created later, show nothing to
    others.
    """
    carrier = "getSetting('log_comment')"
    admin = f"{carrier} = '{carriers.admin}'"
    staff = f"{carrier} IN ('{carriers.admin}', '{carriers.operator}')"
    tables = []
    for table, policy in sorted(policies.items()):
        rules = [staff if policy.operator == "1" else admin]
        if policy.tenant:
            column = "`" + policy.tenant.replace("\\", "\\\\").replace("`", "\\`") + "`"
            rules.append(f"toString({column}) = {carrier}")
        if policy.operator != "1":
            rules.append(f"({carrier} = '{carriers.operator}' AND ({policy.operator}))")
        tables.append(_table(table, "1" if policy.tenant == OPEN_VIEW else " OR ".join(rules)))
    tables.append(_table("", admin))
    lines = ["<databases>", f"<{database}>", *tables, f"</{database}>"]
    if database != "default":
        lines += ["<default>", _table("", admin), "</default>"]
    # A running query shows its settings, the carrier among them: everybody sees those of his own kind.
    own = f"{carrier} IN ('{carriers.admin}', Settings['log_comment'])"
    system = [
        *(_table(name, "1") for name in OPEN_SYSTEM_TABLES),
        *(_table(name, staff) for name in STAFF_SYSTEM_TABLES),
    ]
    lines += ["<system>", *system, _table("processes", f"{staff} AND {own}"), _table("", admin), "</system>"]
    for schema in ("information_schema", "INFORMATION_SCHEMA"):
        lines += [f"<{schema}>", _table("", staff), f"</{schema}>"]
    lines.append("</databases>")
    return "\n".join(lines)


def _table(name: str, rule: str) -> str:
    return f"<table name={quoteattr(name)}><filter>{escape(rule)}</filter></table>"


def _section(file: Path) -> str:
    """What a configuration file holds within its root element."""
    return file.read_text(encoding="utf-8").partition("<clickhouse>")[2].rpartition("</clickhouse>")[0].strip()


def write(folder: Path, log: Path, limits: Limits, filters: str, admin: str, boot: str) -> Path:
    """Write config.xml and users.xml into `folder`; the path of config.xml.

    The profile makes every connection the administrator's, since dictionaries and background work read through the
    same filters and cannot be given a carrier of their own; Engine.operator and Engine.tenant take it away, and the
    profile `guard` keeps it from coming back. `boot` is this start's identifier, readable as
    SELECT getMacro('gpufleet_boot') or from system.macros. A merge that found no room may leave a broken part of any
    size (writes.py); the engine's own bound of 1 GiB would keep it from starting.
    """
    memory = limits.memory or machine_memory() // 2
    query_memory = limits.query_memory or memory * 3 // 4
    threads = limits.threads or os.cpu_count() or 1
    untold = "\n".join(f"<{name}><const/></{name}>" for name in COUNTING)
    users = folder / "users.xml"
    users.write_text(
        f"""<clickhouse>
<profiles><default>
<log_comment>{admin}</log_comment>
<max_memory_usage>{query_memory}</max_memory_usage>
<max_threads>{threads}</max_threads>
</default>
<{GUARD}><constraints>
<log_comment><const/></log_comment>
<use_query_cache><const/></use_query_cache>
{untold}
</constraints></{GUARD}>
</profiles>
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
<async>false</async>
</logger>
<memory_worker_period_ms>1000</memory_worker_period_ms>
<users_config>{escape(str(users))}</users_config>
{_section(COMPRESSION)}
<macros><gpufleet_boot>{escape(boot)}</gpufleet_boot></macros>
<max_server_memory_usage>{memory}</max_server_memory_usage>
<mark_cache_size>{limits.mark_cache}</mark_cache_size>
<uncompressed_cache_size>{limits.uncompressed_cache}</uncompressed_cache_size>
<background_pool_size>{limits.merge_threads}</background_pool_size>
<background_merges_mutations_concurrency_ratio>2</background_merges_mutations_concurrency_ratio>
<background_schedule_pool_size>4</background_schedule_pool_size>
<background_common_pool_size>2</background_common_pool_size>
<background_processing_pool_thread_sleep_seconds_if_nothing_to_do>{IDLE_S}</background_processing_pool_thread_sleep_seconds_if_nothing_to_do>
<background_streaming_processing_pool_thread_sleep_seconds_if_nothing_to_do>{IDLE_S}</background_streaming_processing_pool_thread_sleep_seconds_if_nothing_to_do>
<merge_tree>
<old_parts_lifetime>{MERGED_PARTS_S}</old_parts_lifetime>
<max_suspicious_broken_parts_bytes>{1 << 60}</max_suspicious_broken_parts_bytes>
</merge_tree>
</clickhouse>
""",
        encoding="utf-8",
    )
    return config
