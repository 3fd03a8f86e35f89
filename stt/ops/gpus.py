"""Which GPUs there are, without importing torch: `nvidia-smi` and CUDA_VISIBLE_DEVICES say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from itertools import takewhile

from stt.settings import Settings

LISTED = re.compile(r"^GPU \d+: (?P<name>.+) \(UUID: (?P<uuid>GPU-[^)]+)\)", re.MULTILINE)
PATIENCE_SECONDS = 20


def listed() -> dict[str, str]:
    """UUID to name of each GPU that the driver shows; none without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    try:
        answer = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:  # a driver that hangs gives no GPU
        return {}
    return {match["uuid"]: match["name"] for match in LISTED.finditer(answer.stdout)}


def usable(settings: Settings) -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be for one worker each: what the operator listed there, else
    every GPU, by UUID, since CUDA's order of numbers is not the driver's."""
    if settings.device == "cpu" or not (found := list(listed())):
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return found
    # As CUDA reads it: what is no device, such as -1, ends the list.
    return list(takewhile(lambda name: name and name[0] != "-", map(str.strip, chosen.split(","))))
