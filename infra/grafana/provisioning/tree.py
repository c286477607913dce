"""Grafana's provisioning folder as files: for a Grafana that is started with them (compose, Kubernetes).

    DIR/datasources/gpufleet.yaml     data sources, secrets as references
    DIR/dashboards/gpufleet.yaml      where the boards are
    DIR/alerting/gpufleet-*.yaml      rules, contact points, notification policy
    DIR/gpufleet/AUDIENCE/*.json      the boards

In these files ``$NAME`` is the value of an environment variable, ``$__file{PATH}`` the content of a file, and a dollar
that means itself is ``$$``. The queries of alert rules are taken as they stand, dollars included. Organisations cannot
be made by files: a customer's are rendered for the number that its organisation has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from infra.grafana.provisioning import notify
from infra.grafana.provisioning.datasource import Source
from infra.grafana.provisioning.desired import FOLDER_TITLE, FOLDER_UID, MAIN_ORG, Audience, Told, boards, rules_text

HEAD: Final = "# Made by `gpufleet grafana render`: changes are lost.\n"


def escaped(value: Any) -> Any:
    """Texts of a provisioning file that mean themselves: every dollar doubled."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {key: escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escaped(inner) for inner in value]
    return value


def tree(
    sources: Mapping[int, Source],
    path: str,
    told: Mapping[int, Told] | None = None,
    policies: Mapping[int, Mapping[str, Any]] | None = None,
) -> dict[str, str]:
    """Relative path -> text. ``sources`` and ``told`` by organisation; secrets in them are references.

    ``path`` is where Grafana sees the folder. Of organisations not in ``told`` nothing is said about who is told.
    ``policies``: notification policies as they are, into which our route is put; they mean themselves.
    """
    bare = notify.bare_tree()
    made = {
        "datasources/gpufleet.yaml": _yaml(
            {"apiVersion": 1, "prune": True, "datasources": [_source(org, source) for org, source in sources.items()]}
        ),
        "dashboards/gpufleet.yaml": _yaml(
            {"apiVersion": 1, "providers": [_provider(org, path.rstrip("/")) for org in sources]}
        ),
    }
    for org in sources:
        audience = _audience(org)
        name = f"gpufleet-{audience}" + (f"-{org}" if audience == "customer" else "")
        made[f"alerting/{name}.yaml"] = rules_text(audience).replace(f"orgId: {MAIN_ORG}\n", f"orgId: {org}\n")
    for used in sorted({_audience(org) for org in sources}):
        for board in boards(used):
            made[f"gpufleet/{used}/{board['uid']}.json"] = json.dumps(board, indent=2, ensure_ascii=False) + "\n"
    if told:
        points = [
            {
                "orgId": org,
                "name": escaped(point["name"]),
                "receivers": [{key: point[key] for key in ("uid", "type", "settings", "disableResolveMessage")}],
            }
            for org, whom in told.items()
            for point in notify.contact_points(whom.page, whom.ticket or whom.page)
        ]
        made["alerting/gpufleet-contact-points.yaml"] = _yaml({"apiVersion": 1, "contactPoints": points})
        trees = [
            {"orgId": org, **escaped(notify.with_route(dict(held)) if (held := (policies or {}).get(org)) else bare)}
            for org in told
        ]
        made["alerting/gpufleet-policies.yaml"] = _yaml({"apiVersion": 1, "policies": trees})
    return made


def write(folder: Path, made: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Write what differs and delete what ``render`` wrote before and does not any more: (written, deleted)."""
    written = []
    for name, text in made.items():
        target = folder / name
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(target)
        written.append(name)
    ours = [*folder.glob("alerting/gpufleet-*.yaml"), *folder.glob("gpufleet/*/*.json")]
    stale = [path for path in ours if str(path.relative_to(folder)) not in made]
    for path in stale:
        path.unlink()
    return written, sorted(str(path.relative_to(folder)) for path in stale)


def _audience(org: int) -> Audience:
    return "operator" if org == MAIN_ORG else "customer"


def _source(org: int, source: Source) -> dict[str, Any]:
    """Its secrets are references and stay as they are; everything else means itself."""
    return {"orgId": org, **escaped(source.fields()), "editable": False, "secureJsonData": source.secret_fields()}


def _provider(org: int, path: str) -> dict[str, Any]:
    return {
        "name": f"gpufleet {org}",
        "orgId": org,
        "folder": FOLDER_TITLE,
        "folderUid": FOLDER_UID,
        "type": "file",
        "disableDeletion": False,
        "allowUiUpdates": False,
        "updateIntervalSeconds": 30,
        "options": {"path": escaped(f"{path}/gpufleet/{_audience(org)}")},
    }


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    return HEAD + yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=120)
