"""`stt worker`: one worker in this process, or several, each on a GPU of its own, as its children."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import NoReturn

from setproctitle import setproctitle

from stt.ops import gpus
from stt.ops.roles import Role, keep
from stt.process.child import Stop
from stt.settings import Settings
from stt.telemetry import ports

PROGRAM = "workers.transcriber"
# A worker hands its job back, also if the database is away for seconds. A container gets 30 s from compose.
STOP = ((signal.SIGTERM, 25.0),)


def run(settings: Settings) -> int:
    """Run the workers until SIGTERM or SIGINT. One worker takes the place of this process.

    Returns:
        The exit code: 0 if all handed back what they had.
    """
    devices = gpus.usable(settings)
    count = gpus.worker_count(settings, devices)
    if count == 1:
        become(PROGRAM)
    setproctitle("stt workers")
    return asyncio.run(_supervise(make_workers(settings, devices, count)))


def become(module: str) -> NoReturn:
    """Replace this process by `python -m module`."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module])  # noqa: S606


def make_workers(
    settings: Settings,
    devices: list[str],
    count: int,
    *,
    env: Mapping[str, str] | None = None,
    first_port: int = 0,
    stop_steps: Stop = STOP,
) -> list[Role]:
    """The workers, not started yet: each with its GPU, and its own port for metrics and health.

    Args:
        settings: The settings that the workers share.
        devices: A value of CUDA_VISIBLE_DEVICES for each GPU; empty on a CPU.
        count: How many workers.
        env: Further variables of every worker.
        first_port: How many roles have a port before the first worker.
        stop_steps: Signals that end a worker, each with the seconds before the next.

    Raises:
        PortError: There are not enough ports.
    """
    workers = []
    for number in range(count):
        # STT_WORKERS: each worker takes its share of the cores.
        own = {**(env or {}), "STT_WORKERS": str(count), **ports.environment(settings, first_port + number)}
        if devices:
            own["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
        name = f"worker {number + 1}" if count > 1 else "worker"
        workers.append(Role(name, [PROGRAM], own, stop_steps))
    return workers


async def _supervise(workers: list[Role]) -> int:
    """Restart each worker that ends, until a signal; then stop all of them. Returns the exit code."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await asyncio.gather(*(worker.start() for worker in workers))
    keepers = [asyncio.create_task(keep(worker)) for worker in workers]
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait([waiting, *keepers], return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, *keepers):
        task.cancel()
    results = await asyncio.gather(waiting, *keepers, return_exceptions=True)
    codes = await asyncio.gather(*(worker.stop() for worker in workers))
    for result in results:
        if isinstance(result, Exception):  # not the cancellation above
            raise result
    return 1 if any(codes) else 0
