"""Discrete facts about a node: what becomes a node-events event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    """One discrete fact. Field meanings as in the node-events schema."""

    event: str
    source: str
    ts: int
    """When it happened, microseconds since 1970, UTC."""
    gpu_uuid: bytes | None = None
    gpu_index: int | None = None
    pci_address: str = ""
    code: int | None = None
    recovery_action: int | None = None
    occurrences: int = 1
    value: str = ""
    message: str = ""
    raw: str = ""
    ended_at: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    previous_run_id: int | None = None
    previous_last_seq: Mapping[str, int] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """The fields of the event that the fact itself knows (the agent adds node, rack and boot id)."""
        return {
            "event": self.event,
            "source": self.source,
            "gpu_index": self.gpu_index,
            "gpu_uuid": self.gpu_uuid,
            "pci_address": self.pci_address,
            "code": self.code,
            "recovery_action": self.recovery_action,
            "occurrences": self.occurrences,
            "value": self.value,
            "message": self.message,
            "raw": self.raw,
            "ended_at": self.ended_at,
            "previous_run_id": self.previous_run_id,
            "previous_last_seq": dict(self.previous_last_seq),
            "attributes": dict(self.attributes),
        }


Post = Callable[[Fact], None]
"""Hands a fact to the agent; from any thread, never blocks."""
