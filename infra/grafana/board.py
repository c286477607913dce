"""A board: panels in rows, with variables, annotations and links, as classic dashboard JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as dashboard_
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from infra.grafana.links import Link
from infra.grafana.marks import Annotation
from infra.grafana.panels import Panel
from infra.grafana.target import CUSTOMER, ClickHouseQuery, Target, source
from infra.grafana.variables import AnyVariable

SCHEMA_VERSION: Final = 41
"""Grafana 12.0's. Later ones, 13 included, bring it up to date when they load it; an older one could not go down."""
COLUMNS: Final = 24
_FIRST_ROW_ID: Final = 1000
"""Ids of row titles, out of the way of panels."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side; what does not fit goes below. A row with a title can be folded."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Board:
    uid: str
    title: str
    description: str
    datasource: str
    rows: Sequence[Row]
    variables: Sequence[AnyVariable] = ()
    annotations: Sequence[Annotation] = ()
    links: Sequence[Link] = ()
    time_from: str = "now-3h"
    refresh: str = "1m"
    timezone: str = "browser"
    """``utc`` where figures are billed."""

    @property
    def audience(self) -> str:
        """``operator`` or ``customer``: the folder of its file, and the tag its links go by."""
        return "customer" if self.datasource == CUSTOMER else "operator"

    def json(self) -> str:
        """The dashboard, byte for byte the same for the same board."""
        document: dict[str, Any] = json.loads(json.dumps(self._dashboard(), cls=JSONEncoder))
        document["schemaVersion"] = SCHEMA_VERSION
        # Ids are the store's own business; the uid names a board everywhere.
        document.pop("id", None)
        return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def _dashboard(self) -> model.Dashboard:
        board = dashboard_.Dashboard(self.title).uid(self.uid).description(self.description)
        board.tags(["gpufleet", self.audience]).timezone(self.timezone).editable().refresh(self.refresh)
        board.time(self.time_from, "now").tooltip(model.DashboardCursorSync.CROSSHAIR)
        for variable in self.variables:
            board.with_variable(variable.build(self.datasource))
        for annotation in self.annotations:
            board.annotation(annotation.build(self.datasource))
        menu = dashboard_.DashboardLink("Boards").type(model.DashboardLinkType.DASHBOARDS).as_dropdown(True)
        board.link(menu.tags([self.audience]).keep_time(True).include_vars(False).icon("external link"))
        for link in self.links:
            board.link(dashboard_.DashboardLink(link.title).type(model.DashboardLinkType.LINK).url(link.url))
        self._place(board)
        return board.build()

    def _place(self, board: dashboard_.Dashboard) -> None:
        top = 0
        for number, row in enumerate(self.rows):
            if row.title:
                title = dashboard_.Row(row.title).id(_FIRST_ROW_ID + number).collapsed(False)
                board.with_row(title.grid_pos(model.GridPos(h=1, w=COLUMNS, x=0, y=top)))
                top += 1
            left = highest = 0
            for panel in row.panels:
                if left + panel.width > COLUMNS:
                    left, top, highest = 0, top + highest, 0
                builder = panel.builder.grid_pos(model.GridPos(h=panel.height, w=panel.width, x=left, y=top))
                if panel.queries:
                    builder.datasource(source(self.datasource))
                for place, sql in enumerate(panel.queries):
                    query = ClickHouseQuery(sql.strip(), panel.shape, self.datasource, "ABCDEFGH"[place])
                    builder.with_target(Target(query))
                board.with_panel(builder)
                left, highest = left + panel.width, max(highest, panel.height)
            top += highest
