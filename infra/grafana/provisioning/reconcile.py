"""Bring a Grafana to what it should hold, one small step after the other.

What stands in Grafana is compared with what should; each difference is a change, which `plan` shows and `apply` makes.
No state is kept anywhere else: a run that died half-way is gone on with by the next, and a second run changes nothing.
Only what is ours is touched: our organisations, data sources and folders by uid or title, rules in our folder, our
route in the notification policy.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from infra.errors import GpufleetError
from infra.grafana.provisioning import notify
from infra.grafana.provisioning.api import Grafana
from infra.grafana.provisioning.desired import (
    ALERTS_TITLE,
    ALERTS_UID,
    FOLDER_TITLE,
    FOLDER_UID,
    MAIN_ORG,
    Organisation,
    api_group,
    seconds,
)

FINGERPRINT: Final = "gpufleetSecret"
"""Field of a data source's jsonData that tells whether its password is today's."""
_GRAFANAS_OWN: Final = frozenset({"id", "version", "iteration"})
"""Fields of a dashboard that Grafana counts itself."""


@dataclass(frozen=True)
class Change:
    """One thing to make, change or delete."""

    verb: Literal["create", "update", "delete"]
    kind: str
    name: str
    organisation: str
    detail: str
    make: Callable[[], object]

    def as_dict(self) -> dict[str, str]:
        return {
            "verb": self.verb,
            "kind": self.kind,
            "name": self.name,
            "organisation": self.organisation,
            "detail": self.detail,
        }

    def __str__(self) -> str:
        sign = {"create": "+", "update": "~", "delete": "-"}[self.verb]
        where = f" in {self.organisation}" if self.kind != "organisation" else ""
        return f"{sign} {self.kind} {self.name}{where}" + (f": {self.detail}" if self.detail else "")


class Reconciler:
    """Walks through the organisations. With ``dry`` nothing is sent but questions."""

    def __init__(self, grafana: Grafana, *, dry: bool, prune: bool = False) -> None:
        self._grafana, self._dry, self._prune = grafana, dry, prune

    def run(self, organisations: Sequence[Organisation]) -> Iterator[Change]:
        """The changes in the order they are made; each is made (unless dry) before the next is looked for."""
        for wanted in organisations:
            org_id: int | None = MAIN_ORG
            if wanted.name:
                org_id = self._grafana.organisation(wanted.name)
                if org_id is None:
                    made: list[int] = []
                    create = Change(
                        "create", "organisation", wanted.name, wanted.name, "",
                        lambda name=wanted.name, made=made: made.append(self._grafana.create_organisation(name)),  # type: ignore[misc]
                    )  # fmt: skip
                    yield self._done(create)
                    org_id = made[0] if made else None
            if wanted.name and org_id is not None and not self._grafana.is_member(org_id):
                yield self._done(
                    Change(
                        "create", "membership", self._grafana.login.user, wanted.name, "as its administrator",
                        lambda org_id=org_id: self._grafana.join(org_id),  # type: ignore[misc]
                    )
                )  # fmt: skip
                org_id = None if self._dry else org_id
            here = None if org_id is None else self._grafana.in_organisation(org_id)
            for change in self._organisation(here, wanted):
                yield self._done(change)

    def _done(self, change: Change) -> Change:
        if not self._dry:
            try:
                change.make()
            except GpufleetError as error:
                where = f"at: {change}\n  What was done before stays; apply again goes on from there."
                raise type(error)(f"{error.message}\n  {where}") from None
        return change

    def _organisation(self, here: Grafana | None, wanted: Organisation) -> Iterator[Change]:
        yield from self._source(here, wanted)
        folder = yield from self._folder(here, wanted, FOLDER_UID, FOLDER_TITLE)
        yield from self._boards(here, wanted, folder)
        alerts = yield from self._folder(here, wanted, ALERTS_UID, ALERTS_TITLE)
        yield from self._rules(here, wanted, alerts)
        if wanted.told.page:
            yield from self._notifications(here, wanted)

    def _source(self, here: Grafana | None, wanted: Organisation) -> Iterator[Change]:
        source, org = wanted.source, wanted.name or "the operator's"
        found = here.data_source(source.uid) if here else None
        kept = str(((found or {}).get("jsonData") or {}).get(FINGERPRINT, ""))
        fields = source.fields()
        fields["jsonData"] = {**fields["jsonData"], FINGERPRINT: source.fingerprint(kept)}
        body = {**fields, "secureJsonData": source.secret_fields()}
        if found is None:
            yield Change(
                "create", "data source", source.uid, org, f"{source.user} at {source.url}",
                lambda: _here(here).create_data_source(body),
            )  # fmt: skip
            return
        differing = _differences(fields, found)
        if found.get("readOnly"):
            differing = [name for name in differing if name != f"jsonData.{FINGERPRINT}"]  # files leave none
            if differing:
                raise GpufleetError(
                    f"the data source {source.uid} of {org} comes from a provisioning file of Grafana and differs"
                    f" ({', '.join(differing)}): change that file (`gpufleet grafana render`), or remove it"
                )
            return
        if differing:
            words = ["password" if name == f"jsonData.{FINGERPRINT}" else name for name in differing]
            yield Change(
                "update", "data source", source.uid, org, ", ".join(words),
                lambda: _here(here).update_data_source(source.uid, {**body, "version": found.get("version")}),
            )  # fmt: skip

    def _folder(self, here: Grafana | None, wanted: Organisation, uid: str, title: str) -> Generator[Change, None, str]:
        """Returns the folder's uid: a folder of our title made by a file keeps its own."""
        folders = here.folders() if here else []
        for folder in folders:
            if folder["uid"] == uid:
                return uid
        for folder in folders:
            if folder["title"] == title:
                return str(folder["uid"])
        yield Change(
            "create",
            "folder",
            title,
            wanted.name or "the operator's",
            "",
            lambda: _here(here).create_folder(uid, title),
        )
        return uid

    def _boards(self, here: Grafana | None, wanted: Organisation, folder: str) -> Iterator[Change]:
        org = wanted.name or "the operator's"
        for board in wanted.boards:
            uid = str(board["uid"])
            found = here.board(uid) if here else None
            if found is None:
                yield Change(
                    "create", "dashboard", uid, org, str(board["title"]),
                    lambda board=board: _here(here).save_board({**board, "id": None}, folder, "gpufleet grafana apply"),  # type: ignore[misc]
                )  # fmt: skip
                continue
            held, meta = found["dashboard"], found.get("meta", {})
            mine = {key: value for key, value in board.items() if key not in _GRAFANAS_OWN}
            theirs = {key: value for key, value in held.items() if key not in _GRAFANAS_OWN}
            differing = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
            if meta.get("folderUid", folder) != folder:
                differing.append("folder")
            if not differing:
                continue
            if meta.get("provisioned"):
                raise GpufleetError(
                    f"the dashboard {uid} of {org} comes from a provisioning file of Grafana and differs"
                    f" ({', '.join(differing)}): render the files anew (`gpufleet grafana render`), or remove them"
                )
            body = {**mine, "id": held.get("id"), "version": held.get("version")}
            yield Change(
                "update", "dashboard", uid, org, ", ".join(differing),
                lambda body=body: _here(here).save_board(body, folder, "gpufleet grafana apply"),  # type: ignore[misc]
            )  # fmt: skip
        if self._prune and here:
            known = {board["uid"] for board in wanted.boards}
            for stale in here.boards_in(folder):
                if stale["uid"] not in known:
                    yield Change(
                        "delete", "dashboard", str(stale["uid"]), org, str(stale.get("title", "")),
                        lambda uid=stale["uid"]: _here(here).delete_board(uid),  # type: ignore[misc]
                    )  # fmt: skip

    def _rules(self, here: Grafana | None, wanted: Organisation, folder: str) -> Iterator[Change]:
        org = wanted.name or "the operator's"
        for group in wanted.groups:
            name = str(group["name"])
            body = api_group(group, folder)
            found = here.rule_group(folder, name) if here else None
            if found is not None:
                differing = _rule_differences(body, found)
                if not differing:
                    continue
                if any(rule.get("provenance") == "file" for rule in found.get("rules", [])):
                    raise GpufleetError(
                        f"the rules of {name!r} in {org} come from a provisioning file of Grafana and differ"
                        f" ({', '.join(differing[:5])}): render the files anew, or remove them"
                    )
            yield Change(
                "update" if found else "create", "rule group", name, org,
                ", ".join(differing[:8]) if found else f"{len(body['rules'])} rules",
                lambda name=name, body=body: _here(here).save_rule_group(folder, name, body),  # type: ignore[misc]
            )  # fmt: skip
        if here is None:
            return
        names = {str(group["name"]) for group in wanted.groups}
        for rule in here.rules():  # the folder is ours alone
            if rule.get("folderUID") == folder and rule.get("ruleGroup") not in names:
                yield Change(
                    "delete", "rule", str(rule["uid"]), org, f"its group {rule.get('ruleGroup')!r} is no more",
                    lambda uid=rule["uid"]: _here(here).delete_rule(uid),  # type: ignore[misc]
                )  # fmt: skip

    def _notifications(self, here: Grafana | None, wanted: Organisation) -> Iterator[Change]:
        org = wanted.name or "the operator's"
        held = {point["name"]: point for point in here.contact_points()} if here else {}
        for point in notify.contact_points(wanted.told.page, wanted.told.ticket or wanted.told.page):
            found = held.get(point["name"])
            if found is None:
                yield Change(
                    "create", "contact point", point["name"], org, "",
                    lambda point=point: _here(here).create_contact_point(point),  # type: ignore[misc]
                )  # fmt: skip
            elif differing := _differences({k: v for k, v in point.items() if k != "uid"}, found):
                yield Change(
                    "update", "contact point", point["name"], org, ", ".join(differing),
                    lambda point=point, uid=found["uid"]: _here(here).update_contact_point(uid, {**point, "uid": uid}),  # type: ignore[misc]
                )  # fmt: skip
        tree = here.policy() if here else {}
        if (changed := notify.with_route(tree)) != tree:
            others = len(changed["routes"]) - 1
            kept = f", beside {others} other{'' if others == 1 else 's'}" if others else ""
            yield Change(
                "update", "notification policy", ALERTS_TITLE, org, f"route{kept}",
                lambda: _here(here).save_policy(changed),
            )  # fmt: skip


def _here(grafana: Grafana | None) -> Grafana:
    assert grafana is not None, "a change of an organisation that is only planned is never made"
    return grafana


def _differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Dotted names of what is wanted and not found so; what Grafana adds of its own does not count."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            name
            for key, value in wanted.items()
            for name in _differences(value, found.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if wanted == found else [path]


def _rule_differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    names = [] if seconds(found.get("interval")) == wanted["interval"] else ["interval"]
    held = {rule["uid"]: rule for rule in found.get("rules", [])}
    if list(held) != [rule["uid"] for rule in wanted["rules"]]:
        names.append("rules")
    for rule in wanted["rules"]:
        other = dict(held.get(rule["uid"]) or {})
        mine = {key: value for key, value in rule.items() if key not in ("for", "keep_firing_for")}
        if other:
            names += [f"{rule['uid']}.{name}" for name in _differences(mine, other)]
            names += [
                f"{rule['uid']}.{key}"
                for key in ("for", "keep_firing_for")
                if seconds(rule[key]) != seconds(other.get(key))
            ]
    return names
