"""How many cores and how much memory this process may use, of the machine or of its container (cgroups)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_MEMORY = Path("/proc/meminfo")
# Without a limit, version 1 of control groups gives a number near 2^63, version 2 the word "max".
_NO_LIMIT = 2**60
# The limit of the address space of a process that decodes a file is between these, in bytes. Python, numpy
# and libav take 0.3 GB of it, the index of a day of video about 0.4 GB.
_LEAST_CEILING, _MOST_CEILING = 2**30, 2 * 2**30
# The share of all memory that one such process may take, and that all probes of the web app together may
# take.
_ONE_SHARE, _ALL_SHARE = 1 / 8, 1 / 4


def cores() -> int:
    """The number of cores that this process may use."""
    found = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = (CGROUPS / "cpu.max").read_text(encoding="ascii").split()
        found = min(found, max(1, int(quota) // int(period)))  # ValueError: "max", no limit
    return found


def all_memory() -> int:
    """Bytes of memory of the machine, or of the container if it has less."""
    return min([_meminfo("MemTotal"), *(limit for limit, _ in _cgroup_memory())])


def free_memory() -> int:
    """Bytes of memory that this process may still allocate."""
    free = [_meminfo("MemAvailable"), *(limit - used for limit, used in _cgroup_memory())]
    return max(0, min(free))


def decoding_ceiling() -> int:
    """Bytes of address space that a process which decodes a file may take."""
    return int(min(max(all_memory() * _ONE_SHARE, _LEAST_CEILING), _MOST_CEILING))


def probes_at_once() -> int:
    """How many probes of uploads the web app may run at the same time."""
    return max(1, min(cores(), int(all_memory() * _ALL_SHARE) // decoding_ceiling()))


def _meminfo(name: str) -> int:
    with suppress(OSError, ValueError, StopIteration):
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    return 2**31


def _cgroup_memory() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each control group of this process, or above it, that limits memory."""
    for folder, limit_name, used_name in _memory_cgroups():
        with suppress(OSError, ValueError):
            limit = int((folder / limit_name).read_text(encoding="ascii"))
            used = int((folder / used_name).read_text(encoding="ascii"))
            if limit < _NO_LIMIT:
                yield limit, used


def _memory_cgroups() -> Iterator[tuple[Path, str, str]]:
    """The folder of each control group from our own up to the root, and the names of two files in it."""
    # In a container the root folder is the container's own group, whatever path the group has outside of it.
    lines = ["0::/", "0:memory:/"]
    with suppress(OSError):
        lines += _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inner = Path(path.lstrip("/"))
        for part in (inner, *inner.parents):
            if not controllers:
                yield CGROUPS / part, "memory.max", "memory.current"
            elif "memory" in controllers.split(","):
                yield CGROUPS / "memory" / part, "memory.limit_in_bytes", "memory.usage_in_bytes"
