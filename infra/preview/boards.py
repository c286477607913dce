"""The committed boards, as the page needs them: found by uid, their queries by name, the SQL kept on this side."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.grafana.boards import ids
from infra.grafana.expand import Dashboard, Query, dashboards, queries

FOLDER = Path(__file__).parent.parent / "grafana" / "dashboards"
_PREFIX = "gpufleet-"
_OF_THE_QUERY = ("rawSql", "meta", "datasource")


class NotFoundError(LookupError):
    """A board or query that is not there; the message names it, and what there is."""


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard and its queries."""

    dashboard: Dashboard
    queries: Mapping[tuple[str, str], Query]
    """By role and name: (``panel``, ``12.A``), (``variable``, ``rack``), (``annotation``, ``XIDs``)."""

    def query(self, role: str, name: str) -> Query:
        """One of its queries; NotFoundError."""
        try:
            return self.queries[role, name]
        except KeyError:
            raise NotFoundError(f"{self.dashboard.uid} has no {role[:40]} query {name[:80]!r}") from None

    def public(self) -> dict[str, Any]:
        """The JSON for the browser: everything but the SQL, which it neither needs nor may send."""
        shown = copy.deepcopy(dict(self.dashboard.raw))
        for panel in shown["panels"]:
            for each in (panel, *(panel.get("panels") or ())):
                each["targets"] = [_without(target, *_OF_THE_QUERY) for target in each.get("targets") or ()]
        names = [variable.name for variable in self.dashboard.variables]
        for variable in (shown.get("templating") or {}).get("list") or ():
            if variable["type"] == "query":
                variable.pop("definition", None)
                text = json.dumps(variable.pop("query", ""))
                # What the page needs to know instead: after which choices it has to ask again.
                variable["dependsOn"] = [name for name in names if re.search(rf"\$\{{?{re.escape(name)}\b", text)]
        asked = {annotation.name for annotation in self.dashboard.annotations}
        listed = (shown.get("annotations") or {}).get("list") or ()
        shown["annotations"] = {"list": [_without(a, "target", "datasource") for a in listed if a.get("name") in asked]}
        return {**shown, "audience": self.dashboard.audience}


class Boards:
    """Every board of a folder with ``operator/`` and ``customer/``, read once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        told = [board.UID for board in (*ids.OPERATOR, *ids.CUSTOMER)]
        found = [board for board in dashboards(folder) if board.audience in ("operator", "customer")]
        found.sort(key=lambda board: (told.index(board.uid) if board.uid in told else len(told), board.title))
        self._boards = {
            board.uid: Board(board, {(query.role, query.name): query for query in queries(board)}) for board in found
        }

    def __iter__(self) -> Iterator[Board]:
        """In the order in which people are shown them."""
        return iter(self._boards.values())

    def __getitem__(self, uid: str) -> Board:
        """The board with that uid, or with what follows ``gpufleet-`` in it; NotFoundError."""
        board = self._boards.get(uid) or self._boards.get(_PREFIX + uid)
        if board is None:
            known = ", ".join(name.removeprefix(_PREFIX) for name in self._boards) or "none"
            raise NotFoundError(f"no board {uid[:80]!r}; there are: {known}")
        return board


def _without(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in names}
