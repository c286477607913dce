"""Links from board to board. Every link carries the time range and the variables that the target knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infra.grafana.boards import ids


@dataclass(frozen=True, slots=True)
class Link:
    title: str
    url: str


def variable(name: str) -> str:
    """The value that is chosen on this board, safe inside an address."""
    return f"${{{name}:percentencode}}"


def field(name: str) -> str:
    """The value of a column of the row that is clicked."""
    return f"${{__data.fields.{name}:percentencode}}"


def series() -> str:
    """The name of the series that is clicked: the text column ``series`` of its query."""
    return "${__field.labels.series:percentencode}"


def board(title: str, uid: str, variables: Mapping[str, str], panel: int | None = None) -> Link:
    """To a board (and panel), at the same time range; ``variables``: the target's name -> text from above."""
    chosen = "".join(f"&var-{name}={value}" for name, value in variables.items())
    view = f"&viewPanel={panel}" if panel is not None else ""
    return Link(title, f"/d/{uid}?${{__url_time_range}}{chosen}{view}")


SITE: Final = {"site": field("site")}
"""From a row that has a column ``site``."""


def to_rack(rack: str = field("rack"), site: str = field("site")) -> Link:
    return board("Rack", ids.Rack.UID, {"site": site, "rack": rack})


def to_node(node: str = field("node_id"), site: str = field("site")) -> Link:
    return board("Node", ids.Node.UID, {"site": site, "node": node})


def to_gpu(node: str = field("node_id"), gpu: str = field("gpu"), site: str = field("site")) -> Link:
    return board("GPU", ids.Gpu.UID, {"site": site, "node": node, "gpu": gpu})
