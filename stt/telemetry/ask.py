"""`stt health`: asks the role that runs on this machine, or in this container. It imports no library."""

from __future__ import annotations

import http.client
import json
from typing import Any

from stt.settings import Settings
from stt.telemetry import ports

_SECONDS = 8.0  # more than a check may take


def ask(settings: Settings, *, ready: bool) -> tuple[bool, str]:
    """Ask a role for its health.

    Args:
        settings: Where the role answers.
        ready: Ask whether it has all that it needs, rather than whether it does its work.

    Returns:
        Whether it is well, and one line that says so or what is wrong.
    """
    place = ports.place(settings)
    if place.port == 0:
        return False, f"set {ports.METRICS} or {ports.HEALTH}, for the role too: its port is not known"
    try:
        status, found = _get(place, "/health/ready" if ready else "/health/live")
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
        return False, f"no answer from {place.reachable}:{place.port} ({place.setting}): {reason}"
    wrong = [f"{name}: {what}" for name, what in found.get("checks", {}).items() if what != "ok"]
    if status != 200 or wrong:
        return False, "; ".join(wrong) or f"it answered with {status}"
    return True, "ready" if ready else "live"


def _get(place: ports.Place, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(place.reachable, place.port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        found = json.loads(response.read())
        return response.status, found if isinstance(found, dict) else {}
    finally:
        connection.close()
