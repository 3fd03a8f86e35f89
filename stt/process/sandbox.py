"""Limits a process before it decodes a file from outside: no other files, no network, less memory.

It works on Linux only, through ctypes, as far as the kernel supports it. seccomp refuses system calls: those
for the network, for other processes, and all that write. Landlock refuses files by their path, and TCP.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import resource
import struct
import sys
from pathlib import Path

FILES, NETWORK = "files", "network"  # what a process can give up

# System calls that change or name files, reach the network, another process or more of the kernel, as x86-64
# and arm64 number them; the latter has no older forms. Threads stay possible.
_REFUSED = {
    "x86_64": (
        0xC000003E,
        (41, 42, 43, 44, 46, 49, 50, 53, 59, 62, 76, 82, 83, 84, 85, 86, 87, 88, 90, 92, 94, 101, 132, 133,
         155, 161, 165, 235, 258, 259, 260, 261, 263, 264, 265, 266, 268, 272, 280, 288, 298, 304, 307,
         308, 310, 311, 316, 321, 322, 323, 424, 425, 428, 429, 430, 431, 432, 433, 434, 437, 438, 452),
    ),
    "aarch64": (
        0xC00000B7,
        (33, 34, 35, 36, 37, 38, 39, 40, 41, 45, 51, 53, 54, 88, 97, 117, 129, 198, 199, 200, 201, 202,
         203, 206, 211, 221, 241, 242, 265, 268, 269, 270, 271, 276, 280, 281, 282, 424, 425, 428, 429, 430,
         431, 432, 433, 434, 437, 438, 452),
    ),
}  # fmt: skip
# System calls that open a file, and the offset of their flags in the data that the filter gets.
_OPENING = {"x86_64": ((2, 24), (257, 32)), "aarch64": ((56, 32),)}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # the latter: "operation not permitted"
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CALL_NUMBER, _ARCHITECTURE = 0, 4  # their offsets in the data that the filter gets
_X32 = 0x40000000  # x86-64 has a second set of numbers, from here on
_NO_NEW_PRIVILEGES = 38

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION, _LANDLOCK_BENEATH = 1, 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_LANDLOCK_TCP_SINCE, _LANDLOCK_SCOPES_SINCE = 4, 6
# How many of the rights to files each version knows.
_LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}


def enter(*readable: Path) -> set[str]:
    """Give up the network and all files but those that may be read, for good.

    Args:
        readable: Files, or folders with all files in them.

    Returns:
        Which of `FILES` and `NETWORK` this kernel refuses from now on.
    """
    if sys.platform != "linux":
        return set()
    return refuse_by_landlock(*readable) | refuse_calls()


def refuse_calls() -> set[str]:
    """Give up, by seccomp in all threads, the network and every call that writes, renames or deletes a file.

    Returns:
        `NETWORK`, or nothing if the kernel or the processor does not support it.
    """
    machine = platform.machine()
    if machine not in _REFUSED or struct.calcsize("P") != 8:
        return set()
    code = _filter(*_REFUSED[machine], _OPENING[machine])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = _libc()
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    failed = libc.syscall(_SECCOMP[machine], _SET_MODE_FILTER, _ALL_THREADS, program)
    return set() if failed else {NETWORK}


def refuse_by_landlock(*readable: Path) -> set[str]:
    """Give up, by Landlock in this thread and those that it starts, other files, and TCP if the kernel can.

    Returns:
        Which of `FILES` and `NETWORK` are refused from now on.
    """
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
        failed = any(_allow(libc, ruleset, path) for path in readable)
        failed = failed or libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    if failed:
        return set()
    return {FILES, NETWORK} if version >= _LANDLOCK_TCP_SINCE else {FILES}


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path) -> bool:
    """Allow a file to be read, or all files in a folder. Returns whether that failed."""
    right = _READ_FILE | _READ_FOLDER if path.is_dir() else _READ_FILE
    place = os.open(path, os.O_PATH)
    try:
        rule = struct.pack("=Qi", right, place)
        return bool(libc.syscall(_LANDLOCK_ADD, ruleset, _LANDLOCK_BENEATH, rule, 0))
    finally:
        os.close(place)


def limit_memory(ceiling: int) -> None:
    """Limit the address space of this process to `ceiling` bytes, and let it leave no core dump."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS refuses a limit of address space
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = ceiling if most == resource.RLIM_INFINITY else min(ceiling, most)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, most))


def is_own_limit(ceiling: int) -> bool:
    """After a MemoryError: whether the limit of `ceiling` bytes was reached; else the machine has no more.

    The limit is removed, and so many bytes are allocated once.
    """
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        mmap.mmap(-1, ceiling).close()
    except (OSError, MemoryError):
        return False
    return True


def _filter(architecture: int, refused: tuple[int, ...], opening: tuple[tuple[int, int], ...]) -> bytes:
    """The BPF program that refuses some system calls.

    Args:
        architecture: The kernel's number of the processor architecture; calls of others are refused.
        refused: Numbers of the calls that are refused.
        opening: Calls that open a file, each with the offset of its flags; those that write are refused.
    """
    end = 5 + len(refused) + 4 * len(opening)  # the step that refuses; the one before it allows
    steps: list[tuple[int, int, int, int]] = []

    def step(code: int, value: int, *, yes: int | None = None, no: int | None = None) -> None:
        """Add a step; `yes` and `no` are the steps to go on with, which a jump counts from the next one."""
        here = len(steps) + 1
        steps.append((code, (yes or here) - here, (no or here) - here, value))

    step(_LOAD, _ARCHITECTURE)
    step(_IF_EQUAL, architecture, no=end)
    step(_LOAD, _CALL_NUMBER)
    step(_IF_AT_LEAST, _X32, yes=end)
    for call in refused:
        step(_IF_EQUAL, call, yes=end)
    for call, flags in opening:
        step(_IF_EQUAL, call, no=len(steps) + 4)
        step(_LOAD, flags)
        step(_IF_ANY_BIT, _WRITING, yes=end)
        step(_RETURN, _ALLOW)
    step(_RETURN, _ALLOW)
    step(_RETURN, _REFUSE)
    return b"".join(struct.pack("@HBBI", *one) for one in steps)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc
