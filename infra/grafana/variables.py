"""Variables of the boards. They choose what is shown; they never decide what may be seen: the ClickHouse user does.

The value '' is a choice of its own, All. (Grafana's own All would become a list, or an unescaped text.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboard_
from grafana_foundation_sdk.models import dashboard as model

from infra.grafana.query import chosen, last, only
from infra.grafana.target import source


@dataclass(frozen=True, slots=True)
class Variable:
    """A picker whose choices come from a query of two columns: the value, and the text to show."""

    name: str
    label: str
    sql: str
    everything: bool = True
    """Whether All is a choice."""

    def build(self, uid: str) -> dashboard_.QueryVariable:
        variable = dashboard_.QueryVariable(self.name).label(self.label).datasource(source(uid))
        variable.query(self.sql).definition(self.sql)
        if self.everything:
            variable.current(model.VariableOption(text="All", value="", selected=True))
        variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.DISABLED)
        return variable.multi(False).include_all(False).allow_custom_value(True)


@dataclass(frozen=True, slots=True)
class Fixed:
    """A picker of values that are known beforehand; the first is chosen."""

    name: str
    label: str
    values: tuple[str, ...]

    def build(self, uid: str) -> dashboard_.CustomVariable:
        del uid  # needs no data source
        options = [
            model.VariableOption(text=value, value=value, selected=value == self.values[0]) for value in self.values
        ]
        variable = dashboard_.CustomVariable(self.name).label(self.label).values(",".join(self.values))
        return variable.options(options).current(options[0]).multi(False).include_all(False)


AnyVariable = Variable | Fixed


def choice(name: str, label: str, column: str, table: str, where: str = "1", everything: bool = True) -> Variable:
    """One of the values that a column has; with ``everything``, or All."""
    values = (
        f"SELECT DISTINCT toString({column}) AS value, value AS text FROM gpufleet.{table}\n"
        f"WHERE {where} AND value != ''\nORDER BY value LIMIT 5000"
    )
    if everything:
        values = (
            f"SELECT value, text FROM\n(\nSELECT '' AS value, 'All' AS text\nUNION ALL\n{values}\n)\nORDER BY value"
        )
    return Variable(name, label, values, everything)


_WEEK = "ts >= toStartOfHour(greatest($__fromTime, $__toTime - 604800)) AND ts <= $__toTime"
SITE: Final = choice("site", "Site", "site", "health_1h", _WEEK)
MODEL: Final = choice("gpu_model", "GPU model", "gpu_model", "health_1h", _WEEK)
TENANT: Final = choice("tenant", "Customer", "tenant", "health_1h", _WEEK)
RACK_FILTER: Final = choice("rack", "Rack", "rack", "node_place FINAL", only("site"))
RACK: Final = choice("rack", "Rack", "rack", "node_place FINAL", only("site"), everything=False)
NODE: Final = choice(
    "node",
    "Node",
    "node_id",
    "node_place FINAL",
    f"notEmpty(gpu_index) AND {only('site')} AND {only('rack')}",
    everything=False,
)
GPU: Final = choice(
    "gpu", "GPU", "arrayJoin(gpu_index)", "node_place FINAL", f"node_id = {chosen('node')}", everything=False
)
FEED: Final = choice("feed", "Feed", "feed", "node_place FINAL", only("site"))


def usage(name: str, label: str) -> Variable:
    """One of the dimensions of a customer's usage."""
    return choice(name, label, name, "usage_1h FINAL", last(24 * 31))


WORKSPACE: Final = usage("workspace", "Workspace")
PRODUCT: Final = usage("product", "Product")
SERVED_MODEL: Final = usage("model", "Model")
TIER: Final = usage("tier", "Tier")
BY: Final = Fixed("by", "Split by", ("product", "workspace", "model", "tier"))
"""The dimension that usage is drawn by."""
