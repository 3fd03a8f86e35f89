"""Become another program that dies when its parent dies.

It runs as a script, ``python -I -S launch.py SIGNAL PARENT USER PROGRAM ARGUMENT…``, and then becomes the
program. A function between fork and exec (`preexec_fn`) is not safe in a parent that has threads. It takes
some 15 ms, as it imports the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def command(program: list[str], *, death_signal: int, user: tuple[int, int] | None) -> list[str]:
    """The command line that starts a program through this file.

    Args:
        program: Absolute path and arguments.
        death_signal: What the kernel sends when the *thread* that forked ends: fork in the main thread.
        user: User id and group id that the program gets; ours if None.
    """
    who = f"{user[0]}:{user[1]}" if user else "-"
    python = [sys.executable, "-I", "-S", __file__]
    return [*python, str(int(death_signal)), str(os.getpid()), who, *program]


def _switch_user(who: str) -> None:
    if who == "-":
        return
    uid, gid = map(int, who.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(parent: int, death_signal: int) -> None:
    """Have the kernel send this process a signal when its parent ends; exit at once if that has ended.

    Raises:
        SystemExit: The parent has ended.
    """
    if sys.platform != "linux":
        return
    # After setuid, which clears it. Then look: the parent may have died before the call.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def main() -> None:
    death_signal, parent, who, *program = sys.argv[1:]
    _switch_user(who)
    die_with(int(parent), int(death_signal))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec keeps what is ignored
    try:
        os.execv(program[0], program)  # noqa: S606
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
