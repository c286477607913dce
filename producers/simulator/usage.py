"""Tenant usage as the tenants' gateways would report it: a window of a minute per workspace and product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from producers.simulator.randomness import generator
from producers.simulator.scenario import Scenario
from producers.simulator.serving import Demand

WINDOW_S = 60
_BOUNDS_MS = [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200]
_TTFT_MEDIAN_MS, _TTFT_SPREAD = 380.0, 0.7
_TOKEN_MS = 18.0
"""Time to generate one token."""
_CACHED = 0.35
"""Share of input tokens served from the prompt cache."""
_FAILED = 0.0004


def windows(scenario: Scenario, demands: dict[str, Demand], start_us: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(tenant, an event's fields) for the minute that starts at ``start_us``, for every tenant that serves."""
    for tenant in scenario.tenants:
        if not tenant.serving:
            continue
        demand = demands[tenant.name]
        requests, context, generated = demand.asked(start_us, WINDOW_S)
        served = demand.served_share(start_us)
        rng = generator(scenario.seed, f"usage {tenant.name}", start_us)
        weights = np.array([1.0 / (1 + number) for number in range(len(tenant.products))])
        weights = weights * rng.uniform(0.92, 1.08, len(weights))
        for product, weight in zip(tenant.products, weights / weights.sum(), strict=True):
            yield (
                tenant.name,
                _window(tenant.name, tenant.model_name, product, weight, requests, context, generated, served, rng),
            )


def _window(
    tenant: str,
    model: str,
    product: str,
    weight: float,
    requests: float,
    context: float,
    generated: float,
    served: float,
    rng: np.random.Generator,
) -> dict[str, Any]:
    count = int(rng.poisson(requests * weight))
    throttled = int(rng.binomial(count, 1 - served))
    failed = int(rng.binomial(count - throttled, _FAILED))
    answered = count - throttled - failed
    share = answered / requests if requests else 0.0
    tokens_in = int(context * share)
    cached = int(tokens_in * _CACHED * rng.uniform(0.9, 1.1))
    tokens_out = int(generated * share)
    load = 1 + 1.5 * (1 - served)
    ttft = _TTFT_MEDIAN_MS * load
    whole = ttft + _TOKEN_MS * (generated / requests if requests else 0.0)
    return {
        "tenant": tenant,
        "window_s": WINDOW_S,
        "revision": 1,
        "workspace": f"{product}-prod",
        "product": product,
        "model": model,
        "tier": "standard",
        "requests": count,
        "throttled_requests": throttled,
        "failed_requests": failed,
        "input_tokens": tokens_in - cached,
        "cached_tokens": cached,
        "output_tokens": tokens_out,
        "latency_bounds_ms": _BOUNDS_MS,
        "ttft_counts": _histogram(answered, ttft, _TTFT_SPREAD, rng),
        "latency_counts": _histogram(answered, whole, 0.8, rng),
        "source": "simulator",
    }


def _histogram(count: int, median_ms: float, spread: float, rng: np.random.Generator) -> list[int]:
    """Counts per bucket of a log-normal latency, the last bucket for what lies above the bounds."""
    edges = np.log(np.array(_BOUNDS_MS) / median_ms) / spread
    below = 1 / (1 + np.exp(-1.702 * edges))  # the normal distribution within 0.01
    shares = np.diff(np.concatenate([[0.0], below, [1.0]]))
    counts: list[int] = rng.multinomial(count, shares / shares.sum()).tolist()
    return counts
