"""Ports of loopback that nobody listens on."""

from __future__ import annotations

import random
import socket


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports that are free. Below those that the kernel gives to clients."""
    for port in random.sample(range(20000, 32000 - count), 200):
        if all(_is_free(port + n) for n in range(count)):
            return port
    raise OSError(f"no {count} neighbouring ports are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
