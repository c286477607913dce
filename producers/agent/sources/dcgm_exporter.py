"""dcgm-exporter: the metrics of nodes whose GPUs are already watched by DCGM, from the exporter's text.

The exporter gives no time of measurement and repeats values between its own collections (every 30 s unless set
otherwise), so a reading here is at most that old. XID_ERRORS is the last XID, not an event: only its change is one,
and a second XID of the same number is invisible.
"""

from __future__ import annotations

import http.client
import logging
import math
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from producers.agent.clock import Clock
from producers.agent.facts import Fact, Post
from producers.agent.gpus import pci_text, uuid_bytes
from producers.agent.sources.base import GpuDevice, Sample, SourceError
from producers.agent.sources.dcgm_fields import XID, Field, Type, by_name, is_blank

MAX_BYTES = 8 << 20
_MAX_XID = 1 << 20
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
"""What the parser raises for lines that are none."""
_INDEX = re.compile(r"[0-9]{1,4}", re.ASCII)
_UUID_LABELS = ("UUID", "uuid", "gpu_uuid")
_PCI_LABELS = ("pci_bus_id", "pci_busid")
_TEXT_TYPES = ("text/plain", "application/openmetrics-text")
_WHOLE = {250, 251, 252, 253}
Labels = dict[str, str]


@dataclass(slots=True)
class _Seen:
    """One GPU in one answer."""

    labels: Labels
    values: dict[str, float] = field(default_factory=dict)
    xid: int | None = None
    xid_line: str = ""


class DcgmExporterSampler:
    """The dcgm-exporter source."""

    name = "dcgm"

    def __init__(self, url: str, period_s: float, timeout_s: float, clock: Clock, post: Post) -> None:
        self.period_s = period_s
        self.deadline_s = timeout_s + 1.0
        self.stale_after_s = 2.5 * max(period_s, 1.0)
        self._parts = urlsplit(url)
        self._url = url
        self._timeout_s = timeout_s
        self._clock = clock
        self._post = post
        self._fields = by_name()
        self._xids: dict[bytes, int] = {}
        self._noted_mig = False

    def open(self) -> None:
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise SourceError(f"expected http(s)://host:port/metrics as the exporter's address, found {self._url!r}")

    def close(self) -> None:
        return

    def sample(self, slow: bool) -> Sample:
        text = self._fetch()
        gpus, mig = self._gather(text)
        if not gpus:
            raise SourceError(f"{self._url} answers, but with no DCGM metric of a GPU; is it dcgm-exporter?")
        if mig and not self._noted_mig:
            self._noted_mig = True
            logging.getLogger(__name__).warning("dcgm-exporter's rows of MIG instances are left out: %d GPUs", len(mig))
        sample = Sample(has_gpus=True)
        devices = []
        for uuid, seen in gpus.items():
            devices.append(_device(uuid, seen, uuid in mig))
            sample.gpu[uuid] = dict(seen.values)
            driver = _label(seen.labels, self._fields, 1)
            if driver:
                sample.described["driver_version"] = driver
            self._watch_xid(uuid, seen)
        sample.gpus = devices
        return sample

    def _fetch(self) -> str:
        connection = self._connection()
        until = time.monotonic() + self._timeout_s
        try:
            path = f"{self._parts.path or '/'}{'?' + self._parts.query if self._parts.query else ''}"
            connection.request("GET", path, headers={"Accept": "text/plain"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise SourceError(f"{self._url} answered {answer.status} {answer.reason}")
            kind = (answer.getheader("Content-Type") or "text/plain").partition(";")[0].strip()
            if kind not in _TEXT_TYPES:
                raise SourceError(f"expected Prometheus text from {self._url}, found {kind}")
            body = bytearray()
            while part := answer.read1(1 << 16):
                body += part
                if len(body) > MAX_BYTES:
                    raise SourceError(f"{self._url} answers more than {MAX_BYTES >> 20} MiB")
                if time.monotonic() > until:
                    raise SourceError(f"{self._url} did not finish within {self._timeout_s:g} s")
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise SourceError(f"cannot scrape {self._url}: {reason}") from None
        finally:
            connection.close()
        return body.decode("utf-8", "replace")

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)

    def _gather(self, text: str) -> tuple[dict[bytes, _Seen], set[bytes]]:
        """Per GPU what the answer says, and the GPUs that have rows of MIG instances."""
        gpus: dict[bytes, _Seen] = {}
        mig: set[bytes] = set()
        for known, labels, value in self._rows(text):
            try:
                uuid = uuid_bytes(next((labels[name] for name in _UUID_LABELS if labels.get(name)), ""))
            except ValueError:
                continue  # a switch, a CPU, or a MIG device of its own
            if labels.get("GPU_I_ID"):
                mig.add(uuid)
                continue
            seen = gpus.setdefault(uuid, _Seen(labels))
            if not math.isfinite(value) or is_blank(value, known.type):
                continue
            if known.id == XID:
                if not 0 <= value <= _MAX_XID:
                    continue
                seen.xid, seen.xid_line = int(value), f"{known.names[0]}{labels} {value:g}"
            elif known.metric:
                scaled = value * known.factor
                seen.values.setdefault(known.metric, scaled if known.type is Type.DOUBLE else _whole(scaled, known))
        return gpus, mig

    def _rows(self, text: str) -> Iterator[tuple[Field, Labels, float]]:
        # Only the lines that matter go to the parser: it is the dearest part of a scrape.
        lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in self._fields]
        for name, labels, value in _parse(lines):
            known = self._fields.get(name)
            if known is not None:  # the parser reads odd lines its own way
                yield known, labels, value

    def _watch_xid(self, uuid: bytes, seen: _Seen) -> None:
        if seen.xid is None:
            return
        before = self._xids.get(uuid)
        self._xids[uuid] = seen.xid
        if before is None or seen.xid in (before, 0):
            return  # what stood there before the first scrape is history
        self._post(
            Fact(
                "xid",
                "dcgm",
                self._clock.wall_us(),
                gpu_uuid=uuid,
                code=seen.xid,
                message=seen.labels.get("err_msg") or f"XID {seen.xid}",
                raw=seen.xid_line,
            )
        )


def _parse(lines: list[str]) -> Iterator[tuple[str, Labels, float]]:
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    except _UNREADABLE:
        # The exporter prints a sentence where it cannot convert a value: leave out such lines, not the answer.
        families = []
        for line in lines:
            try:
                families += text_string_to_metric_families(line + "\n")
            except _UNREADABLE:
                continue
    for family in families:
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _whole(value: float, known: Field) -> float:
    """Integers that are scaled stay whole where the schema counts bytes or joules; ratios and rates do not."""
    return float(int(value)) if known.id == 156 or known.id in _WHOLE else value


def _device(uuid: bytes, seen: _Seen, mig: bool) -> GpuDevice:
    labels, fields = seen.labels, by_name()
    address = next((labels[name] for name in _PCI_LABELS if labels.get(name)), "")
    index = labels.get("gpu", "0")
    total = seen.values.get("fb_total_bytes")
    return GpuDevice(
        uuid=uuid,
        index=int(index) if _INDEX.fullmatch(index) else 0,
        name=labels.get("modelName") or labels.get("model_name") or "",
        pci_address=pci_text(address) if address else "",
        serial=_label(labels, fields, 53),
        vbios=_label(labels, fields, 85),
        memory_bytes=int(total) if total is not None else -1,
        power_limit_w=seen.values.get("power_limit_w", float("nan")),
        mig_enabled=1 if mig else -1,
    )


def _label(labels: Labels, fields: dict[str, Field], number: int) -> str:
    """The value of a text field, which the exporter puts on every metric as a label of that name."""
    return next((text for name, text in labels.items() if name in fields and fields[name].id == number), "")
