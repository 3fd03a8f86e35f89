"""The folders and socket paths of the embedded servers, and who may enter them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from pathlib import Path
from urllib.parse import quote

from stt.ops.embedded.server import ServersError

log = logging.getLogger(__name__)


LONGEST_SOCKET_PATH = 107  # bytes, of sockaddr_un


def _socket_folder(folder: Path, name: str, *, shared: bool) -> Path:
    """`folder`, or where its path is too long or needs quoting in a URL, a short private one.

    `shared`: another user than ours has to reach it.
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


def _make_private(folder: Path, owner: tuple[int, int] | None) -> None:
    """Make `folder` (0700, of `owner` or us) if it is missing.

    Raises:
        ServersError: it is there, and open to others or not of `owner`: in a folder that everybody
            may write to, such as /tmp, a stranger could have made it first.
    """
    uid, gid = owner or (os.geteuid(), -1)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
        os.chown(folder, uid, gid)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ServersError(_not_a_folder(folder))
    if found.st_mode & 0o077 or found.st_uid not in (uid, os.geteuid()):
        raise ServersError(f"{folder} is open to other users or belongs to one: move it away.")


def _not_a_folder(folder: Path) -> str:
    return f"{folder} is not a folder: move it away, or set STT_DATA_DIR to another folder."


def _lend_group(data_dir: Path, gid: int) -> None:
    """Let PostgreSQL's group, and nobody else, pass through a data folder that was all private."""
    if not data_dir.stat().st_mode & 0o077:
        os.chown(data_dir, -1, gid)
        data_dir.chmod(0o710)


def _let_in(user: tuple[int, int], *targets: Path) -> None:
    """Let `user` pass through (never read) the parents of `targets`, where it may not already."""
    for parent in {parent for target in targets for parent in target.absolute().parents}:
        if parent.exists() and not _may_pass(user, parent.stat()):
            log.warning("%s: other users may now pass (o+x), for PostgreSQL's user", parent)
            parent.chmod(stat.S_IMODE(parent.stat().st_mode) | 0o001)


def _may_pass(user: tuple[int, int], found: os.stat_result) -> bool:
    uid, gid = user
    if found.st_uid == uid:
        return bool(found.st_mode & 0o100)
    if found.st_gid == gid:
        return bool(found.st_mode & 0o010)
    return bool(found.st_mode & 0o001)
