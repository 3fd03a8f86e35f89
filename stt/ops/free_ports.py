"""Looks whether the ports of all roles are free, before `stt up` starts anything."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from stt.ops import gpus
from stt.settings import Settings
from stt.telemetry import ports


def wrong(settings: Settings) -> str:
    """What is wrong with the ports that the roles will listen on, in a sentence; empty if nothing is."""
    if reason := _taken(settings.host, settings.port):
        where = f"{settings.host}:{settings.port}"
        return f"Cannot listen on {where}: {reason}. Choose another port: STT_PORT."
    try:
        for own in _telemetry(settings):
            if own.port == settings.port:
                raise ports.PortError(own, "it is that of the web app, STT_PORT")
            if reason := _taken(own.host, own.port):
                raise ports.PortError(own, reason)
    except ports.PortError as error:
        return str(error)
    return ""


def _telemetry(settings: Settings) -> Iterator[ports.Place]:
    """Where each role will answer about itself, if that was chosen."""
    if ports.place(settings).port:
        for number in range(2 + gpus.worker_count(settings, gpus.usable(settings))):
            yield ports.of_role(settings, number)


def _taken(host: str, port: int) -> str:
    """Why nobody can listen there, or an empty text."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""
