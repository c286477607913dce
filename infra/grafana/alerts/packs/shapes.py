"""What rules of several packs have in common: what an alert is about, the board that shows it, rules over sick GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from infra.grafana.alerts.rule import Owner, Rule, Severity
from infra.grafana.alerts.sql import answer, sick

RACK_LABELS: Final = ("site", "rack")
NODE_LABELS: Final = ("site", "rack", "node")
GPU_LABELS: Final = ("site", "rack", "node", "gpu")
SITE_BOARD: Final = "site={{ .Labels.site }}"
RACK_BOARD: Final = f"{SITE_BOARD}&rack={{{{ .Labels.rack }}}}"
NODE_BOARD: Final = f"{SITE_BOARD}&node={{{{ .Labels.node }}}}"
GPU_BOARD: Final = f"{NODE_BOARD}&gpu={{{{ .Labels.gpu }}}}"


def of_sick(
    name: str,
    title: str,
    pack: str,
    owner: Owner,
    condition: str,
    keys: Mapping[str, str],
    summary: str,
    panel: tuple[str, int],
    *,
    unless: tuple[str, ...] = (),
    pieces: tuple[str, ...] = (),
    severity: Severity = Severity.TICKET,
    for_s: int = 0,
    keep_s: int = 300,
    board: str = "",
) -> Rule:
    """A rule over sick_1m: GPUs with ``condition``, told once for each value of ``keys`` (label -> expression).

    ``unless``: what explains it away; ``pieces``: the named parts of SQL that the conditions use.
    """
    labels = tuple(keys)
    sql = answer(sick(condition, dict(keys), unless), labels, *pieces)
    return Rule(
        name, title, pack, severity, owner, sql, labels, summary, panel, for_s=for_s, keep_s=keep_s, board=board
    )
