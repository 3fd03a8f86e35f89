"""The memory and the use of this process' GPU, by NVIDIA's library for its driver (`nvidia-ml-py`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from stt.telemetry import metrics


def watch(chosen: str | None) -> bool:
    """Show the GPU that this process uses; nothing where there is none, or no driver.

    Args:
        chosen: The value of CUDA_VISIBLE_DEVICES; its first entry is the one that is used.

    Returns:
        Whether there is one.
    """
    try:
        import pynvml  # type: ignore[import-untyped]  # noqa: PLC0415  it is not there where the worker was installed for a CPU
    except ImportError:
        return False
    try:
        pynvml.nvmlInit()
        handle = _handle(pynvml, "0" if chosen is None else chosen.split(",")[0].strip())
        name = pynvml.nvmlDeviceGetUUID(handle)
    except pynvml.NVMLError:
        return False
    _show(pynvml, handle, name if isinstance(name, str) else name.decode())
    return True


def _handle(pynvml: Any, entry: str) -> Any:
    """The device of an entry: a number as the driver counts, or a UUID or its beginning."""
    if entry.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(entry))
    if entry.startswith("MIG-"):
        return pynvml.nvmlDeviceGetHandleByUUID(entry)
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        if entry and (uuid if isinstance(uuid, str) else uuid.decode()).startswith(entry):
            return handle
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)


def _show(pynvml: Any, handle: Any, uuid: str) -> None:
    def read(ask: Callable[[], float]) -> Callable[[], float]:
        def value() -> float:
            try:
                return ask()
            except pynvml.NVMLError:  # the driver is being replaced, or the GPU has fallen off the bus
                return math.nan

        return value

    def memory() -> Any:
        return pynvml.nvmlDeviceGetMemoryInfo(handle)

    metrics.GPU_MEMORY_USED.labels(uuid).set_function(read(lambda: memory().used))
    metrics.GPU_MEMORY.labels(uuid).set_function(read(lambda: memory().total))
    metrics.GPU_USE.labels(uuid).set_function(
        read(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
    )
