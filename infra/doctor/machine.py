"""This machine: folders that can be written, files with secrets, and what a node agent needs."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from infra.config import AgentSettings, Settings
from infra.config.leaves import leaves
from infra.doctor.report import Finding, fail, ok, skip, warn
from infra.doctor.store import room

AREA = "machine"
AGENT = "agent"


def check(settings: Settings) -> Iterator[Finding]:
    """Folders and secret files."""
    yield from _folder("agent.state_dir", settings.agent.state_dir)
    yield from _secret_files(settings)


def _folder(key: str, folder: Path) -> Iterator[Finding]:
    nearest = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        yield fail(AREA, key, f"{folder} cannot be written: {error.strerror}", f"set {key} to a folder you may write")
        return
    usage = shutil.disk_usage(nearest)
    yield room(AREA, f"{key} ({folder})", usage.free, usage.total)


def _secret_files(settings: Settings) -> Iterator[Finding]:
    open_files = []
    for leaf in leaves().values():
        if not leaf.secret:
            continue
        section = getattr(settings, leaf.section)
        file: Path | None = getattr(section, f"{leaf.name}_file")
        if file is not None and file.exists() and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            open_files.append(str(file))
    if open_files:
        yield warn(AREA, "secret files", f"others may read {', '.join(open_files)}", "chmod 600 them")
    else:
        yield ok(AREA, "secret files", "readable by their owner alone")


def check_agent(settings: Settings) -> Iterator[Finding]:
    """What `gpufleet agent` needs on this node; a machine without GPUs is fine unless it is to be a node."""
    agent = settings.agent
    yield from _nvml(agent)
    yield from _kernel_log(agent)
    yield from _host(agent)
    yield from _nic(agent)
    yield from _exporter(agent)


def _nvml(agent: AgentSettings) -> Iterator[Finding]:
    if not agent.nvml.enabled:
        yield skip(AGENT, "nvml", "switched off")
        return
    try:
        import pynvml
    except ImportError:
        yield warn(AGENT, "nvml", "nvidia-ml-py is not installed", "pip install 'gpufleet[agent]', for a GPU node")
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield skip(AGENT, "nvml", f"no NVIDIA driver answers here ({error}); needed on a GPU node only")
        return
    try:
        driver, count = pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlDeviceGetCount()
        yield ok(AGENT, "nvml", f"driver {driver}, {count} GPUs")
    finally:
        pynvml.nvmlShutdown()


def _kernel_log(agent: AgentSettings) -> Iterator[Finding]:
    path = agent.kmsg.path
    if not agent.kmsg.enabled:
        yield skip(AGENT, "kernel log", "switched off")
    elif not path.exists():
        yield skip(AGENT, "kernel log", f"{path} does not exist here; XIDs come from NVML alone, without detail")
    elif not os.access(path, os.R_OK):
        yield warn(
            AGENT, "kernel log", f"{path} cannot be read", "run the agent as root, or with the capability CAP_SYSLOG"
        )
    else:
        yield ok(AGENT, "kernel log", f"{path} can be read")


def _host(agent: AgentSettings) -> Iterator[Finding]:
    if not agent.host.enabled:
        yield skip(AGENT, "host", "switched off")
        return
    try:
        import psutil
    except ImportError:
        yield warn(AGENT, "host", "psutil is not installed", "pip install 'gpufleet[agent]'")
        return
    yield ok(AGENT, "host", f"psutil {psutil.__version__}")


def _nic(agent: AgentSettings) -> Iterator[Finding]:
    infiniband = agent.nic.sysfs / "class" / "infiniband"
    if not agent.nic.enabled:
        yield skip(AGENT, "nic", "switched off")
    elif not infiniband.is_dir():
        yield skip(AGENT, "nic", f"no RDMA devices here ({infiniband} does not exist)")
    else:
        yield ok(AGENT, "nic", f"{', '.join(sorted(path.name for path in infiniband.iterdir())) or 'no devices'}")


def _exporter(agent: AgentSettings) -> Iterator[Finding]:
    source = agent.dcgm_exporter
    if not source.enabled:
        yield skip(AGENT, "dcgm-exporter", "switched off")
        return
    try:
        with urllib.request.urlopen(source.url, timeout=source.timeout_s) as answer:  # noqa: S310 - http(s), validated
            found = answer.read().count(b"\nDCGM_")
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        yield fail(AGENT, "dcgm-exporter", f"{source.url}: {reason}", "start it, or correct agent.dcgm_exporter.url")
        return
    if found:
        yield ok(AGENT, "dcgm-exporter", f"{found} samples at {source.url}")
    else:
        yield warn(AGENT, "dcgm-exporter", f"no DCGM_ metrics at {source.url}", "correct agent.dcgm_exporter.url")
