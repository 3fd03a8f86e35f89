"""The lock of a data folder: one `stt up` at a time. The kernel releases it when the process ends."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from stt.folders import DATA_DIR, FolderError, explained
from stt.paths import DataFolder


@dataclass(frozen=True)
class Holder:
    """The process that holds a data folder. `url` is empty until its web app listens; `since` is RFC 3339."""

    pid: int
    url: str
    since: str


class Held(Exception):
    """Another process holds the data folder; the text is a sentence that names it."""

    def __init__(self, data_dir: Path, holder: Holder | None) -> None:
        who = f"process {holder.pid}, since {holder.since}" if holder else "another process"
        where = f", at {holder.url}" if holder and holder.url else ""
        super().__init__(f"The data folder {data_dir} is in use by stt ({who}{where}).")


class Lock:
    """A lock that is held."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self.announce("")

    def announce(self, url: str) -> None:
        """Write into the lock file where the service is reached."""
        text = json.dumps(asdict(Holder(os.getpid(), url, self._since))).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))


@contextmanager
def hold(data_dir: Path) -> Iterator[Lock]:
    """Make the data folder (0700) if it is missing, and hold it.

    Raises:
        Held: Another process holds it.
        FolderError: It cannot be made or written to.
    """
    with explained(DATA_DIR, data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not inheritable (PEP 446), so that no child keeps the lock of a killed parent.
        fd = os.open(DataFolder(data_dir).lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _taken(fd, fcntl.LOCK_EX, tries=5):
            raise Held(data_dir, _read(fd))
        with explained(DATA_DIR, data_dir):
            lock = Lock(fd)
        yield lock
    finally:
        os.close(fd)


def holder(data_dir: Path) -> Holder | None:
    """The process that holds the data folder now, or None.

    Raises:
        FolderError: It cannot be read.
    """
    try:
        with explained(DATA_DIR, data_dir):
            fd = os.open(DataFolder(data_dir).lock, os.O_RDONLY)
    except FolderError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    try:
        return None if _taken(fd, fcntl.LOCK_SH) else _read(fd)
    finally:
        os.close(fd)


def _taken(fd: int, kind: int, tries: int = 1) -> bool:
    for attempt in range(tries):
        if attempt:
            time.sleep(0.02)  # `holder` may have a shared lock for some microseconds
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def _read(fd: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(fd, 4096, 0)))
    except (ValueError, TypeError):  # the holder has not written yet
        return None
