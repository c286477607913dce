"""Queries as the ClickHouse data source wants them: the SDK has no class for it, so its Dataquery is subclassed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import DataSourceRef

PLUGIN: Final = "grafana-clickhouse-datasource"
OPERATOR: Final = "gpufleet-operator"
"""Data source of the operator's organisation."""
CUSTOMER: Final = "gpufleet-customer"
"""Data source of every customer's organisation: one uid, and in each organisation that customer's ClickHouse user.
What a customer may see is decided by that user, never by a board."""

Shape = Literal["series", "table"]


def source(uid: str) -> DataSourceRef:
    return DataSourceRef(type_val=PLUGIN, uid=uid)


@dataclass(frozen=True, slots=True)
class ClickHouseQuery(Dataquery):
    """One SQL text. ``series``: the back end makes one series of each text value; ``table``: rows as they are."""

    sql: str
    shape: Shape
    uid: str
    ref_id: str = "A"

    def to_json(self) -> dict[str, object]:
        series = self.shape == "series"
        return {
            "refId": self.ref_id,
            "datasource": {"type": PLUGIN, "uid": self.uid},
            "editorType": "sql",
            "queryType": "timeseries" if series else "table",
            # 0 and 1 are the plugin's own numbers for the two.
            "format": 0 if series else 1,
            "rawSql": self.sql,
        }


@dataclass(frozen=True, slots=True)
class Target(Builder[Dataquery]):
    """A ClickHouseQuery as the SDK's builders take it."""

    query: ClickHouseQuery

    def build(self) -> Dataquery:
        return self.query
