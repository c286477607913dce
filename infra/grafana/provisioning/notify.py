"""Who is told: contact points, and the route of our alerts in the operator's notification policy.

The operator's pages and tickets go to two webhooks (an incident tool, a queue); a customer's alerts to one of its own,
where one is given: whom a customer tells is the customer's business. Only our route in a policy tree is ours; a tree
that a file provisions is replaced as a whole by Grafana, which is why `render` says so and can merge into one.
"""

from __future__ import annotations

import copy
from typing import Any, Final

from infra.grafana.provisioning.desired import ALERTS_TITLE

PAGE, TICKET = "gpufleet page", "gpufleet ticket"
MATCHER: Final = ["grafana_folder", "=", ALERTS_TITLE]
"""Grafana puts the folder of a rule on its alerts: ours, and nobody else's."""


def contact_points(page: str, ticket: str) -> list[dict[str, Any]]:
    """The two contact points; their urls are secrets or references to them."""
    return [
        {
            "uid": uid,
            "name": name,
            "type": "webhook",
            "settings": {"url": url, "httpMethod": "POST"},
            "disableResolveMessage": False,
        }
        for uid, name, url in (("gpufleet-page", PAGE, page), ("gpufleet-ticket", TICKET, ticket))
    ]


def route() -> dict[str, Any]:
    """The route of our alerts: one notification a rule and cause; pages repeat every four hours, tickets daily."""
    return {
        "receiver": TICKET,
        "object_matchers": [MATCHER],
        "group_by": ["grafana_folder", "alertname"],
        "group_wait": "30s",
        "group_interval": "5m",
        "repeat_interval": "1d",
        "routes": [
            {
                "receiver": PAGE,
                "object_matchers": [["severity", "=", "page"]],
                "group_by": ["grafana_folder", "alertname"],
                "group_wait": "10s",
                "group_interval": "1m",
                "repeat_interval": "4h",
            }
        ],
    }


def bare_tree() -> dict[str, Any]:
    """The policy tree of a new organisation: everything to Grafana's own default, ours to us."""
    return with_route({"receiver": "grafana-default-email", "group_by": ["grafana_folder", "alertname"]})


def with_route(tree: dict[str, Any]) -> dict[str, Any]:
    """A policy tree with our route in its place (first when it is new), all others as they were."""
    made = copy.deepcopy(tree)
    routes = list(made.get("routes") or [])
    ours = [place for place, found in enumerate(routes) if MATCHER in (found.get("object_matchers") or [])]
    if ours:
        if _subset(route(), routes[ours[0]]):
            return made
        routes[ours[0]] = route()
    else:
        routes.insert(0, route())
    made["routes"] = routes
    return made


def _subset(wanted: Any, found: Any) -> bool:
    """Whether everything wanted stands in what was found; Grafana adds fields of its own."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_subset(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(_subset(one, other) for one, other in zip(wanted, found, strict=True))
        )
    return bool(wanted == found)
