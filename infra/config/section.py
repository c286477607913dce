"""What every section of settings is made of: its base, and texts that are checked."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict


def _found(text: str) -> str:
    """What to repeat of a refused text: not what may hold credentials."""
    return "a text with '@' (not repeated: it may hold a password)" if "@" in text else repr(text)


def _bootstrap(text: str) -> str:
    for server in text.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"expected host:port[,host:port ...], found {_found(server.strip())}")
    return ",".join(server.strip() for server in text.split(","))


def _http_url(text: str) -> str:
    if not text:
        return text
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise ValueError("expected a URL without credentials, found some; set the user and password_file instead")
    try:
        port_ok = parts.port != 0
    except ValueError:
        port_ok = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        raise ValueError(f"expected http://host:port or https://host:port, found {_found(text)}")
    return text.rstrip("/")


Bootstrap = Annotated[str, AfterValidator(_bootstrap)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]


class Section(BaseModel):
    """A table of settings: frozen, no unknown keys, inputs never repeated in errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True, allow_inf_nan=False
    )
