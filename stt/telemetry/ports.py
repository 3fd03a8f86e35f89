"""Which port the metrics and the health of a role are on. It imports no library."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stt.settings import Settings

METRICS, HEALTH = "STT_METRICS_PORT", "STT_HEALTH_PORT"
LOOPBACK = "127.0.0.1"
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Place:
    """Where a role answers, and the setting that says so."""

    host: str
    port: int
    setting: str

    @property
    def reachable(self) -> str:
        """The host as this machine reaches it: nobody can connect to 0.0.0.0 or ::."""
        return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)  # noqa: S104


class PortError(Exception):
    """A port of the metrics or the health cannot be used. The text names the setting and what to do."""

    def __init__(self, place: Place, reason: str) -> None:
        what = f"Cannot listen on {place.host}:{place.port} for {_WHAT[place.setting]}: {reason}."
        super().__init__(f"{what} {_ADVICE[place.setting]}")


_WHAT = {METRICS: "metrics and health", HEALTH: "health"}
_ADVICE = {
    METRICS: f"Choose another port or address: {METRICS}, STT_METRICS_HOST.",
    HEALTH: f"Choose another port: {HEALTH}.",
}


def place(settings: Settings) -> Place:
    """Where the only role with these settings answers; port 0 is any free one."""
    if settings.metrics_port is not None:
        return Place(settings.metrics_host, settings.metrics_port, METRICS)
    return Place(LOOPBACK, settings.health_port, HEALTH)


def of_role(settings: Settings, number: int) -> Place:
    """Where one of several roles on one machine answers, counted from 0: each has its own port.

    Raises:
        PortError: There are not so many ports.
    """
    first = place(settings)
    own = replace(first, port=first.port + number if first.port else 0)
    if own.port > _LAST_PORT:
        raise PortError(own, f"{_LAST_PORT} is the last port")
    return own


def environment(settings: Settings, number: int) -> dict[str, str]:
    """What one of several roles is started with, so that it answers there.

    Raises:
        PortError: There are not so many ports.
    """
    own = of_role(settings, number)
    return {own.setting: str(own.port)}
