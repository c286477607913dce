"""The sources that the settings name, ready to be run. Each is imported only when it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from producers.agent.clock import Clock
from producers.agent.facts import Post
from producers.agent.settings import AgentSettings
from producers.agent.sources.base import Sampler, Watcher
from producers.agent.state import boot_id, kernel_position


def sources(settings: AgentSettings, clock: Clock) -> Callable[[Post], tuple[Sequence[Sampler], Sequence[Watcher]]]:
    """What ``Agent`` takes as its maker of sources. ModuleNotFoundError when an optional package is missing."""

    def make(post: Post) -> tuple[list[Sampler], list[Watcher]]:
        samplers: list[Sampler] = []
        watchers: list[Watcher] = []
        for name in dict.fromkeys(settings.sources):
            _MAKERS[name](settings, clock, post, samplers, watchers)
        return samplers, watchers

    return make


def _nvml(settings: AgentSettings, clock: Clock, _post: Post, samplers: list[Sampler], watchers: list[Watcher]) -> None:
    from producers.agent.sources.nvml import NvmlSampler
    from producers.agent.sources.nvml_events import NvmlEventWatcher
    from producers.agent.sources.nvml_library import Gate

    gate = Gate()
    samplers.append(NvmlSampler(clock, gate, settings.nvml_library))
    watchers.append(NvmlEventWatcher(clock, gate))


def _kmsg(
    settings: AgentSettings, clock: Clock, _post: Post, _samplers: list[Sampler], watchers: list[Watcher]
) -> None:
    from producers.agent.sources.kmsg import KmsgWatcher

    after = kernel_position(settings.state_dir, boot_id(settings.procfs))
    watchers.append(KmsgWatcher(settings.kmsg, clock, after))


def _dcgm(settings: AgentSettings, clock: Clock, post: Post, samplers: list[Sampler], _watchers: list[Watcher]) -> None:
    from producers.agent.sources.dcgm_exporter import DcgmExporterSampler

    url, period_s, timeout_s = settings.dcgm_url, settings.dcgm_interval_s, settings.dcgm_timeout_s
    samplers.append(DcgmExporterSampler(url, period_s, timeout_s, clock, post))


def _host(
    settings: AgentSettings, clock: Clock, _post: Post, samplers: list[Sampler], _watchers: list[Watcher]
) -> None:
    from producers.agent.sources.clock_sync import ClockSync
    from producers.agent.sources.host import HostSampler

    samplers.append(HostSampler(settings.procfs, settings.sysfs, clock, ClockSync()))


def _nic(settings: AgentSettings, clock: Clock, post: Post, samplers: list[Sampler], _watchers: list[Watcher]) -> None:
    from producers.agent.sources.ethtool import EthtoolStatistics
    from producers.agent.sources.nic import NicSampler

    samplers.append(NicSampler(settings.sysfs, clock, post, EthtoolStatistics()))


_MAKERS = {"nvml": _nvml, "kmsg": _kmsg, "dcgm": _dcgm, "host": _host, "nic": _nic}
