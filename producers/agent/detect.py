"""Facts that hide in the samples: throttling, double-bit errors, remapped rows, NVLinks, downtrained PCIe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from producers.agent.facts import Fact, Post
from producers.agent.gpus import Gpus, Slot
from producers.agent.layout import metrics
from producers.agent.merge import Picture
from producers.agent.sources.base import Number

THROTTLE_REASONS = {
    0x08: "hw_slowdown",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "power_brake",
}
"""Clock-event reasons that mean trouble; software power cap (0x4) and idle (0x1) are everyday life."""
THROTTLE_HOLD_US = 5_000_000
"""A throttle that comes back within this time is the same one."""

STATES = frozenset(
    metric.name
    for shape in ("gpu_tick", "nic_tick")
    for metric in metrics("node-counters", shape)
    if metric.kind == "state"
) | {"ecc_dbe_volatile", "ecc_dbe_aggregate", "remapped_rows_uncorrectable", "remapped_rows_correctable"}
"""Slow-lane fields whose change is sent at once; counters that tick along are not among them."""

REMAP_SIGNS = ("row_remap_failure", "row_remap_pending", "remapped_rows_uncorrectable")
"""The worst first."""


@dataclass(slots=True)
class _Bout:
    """A throttle under way."""

    began: int
    last: int
    """Last tick at which the reason was set."""
    times: int = 1
    set_now: bool = True


class ThrottleWatch:
    """Turns the clock-event bitmask of every tick into throttle_begin and throttle_end."""

    def __init__(self, post: Post, interval_us: int) -> None:
        self._post = post
        self._interval = interval_us
        self._bouts: dict[tuple[bytes, int], _Bout] = {}

    def tick(self, tick: int, slots: list[Slot], picture: Picture) -> None:
        source = picture.source_of.get("clock_event_reasons", "")
        for slot, values in zip(slots, picture.gpu, strict=True):
            mask = values.get("clock_event_reasons")
            if mask is None:
                continue  # no reading: neither begun nor ended
            for bit, reason in THROTTLE_REASONS.items():
                self._one(tick, slot, source, (slot.device.uuid, bit), reason, bool(int(mask) & bit))

    def _one(self, tick: int, slot: Slot, source: str, key: tuple[bytes, int], reason: str, on: bool) -> None:
        bout = self._bouts.get(key)
        device = slot.device
        if on and bout is None:
            self._bouts[key] = _Bout(tick, tick)
            self._post(
                Fact(
                    "throttle_begin",
                    source,
                    tick,
                    gpu_uuid=device.uuid,
                    gpu_index=device.index,
                    pci_address=device.pci_address,
                    value=reason,
                    message=f"GPU {device.index}: clocks are held down ({reason})",
                )
            )
        elif on and bout is not None:
            bout.times += not bout.set_now
            bout.last, bout.set_now = tick, True
        elif bout is not None:
            bout.set_now = False
            if tick - bout.last > THROTTLE_HOLD_US:
                del self._bouts[key]
                ended = bout.last + self._interval
                self._post(
                    Fact(
                        "throttle_end",
                        source,
                        ended,
                        gpu_uuid=device.uuid,
                        gpu_index=device.index,
                        pci_address=device.pci_address,
                        value=reason,
                        occurrences=bout.times,
                        ended_at=ended,
                        message=f"GPU {device.index}: {reason} over after {(ended - bout.began) / 1e6:.0f} s",
                    )
                )


class SlowWatch:
    """Compares each slow tick with the one before."""

    def __init__(self, post: Post, gpus: Gpus) -> None:
        self._post = post
        self._gpus = gpus
        self._gpu: dict[bytes, dict[str, Number]] = {}
        self._nic: dict[str, dict[str, Number]] = {}
        self._most_links: dict[bytes, int] = {}

    def tick(self, tick: int, picture: Picture) -> bool:
        """Post the facts of this tick; whether a discrete state changed, so that the lane is sent at once."""
        changed = False
        for slot, values in zip(self._gpus.slots, picture.gpu, strict=True):
            before = self._gpu.setdefault(slot.device.uuid, {})
            changed |= _differ(before, values)
            self._facts(tick, slot, before, values, picture)
            before.update(values)
        for nic, readings in picture.nic.items():
            before = self._nic.setdefault(nic, {})
            changed |= _differ(before, readings)
            before.update(readings)
        return changed

    def _facts(
        self, tick: int, slot: Slot, before: dict[str, Number], now: dict[str, Number], picture: Picture
    ) -> None:
        def post(event: str, metric: str, message: str, occurrences: int = 1, **attributes: str) -> None:
            device = slot.device
            self._post(
                Fact(
                    event,
                    picture.source_of.get(metric, ""),
                    tick,
                    gpu_uuid=device.uuid,
                    gpu_index=device.index,
                    pci_address=device.pci_address,
                    recovery_action=_whole(now.get("recovery_action")),
                    occurrences=occurrences,
                    value=metric,
                    message=f"GPU {device.index}: {message}",
                    attributes=attributes,
                )
            )

        def step(metric: str) -> int:
            old, new = before.get(metric), now.get(metric)
            return 0 if old is None or new is None else int(new - old)

        if (more := step("ecc_dbe_volatile")) > 0:
            post("ecc_dbe", "ecc_dbe_volatile", f"{more} more uncorrected ECC errors", more)
        # One uncorrectable error moves several of these at once: one fact. Rows remapped after correctable errors are
        # no fault; their counter tells of them.
        remaps = {metric: more for metric in REMAP_SIGNS if (more := step(metric)) > 0}
        if remaps:
            first = next(iter(remaps))
            signs = {metric: str(int(now[metric])) for metric in remaps}
            post("row_remap", first, f"row remap: {', '.join(remaps)}", max(remaps.values()), **signs)
        if links := step("nvlink_links_active"):
            self._links(links, slot, int(now["nvlink_links_active"]), post)
        for metric, best in (("pcie_link_width", "pcie_link_width_max"), ("pcie_link_gen", "pcie_link_gen_max")):
            if step(metric) < 0 and now.get(best, 0) > now[metric]:
                post("link_error", metric, f"{metric} fell to {int(now[metric])} of {int(now[best])}")

    def _links(self, step: int, slot: Slot, active: int, post: Callable[..., None]) -> None:
        """link_down for every loss, link_up once as many are up as ever were: only then is the fault over."""
        most = self._most_links.get(slot.device.uuid, 0)
        self._most_links[slot.device.uuid] = max(most, active, active - step)
        if step < 0:
            post("link_down", "nvlink_links_active", f"{active} NVLinks active, {active - step} before", -step)
        elif active >= most:
            post("link_up", "nvlink_links_active", f"all {active} NVLinks active again", step)


def _differ(before: dict[str, Number], now: dict[str, Number]) -> bool:
    """Whether a discrete state has another value; gaining or losing a reading is not a change."""
    return any(name in STATES and name in before and before[name] != value for name, value in now.items())


def _whole(value: Number | None) -> int | None:
    return None if value is None else int(value)
