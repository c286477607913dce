"""The ClickHouse data source, as Grafana's plugin grafana-clickhouse-datasource wants it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

TYPE: Final = "grafana-clickhouse-datasource"
PLUGIN_VERSION: Final = "4.14.0"
"""The version that the queries were tried with; compose.yaml pins it."""
OPERATOR_UID, CUSTOMER_UID = "gpufleet-operator", "gpufleet-customer"
"""One uid for all customers: the organisation decides whose credentials are behind it, and one board serves all."""
QUERY_TIMEOUT_S: Final = 30


@dataclass(frozen=True)
class Source:
    """Where ClickHouse is for Grafana, and who asks."""

    uid: str
    name: str
    url: str
    user: str
    password: str
    """The password itself, or how a provisioning file refers to it."""
    database: str
    verify: bool = True
    ca: str = ""
    """PEM text, or a reference to it; empty = the system's authorities."""

    def __repr__(self) -> str:
        return f"Source({self.uid!r}, {self.url!r}, {self.user!r})"

    def fields(self) -> dict[str, Any]:
        """All of it but the secrets: what Grafana shows again."""
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        return {
            "uid": self.uid,
            "name": self.name,
            "type": TYPE,
            "access": "proxy",
            "isDefault": True,
            "jsonData": {
                "host": parts.hostname or "",
                "port": parts.port or (8443 if secure else 8123),
                "protocol": "http",
                "secure": secure,
                "username": self.user,
                "defaultDatabase": self.database,
                "tlsSkipVerify": not self.verify,
                "tlsAuthWithCACert": bool(self.ca),
                "dialTimeout": "10",
                "queryTimeout": str(QUERY_TIMEOUT_S),
                "validateSql": False,
                "enableRowLimit": False,  # a limit would cut alert queries short without a word
            },
        }

    def secret_fields(self) -> dict[str, str]:
        """What Grafana keeps encrypted and never shows."""
        return {"password": self.password, **({"tlsCACert": self.ca} if self.ca else {})}

    def fingerprint(self, kept: str = "") -> str:
        """Tells whether a secret changed, since Grafana does not show it: SALT:HMAC of the secrets, cut to 64 bits.

        ``kept`` is the fingerprint to compare with, whose salt is taken. The passwords are long and random, so that 64
        bits of a keyed hash give nothing away.
        """
        salt = kept.partition(":")[0] or secrets.token_hex(8)
        text = "\0".join(f"{name}={value}" for name, value in sorted(self.secret_fields().items()))
        return f"{salt}:{hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()[:16]}"
