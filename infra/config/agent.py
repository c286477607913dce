"""The node agent's settings: its sources, its spool, itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from infra.config.section import HttpUrl, Section


class NvmlSource(Section):
    """GPUs through the NVIDIA management library."""

    enabled: bool = Field(True, description="Read this source.")
    driver_library: Path | None = Field(None, description="libnvidia-ml.so.1 to load; else the system's.")


class KmsgSource(Section):
    """XID and SXID lines of the kernel log."""

    enabled: bool = Field(True, description="Read this source.")
    path: Path = Field(Path("/dev/kmsg"), description="The kernel log.")


class DcgmExporterSource(Section):
    """The text of an existing dcgm-exporter, instead of NVML."""

    enabled: bool = Field(False, description="Read this source.")
    url: HttpUrl = Field("http://127.0.0.1:9400/metrics", description="The exporter's metrics page.")
    interval_s: float = Field(5.0, gt=0, description="Time between two scrapes.")
    timeout_s: float = Field(2.0, gt=0, description="Patience with one scrape.")


class HostSource(Section):
    """CPU, memory, disks and clock offset of the node."""

    enabled: bool = Field(True, description="Read this source.")


class NicSource(Section):
    """RoCE and InfiniBand counters and port states."""

    enabled: bool = Field(True, description="Read this source.")
    sysfs: Path = Field(Path("/sys"), description="Root of sysfs.")


class AgentSpool(Section):
    """Events wait for the broker on disk: nothing is lost with the process, nor in an outage of days."""

    enabled: bool = Field(True, description="Keep a spool; without one, events wait in memory (agent.buffer_mb).")
    dir: Path | None = Field(None, description="Its folder; else `spool` beside the agent's journal.")
    max_mb: int = Field(256, ge=8, description="Bound on the disk: a day of 8 GPUs takes about 20 MB.")
    max_age_days: float = Field(
        7.0, gt=0, description="Older telemetry is given up; below consume.past_limit_days, which refuses it."
    )
    fsync: Literal["event", "interval", "never"] = Field(
        "interval", description="What a power cut can take: nothing, fsync_ms, or what the system had not written."
    )
    fsync_ms: int = Field(500, ge=10, le=60_000, description="With fsync = interval: time between two.")
    drain_kb_per_s: float = Field(
        100.0, ge=0, description="Most of a backlog sent in a second (8 GPUs make 0.9 KB/s); 0 = no limit."
    )
    drain_jitter_s: float = Field(
        60.0, ge=0, description="Sending a backlog begins up to this long after an outage, or a tenth of its length."
    )


class AgentSettings(Section):
    """The node agent."""

    node_id: str = Field("", max_length=255, description="Name of the node; empty = its host name.")
    rack: str = Field("", description="Rack the node stands in.")
    slot: str = Field("", description="Position in the rack.")
    feed: str = Field("", description="Power feed of the rack.")
    pdu: str = Field("", description="Rack PDU.")
    coolant_loop: str = Field("", description="Coolant loop, by its distribution unit (CDU).")
    lifecycle: Literal["racked", "burn-in", "accepted", "leased", "draining", "maintenance", "rma"] = Field(
        "accepted", description="Where the node is in its life; only accepted and leased ones count as capacity."
    )
    tick_ms: int = Field(1000, ge=100, le=60_000, description="Time between two samples; divides a minute.")
    ticks_per_event: int = Field(5, ge=1, le=60, description="K: samples per fast-lane event; divides a minute.")
    buffer_mb: int = Field(256, ge=8, description="Bound on unacknowledged events in memory.")
    state_dir: Path = Field(Path("gpufleet-state"), description="Folder of the journal: last seq per run and topic.")
    metrics_host: str = Field("127.0.0.1", description="Address of the agent's /metrics.")
    metrics_port: int = Field(9466, ge=0, le=65535, description="Port of the agent's /metrics; 0 = none.")
    spool: AgentSpool = Field(default_factory=AgentSpool)
    nvml: NvmlSource = Field(default_factory=NvmlSource)
    kmsg: KmsgSource = Field(default_factory=KmsgSource)
    dcgm_exporter: DcgmExporterSource = Field(default_factory=DcgmExporterSource)
    host: HostSource = Field(default_factory=HostSource)
    nic: NicSource = Field(default_factory=NicSource)

    @model_validator(mode="after")
    def _whole_minutes(self) -> AgentSettings:
        event_ms = self.tick_ms * self.ticks_per_event
        if 60_000 % event_ms:
            raise ValueError(
                "an event must never cross a UTC minute: expected tick_ms * ticks_per_event to divide 60000, "
                f"found {self.tick_ms} * {self.ticks_per_event} = {event_ms}"
            )
        return self
