"""What the simulator knows of each GPU model. Sources in docs/simulator.md, "Constants"."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class GpuModel:
    """Constants of one GPU model in its usual server."""

    name: str
    product: str
    """As the driver names it."""
    idle_w: float
    tdp_w: float
    all_in_w: float
    """Power per GPU at full load with its share of host, network and cooling."""
    idle_overhead: float
    """Share of the overhead (all-in less board power) that an idle node still draws."""
    memory_bytes: int
    clock_max_mhz: int
    clock_idle_mhz: int
    clock_mem_mhz: int
    thermal_resistance: float
    """Kelvin per watt from coolant supply to GPU core at design flow."""
    memory_rise: float
    """How much of the core's rise over the coolant the memory adds to its own."""
    throttle_c: float
    """Software slows the clocks from here."""
    slowdown_c: float
    """Hardware slows the clocks from here."""
    nvlinks: int
    nvlink_bytes_per_s: float
    """All links, one direction."""
    pcie_gen: int
    nic_gbps: int
    grace: bool
    host_memory_bytes: int
    host_model: str


H100 = GpuModel(
    "H100",
    "NVIDIA H100 80GB HBM3",
    idle_w=71.0,
    tdp_w=700.0,
    all_in_w=1275.0,
    idle_overhead=0.42,
    memory_bytes=81_559 * MIB,
    clock_max_mhz=1980,
    clock_idle_mhz=345,
    clock_mem_mhz=2619,
    thermal_resistance=0.045,
    memory_rise=0.28,
    throttle_c=87.0,
    slowdown_c=89.0,
    nvlinks=18,
    nvlink_bytes_per_s=450e9,
    pcie_gen=5,
    nic_gbps=400,
    grace=False,
    host_memory_bytes=2048 << 30,
    host_model="HGX H100 8-GPU",
)
H200 = GpuModel(
    "H200",
    "NVIDIA H200",
    idle_w=76.0,
    tdp_w=700.0,
    all_in_w=1275.0,
    idle_overhead=0.42,
    memory_bytes=143_771 * MIB,
    clock_max_mhz=1980,
    clock_idle_mhz=345,
    clock_mem_mhz=3201,
    thermal_resistance=0.044,
    memory_rise=0.30,
    throttle_c=87.0,
    slowdown_c=89.0,
    nvlinks=18,
    nvlink_bytes_per_s=450e9,
    pcie_gen=5,
    nic_gbps=400,
    grace=False,
    host_memory_bytes=2048 << 30,
    host_model="HGX H200 8-GPU",
)
GB200 = GpuModel(
    "GB200",
    "NVIDIA GB200",
    idle_w=165.0,
    tdp_w=1200.0,
    all_in_w=1830.0,
    idle_overhead=0.45,
    memory_bytes=189_471 * MIB,
    clock_max_mhz=2062,
    clock_idle_mhz=120,
    clock_mem_mhz=3996,
    thermal_resistance=0.022,
    memory_rise=0.30,
    throttle_c=87.0,
    slowdown_c=89.0,
    nvlinks=18,
    nvlink_bytes_per_s=900e9,
    pcie_gen=6,
    nic_gbps=400,
    grace=True,
    host_memory_bytes=960 << 30,
    host_model="GB200 NVL72 compute tray",
)
MODELS: dict[str, GpuModel] = {model.name: model for model in (H100, H200, GB200)}
