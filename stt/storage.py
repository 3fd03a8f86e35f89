"""Where bytes live: bounded streaming save, atomic publish, delete.

Rows hold *keys*: paths relative to the storage root, made by us and never from a file's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiofiles

# Recordings are private also where a parent folder is not.
_FILE_MODE, _DIR_MODE = 0o600, 0o700
UPLOADS, RESULTS, INCOMING = "uploads", "results", "incoming"
# An upload is written out in pieces of this size: a system call each, and no more memory than that.
_BUFFER = 2**20
# Pages are handed to the disk as we go, so that the fsync at the end has little left to do.
_FLUSH_EVERY = 64 * 2**20
# Never filled by uploads: the database and the results need room while they come in.
RESERVE = 256 * 2**20


_FULL = {errno.ENOSPC, errno.EDQUOT}
# The storage is read-only, broken, not mounted, or not this user's.
_UNAVAILABLE = {errno.EROFS, errno.EIO, errno.ENOENT, errno.ESTALE, errno.EACCES, errno.EPERM}


class StorageFull(OSError):
    """There is no room for a file."""


class StorageUnavailable(OSError):
    """The storage cannot be written to just now."""


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raise StorageFull or StorageUnavailable for an OSError of the block that means this."""
    try:
        yield
    except OSError as error:
        arguments = (error.errno, error.strerror, error.filename)
        if error.errno in _FULL:
            raise StorageFull(*arguments) from error
        if error.errno in _UNAVAILABLE:
            raise StorageUnavailable(*arguments) from error
        raise


class Incoming:
    """A file being received under a temporary name on the storage's own file system."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file
        self.size = 0
        self._buffer = bytearray()
        self._flushed = 0

    async def write(self, chunk: bytes) -> None:
        self._buffer += chunk
        self.size += len(chunk)
        if len(self._buffer) >= _BUFFER:
            with _explained():
                await self._write_out()

    async def _write_out(self) -> None:
        await self._file.write(self._buffer)
        self._buffer = bytearray()
        if self.size - self._flushed >= _FLUSH_EVERY:
            self._flushed = self.size
            check_room(self._path.parent)
            await self._file.flush()
            await asyncio.to_thread(os.fdatasync, self._file.fileno())

    async def sync(self) -> None:
        """Make all bytes durable."""
        with _explained():
            await self._write_out()
            await self._file.flush()
            await asyncio.to_thread(os.fsync, self._file.fileno())

    @contextlib.asynccontextmanager
    async def local_copy(self) -> AsyncIterator[Path]:
        """A file with what is durable so far; to be read inside the block only."""
        yield self._path

    def rename(self, target: Path) -> None:
        """Give the file its name for good."""
        _rename(self._path, target)


class Storage:
    """Files under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in (UPLOADS, RESULTS, INCOMING):
            (root / folder).mkdir(mode=_DIR_MODE, parents=True, exist_ok=True)

    @staticmethod
    def upload_key(job_id: UUID) -> str:
        return f"{UPLOADS}/{job_id}"

    @staticmethod
    def result_key(job_id: UUID, claim: int) -> str:
        """Named by the claim: two workers that both think they hold a job never write the same file."""
        return f"{RESULTS}/{job_id}/{claim}.json"

    def path(self, key: str) -> Path:
        return self.root / key

    def check(self) -> None:
        """Raise OSError where nothing can be written."""
        with tempfile.TemporaryFile(dir=self.root / INCOMING) as file:
            file.write(b"stt")

    def lost(self, keys: Collection[str]) -> list[str]:
        """Which of the recordings that wait are gone.

        None can be told to be while the storage itself is away. Where it is not mounted its folders may be
        there all the same, made at the start of the service: then not one of several recordings is.
        """
        missing = [key for key in keys if not self.path(key).exists()]
        if not (self.root / UPLOADS).is_dir() or len(missing) == len(keys) > 1:
            return []
        return missing

    def check_room(self, size: int) -> None:
        """Check that `size` bytes more leave room for what else is stored.

        Raises:
            StorageFull: they do not.
        """
        with _explained():
            check_room(self.root, size)

    @contextlib.asynccontextmanager
    async def incoming(self) -> AsyncIterator[Incoming]:
        """A file to receive into; unless it is published it is gone at the end."""
        path = self.root / INCOMING / str(uuid4())
        try:
            with _explained():
                file = await aiofiles.open(path, "wb", opener=_private)
            try:
                yield Incoming(path, file)
            finally:
                with _explained():
                    await file.close()
        finally:
            with _explained():
                path.unlink(missing_ok=True)

    async def publish(self, incoming: Incoming, key: str) -> None:
        """Give a durable file its name, atomically."""
        with _explained():
            await asyncio.to_thread(incoming.rename, self.path(key))

    async def write(self, key: str, data: bytes) -> None:
        """Write a whole small file: there under its name, all of it and durable, or not at all."""
        async with self.incoming() as incoming:
            await incoming.write(data)
            await incoming.sync()
            await self.publish(incoming, key)

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self.remove, self.path(key))

    async def delete_job(self, job_id: UUID, file_path: str) -> None:
        """Remove a recording and every result of it."""
        await self.delete(file_path)
        await asyncio.to_thread(shutil.rmtree, self.root / RESULTS / str(job_id), ignore_errors=True)

    def key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def files(self) -> dict[Path, float]:
        """Everything stored or being received, and when it was last written to."""
        found: dict[Path, float] = {}
        for pattern in (f"{INCOMING}/*", f"{UPLOADS}/*", f"{RESULTS}/*/*"):
            for path in self.root.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                    found[path] = path.stat().st_mtime
        return found

    def remove(self, path: Path) -> None:
        """Remove a file, and the folder of a job's results with its last."""
        path.unlink(missing_ok=True)
        if path.parent.parent == self.root / RESULTS:
            with contextlib.suppress(OSError):  # there are others
                path.parent.rmdir()

    def remove_empty(self, older_than: float) -> None:
        """Remove the folders of results that have been empty for `older_than` seconds."""
        limit = time.time() - older_than
        for folder in (self.root / RESULTS).iterdir():
            with contextlib.suppress(OSError):  # it holds some, or is gone meanwhile
                if folder.stat().st_mtime < limit:
                    folder.rmdir()


def check_room(folder: Path, size: int = 0) -> None:
    """Raise OSError (ENOSPC) where `size` bytes more would fill the disk of `folder`."""
    if shutil.disk_usage(folder).free < size + RESERVE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _FILE_MODE)


def _rename(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=_DIR_MODE, parents=True, exist_ok=True)
    source.rename(target)
    # The name is durable only once its folder is; a new folder's own name is in the one above.
    for folder in (target.parent, target.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
