"""What outlives a run of the simulator, in its state folder, and the folder through which faults are injected.

``run.json``: the scenario, leases, limits and jobs in force, and the event time reached. ``fleet.json``: nodes, CDUs
and feeds of the running simulation. ``control/``: one JSON file for each injected fault, taken away when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from producers.simulator.reading import ScenarioError
from producers.simulator.topology import Fleet


@dataclass
class Remembered:
    """Contents of run.json."""

    scenario: str
    nodes: int
    until_us: int = 0
    leases: list[dict[str, Any]] = field(default_factory=list)
    limits: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    """Fields of the allocations events that would end them."""


class Memory:
    """The state folder; made when it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "control").mkdir(parents=True, exist_ok=True)

    def load(self, fleet: Fleet) -> Remembered | None:
        """What the run before left; None for a first run. ScenarioError when that was another fleet."""
        try:
            stored = Remembered(**json.loads((self.folder / "run.json").read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ScenarioError(
                f"{self.folder / 'run.json'} cannot be read ({error}); remove it to start anew"
            ) from None
        if (stored.scenario, stored.nodes) != (fleet.scenario.name, len(fleet.nodes)):
            raise ScenarioError(
                f"{self.folder} belongs to scenario {stored.scenario!r} with {stored.nodes} nodes, found"
                f" {fleet.scenario.name!r} with {len(fleet.nodes)}: use another data folder"
            )
        return stored

    def save(self, remembered: Remembered) -> None:
        _replace(self.folder / "run.json", json.dumps(vars(remembered)))

    def announce(self, fleet: Fleet) -> None:
        """Write what can be named in an injected fault."""
        described = {
            "scenario": fleet.scenario.name,
            "nodes": {node.node_id: node.gpus for node in fleet.nodes},
            "cdus": list(fleet.cdus),
            "feeds": list(fleet.feeds),
        }
        _replace(self.folder / "fleet.json", json.dumps(described))

    def announced(self) -> dict[str, Any]:
        """What ``announce`` wrote. FileNotFoundError when no simulation ever ran here."""
        described: dict[str, Any] = json.loads((self.folder / "fleet.json").read_text())
        return described

    def inject(self, name: str, request: dict[str, Any]) -> None:
        """Leave a request for the running simulation; ``name`` makes its file distinct and gives the order."""
        _replace(self.folder / "control" / f"{name}.json", json.dumps(request))

    def requests(self) -> Iterator[dict[str, Any]]:
        """Requests left since the last call, oldest first; each is taken away."""
        for path in sorted((self.folder / "control").glob("*.json")):
            try:
                request = json.loads(path.read_text())
            except ValueError:
                request = {}
            path.unlink()
            if isinstance(request, dict) and request:
                yield request


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
