"""A process that decodes a file of a stranger gives up what it does not need: files, the network, memory.

Linux only, through ctypes, and each part only where the kernel has it: seccomp refuses system calls, Landlock
refuses files and TCP. What is open already stays usable.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import resource
import struct
import sys

FILES, NETWORK = "files", "network"  # what can be given up

# System calls that open, change or name files, reach the network, another process or more of the kernel,
# as x86-64 and arm64 number them; the latter has no older forms. Threads stay possible.
_REFUSED = {
    "x86_64": (
        0xC000003E,
        (2, 41, 42, 43, 44, 46, 49, 50, 53, 59, 62, 76, 82, 83, 84, 85, 86, 87, 88, 90, 92, 94, 101, 132, 133,
         155, 161, 165, 235, 257, 258, 259, 260, 261, 263, 264, 265, 266, 268, 272, 280, 288, 298, 304, 307,
         308, 310, 311, 316, 321, 322, 323, 424, 425, 428, 429, 430, 431, 432, 433, 434, 437, 438, 452),
    ),
    "aarch64": (
        0xC00000B7,
        (33, 34, 35, 36, 37, 38, 39, 40, 41, 45, 51, 53, 54, 56, 88, 97, 117, 129, 198, 199, 200, 201, 202,
         203, 206, 211, 221, 241, 242, 265, 268, 269, 270, 271, 276, 280, 281, 282, 424, 425, 428, 429, 430,
         431, 432, 433, 434, 437, 438, 452),
    ),
}  # fmt: skip
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # the latter: "operation not permitted"
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_CALL_NUMBER, _ARCHITECTURE = 0, 4  # where they are in what the filter is given
_X32 = 0x40000000  # x86-64 has a second set of numbers, from here on
_NO_NEW_PRIVILEGES = 38

_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_VERSION = 1
_LANDLOCK_TCP_SINCE, _LANDLOCK_SCOPES_SINCE = 4, 6
# How many of the rights to files each version knows.
_LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}


def enter() -> set[str]:
    """Give up files and the network, for good; which of `FILES` and `NETWORK` this kernel refuses now."""
    if sys.platform != "linux":
        return set()
    return refuse_calls() | refuse_by_landlock()


def refuse_calls() -> set[str]:
    """By seccomp, in all threads: every way to open a file or reach the network is refused."""
    if platform.machine() not in _REFUSED or struct.calcsize("P") != 8:
        return set()
    code = _filter(*_REFUSED[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = _libc()
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    failed = libc.syscall(_SECCOMP[platform.machine()], _SET_MODE_FILTER, _ALL_THREADS, program)
    return set() if failed else {FILES, NETWORK}


def refuse_by_landlock() -> set[str]:
    """By Landlock, in this thread and those it starts: every file, and TCP where the kernel is new enough."""
    libc = _libc()
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return set()
    fields = [(1 << _LANDLOCK_RIGHTS.get(version, 16)) - 1]
    fields += [0b11] * (version >= _LANDLOCK_TCP_SINCE)  # bind and connect
    fields += [0b11] * (version >= _LANDLOCK_SCOPES_SINCE)  # other processes' sockets, and signals to them
    rules = struct.pack(f"@{len(fields)}Q", *fields)
    ruleset = libc.syscall(_LANDLOCK_CREATE, rules, len(rules), 0)
    if ruleset < 0:
        return set()
    try:
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        failed = libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    if failed:
        return set()
    return {FILES, NETWORK} if version >= _LANDLOCK_TCP_SINCE else {FILES}


def limit_memory(ceiling: int) -> None:
    """Let this process have no more than so many bytes of address space, and leave no core dump."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS refuses a limit of address space
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = ceiling if most == resource.RLIM_INFINITY else min(ceiling, most)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, most))


def is_own_limit(ceiling: int) -> bool:
    """After a MemoryError: whether our limit refused the memory; else the machine has no more.

    The limit is lifted, and the machine asked for as much as the limit allowed.
    """
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        mmap.mmap(-1, ceiling).close()
    except (OSError, MemoryError):
        return False
    return True


def _filter(architecture: int, refused: tuple[int, ...]) -> bytes:
    """The program of the kernel's packet filter that refuses these calls, and all of other architectures."""
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 0, len(refused) + 3, architecture)]
    steps += [(_LOAD, 0, 0, _CALL_NUMBER), (_IF_AT_LEAST, len(refused) + 1, 0, _X32)]
    # A jump counts the steps that are skipped: those of the calls after this one, and "allow".
    steps += [(_IF_EQUAL, len(refused) - place, 0, call) for place, call in enumerate(refused)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("@HBBI", *step) for step in steps)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc
