"""Become another program that dies when its parent dies.

Run as a script (``python -I -S launch.py SIGNAL PARENT USER PROGRAM ARGUMENT…``) between fork and
the program, because what happens there may not be Python code of a parent that has threads. It
imports the standard library only, so it costs some 15 ms.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def command(program: list[str], *, death_signal: int, user: tuple[int, int] | None) -> list[str]:
    """The command line that starts `program` through this file, as `user` (uid, gid) if given.

    The kernel sends `death_signal` when the *thread* that forked ends: call from the main thread.
    """
    who = f"{user[0]}:{user[1]}" if user else "-"
    python = [sys.executable, "-I", "-S", __file__]
    return [*python, str(int(death_signal)), str(os.getpid()), who, *program]


def _become(who: str) -> None:
    if who == "-":
        return
    uid, gid = map(int, who.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(parent: int, death_signal: int) -> None:
    """End this process by a signal when its parent ends; at once if that has ended."""
    if sys.platform != "linux":
        return
    # After setuid, which clears it. Then look: the parent may have died before the call.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def main() -> None:
    death_signal, parent, who, *program = sys.argv[1:]
    _become(who)
    die_with(int(parent), int(death_signal))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would hand that on
    try:
        os.execv(program[0], program)  # noqa: S606
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
