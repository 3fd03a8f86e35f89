"""The folders and socket paths of the embedded servers, and their permissions."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from urllib.parse import quote

import structlog

from stt.ops.embedded.server import ServersError

log = structlog.stdlib.get_logger(__name__)


LONGEST_SOCKET_PATH = 107  # bytes, of sockaddr_un


def socket_folder(folder: Path, name: str, *, shared: bool) -> Path:
    """The folder of a server's socket: `folder`, or a short private one if that path cannot be used.

    A path cannot be used if it is longer than the kernel allows, or if a URL would have to quote it.

    Args:
        folder: The server's data folder.
        name: File name of the socket.
        shared: Whether another user has to reach it, so that it must not lie in our runtime folder.

    Raises:
        ServersError: No folder has a path that is short enough.
    """
    path = str(folder / name)
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH and quote(path) == path:
        return folder
    runtime = "" if shared else os.environ.get("XDG_RUNTIME_DIR", "")
    known = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    for parent in filter(None, (runtime, tempfile.gettempdir(), "/tmp")):  # noqa: S108
        short = Path(parent, f"stt-{known}")
        if Path(parent).is_dir() and len(os.fsencode(short / name)) <= LONGEST_SOCKET_PATH:
            return short
    raise ServersError(f"No folder with a path short enough for a socket; {folder} is too long.")


def make_private(folder: Path, owner: tuple[int, int] | None) -> None:
    """Make `folder` with mode 0700, owned by `owner` (uid, gid) or by us, if it is missing.

    Raises:
        ServersError: It exists, and others may open it or it does not belong to `owner` or us. In a folder
            that everybody may write to, such as /tmp, another user could have made it first.
    """
    uid, gid = owner or (os.geteuid(), -1)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
        os.chown(folder, uid, gid)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ServersError(not_a_folder(folder))
    if found.st_mode & 0o077 or found.st_uid not in (uid, os.geteuid()):
        raise ServersError(f"{folder} is open to other users or belongs to one: move it away.")


def not_a_folder(folder: Path) -> str:
    return f"{folder} is not a folder: move it away, or set STT_DATA_DIR to another folder."


def grant_group_traverse(data_dir: Path, gid: int) -> None:
    """Let PostgreSQL's group, and nobody else, traverse a data folder that was private (0700)."""
    if not data_dir.stat().st_mode & 0o077:
        os.chown(data_dir, -1, gid)
        data_dir.chmod(0o710)


def grant_traverse(user: tuple[int, int], *targets: Path) -> None:
    """Let `user` (uid, gid) traverse the parents of `targets`, not read them, where it may not yet."""
    for parent in {parent for target in targets for parent in target.absolute().parents}:
        if parent.exists() and not _may_traverse(user, parent.stat()):
            log.warning("other users may now pass (o+x), for PostgreSQL's user", folder=str(parent))
            parent.chmod(stat.S_IMODE(parent.stat().st_mode) | 0o001)


def _may_traverse(user: tuple[int, int], found: os.stat_result) -> bool:
    uid, gid = user
    if found.st_uid == uid:
        return bool(found.st_mode & 0o100)
    if found.st_gid == gid:
        return bool(found.st_mode & 0o010)
    return bool(found.st_mode & 0o001)
