"""Under `stt up` each role tells its metrics on a port of its own, the same one after a restart."""

from __future__ import annotations

import signal
import socket
from contextlib import ExitStack, suppress

import aiohttp

from tests.services.test_health import free_port
from tests.support import metrics
from tests.support.faults import until
from tests.support.up import Up, gone, prepared, private_folder, up

ROLES = ("web", "maintenance", "worker")


def free_ports(count: int) -> int:
    """The first of some ports that follow each other, and that nobody uses."""
    while True:
        first = free_port()
        with ExitStack() as taken, suppress(OSError):
            for number in range(1, count):
                taken.enter_context(socket.create_server(("127.0.0.1", first + number)))
            return first


async def test_each_role_answers_at_its_port_also_after_it_was_killed() -> None:
    first = free_ports(4)
    with private_folder() as folder:
        async with up(prepared(folder / "data"), METRICS_PORT=str(first)) as running:
            for number, role in enumerate(ROLES):
                await until(lambda at=first + number, role=role: tells(at, role), 60)
                metrics.check_with_promtool(await metrics.of(first + number))
            for number, role in enumerate(ROLES):
                await killed(running, f"stt {role}")
                await until(lambda at=first + number, role=role: tells(at, role), 60)


async def killed(running: Up, title: str) -> None:
    process = await running.until_child(title)
    process.send_signal(signal.SIGKILL)
    await gone([process])


async def tells(port: int, role: str) -> bool:
    """Whether that role answers at that port, and can do its work."""
    try:
        told = await metrics.of(port)
        ready = f"http://127.0.0.1:{port}/health/ready"
        async with aiohttp.ClientSession() as session, session.get(ready) as response:
            return response.status == 200 and told.sum("stt_build_info", role=role) == 1
    except (aiohttp.ClientError, OSError):
        return False
