"""Numbers that are read when Prometheus asks: connections, the disk, the GPU."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import asyncpg

from stt.telemetry import metrics


def watch_pool(pool: asyncpg.Pool) -> None:
    """Show how many connections of this process there are."""
    metrics.DB_CONNECTIONS.labels("in_use").set_function(lambda: pool.get_size() - pool.get_idle_size())
    metrics.DB_CONNECTIONS.labels("idle").set_function(pool.get_idle_size)
    metrics.DB_CONNECTIONS_MAX.set_function(pool.get_max_size)


def watch_disk(folder: Path) -> None:
    """Show the size and the free room of the disk that a folder is on; NaN while it cannot be read."""
    metrics.STORAGE_FREE.set_function(lambda: _disk(folder)[0])
    metrics.STORAGE_SIZE.set_function(lambda: _disk(folder)[1])


def _disk(folder: Path) -> tuple[float, float]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:  # not mounted: /health/ready says so
        return math.nan, math.nan
    return usage.free, usage.total
