"""What the simulator did: counts of what was sent, and what was wrong, when. Tests and audits compare with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from producers.encode import Message


class Truth:
    """Facts in memory, and as JSON lines in ``file`` when one is given."""

    def __init__(self, file: Path | None = None) -> None:
        self.events: Counter[str] = Counter()
        """Events sent, by topic."""
        self.gpu_samples = 0
        """GPU samples sent on the fast lane: GPUs times ticks."""
        self.facts: list[dict[str, Any]] = []
        """Everything that was noted, in order; ``what`` names the kind of fact."""
        # By lines: what was told is there, whatever ends the process.
        self._file = file.open("a", buffering=1) if file else None

    def sent(self, messages: Sequence[Message]) -> None:
        """Count messages as sent."""
        self.events.update(message.topic for message in messages)

    def unsent(self, messages: Sequence[Message]) -> None:
        """Take back messages that were counted and could not be sent."""
        self.events.subtract(message.topic for message in messages)

    def note(self, what: str, **facts: Any) -> dict[str, Any]:
        """Record a fact; times in it are microseconds since 1970."""
        fact = {"what": what, **facts}
        self.facts.append(fact)
        if self._file:
            self._file.write(json.dumps(fact) + "\n")
        return fact

    def of(self, what: str, **wanted: Any) -> Iterator[Mapping[str, Any]]:
        """The facts of a kind, and with these values."""
        for fact in self.facts:
            if fact["what"] == what and all(fact.get(key) == value for key, value in wanted.items()):
                yield fact

    def close(self) -> None:
        """Write the counts as a last line and close the file."""
        if self._file:
            self._file.write(
                json.dumps({"what": "sent", "events": self.events, "gpu_samples": self.gpu_samples}) + "\n"
            )
            self._file.close()
            self._file = None
