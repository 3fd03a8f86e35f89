"""Makes and checks the folders that settings name. An error says in one line what is wrong and what to do."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stt.settings import Settings

DATA_DIR, STORAGE_URL = "STT_DATA_DIR", "STT_STORAGE_URL"
# Written to check for free space: one block of a file system.
_PROBE = bytes(4096)

_NO_FOLDER = "is not a folder", "Move it away or name another folder."
_NOT_WRITABLE = (
    "may not be written to by this user",
    "Give it to the user that runs stt, or name another folder.",
)
_FULL = "has no room left", "Free some disk space, or name a folder on another disk."
_READ_ONLY = "is on a disk that is read-only", "Mount the disk writable, or name a folder on another one."
_REASONS = {
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EACCES: _NOT_WRITABLE,
    errno.EPERM: _NOT_WRITABLE,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
}


class FolderError(Exception):
    """A folder of a setting cannot be used. The text names it and the reason, with advice, in one line."""

    def __init__(self, setting: str, folder: Path, error: OSError) -> None:
        where = folder
        if isinstance(error.filename, str) and Path(error.filename).is_relative_to(folder):
            where = Path(error.filename)
        if error.errno in (errno.EEXIST, errno.ENOTDIR):  # it or a folder above it is a file
            where = next(place for place in (where, *where.parents) if os.path.lexists(place))
        wrong = f"cannot be used ({error.strerror or error})"
        wrong, self.advice = _REASONS.get(error.errno or 0, (wrong, "Check it, or name another folder."))
        self.wrong = f"{setting}: {where} {wrong}"
        super().__init__(f"{self.wrong}. {self.advice}")


@contextmanager
def explained(setting: str, folder: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a FolderError.

    Raises:
        FolderError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise FolderError(setting, folder, error) from error


def sentence(error: OSError, settings: Settings) -> str:
    """The sentence of a FolderError, if the error concerns the data folder; else the error's own text."""
    inside = isinstance(error.filename, str) and Path(error.filename).is_relative_to(settings.data_dir)
    if inside or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return str(FolderError(DATA_DIR, settings.data_dir, error))
    return str(error)


def prepare_storage(settings: Settings) -> None:
    """Make the folders of recordings and results, and check that they can be written to.

    Raises:
        FolderError: one of them cannot be made or written to.
    """
    # Here, so that `stt --help`, which needs FolderError, does not wait for asyncio.
    from stt.storage import INCOMING, RESULTS, UPLOADS, Storage  # noqa: PLC0415

    with explained(_storage_setting(settings), settings.storage_dir):
        settings.storage_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        Storage(settings.storage_dir)
        for folder in (UPLOADS, RESULTS, INCOMING):
            _write_in(settings.storage_dir / folder)


def prepare_data(settings: Settings) -> None:
    """Make the data folder and that of the models, and check that they can be written to.

    Raises:
        FolderError: one of them cannot be made or written to.
    """
    with explained(DATA_DIR, settings.data_dir):
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.data_folder.models.mkdir(exist_ok=True)
        for folder in (settings.data_dir, settings.data_folder.models):
            _write_in(folder)


def check(settings: Settings) -> None:
    """Check that the folders exist or can be made, without making them.

    Raises:
        FolderError: one cannot be used.
    """
    folders = {settings.storage_dir: _storage_setting(settings), settings.data_dir: DATA_DIR}
    for folder, setting in folders.items():
        with explained(setting, folder):
            _write_in(next(place for place in (folder, *folder.parents) if os.path.lexists(place)))


def _storage_setting(settings: Settings) -> str:
    return STORAGE_URL if settings.storage_url else DATA_DIR


def _write_in(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            error.errno, error.strerror, str(folder)
        ) from error  # instead of the temporary file's name
