"""Asking one panel or annotation of a board, by its uid and id, as the user whose board it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra.grafana.expand import Query, TimeRange, choose, queries
from tests.grafana.boards import BOARDS, ask
from tests.story import Story


class Asking:
    """``tenant`` empty: the operator."""

    def __init__(self, story: Story, tenant: str = "") -> None:
        self.story = story
        self._client = story.tenant(tenant) if tenant else story.operator

    def rows(
        self,
        uid: str,
        panel_id: int,
        at_us: int | None = None,
        hours: float = 6,
        wanted: Mapping[str, str] | None = None,
        *,
        place: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of a panel's only query, or of that of ``place``, over ``hours`` that end at ``at_us`` (else: with
        the day); variables as the board opens with, but for ``wanted``."""
        of_panel = [each for each in self._queries(uid) if each.panel is not None and each.panel.id == panel_id]
        assert place is not None or len(of_panel) == 1, f"{uid}/{panel_id} has {len(of_panel)} queries"
        query = of_panel[place or 0]
        return self._ask(query, at_us, hours, wanted)

    def number(
        self,
        uid: str,
        panel_id: int,
        at_us: int | None = None,
        hours: float = 6,
        wanted: Mapping[str, str] | None = None,
    ) -> float:
        """The only number of a stat."""
        [row] = self.rows(uid, panel_id, at_us, hours, wanted)
        [value] = row.values()
        assert value is not None, f"{uid}/{panel_id} shows no value"
        return float(value)

    def annotation(self, uid: str, name: str, at_us: int | None = None, hours: float = 24) -> list[dict[str, Any]]:
        """What an annotation marks."""
        [query] = [each for each in self._queries(uid) if each.role == "annotation" and each.name == name]
        return self._ask(query, at_us, hours, None)

    @staticmethod
    def _queries(uid: str) -> list[Query]:
        [board] = [board for board in BOARDS if board.uid == uid]
        return list(queries(board))

    def _ask(
        self, query: Query, at_us: int | None, hours: float, wanted: Mapping[str, str] | None
    ) -> list[dict[str, Any]]:
        end_ms = (self.story.end_us if at_us is None else at_us) // 1000
        span = TimeRange(end_ms - int(hours * 3_600_000), end_ms)
        return ask(self._client, query, span, choose(self._client, query.dashboard, span, wanted)).dicts()
