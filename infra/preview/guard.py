"""Who may talk to the page: this machine's browser on this page, and nobody that it was led here by.

A page of a stranger can point its own name at 127.0.0.1 (DNS rebinding) and would then be of our origin: hence the
host names. It can also send requests across origins: hence Origin and Sec-Fetch-Site. Beyond loopback a token is asked
for, since the page has no log-in.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
COOKIE: Final = "gpufleet_preview"
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS: Final = {
    # Inline styles and not inline scripts: the chart library sets style attributes.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Middleware and headers of one server. ``host`` is where it listens; ``token`` is empty on loopback."""

    def __init__(self, host: str) -> None:
        self.token = "" if is_loopback(host) else secrets.token_urlsafe(24)
        anywhere = host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
        self._hosts = None if anywhere else LOOPBACK | {host.lower()}

    async def headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        """For ``on_response_prepare``."""
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")

    @property
    def middleware(self) -> Middleware:
        """Refuses what the module's docstring says."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            refused = self._refusal(request)
            if refused:
                return web.json_response({"error": refused}, status=403)
            if not self.token:
                return await handler(request)
            if _same(request.query.get("token", ""), self.token):
                entered = web.Response(status=302)
                entered.headers["Location"] = str(request.rel_url.without_query_params("token"))
                entered.set_cookie(COOKIE, self.token, httponly=True, samesite="Strict")
                return entered
            if _same(request.cookies.get(COOKIE, ""), self.token):
                return await handler(request)
            return web.json_response(
                {"error": "open the address that the server printed; it holds a token"}, status=401
            )

        return check

    def _refusal(self, request: web.Request) -> str:
        host = request.headers.get("Host", "")
        if self._hosts is not None and _hostname(host) not in self._hosts:
            return f"this page answers to {', '.join(sorted(self._hosts))}, not to {host[:100]!r}"
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return "this page answers to itself, not to other origins"
        site = request.headers.get("Sec-Fetch-Site", "none")
        if request.path.startswith("/api/") and site not in ("same-origin", "none"):
            return "this page answers to itself, not to other sites"
        return ""


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode(errors="replace"), expected.encode())
