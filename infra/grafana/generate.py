"""Writes the committed dashboards: ``python -m infra.grafana.generate``. A test fails when they are not up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from infra.grafana.board import Board
from infra.grafana.boards.customer import delivered, effect, energy, incidents, throughput, usage
from infra.grafana.boards.operator import capacity, fleet, gpu, health, node, pipeline, power, rack

DASHBOARDS: Final = Path(__file__).parent / "dashboards"


def boards() -> tuple[Board, ...]:
    """Every board, the operator's first."""
    return (
        fleet.board(),
        rack.board(),
        node.board(),
        gpu.board(),
        health.board(),
        power.board(),
        capacity.board(),
        pipeline.board(),
        delivered.board(),
        usage.board(),
        throughput.board(),
        effect.board(),
        energy.board(),
        incidents.board(),
    )


def files() -> Iterator[tuple[Path, str]]:
    """Path below ``dashboards`` and content of every file."""
    for board in boards():
        yield Path(board.audience) / f"{board.uid}.json", board.json()


def write(folder: Path = DASHBOARDS) -> None:
    """Writes all files, and removes those of boards that are no more."""
    made = dict(files())
    for path, content in made.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    for path in folder.rglob("*.json"):
        if path.relative_to(folder) not in made:
            path.unlink()


if __name__ == "__main__":
    write()
