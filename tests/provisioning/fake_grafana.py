"""A Grafana of the parts of its API that provisioning uses: it keeps state, and refuses what Grafana refuses.

Status codes and messages as Grafana 12 and 13 document and send them: 401 for credentials and foreign organisations,
404 for what is not there, 409 and 412 for names that are taken and versions that are old, 400 for what makes no sense.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Json = dict[str, Any]
_DURATION = re.compile(r"(\d+[smhdw])+")


class RefusedError(Exception):
    """An error of the API: status and message."""

    def __init__(self, code: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.code, self.body = code, {"message": message, **more}


@dataclass
class Org:
    """One organisation's state."""

    id: int
    name: str
    members: set[str]
    sources: dict[str, Json] = field(default_factory=dict)
    secrets: dict[str, Json] = field(default_factory=dict)
    folders: dict[str, Json] = field(default_factory=dict)
    boards: dict[str, Json] = field(default_factory=dict)
    """uid -> {"dashboard", "folderUid", "provisioned"}"""
    groups: dict[tuple[str, str], Json] = field(default_factory=dict)
    points: dict[str, Json] = field(default_factory=dict)
    policy: Json = field(default_factory=lambda: {"receiver": "grafana-default-email", "routes": []})

    def rules(self) -> list[Json]:
        return [rule for group in self.groups.values() for rule in group["rules"]]


class FakeGrafana:
    """State, and what may go wrong: ``version``, ``plugin``, ``fail_writes_after``."""

    def __init__(self, user: str = "admin", password: str = "secret-of-admin", token: str = "glsa_token") -> None:
        self.user, self.password, self.token = user, password, token
        self.version, self.plugin = "12.1.0", True
        self.fail_writes_after: int | None = None
        self.orgs: dict[int, Org] = {1: Org(1, "Main Org.", {user})}
        self.writes: list[str] = []
        self._ids = itertools.count(2)
        self._lock = threading.Lock()
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[FakeGrafana]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.answer(self, "GET")

            def do_POST(self) -> None:
                fake.answer(self, "POST")

            def do_PUT(self) -> None:
                fake.answer(self, "PUT")

            def do_DELETE(self) -> None:
                fake.answer(self, "DELETE")

            def log_message(self, *_arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def org(self, name: str) -> Org:
        return next(org for org in self.orgs.values() if org.name == name)

    def answer(self, http: BaseHTTPRequestHandler, method: str) -> None:
        length = int(http.headers.get("Content-Length") or 0)
        raw = http.rfile.read(length)
        parts = urlsplit(http.path)
        path = unquote(parts.path).removeprefix("/api")
        try:
            with self._lock:
                if method != "GET":
                    if self.fail_writes_after is not None and len(self.writes) >= self.fail_writes_after:
                        raise RefusedError(500, "database is locked")
                    self.writes.append(f"{method} {path}")
                status, body = self._route(http, method, path, parse_qs(parts.query), json.loads(raw) if raw else None)
        except RefusedError as refused:
            status, body = refused.code, refused.body
        data = json.dumps(body).encode()
        http.send_response(status)
        http.send_header("Content-Type", "application/json; charset=UTF-8")
        http.send_header("Content-Length", str(len(data)))
        http.end_headers()
        http.wfile.write(data)

    def _route(
        self, http: BaseHTTPRequestHandler, method: str, path: str, query: dict[str, list[str]], body: Any
    ) -> tuple[int, Any]:
        org = self._authenticated(http)
        if path == "/frontend/settings":  # where grafana-client reads the version
            return 200, {"buildInfo": {"version": self.version, "commit": "fake", "edition": "Open Source"}}
        words = path.strip("/").split("/")
        match (method, words):
            case ("GET", ["org"]):
                return 200, {"id": org.id, "name": org.name}
            case ("GET", ["plugins", "grafana-clickhouse-datasource", "settings"]):
                if not self.plugin:
                    raise RefusedError(404, "Plugin not found, no installed plugin with that id")
                return 200, {"id": words[1], "enabled": True}
            case (_, ["orgs", *rest]):
                return self._organisations(http, method, rest, body)
            case (_, ["datasources", *rest]):
                return self._sources(org, method, rest, body)
            case (_, ["folders", *rest]):
                return self._folders(org, method, rest, body)
            case ("GET", ["search"]):
                wanted = query.get("folderUIDs", [])
                found = [b for b in org.boards.values() if b["folderUid"] in wanted]
                return 200, [{"uid": b["dashboard"]["uid"], "title": b["dashboard"]["title"]} for b in found]
            case (_, ["dashboards", *rest]):
                return self._boards(org, method, rest, body)
            case (_, ["v1", "provisioning", *rest]):
                return self._alerting(org, method, rest, body)
        raise RefusedError(404, f"Not found: {method} {path}")

    def _authenticated(self, http: BaseHTTPRequestHandler) -> Org:
        kind, _, value = http.headers.get("Authorization", "").partition(" ")
        org_id = int(http.headers.get("X-Grafana-Org-Id") or 1)
        if kind == "Bearer":
            if value != self.token or org_id != 1:
                raise RefusedError(401, "Invalid API key")
            return self.orgs[1]
        if kind != "Basic" or base64.b64decode(value).decode() != f"{self.user}:{self.password}":
            raise RefusedError(401, "Invalid username or password")
        if org_id not in self.orgs or self.user not in self.orgs[org_id].members:
            raise RefusedError(401, "Unauthorized")
        return self.orgs[org_id]

    def _organisations(self, http: BaseHTTPRequestHandler, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        if http.headers.get("Authorization", "").startswith("Bearer"):
            raise RefusedError(
                403, "You'll need additional permissions to perform this action. Permissions needed: orgs:read"
            )
        match (method, rest):
            case ("GET", ["name", name]):
                for org in self.orgs.values():
                    if org.name == name:
                        return 200, {"id": org.id, "name": name}
                raise RefusedError(404, "Organization not found")
            case ("POST", []):
                if not body.get("name"):
                    raise RefusedError(400, "Organization name is required")
                if any(org.name == body["name"] for org in self.orgs.values()):
                    raise RefusedError(409, "Organization name taken")
                made = Org(next(self._ids), body["name"], {self.user})
                self.orgs[made.id] = made
                return 200, {"orgId": made.id, "message": "Organization created"}
            case ("GET", [number, "users"]):
                return 200, [
                    {"login": login, "email": f"{login}@localhost"} for login in self.orgs[int(number)].members
                ]
            case ("POST", [number, "users"]):
                self.orgs[int(number)].members.add(body["loginOrEmail"])
                return 200, {"message": "User added to organization"}
        raise RefusedError(404, "Not found: " + method + " " + "/".join(rest))

    def _sources(self, org: Org, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        match (method, rest):
            case ("GET", ["uid", uid]):
                if uid not in org.sources:
                    raise RefusedError(404, "Data source not found")
                fields = dict.fromkeys(org.secrets[uid], True)
                return 200, {"readOnly": False, **org.sources[uid], "secureJsonFields": fields}
            case ("POST", []):
                self._source(body)
                if body["uid"] in org.sources or any(s["name"] == body["name"] for s in org.sources.values()):
                    raise RefusedError(409, "data source with the same name already exists")
                return self._keep_source(org, {**body, "id": next(self._ids), "version": 1})
            case ("PUT", ["uid", uid]):
                if uid not in org.sources:
                    raise RefusedError(404, "Data source not found")
                held = org.sources[uid]
                if held.get("readOnly"):
                    raise RefusedError(403, "Cannot update read-only data source")
                self._source(body)
                if body.get("version") not in (None, held["version"]):
                    raise RefusedError(
                        409, "Datasource has already been updated by someone else. Please reload and try again"
                    )
                return self._keep_source(org, {**body, "id": held["id"], "version": held["version"] + 1})
        raise RefusedError(404, "Not found: " + method + " " + "/".join(rest))

    def _source(self, body: Json) -> None:
        for name in ("name", "type", "access"):
            if not body.get(name):
                raise RefusedError(400, f"bad request data: {name} is required")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", body.get("uid", "")):
            raise RefusedError(400, "invalid format of UID. Only letters, numbers, '-' and '_' are allowed")
        if "password" in body.get("jsonData", {}):
            raise RefusedError(400, "a secret in jsonData")

    def _keep_source(self, org: Org, body: Json) -> tuple[int, Any]:
        body = dict(body)
        org.secrets[body["uid"]] = {**org.secrets.get(body["uid"], {}), **body.pop("secureJsonData", {})}
        org.sources[body["uid"]] = body
        return 200, {"id": body["id"], "name": body["name"], "datasource": body}

    def _folders(self, org: Org, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        match (method, rest):
            case ("GET", []):
                return 200, list(org.folders.values())
            case ("POST", []):
                if not body.get("title"):
                    raise RefusedError(400, "folder title cannot be empty")
                if body["uid"] in org.folders:
                    raise RefusedError(412, "The folder has been changed by someone else")
                if any(found["title"] == body["title"] for found in org.folders.values()):
                    raise RefusedError(409, "a folder with the same name already exists in the current location")
                org.folders[body["uid"]] = {"uid": body["uid"], "title": body["title"], "version": 1}
                return 200, org.folders[body["uid"]]
        raise RefusedError(404, "Not found: " + method + " " + "/".join(rest))

    def _boards(self, org: Org, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        match (method, rest):
            case ("GET", ["uid", uid]):
                if uid not in org.boards:
                    raise RefusedError(404, "Dashboard not found")
                held = org.boards[uid]
                meta = {"folderUid": held["folderUid"], "provisioned": held.get("provisioned", False)}
                return 200, {"dashboard": held["dashboard"], "meta": meta}
            case ("DELETE", ["uid", uid]):
                if org.boards.pop(uid, None) is None:
                    raise RefusedError(404, "Dashboard not found")
                return 200, {"message": "deleted"}
            case ("POST", ["db"]):
                return self._save_board(org, body)
        raise RefusedError(404, "Not found: " + method + " " + "/".join(rest))

    def _save_board(self, org: Org, body: Json) -> tuple[int, Any]:
        board = dict(body["dashboard"])
        if not board.get("title"):
            raise RefusedError(400, "Dashboard title cannot be empty", status="empty-name")
        if len(board.get("uid", "")) > 40:
            raise RefusedError(400, "uid too long, max 40 characters")
        if body["folderUid"] not in org.folders:
            raise RefusedError(400, "folder not found")
        held = org.boards.get(board["uid"])
        if held is None and board.get("id"):
            raise RefusedError(404, "Dashboard not found", status="not-found")
        version = 0
        if held is not None:
            if held.get("provisioned"):
                raise RefusedError(400, "Cannot save provisioned dashboard")
            version = held["dashboard"]["version"]
            if not body.get("overwrite") and board.get("version") != version:
                message = "The dashboard has been changed by someone else"
                raise RefusedError(412, message, status="version-mismatch")
        board |= {"id": held["dashboard"]["id"] if held else next(self._ids), "version": version + 1}
        org.boards[board["uid"]] = {"dashboard": board, "folderUid": body["folderUid"]}
        return 200, {"id": board["id"], "uid": board["uid"], "version": board["version"], "status": "success"}

    def _alerting(self, org: Org, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        match (method, rest):
            case ("GET", ["alert-rules"]):
                return 200, org.rules()
            case ("DELETE", ["alert-rules", uid]):
                for group in org.groups.values():
                    group["rules"] = [rule for rule in group["rules"] if rule["uid"] != uid]
                return 204, None
            case ("GET", ["folder", folder, "rule-groups", name]):
                found = org.groups.get((folder, name))
                if found is None or not found["rules"]:
                    raise RefusedError(404, "rule group not found")
                return 200, found
            case ("PUT", ["folder", folder, "rule-groups", name]):
                return 200, self._save_group(org, folder, name, body)
            case ("GET", ["contact-points"]):
                return 200, list(org.points.values())
            case ("POST", ["contact-points"]):
                self._point(body)
                if body["uid"] in org.points:
                    raise RefusedError(409, "contact point with this uid already exists")
                org.points[body["uid"]] = body
                return 202, body
            case ("PUT", ["contact-points", uid]):
                if uid not in org.points:
                    raise RefusedError(404, "contact point not found")
                self._point(body)
                org.points[uid] = {**body, "uid": uid}
                return 202, {"message": "contactpoint updated"}
            case ("GET", ["policies"]):
                return 200, org.policy
            case ("PUT", ["policies"]):
                self._policy(org, body)
                org.policy = body
                return 202, {"message": "policies updated"}
        raise RefusedError(404, "Not found: " + method + " " + "/".join(rest))

    def _save_group(self, org: Org, folder: str, name: str, body: Json) -> Json:
        if folder not in org.folders:
            raise RefusedError(404, "folder not found")
        if body["title"] != name or body["folderUid"] != folder:
            raise RefusedError(400, "invalid rule group: title and folder must be those of the path")
        if not isinstance(body["interval"], int) or body["interval"] <= 0 or body["interval"] % 10:
            raise RefusedError(400, "interval must be a multiple of 10 seconds")
        elsewhere = {r["uid"] for key, group in org.groups.items() if key != (folder, name) for r in group["rules"]}
        titles: set[str] = set()
        for rule in body["rules"]:
            self._rule(rule, folder, name)
            if rule["uid"] in elsewhere:
                raise RefusedError(409, f"rule with UID {rule['uid']} already exists in another group")
            if rule["title"] in titles:
                raise RefusedError(
                    409, "a conflicting alert rule is found: rule title under the same organisation and folder"
                )
            titles.add(rule["title"])
        held = org.groups.get((folder, name), {"rules": []})
        if any(rule.get("provenance") == "file" for rule in held["rules"]):
            raise RefusedError(409, "cannot change provenance from 'file' to 'api'")
        made = json.loads(json.dumps(body))
        for rule in made["rules"]:
            rule |= {"provenance": "api", "updated": "2026-11-17T10:00:00Z", "orgID": org.id}
            for key in ("for", "keep_firing_for"):  # answers in the form of Go's model.Duration
                rule[key] = {"60s": "1m", "3600s": "1h"}.get(rule[key], rule[key])
        org.groups[folder, name] = made
        return dict(made)

    def _rule(self, rule: Json, folder: str, group: str) -> None:
        def bad(why: str) -> RefusedError:
            return RefusedError(400, f"invalid alert rule {rule.get('uid')}: {why}")

        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", rule["uid"]):
            raise bad("uid must be 1 to 40 letters, digits, - and _")
        if not 0 < len(rule["title"]) <= 190:
            raise bad("title must have 1 to 190 characters")
        if (rule["folderUID"], rule["ruleGroup"]) != (folder, group):
            raise bad("folder and group must be those of the path")
        if rule["condition"] not in [query["refId"] for query in rule["data"]]:
            raise bad(f"condition {rule['condition']} does not exist")
        for query in rule["data"]:
            if not query.get("datasourceUid") or "relativeTimeRange" not in query:
                raise bad("a query needs datasourceUid and relativeTimeRange")
            if query["model"].get("refId") != query["refId"]:
                raise bad("a query's model must bear its refId")
        if rule["noDataState"] not in ("Alerting", "NoData", "OK", "KeepLast"):
            raise bad(f"unknown noDataState {rule['noDataState']}")
        if rule["execErrState"] not in ("Alerting", "Error", "OK", "KeepLast"):
            raise bad(f"unknown execErrState {rule['execErrState']}")
        for key in ("for", "keep_firing_for"):
            if not _DURATION.fullmatch(rule[key]):
                raise bad(f"{key} is not a duration")
        if ("__dashboardUid__" in rule["annotations"]) != ("__panelId__" in rule["annotations"]):
            raise bad("both annotations __dashboardUid__ and __panelId__ must be specified")
        if not all(isinstance(v, str) for v in {**rule["labels"], **rule["annotations"]}.values()):
            raise bad("labels and annotations are texts")

    def _point(self, body: Json) -> None:
        if not body.get("name") or body.get("type") != "webhook":
            raise RefusedError(400, "invalid contact point: name and a known type are required")
        if not str(body["settings"].get("url", "")).startswith(("http://", "https://")):
            raise RefusedError(400, "invalid contact point: required field 'url' is not specified")

    def _policy(self, org: Org, route: Json) -> None:
        names = {point["name"] for point in org.points.values()} | {"grafana-default-email"}
        if route.get("receiver", next(iter(names))) not in names:
            raise RefusedError(400, f"invalid policy: receiver '{route['receiver']}' does not exist")
        for key in ("group_wait", "group_interval", "repeat_interval"):
            if key in route and not _DURATION.fullmatch(route[key]):
                raise RefusedError(400, f"invalid policy: {key}")
        for inner in route.get("routes") or []:
            self._policy(org, inner)
