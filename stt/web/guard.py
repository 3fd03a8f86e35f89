"""Checks where a request comes from: a website can reach this server through its visitor's browser."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from stt.settings import Settings
from stt.web.problems import Handler, Problem

_SAFE = {"GET", "HEAD", "OPTIONS"}
# Monitors use the IP address as host: it is not checked here, and the answer is not secret.
_HEALTH = "/health/"

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def middleware(settings: Settings) -> Any:
    """Refuse requests for other hosts (DNS rebinding), and changes that other websites send (CSRF)."""
    allowed = {name.lower() for name in (*settings.allowed_hosts, settings.host)}

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(_HEALTH):
            _check_host(request, allowed)
        if request.method not in _SAFE:
            _check_origin(request)
        return await handler(request)

    return guard


def _check_host(request: web.Request, allowed: set[str]) -> None:
    name = _hostname(request.headers.get("Host", ""))
    if "*" not in allowed and name not in allowed:
        raise Problem(
            421,
            "host_not_allowed",
            "Unknown host",
            f"This server does not answer for {name or 'a request without Host'}; add the name to "
            "STT_ALLOWED_HOSTS if it is yours.",
        )


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _check_origin(request: web.Request) -> None:
    """Refuse what a page of another website sends. A program sends neither header and is let through."""
    origin = request.headers.get("Origin")
    if origin is not None and _netloc(origin) != request.host.lower():
        raise _cross_site()
    if origin is None and request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise _cross_site()


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _cross_site() -> Problem:
    return Problem(
        403,
        "cross_site",
        "From another website",
        "A page of another website asked for this change, and it was refused.",
    )


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers to an answer; a handler of aiohttp's `on_response_prepare`."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
