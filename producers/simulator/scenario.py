"""A fleet and its life as a TOML file: what stands where, who leases it, what goes wrong how often.

Every key has a meaning in docs/simulator.md; a key or value that does not fit is an error that names the nearest.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Final

from producers.simulator import models
from producers.simulator.reading import ScenarioError, nearest, read_table

__all__ = ["Scenario", "ScenarioError", "load", "names"]


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one kind. Racks fill up in order; the last may be partly filled."""

    model: str
    nodes: int
    gpus_per_node: int = 8
    nodes_per_rack: int = 8
    switch_trays: int = 0
    """NVLink switch trays a rack: assets without an agent. A rack with some is one NVLink domain."""
    prefix: str = ""
    """Of node and rack names; the model in lower case when empty."""
    nics_per_node: int = 8


@dataclass(frozen=True, slots=True)
class Power:
    feeds: int = 2
    """Grid feeds, in pairs that take each other's racks over."""
    feed_headroom: float = 1.25
    """What a feed may carry over the full load of its own racks."""
    site_cap_w: float = 0.0
    """0: the sum of the feeds."""


@dataclass(frozen=True, slots=True)
class Cooling:
    racks_per_cdu: int = 8
    supply_c: float = 32.0
    rise_c: float = 10.0
    """Coolant's rise at full load and design flow."""
    headroom: float = 1.15
    """What a distribution unit may carry over the full load of its racks."""


@dataclass(frozen=True, slots=True)
class Tenant:
    name: str
    share: float
    """Of each group's nodes, leased from the start."""
    training: float = 0.6
    """Share of its nodes in training jobs."""
    serving: float = 0.3
    """Share of its nodes in serving jobs; what is left idles."""
    products: tuple[str, ...] = ("api",)
    model_name: str = "model-a"
    usage_scale: float = 1.0
    """Requests per request of the trace."""
    price_per_gpu_hour: float = 2.0
    sla_target: float = 0.99
    operator_reads_usage: bool = False
    tokens_per_minute: float = 0.0
    """Limit of input tokens a minute; 0 = 1.15 times the mean demand."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """How work comes and goes."""

    training_nodes: tuple[int, ...] = (1, 2, 4)
    """Sizes of training jobs, drawn with equal chance; capped by what the tenant has free."""
    training_hours: float = 12.0
    """Mean length of a training job."""
    restart_minutes: float = 4.0
    """From the end of a job to the next on its nodes."""
    step_s: tuple[float, float] = (2.5, 8.0)
    """Range of training step times."""
    compute_share: tuple[float, float] = (0.68, 0.84)
    """Range of the share of a step that computes."""
    full_load: bool = False
    """Every GPU at full load for ever: an acceptance burn."""


@dataclass(frozen=True, slots=True)
class Faults:
    rate_scale: float = 1.0
    """Over the published rates per GPU-hour."""
    bad_gpus: int = 4
    """GPUs that cause most of the uncontained memory errors."""
    bad_gpu_errors_per_day: float = 3.0
    stragglers_per_day_1000_gpus: float = 0.05
    silent_per_day_1000_nodes: float = 0.3
    link_flaps_per_day_1000_nics: float = 0.05
    repair_hours: float = 6.0
    """Mean time from a broken GPU to its node's return."""


@dataclass(frozen=True, slots=True)
class Story:
    """Incidents of a back-fill, as fractions of its period: (begin, end); empty = leave it out."""

    straggler: tuple[float, ...] = (0.20, 0.32)
    feed_trip: tuple[float, ...] = (0.45, 0.50)
    lease_handover: tuple[float, ...] = (0.62,)
    limit_raise: tuple[float, ...] = (0.75,)
    coolant: tuple[float, ...] = (0.85, 0.90)


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    site: str
    groups: tuple[Group, ...]
    tenants: tuple[Tenant, ...]
    seed: int = 1
    power: Power = field(default_factory=Power)
    cooling: Cooling = field(default_factory=Cooling)
    jobs: Jobs = field(default_factory=Jobs)
    faults: Faults = field(default_factory=Faults)
    story: Story = field(default_factory=Story)

    @property
    def nodes(self) -> int:
        return sum(group.nodes for group in self.groups)

    @property
    def gpus(self) -> int:
        return sum(group.nodes * group.gpus_per_node for group in self.groups)

    @property
    def full_load_w(self) -> float:
        """All-in power with every GPU at its limit."""
        return sum(g.nodes * g.gpus_per_node * models.MODELS[g.model].all_in_w for g in self.groups)


MOST_NODES: Final = 200_000
"""Six times Colossus 1: what is meant to be more would take all of a machine's memory before anything is said."""


def names() -> list[str]:
    """The scenarios that come with gpufleet."""
    folder = files("producers.simulator") / "scenarios"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def load(name_or_path: str | Path, nodes: int | None = None, seed: int | None = None) -> Scenario:
    """The scenario of that name or in that file; ScenarioError says what does not fit.

    ``nodes`` scales the fleet to that many nodes with the proportions kept, ``seed`` replaces the file's.
    """
    text = str(name_or_path)
    if text in names():
        source = (files("producers.simulator") / "scenarios" / f"{text}.toml").read_text()
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ScenarioError(
                f"no scenario {text!r}: expected one of {', '.join(names())} or the path of a TOML file"
                + nearest(text, names())
            )
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ScenarioError(f"scenario {text!r} is not UTF-8 text, at byte {error.start + 1}") from None
        except OSError as error:
            raise ScenarioError(f"scenario {text!r} cannot be read: {error.strerror}") from None
    try:
        table = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"scenario {text!r} is not valid TOML: {error}") from error
    scenario = read_table(Scenario, table, "")
    check(scenario)
    if nodes is not None:
        scenario = scaled(scenario, nodes)
    return replace(scenario, seed=seed) if seed is not None else scenario


def check(scenario: Scenario) -> None:
    """ScenarioError for values that contradict each other."""
    for number, group in enumerate(scenario.groups):
        where = f"groups[{number}]"
        if group.model not in models.MODELS:
            raise ScenarioError(
                f"{where}.model: no GPU model {group.model!r}, expected one of {', '.join(models.MODELS)}"
                + nearest(group.model, models.MODELS)
            )
        for key in ("nodes", "gpus_per_node", "nodes_per_rack", "nics_per_node"):
            if getattr(group, key) < 1:
                raise ScenarioError(f"{where}.{key}: expected at least 1, found {getattr(group, key)}")
    prefixes = [group.prefix or group.model.lower() for group in scenario.groups]
    if len(set(prefixes)) != len(prefixes):
        raise ScenarioError("groups: two have the same prefix; give each group of a model its own")
    _refuse_too_many(scenario.nodes, "groups")
    if not scenario.groups or not scenario.tenants:
        raise ScenarioError("expected at least one [[groups]] and one [[tenants]] table")
    if len({tenant.name for tenant in scenario.tenants}) != len(scenario.tenants):
        raise ScenarioError("tenants: two have the same name")
    if sum(tenant.share for tenant in scenario.tenants) > 1 + 1e-9:
        raise ScenarioError("tenants: their shares add up to more than 1")
    for tenant in scenario.tenants:
        if tenant.training + tenant.serving > 1 + 1e-9:
            raise ScenarioError(f"tenant {tenant.name!r}: training and serving add up to more than 1")
    if scenario.power.feeds < 1 or scenario.cooling.racks_per_cdu < 1:
        raise ScenarioError("power.feeds and cooling.racks_per_cdu: expected at least 1")


def _refuse_too_many(nodes: int, where: str) -> None:
    if nodes > MOST_NODES:
        raise ScenarioError(f"{where}: expected at most {MOST_NODES:,} nodes in one process, found {nodes:,}")


def scaled(scenario: Scenario, nodes: int) -> Scenario:
    """The scenario with ``nodes`` nodes in all, groups in proportion (largest remainders), none left empty."""
    if nodes < len(scenario.groups):
        raise ScenarioError(f"--nodes {nodes}: expected at least {len(scenario.groups)}, one for each group")
    _refuse_too_many(nodes, "--nodes")
    total = scenario.nodes
    shares = [group.nodes * nodes / total for group in scenario.groups]
    counts = [max(1, int(share)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: shares[i] - int(shares[i]), reverse=True)
    while sum(counts) < nodes:
        counts[by_remainder[sum(counts) % len(counts)]] += 1
    while sum(counts) > nodes:
        counts[counts.index(max(counts))] -= 1
    groups = tuple(replace(group, nodes=count) for group, count in zip(scenario.groups, counts, strict=True))
    cap = scenario.power.site_cap_w
    smaller = replace(scenario, groups=groups)
    return replace(smaller, power=replace(scenario.power, site_cap_w=cap * smaller.full_load_w / scenario.full_load_w))
