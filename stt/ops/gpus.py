"""Lists the GPUs by `nvidia-smi` and CUDA_VISIBLE_DEVICES, without importing torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from itertools import takewhile

from stt.settings import Settings

LISTED = re.compile(r"^GPU \d+: (?P<name>.+) \(UUID: (?P<uuid>GPU-[^)]+)\)", re.MULTILINE)
TIMEOUT_SECONDS = 20


def listed() -> dict[str, str]:
    """The name of each GPU that the driver shows, by UUID; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    try:
        answer = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:  # a driver that hangs offers no GPU
        return {}
    return {match["uuid"]: match["name"] for match in LISTED.finditer(answer.stdout)}


def usable(settings: Settings) -> list[str]:
    """A value of CUDA_VISIBLE_DEVICES for each worker: those that the operator listed there, else every GPU.

    GPUs are named by UUID, as CUDA may number them in another order than the driver.
    """
    if settings.device == "cpu" or not (found := list(listed())):
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return found
    # As CUDA reads it: an entry that is no device, such as -1, ends the list.
    return list(takewhile(lambda name: name and name[0] != "-", map(str.strip, chosen.split(","))))


def worker_count(settings: Settings, devices: list[str]) -> int:
    """How many workers run here: as many as the setting says, else one for each of these GPUs, else one."""
    return max(1, len(devices)) if settings.workers == "auto" else settings.workers
