"""Grafana's API through grafana-client, with errors for people.

grafana-client is imported here and only when it is needed: it lives in an environment of its own (`make grafana`),
since it replaces the urllib3 that clickhouse-connect uses.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from infra.errors import GpufleetError, UnreachableError, UsageError
from infra.grafana.provisioning.datasource import PLUGIN_VERSION, TYPE

OLDEST: Final = 12
"""Major version from which the boards and rules are known to work."""
MISSING: Final = (
    "`gpufleet grafana plan` and `apply` need grafana-client, which has an environment of its own: `make grafana`, or"
    " python -m venv .venv-grafana && .venv-grafana/bin/pip install 'gpufleet[grafana]'"
)


@dataclass(frozen=True)
class Login:
    """Where Grafana is and who asks: an administrator's user and password, or a token of a service account."""

    url: str
    user: str = ""
    password: str = ""
    token: str = ""
    verify: bool | str = True
    """False = any certificate; a text = path of the authorities (PEM)."""
    timeout_s: float = 10.0

    def __repr__(self) -> str:
        return f"Login({self.url!r}, {'a token' if self.token else self.user!r})"


class Grafana:
    """One organisation of a Grafana. Every call may raise UnreachableError (away, too slow, refused) or GpufleetError
    (it refused what was sent)."""

    def __init__(self, login: Login, org_id: int = 0) -> None:
        try:
            from grafana_client import GrafanaApi
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "grafana_client":
                raise
            raise UsageError(MISSING) from None
        self.login, self.org_id = login, org_id
        parts = urlsplit(login.url)
        self._api: Any = GrafanaApi(
            login.token or (login.user, login.password),
            host=parts.hostname or "",
            port=parts.port,
            protocol=parts.scheme,
            url_path_prefix=f"{parts.path.strip('/')}/" if parts.path.strip("/") else "",
            verify=login.verify,
            timeout=login.timeout_s,
            organization_id=org_id or None,
        )

    def in_organisation(self, org_id: int) -> Grafana:
        """The same Grafana, another organisation (header X-Grafana-Org-Id)."""
        return Grafana(self.login, org_id)

    def check(self) -> str:
        """The version; UnreachableError or UsageError when this Grafana cannot be worked with."""
        health = self._call(self._api.health.check)
        version = str(health.get("version", "")) if isinstance(health, dict) else ""
        match = re.match(r"(\d+)\.", version)
        if match is None:
            raise UnreachableError(
                f"{self.login.url} answers, but not as Grafana does (it tells no version): check grafana.url"
            )
        if int(match[1]) < OLDEST:
            raise UsageError(f"expected Grafana {OLDEST} or newer, found {version} at {self.login.url}: upgrade it")
        self._call(self._api.organization.get_current_organization)  # are the credentials good?
        return version

    def check_plugin(self) -> None:
        """UsageError unless the ClickHouse plugin is installed."""
        found = self.get(f"/plugins/{TYPE}/settings")
        if found is None:
            raise UsageError(
                f"Grafana at {self.login.url} lacks the plugin {TYPE}: grafana cli plugins install {TYPE}"
                f" {PLUGIN_VERSION}, or GF_PLUGINS_PREINSTALL_SYNC={TYPE}@{PLUGIN_VERSION}"
            )

    def organisation(self, name: str) -> int | None:
        """Number of the organisation of that name."""
        found = self._call(self._api.organization.find_organization, quote(name, safe=""), missing=True)
        return int(found["id"]) if found else None

    def create_organisation(self, name: str) -> int:
        """Make it (409: somebody was quicker, which is as well)."""
        try:
            return int(self._call(self._api.organization.create_organization, {"name": name})["orgId"])
        except ConflictError:
            found = self.organisation(name)
            if found is None:
                raise
            return found

    def is_member(self, org_id: int) -> bool:
        """Whether our user belongs to an organisation: who is none may not work in it, server administrator or not."""
        users = self._call(self._api.organizations.organization_user_list, org_id)
        return any(self.login.user in (user.get("login"), user.get("email")) for user in users)

    def join(self, org_id: int) -> None:
        """Make our user an administrator of the organisation."""
        body = {"loginOrEmail": self.login.user, "role": "Admin"}
        self._call(self._api.organizations.organization_user_add, org_id, body)

    def data_source(self, uid: str) -> dict[str, Any] | None:
        found = self._call(self._api.datasource.get_datasource_by_uid, uid, missing=True)
        return dict(found) if found else None

    def create_data_source(self, source: dict[str, Any]) -> None:
        self._call(self._api.datasource.create_datasource, source)

    def update_data_source(self, uid: str, source: dict[str, Any]) -> None:
        self._call(self._api.datasource.update_datasource_by_uid, uid, source)

    def folders(self) -> list[dict[str, Any]]:
        """Folders at the top: uid and title."""
        return list(self._call(self._api.folder.get_all_folders))

    def create_folder(self, uid: str, title: str) -> None:
        self._call(self._api.folder.create_folder, title, uid)

    def board(self, uid: str) -> dict[str, Any] | None:
        """``{"dashboard": ..., "meta": ...}``"""
        found = self._call(self._api.dashboard.get_dashboard, uid, missing=True)
        return dict(found) if found else None

    def save_board(self, board: dict[str, Any], folder_uid: str, message: str) -> None:
        """ConflictError when it was changed since ``board["version"]``."""
        body = {"dashboard": board, "folderUid": folder_uid, "overwrite": False, "message": message}
        self._call(self._api.dashboard.update_dashboard, body)

    def delete_board(self, uid: str) -> None:
        self._call(self._api.dashboard.delete_dashboard, uid, missing=True)

    def boards_in(self, folder_uid: str) -> list[dict[str, Any]]:
        """uid and title of the boards in a folder."""
        return list(self.get(f"/search?type=dash-db&limit=5000&folderUIDs={quote(folder_uid)}") or [])

    def rules(self) -> list[dict[str, Any]]:
        """Every alert rule of the organisation."""
        return list(self._call(self._api.alertingprovisioning.get_alertrules_all))

    def delete_rule(self, uid: str) -> None:
        self._call(self._api.alertingprovisioning.delete_alertrule, uid, missing=True)

    def rule_group(self, folder_uid: str, name: str) -> dict[str, Any] | None:
        group = self._api.alertingprovisioning.get_rule_group
        found = self._call(group, folder_uid, quote(name, safe=""), missing=True)
        return dict(found) if found else None

    def save_rule_group(self, folder_uid: str, name: str, group: dict[str, Any]) -> None:
        self._call(self._api.alertingprovisioning.update_rule_group, folder_uid, quote(name, safe=""), group)

    def contact_points(self) -> list[dict[str, Any]]:
        return list(self._call(self._api.alertingprovisioning.get_contactpoints))

    def create_contact_point(self, point: dict[str, Any]) -> None:
        self._call(self._api.alertingprovisioning.create_contactpoint, point)

    def update_contact_point(self, uid: str, point: dict[str, Any]) -> None:
        self._call(self._api.alertingprovisioning.update_contactpoint, uid, point)

    def policy(self) -> dict[str, Any]:
        return dict(self._call(self._api.alertingprovisioning.get_notification_policy_tree))

    def save_policy(self, tree: dict[str, Any]) -> None:
        self._call(self._api.alertingprovisioning.set_notification_policy_tree, tree)

    def get(self, path: str) -> Any:
        """What a path below /api answers; None for 404."""
        return self._call(self._api.client.GET, path, missing=True)

    def _call(self, function: Callable[..., Any], *arguments: Any, missing: bool = False) -> Any:
        from grafana_client.client import GrafanaException

        try:
            return function(*arguments)
        except GrafanaException as error:
            if missing and error.status_code == 404:
                return None
            raise self._explained(error.status_code, str(error.message), error.response) from None
        except ValueError:
            raise UnreachableError(f"{self.login.url} answers, but not as Grafana does: check grafana.url") from None
        except OSError as error:  # requests' own errors are OSErrors
            raise UnreachableError(f"Grafana at {self.login.url} does not answer: {_reason(error)}") from None

    def _explained(self, status: int, text: str, response: object) -> GpufleetError:
        words = response.get("message", text) if isinstance(response, dict) else text
        if status == 0:
            return UnreachableError(
                f"Grafana at {self.login.url} did not answer in {self.login.timeout_s:g} s: {words}"
            )
        who = "the token" if self.login.token else f"user {self.login.user!r}"
        if status == 401:
            return UnreachableError(
                f"Grafana at {self.login.url} does not accept {who}: check grafana.token, or grafana.user and its"
                " password"
            )
        if status == 403:
            return UnreachableError(
                f"Grafana does not allow this to {who}: {words}. Organisations, data sources and rules take a server"
                " administrator's user and password"
            )
        if status in (409, 412):
            return ConflictError(f"Grafana: {words}; somebody changed it meanwhile, or made it by another way")
        if status >= 500:
            return UnreachableError(f"Grafana at {self.login.url} failed ({status}): {words}")
        return GpufleetError(f"Grafana refused it ({status}): {words}")


class ConflictError(GpufleetError):
    """It is there already, was changed meanwhile, or belongs to a file or another program."""


def _reason(error: OSError) -> str:
    text = str(error)
    with contextlib.suppress(AttributeError, IndexError):
        text = str(error.__cause__ or error.__context__ or error)
    found = re.search(r"(Connection refused|Name or service not known|timed out|certificate verify failed)", text)
    return found[1] if found else text.splitlines()[0][:200] if text else type(error).__name__
