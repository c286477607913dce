"""One helper per kind of panel. Every panel says what it means and what to do; that is not optional.

``sql`` is one query or several. Time series name their series by a text column ``series`` with the number in ``Value``,
or by the names of their number columns: Grafana then shows exactly that name. Widths are of 24 columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from grafana_foundation_sdk.builders import bargauge as bargauge_
from grafana_foundation_sdk.builders import common as common_
from grafana_foundation_sdk.builders import dashboard as dashboard_
from grafana_foundation_sdk.builders import heatmap as heatmap_
from grafana_foundation_sdk.builders import stat as stat_
from grafana_foundation_sdk.builders import statetimeline as statetimeline_
from grafana_foundation_sdk.builders import table as table_
from grafana_foundation_sdk.builders import text as text_
from grafana_foundation_sdk.builders import timeseries as timeseries_
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import text as text_model

from infra.grafana import thresholds as limits
from infra.grafana import units
from infra.grafana.colours import STATES
from infra.grafana.links import Link
from infra.grafana.target import Shape
from infra.grafana.thresholds import Steps

AnyPanel = (
    bargauge_.Panel
    | heatmap_.Panel
    | stat_.Panel
    | statetimeline_.Panel
    | table_.Panel
    | text_.Panel
    | timeseries_.Panel
)
_P = TypeVar("_P", bargauge_.Panel, heatmap_.Panel, stat_.Panel, statetimeline_.Panel, table_.Panel, timeseries_.Panel)
NO_DATA: Final = "no data"
EMPTY: Final = "–"


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel without its place and data source, which the board gives it."""

    builder: AnyPanel
    queries: tuple[str, ...]
    shape: Shape
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Column:
    """How a table shows a column of its query."""

    title: str
    unit: str | None = None
    decimals: int | None = None
    width: int | None = None
    links: Sequence[Link] = ()
    steps: Steps | None = None
    hidden: bool = False
    colours: Mapping[str, str] = field(default_factory=dict)
    """Text -> colour."""


HIDDEN: Final = Column("", hidden=True)
"""A column that only links need."""


def timeseries(
    id_: int,
    title: str,
    sql: str | Sequence[str],
    *,
    means: str,
    do: str,
    unit: str,
    width: int = 12,
    height: int = 8,
    stack: bool = False,
    bars: bool = False,
    colours: Mapping[str, str] | None = None,
    dashed: Sequence[str] = (),
    beside: Sequence[str] = (),
    bottom: float | None = 0,
    top: float | None = None,
    decimals: int | None = None,
    links: Sequence[Link] = (),
    steps: Steps | None = None,
    interval: str = "1m",
    legend: bool = True,
) -> Panel:
    """Lines, or stacked areas, or bars, over time. ``dashed`` names limits, drawn as a dashed line without a fill;
    ``beside`` names lines in a panel of bars, which are not part of the stack."""
    panel = _common(timeseries_.Panel(), id_, title, means, do, unit, decimals)
    panel.interval(interval)
    panel.draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
    panel.line_width(1).fill_opacity(70 if bars else 60 if stack else 8)
    panel.show_points(common.VisibilityMode.AUTO).point_size(4).span_nulls(False)
    if stack:
        panel.stacking(common_.StackingConfig().group("A").mode(common.StackingMode.NORMAL))
    if bottom is not None:
        panel.min(bottom)
    if top is not None:
        panel.max(top)
    if steps is not None:
        panel.thresholds(_thresholds(steps))
        panel.thresholds_style(common_.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    panel.color_scheme(dashboard_.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    panel.tooltip(common_.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    panel.legend(_legend(legend))
    _colour(panel, colours)
    for name in dashed:
        panel.override_by_name(
            name,
            [
                model.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
                model.DynamicConfigValue("custom.fillOpacity", 0),
                model.DynamicConfigValue("custom.stacking", {"group": "A", "mode": "none"}),
            ],
        )
    for name in beside:
        panel.override_by_name(
            name,
            [
                model.DynamicConfigValue("custom.drawStyle", "line"),
                model.DynamicConfigValue("custom.fillOpacity", 0),
                model.DynamicConfigValue("custom.stacking", {"group": "A", "mode": "none"}),
            ],
        )
    _links(panel, links)
    return Panel(panel, _texts(sql), "series", width, height)


def stat(
    id_: int,
    title: str,
    sql: str,
    *,
    means: str,
    do: str,
    unit: str,
    width: int = 4,
    height: int = 4,
    decimals: int | None = None,
    steps: Steps = limits.PLAIN,
    links: Sequence[Link] = (),
    zero: str | None = None,
) -> Panel:
    """One figure. ``zero`` is the text for 0, where that says more."""
    panel = _common(stat_.Panel(), id_, title, means, do, unit, decimals)
    panel.thresholds(_thresholds(steps))
    panel.color_scheme(dashboard_.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    panel.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
    panel.justify_mode(common.BigValueJustifyMode.AUTO).text_mode(common.BigValueTextMode.VALUE)
    panel.reduce_options(common_.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    if zero is not None:
        panel.mappings([model.ValueMap({"0": model.ValueMappingResult(text=zero)})])
    _links(panel, links)
    return Panel(panel, (sql,), "table", width, height)


def bargauge(
    id_: int,
    title: str,
    sql: str,
    *,
    means: str,
    do: str,
    unit: str,
    width: int = 8,
    height: int = 8,
    decimals: int | None = None,
    steps: Steps = limits.PLAIN,
    links: Sequence[Link] = (),
    top: float | None = None,
    none: str = NO_DATA,
) -> Panel:
    """A bar per row: the query gives a name and a number. ``none``: see ``table``."""
    panel = _common(bargauge_.Panel(), id_, title, means, do, unit, decimals)
    panel.no_value(none)
    panel.thresholds(_thresholds(steps)).min(0)
    if top is not None:
        panel.max(top)
    panel.color_scheme(dashboard_.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    panel.orientation(common.VizOrientation.HORIZONTAL).display_mode(common.BarGaugeDisplayMode.BASIC)
    panel.value_mode(common.BarGaugeValueMode.TEXT).show_unfilled(True)
    panel.reduce_options(common_.ReduceDataOptions().calcs(["lastNotNull"]).values(True).limit(25))
    _links(panel, links)
    return Panel(panel, (sql,), "table", width, height)


def table(
    id_: int,
    title: str,
    sql: str,
    columns: Mapping[str, Column],
    *,
    means: str,
    do: str,
    width: int = 24,
    height: int = 8,
    none: str = NO_DATA,
) -> Panel:
    """Rows as the query gives and orders them; ``columns`` names every column of it.

    ``none`` is what a list without rows says, where that is no want of data. It claims no more than the store knows:
    how much was heard is what the board's completeness says.
    """
    panel = _common(table_.Panel(), id_, title, means, do, units.WHOLE, None)
    panel.no_value(none)  # each column has its own for a cell
    panel.show_header(True).cell_height(common.TableCellHeight.SM).filterable(True)
    for name, column in columns.items():
        panel.override_by_name(name, list(_properties(column)))
    return Panel(panel, (sql,), "table", width, height)


def heatmap(
    id_: int,
    title: str,
    sql: str,
    *,
    means: str,
    do: str,
    unit: str = units.COUNT,
    width: int = 12,
    height: int = 8,
    interval: str = "1m",
) -> Panel:
    """Counts over time and bucket: the query gives the time and one number column per bucket, the lowest first."""
    panel = _common(heatmap_.Panel(), id_, title, means, do, unit, None)
    panel.interval(interval).max_data_points(120)
    panel.calculate(False).cell_gap(1).show_value(common.VisibilityMode.NEVER)
    scheme = heatmap_.HeatmapColorOptions().mode(heatmap_model.HeatmapColorMode.SCHEME).scheme("Blues").steps(32)
    panel.color(
        scheme.scale(heatmap_model.HeatmapColorScale.EXPONENTIAL).exponent(0.4).fill("dark-blue").reverse(False)
    )
    panel.filter_values(heatmap_.FilterValueRange().le(1e-9))
    panel.rows_frame(heatmap_.RowsHeatmapOptions().layout(common.HeatmapCellLayout.AUTO))
    panel.cell_values(heatmap_.CellValues().unit(unit).decimals(0))
    panel.y_axis(heatmap_.YAxisConfig().axis_placement(common.AxisPlacement.LEFT).reverse(False))
    return Panel(panel, (sql,), "series", width, height)


def timeline(
    id_: int,
    title: str,
    sql: str,
    *,
    means: str,
    do: str,
    width: int = 24,
    height: int = 8,
    states: Mapping[int, tuple[str, str]] | None = None,
    links: Sequence[Link] = (),
    interval: str = "1m",
) -> Panel:
    """A band per series, coloured by state: ``Value`` is a code of ``states``, number -> (text, colour)."""
    panel = _common(statetimeline_.Panel(), id_, title, means, do, units.WHOLE, None)
    panel.interval(interval).merge_values(True).row_height(0.9).show_value(common.VisibilityMode.NEVER)
    panel.fill_opacity(80).line_width(0).span_nulls(False)
    panel.align_value(common.TimelineValueAlignment.LEFT)
    panel.color_scheme(dashboard_.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    panel.thresholds(_thresholds(limits.PLAIN))
    panel.mappings(
        [
            model.ValueMap(
                {
                    str(code): model.ValueMappingResult(text=text, color=colour, index=code)
                    for code, (text, colour) in (states or STATES).items()
                }
            )
        ]
    )
    panel.legend(_legend(True))
    panel.tooltip(common_.VizTooltipOptions().mode(common.TooltipDisplayMode.SINGLE).sort(common.SortOrder.NONE))
    _links(panel, links)
    return Panel(panel, (sql,), "series", width, height)


def text(id_: int, title: str, markdown: str, *, width: int = 24, height: int = 3) -> Panel:
    """Words on a board."""
    panel = text_.Panel().id(id_).title(title).mode(text_model.TextMode.MARKDOWN).content(markdown)
    return Panel(panel, (), "table", width, height)


def describe(means: str, do: str) -> str:
    return f"{means.strip()}\n\n**What to do:** {do.strip()}"


def _common(panel: _P, id_: int, title: str, means: str, do: str, unit: str, decimals: int | None) -> _P:
    panel.id(id_).title(title).description(describe(means, do)).unit(unit).no_value(NO_DATA)
    if decimals is not None:
        panel.decimals(decimals)
    return panel


def _texts(sql: str | Sequence[str]) -> tuple[str, ...]:
    return (sql,) if isinstance(sql, str) else tuple(sql)


def _thresholds(steps: Steps) -> dashboard_.ThresholdsConfig:
    return dashboard_.ThresholdsConfig().steps([model.Threshold(value, colour) for value, colour in steps.steps])


def _legend(show: bool) -> common_.VizLegendOptions:
    legend = common_.VizLegendOptions().placement(common.LegendPlacement.BOTTOM).show_legend(show).calcs([])
    return legend.display_mode(common.LegendDisplayMode.LIST)


def _links(
    panel: timeseries_.Panel | stat_.Panel | bargauge_.Panel | statetimeline_.Panel, links: Sequence[Link]
) -> None:
    if links:
        panel.data_links([_dashboard_link(link) for link in links])


def _dashboard_link(link: Link) -> dashboard_.DashboardLink:
    return dashboard_.DashboardLink(link.title).url(link.url)


def _colour(panel: timeseries_.Panel, colours: Mapping[str, str] | None) -> None:
    for name, colour in (colours or {}).items():
        panel.override_by_name(name, [model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})])


def _properties(column: Column) -> Sequence[model.DynamicConfigValue]:
    if column.hidden:
        return [model.DynamicConfigValue("custom.hidden", True)]
    values: dict[str, Any] = {"displayName": column.title, "noValue": EMPTY}
    if column.unit is not None:
        values["unit"] = column.unit
    if column.decimals is not None:
        values["decimals"] = column.decimals
    if column.width is not None:
        values["custom.width"] = column.width
    if column.links:
        values["links"] = [{"title": link.title, "url": link.url} for link in column.links]
    if column.steps is not None:
        values["thresholds"] = _thresholds(column.steps).build()
        values["color"] = {"mode": "thresholds"}
        values["custom.cellOptions"] = {"type": "color-text"}
    if column.colours:
        values["mappings"] = [
            model.ValueMap({text_: model.ValueMappingResult(color=colour) for text_, colour in column.colours.items()})
        ]
        values["custom.cellOptions"] = {"type": "color-text"}
    return [model.DynamicConfigValue(name, value) for name, value in values.items()]
