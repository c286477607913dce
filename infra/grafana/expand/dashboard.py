"""A dashboard's JSON as far as its queries and pictures go: panels, targets, variables, annotations, links.

Read from the classic model (schema version 36 to 42) that is committed and provisioned. What a reader of it needs and
this does not name is in ``raw``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from infra.grafana.expand.timerange import TimeRange, duration_ms, parse_range
from infra.grafana.expand.variables import ALL, Value, selected

PLUGIN: Final = "grafana-clickhouse-datasource"
KINDS: Final = frozenset({"timeseries", "stat", "table", "bargauge", "heatmap", "state-timeline"})
"""Panels that show data; ``row`` and ``text`` give structure."""
Format = Literal["time_series", "table"]


class DashboardError(ValueError):
    """JSON that is no dashboard, or a part of it that lacks what it needs."""


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel."""

    ref_id: str
    sql: str
    format: Format
    datasource_uid: str
    hidden: bool
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Link:
    title: str
    url: str
    """With variables; for a dashboard link by tags, empty."""
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Panel:
    id: int
    kind: str
    """timeseries, stat, table, bargauge, heatmap, state-timeline; row, text; or what else the JSON says."""
    title: str
    description: str
    targets: tuple[Target, ...]
    grid: Mapping[str, int]
    """h, w, x, y in Grafana's 24 columns."""
    field_config: Mapping[str, Any]
    """defaults and overrides: unit, decimals, thresholds, mappings, links, custom."""
    options: Mapping[str, Any]
    transformations: tuple[Mapping[str, Any], ...]
    links: tuple[Link, ...]
    """The panel's own and its fields' data links."""
    min_interval_ms: int
    max_data_points: int | None
    row: str
    """Title of the row it stands under; empty above the first."""
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Variable:
    name: str
    kind: str
    """query, custom, textbox, constant, interval, datasource ..."""
    label: str
    sql: str
    """The query of a query variable, else empty."""
    options: tuple[str, ...]
    """Values that the JSON itself lists."""
    current: Value
    multi: bool
    include_all: bool
    all_value: str
    hidden: bool
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Annotation:
    name: str
    sql: str
    enabled: bool
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    title: str
    description: str
    audience: str
    """``operator`` or ``customer``: the folder its file lies in."""
    panels: tuple[Panel, ...]
    """In reading order, those inside collapsed rows included."""
    variables: tuple[Variable, ...]
    annotations: tuple[Annotation, ...]
    """Those that ask the store; Grafana's own are left out."""
    links: tuple[Link, ...]
    time_from: str
    time_to: str
    refresh: str
    timezone: str
    raw: Mapping[str, Any] = field(repr=False)

    def panel(self, panel_id: int) -> Panel:
        """The panel with that id; KeyError."""
        for panel in self.panels:
            if panel.id == panel_id:
                return panel
        raise KeyError(f"dashboard {self.uid} has no panel {panel_id}")

    def time_range(self, now_ms: int) -> TimeRange:
        """Its own range, at a given now."""
        return parse_range(self.time_from, self.time_to, now_ms)

    def defaults(self) -> dict[str, Value]:
        """What each variable stands for when the dashboard opens."""
        return {variable.name: variable.current for variable in self.variables}


@dataclass(frozen=True, slots=True)
class Query:
    """One SQL text of a dashboard, and where it stands."""

    dashboard: Dashboard = field(repr=False)
    role: Literal["panel", "variable", "annotation"]
    name: str
    """Panel id and ref id (``12.A``), or the variable's or annotation's name."""
    sql: str
    format: Format
    panel: Panel | None = None
    target: Target | None = None

    def __str__(self) -> str:
        return f"{self.dashboard.uid}/{self.role}/{self.name}"


def dashboards(folder: Path) -> list[Dashboard]:
    """Every dashboard below a folder, by uid."""
    return sorted((load(path) for path in folder.rglob("*.json")), key=lambda dashboard: dashboard.uid)


def load(path: Path) -> Dashboard:
    """The dashboard in a file; DashboardError names the file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return read(document, audience=path.parent.name)
    except (ValueError, KeyError, TypeError) as error:
        raise DashboardError(f"{path}: {error}") from error


def read(document: Mapping[str, Any], audience: str = "") -> Dashboard:
    """The dashboard of a JSON document."""
    if not isinstance(document, dict) or not document.get("uid") or not isinstance(document.get("panels"), list):
        raise DashboardError("expected a dashboard: an object with uid and panels")
    time = document.get("time") or {}
    return Dashboard(
        uid=document["uid"],
        title=document.get("title", ""),
        description=document.get("description") or "",
        audience=audience,
        panels=tuple(_panels(document["panels"])),
        variables=tuple(_variable(entry) for entry in _within(document, "templating", "list")),
        annotations=tuple(
            Annotation(
                name=entry.get("name", ""),
                sql=entry["target"]["rawSql"],
                enabled=bool(entry.get("enable", True)),
                raw=entry,
            )
            for entry in _within(document, "annotations", "list")
            if "rawSql" in (entry.get("target") or {})
        ),
        links=tuple(_links(document.get("links"))),
        time_from=time.get("from", "now-6h"),
        time_to=time.get("to", "now"),
        refresh=document.get("refresh") or "",
        timezone=document.get("timezone") or "browser",
        raw=document,
    )


def queries(dashboard: Dashboard) -> Iterator[Query]:
    """Every SQL text in it: variables first, since panels need their values, then annotations, then panels."""
    for variable in dashboard.variables:
        if variable.sql:
            yield Query(dashboard, "variable", variable.name, variable.sql, "table")
    for annotation in dashboard.annotations:
        yield Query(dashboard, "annotation", annotation.name, annotation.sql, "table")
    for panel in dashboard.panels:
        for target in panel.targets:
            yield Query(dashboard, "panel", f"{panel.id}.{target.ref_id}", target.sql, target.format, panel, target)


def _panels(entries: Sequence[Mapping[str, Any]], row: str = "") -> Iterator[Panel]:
    for entry in entries:
        panel = _panel(entry, row)
        if panel.kind == "row":
            row = panel.title
        yield panel
        yield from _panels(entry.get("panels") or (), row)


def _panel(entry: Mapping[str, Any], row: str) -> Panel:
    if not isinstance(entry.get("id"), int) or not entry.get("type"):
        raise DashboardError(f"expected a panel with id and type, found {entry.get('title')!r}")
    field_config = entry.get("fieldConfig") or {}
    fields = [field_config.get("defaults") or {}]
    overrides = [item for each in field_config.get("overrides") or () for item in each.get("properties") or ()]
    links = [link for each in fields for link in each.get("links") or ()]
    links += [link for item in overrides if item.get("id") == "links" for link in item.get("value") or ()]
    return Panel(
        id=entry["id"],
        kind=entry["type"],
        title=entry.get("title") or "",
        description=entry.get("description") or "",
        targets=tuple(_targets(entry)),
        grid=entry.get("gridPos") or {},
        field_config=field_config,
        options=entry.get("options") or {},
        transformations=tuple(entry.get("transformations") or ()),
        links=tuple(_links([*(entry.get("links") or ()), *links])),
        min_interval_ms=duration_ms(entry["interval"]) if entry.get("interval") else 1,
        max_data_points=entry.get("maxDataPoints"),
        row=row,
        raw=entry,
    )


def _targets(panel: Mapping[str, Any]) -> Iterator[Target]:
    for entry in panel.get("targets") or ():
        source = entry.get("datasource") or panel.get("datasource") or {}
        if source.get("type") != PLUGIN:
            raise DashboardError(f"panel {panel['id']}: expected targets of {PLUGIN}, found {source.get('type')!r}")
        # The plugin reads `format`: 0 a time series, 1 a table; queryType says the same to its editor.
        series = entry.get("format", 0 if entry.get("queryType") == "timeseries" else 1) == 0
        yield Target(
            ref_id=entry["refId"],
            sql=entry["rawSql"],
            format="time_series" if series else "table",
            datasource_uid=source.get("uid", ""),
            hidden=bool(entry.get("hide")),
            raw=entry,
        )


def _variable(entry: Mapping[str, Any]) -> Variable:
    query = entry.get("query", "")
    sql = (query.get("rawSql") or query.get("query") or "") if isinstance(query, dict) else query
    kind = entry["type"]
    options = tuple(str(option["value"]) for option in entry.get("options") or () if option["value"] != ALL)
    all_value = entry.get("allValue") or ""
    chosen = (entry.get("current") or {}).get("value")
    if chosen is None:
        chosen = sql if kind in ("textbox", "constant") else next(iter(options), "")
    return Variable(
        name=entry["name"],
        kind=kind,
        label=entry.get("label") or entry["name"],
        sql=sql if kind == "query" else "",
        options=options,
        current=selected(chosen if isinstance(chosen, list) else str(chosen), options, all_value),
        multi=bool(entry.get("multi")),
        include_all=bool(entry.get("includeAll")),
        all_value=all_value,
        hidden=bool(entry.get("hide")),
        raw=entry,
    )


def _links(entries: Sequence[Mapping[str, Any]] | None) -> Iterator[Link]:
    for entry in entries or ():
        yield Link(entry.get("title") or "", entry.get("url") or "", entry)


def _within(document: Mapping[str, Any], section: str, key: str) -> list[Mapping[str, Any]]:
    return (document.get(section) or {}).get(key) or []
