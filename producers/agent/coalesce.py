"""One event per XID, whoever saw it: the kernel log has the text, NVML the recovery verdict, both the number.

Like facts (same GPU, same code, same unit) within 5 s are one burst. Its first event goes out as soon as both have
spoken, or when waiting for the other has had its time; whatever the burst brings after that is one more event with
the number of repeats in ``occurrences``. So the occurrences of a GPU and code add up to what happened, and an
XID storm of thousands costs two events every 5 s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from producers.agent.facts import Fact, Post

BURST_S = 5.0
KERNEL_WAITS_S = 1.0
"""The kernel's line waits this long for NVML's verdict, which the same interrupt raises."""
NUMBER_WAITS_S = 5.0
"""NVML's bare number waits this long for the kernel's line."""

Key = tuple[str, bytes | str, int | None, str]


@dataclass(slots=True)
class _Burst:
    first_s: float
    due_s: float
    fact: Fact
    last: Fact
    counts: dict[str, int] = field(default_factory=dict)
    reported: int = 0

    def seen(self) -> int:
        return max(self.counts.values())


class XidMerger:
    """Merges and folds xid and sxid facts; everything else does not come here. One thread calls it."""

    def __init__(self, post: Post, kernel_log_up: Callable[[], bool], nvml_up: Callable[[], bool]) -> None:
        self._post = post
        self._kernel_log_up = kernel_log_up
        self._nvml_up = nvml_up
        self._bursts: dict[Key, _Burst] = {}

    @property
    def idle(self) -> bool:
        """Whether everything taken in has been posted."""
        return all(burst.reported == burst.seen() for burst in self._bursts.values())

    def add(self, fact: Fact, now_s: float) -> None:
        """Take a fact in, its GPU already resolved; ``now_s`` is monotonic."""
        if fact.source == "dcgm" and (self._kernel_log_up() or self._nvml_up()):
            return  # the exporter repeats the last XID up to its own interval late; a better witness is there
        burst = self._burst_of(fact)
        if burst is None:
            burst = _Burst(now_s, now_s + self._patience(fact), fact, fact)
            self._bursts[_key(fact)] = burst
        elif burst.reported == 0:
            burst.fact = _join(burst.fact, fact)
        burst.counts[fact.source] = burst.counts.get(fact.source, 0) + 1
        burst.last = fact if fact.raw or not burst.last.raw else burst.last
        if burst.reported == 0 and ("kmsg" in burst.counts and "nvml" in burst.counts):
            burst.due_s = now_s
        self.due(now_s)

    def due(self, now_s: float) -> float | None:
        """Post what is due; when to call again, on the monotonic clock (None = nothing waits)."""
        later: float | None = None
        for key, burst in list(self._bursts.items()):
            if burst.reported == 0 and now_s >= burst.due_s:
                burst.reported = burst.seen()
                self._post(replace(burst.fact, occurrences=burst.reported))
            if now_s >= burst.first_s + BURST_S and burst.reported:
                self._end(key, burst)
                continue
            wake = burst.first_s + BURST_S if burst.reported else burst.due_s
            later = wake if later is None else min(later, wake)
        return later

    def flush(self) -> None:
        """Post everything now, for the end of the run."""
        for key, burst in list(self._bursts.items()):
            if burst.reported == 0:
                burst.reported = burst.seen()
                self._post(replace(burst.fact, occurrences=burst.reported))
            self._end(key, burst)

    def _end(self, key: Key, burst: _Burst) -> None:
        del self._bursts[key]
        more = burst.seen() - burst.reported
        if more:
            folded = _join(burst.last, burst.fact)
            self._post(replace(folded, occurrences=more, attributes={**folded.attributes, "repeats": "true"}))

    def _patience(self, fact: Fact) -> float:
        if fact.event == "sxid":
            return 0.0
        if fact.source == "kmsg":
            return KERNEL_WAITS_S if self._nvml_up() else 0.0
        return NUMBER_WAITS_S if self._kernel_log_up() else 0.0

    def _burst_of(self, fact: Fact) -> _Burst | None:
        exact = self._bursts.get(_key(fact))
        if exact is not None:
            return exact
        like = [burst for key, burst in self._bursts.items() if key[:3] == _key(fact)[:3]]
        if fact.source == "kmsg":
            # A line with a unit adopts a bare number that nobody has explained yet.
            return next((burst for burst in like if "kmsg" not in burst.counts and not burst.reported), None)
        unexplained = [burst for burst in like if burst.counts.get(fact.source, 0) < burst.counts.get("kmsg", 0)]
        return next(iter(unexplained or like), None)


def _key(fact: Fact) -> Key:
    unit = "/".join(fact.attributes[name] for name in ("unit", "link") if name in fact.attributes)
    return fact.event, fact.gpu_uuid or fact.pci_address, fact.code, unit


def _join(first: Fact, second: Fact) -> Fact:
    """The first fact with what only the second knows; the kernel's words and time win over a bare number."""
    words = first if first.raw or not second.raw else second
    verdict = first.recovery_action if first.recovery_action is not None else second.recovery_action
    seen_by = sorted({*first.attributes.get("seen_by", first.source).split(","), second.source})
    attributes = {**second.attributes, **first.attributes}
    if len(seen_by) > 1:
        attributes["seen_by"] = ",".join(seen_by)
    return replace(
        words,
        recovery_action=verdict,
        gpu_uuid=first.gpu_uuid or second.gpu_uuid,
        gpu_index=first.gpu_index if first.gpu_index is not None else second.gpu_index,
        pci_address=first.pci_address or second.pci_address,
        attributes=attributes,
    )
