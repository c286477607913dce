"""What a source is: the seam between the agent and hardware, files and exporters.

Two kinds. A ``Sampler`` answers when asked, once a tick or more rarely, in a thread of its own. A ``Watcher`` waits
for things to happen and posts facts, also in a thread of its own. Both raise ``SourceError`` when they cannot work;
the runner then reports "source down", closes them, and tries again with a growing pause. Neither needs to defend
itself against hanging: the runner notices, reports, and goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from producers.agent.facts import Post

Number = float | int


class SourceError(RuntimeError):
    """The source cannot work now; the text says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One GPU as a source describes it. Two equal devices mean that nothing changed."""

    uuid: bytes
    """16 bytes, the hex digits of the driver's UUID in order."""
    index: int
    """Index as the source enumerates; the agent keeps the one it saw first for a UUID."""
    name: str = ""
    pci_address: str = ""
    """domain:bus:device.function, lower case."""
    serial: str = ""
    vbios: str = ""
    memory_bytes: int = -1
    power_limit_w: float = float("nan")
    power_limit_max_w: float = float("nan")
    ecc_enabled: int = -1
    mig_enabled: int = -1
    nvlink_count: int = -1


@dataclass(slots=True)
class Sample:
    """What a source read at one time. What it does not name, it has no reading of."""

    gpus: Sequence[GpuDevice] = ()
    """GPUs the source can see and reach now."""
    gpu: dict[bytes, dict[str, Number]] = field(default_factory=dict)
    """UUID -> field of node-telemetry or node-counters -> value in the schema's unit."""
    node: dict[str, Number] = field(default_factory=dict)
    """Field of shape tick, or clock_offset_s and clock_synced -> value."""
    nic: dict[str, dict[str, Number]] = field(default_factory=dict)
    """RDMA device and port -> field of shape nic_tick -> value."""
    described: dict[str, str] = field(default_factory=dict)
    """Fields of the inventory about the whole node: driver_version, host_model, ..."""
    nic_firmware: Mapping[str, str] = field(default_factory=dict)
    """RDMA device -> firmware version."""
    has_gpus: bool = False
    """Whether ``gpus`` is this source's full list, so that a GPU missing from it is lost."""
    driver_reloaded: bool = False
    """Since the sample before, the driver was loaded anew: its counters began again."""


class Sampler(Protocol):
    """A source that is asked."""

    name: str
    period_s: float
    """How often it wants to be asked; 0 = every tick."""
    deadline_s: float
    """An answer that takes longer means the source hangs."""
    stale_after_s: float
    """Fast-lane readings older than this are no readings."""

    def open(self) -> None:
        """Get ready. May be called again after ``close``. SourceError when it cannot."""

    def sample(self, slow: bool) -> Sample:
        """Read now; with ``slow`` the slow lane's fields too. SourceError when it cannot."""

    def close(self) -> None:
        """Let go of everything; never raises."""


class Watcher(Protocol):
    """A source that waits."""

    name: str
    deadline_s: float
    """Silence of ``alive`` for longer means the source hangs."""

    def watch(self, post: Post, alive: Callable[[], bool]) -> None:
        """Post facts until ``alive()`` answers False; call it at least every second or two.

        SourceError when it cannot work (on); it is then called again after a pause.
        """
