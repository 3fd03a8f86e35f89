"""Stores recordings and results: receive in bounded memory, publish atomically, read, delete.

Rows hold *keys*: paths relative to the root of the storage, made by us and never from a file's name. Callers
know keys only, so that another storage can take the place of this one: `local_copy` gives a file to read.
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
# Bytes of an upload that are kept in memory before they are written, with one system call.
_BUFFER = 2**20
# Bytes after which an upload is written to the disk, so that the fsync at the end has little left to do.
_FLUSH_EVERY = 64 * 2**20
# Bytes that uploads leave free on the disk, for the database and the results.
RESERVE = 256 * 2**20

_FULL = {errno.ENOSPC, errno.EDQUOT}
# The storage is read-only, broken, not mounted, does not answer, or is not this user's.
_UNAVAILABLE = {
    errno.EROFS, errno.EIO, errno.ENOENT, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.EPERM,
}  # fmt: skip


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

    def __init__(self, root: Path, path: Path, file: Any) -> None:
        self._root, self._path, self._file = root, path, file
        self.published = False
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
        """A local file with what is durable so far, to be read inside the block only."""
        yield self._path

    def rename(self, name: str) -> None:
        """Give the file its name for good: a path relative to the root of the storage."""
        _rename(self._path, self._root / name)
        self.published = True


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

    @contextlib.asynccontextmanager
    async def local_copy(self, key: str) -> AsyncIterator[Path]:
        """A local file with the content of a key, to be read inside the block only.

        Here it is the stored file itself: nothing is copied, and it may be missing.
        """
        yield self.root / key

    def check(self) -> None:
        """Raise OSError if nothing can be written."""
        with tempfile.TemporaryFile(dir=self.root / INCOMING) as file:
            file.write(b"stt")

    def lost(self, keys: Collection[str]) -> list[str]:
        """Which of these files are gone; none while the storage itself is not mounted.

        Where the storage is not mounted, its folders may exist all the same, because the service makes them
        when it starts. So if all of several recordings are missing, none counts as gone.
        """
        missing = [key for key in keys if not (self.root / key).exists()]
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
        """A file to receive into; it is removed at the end of the block unless it was published.

        Raises:
            StorageFull: there is no room.
            StorageUnavailable: nothing can be written.
        """
        path = self.root / INCOMING / str(uuid4())
        incoming: Incoming | None = None
        try:
            with _explained():
                file = await aiofiles.open(path, "wb", opener=_private)
            try:
                incoming = Incoming(self.root, path, file)
                yield incoming
            finally:
                with _explained():
                    await file.close()
        finally:
            # A published file may have its row already: the storage must not fail the upload any more.
            if incoming is None or not incoming.published:
                with _explained():
                    path.unlink(missing_ok=True)

    async def publish(self, incoming: Incoming, key: str) -> None:
        """Give a durable file its name, atomically."""
        with _explained():
            await asyncio.to_thread(incoming.rename, key)

    async def write(self, key: str, data: bytes) -> None:
        """Write a small file: afterwards it is there whole and durable, or not at all."""
        async with self.incoming() as incoming:
            await incoming.write(data)
            await incoming.sync()
            await self.publish(incoming, key)

    async def delete(self, key: str) -> None:
        """Remove a file, and the folder of a job's results with its last one."""
        await asyncio.to_thread(self._remove, self.root / key)

    async def delete_job(self, job_id: UUID, file_path: str) -> None:
        """Remove a recording and every result of it."""
        await self.delete(file_path)
        await asyncio.to_thread(shutil.rmtree, self.root / RESULTS / str(job_id), ignore_errors=True)

    def keys(self) -> dict[str, float]:
        """Every key that is stored or being received, with the wall clock's seconds of its last write."""
        found: dict[str, float] = {}
        for pattern in (f"{INCOMING}/*", f"{UPLOADS}/*", f"{RESULTS}/*/*"):
            for path in self.root.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                    found[path.relative_to(self.root).as_posix()] = path.stat().st_mtime
        return found

    def _remove(self, path: Path) -> None:
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
    """Raise OSError (ENOSPC) if `size` bytes more would fill the disk of `folder`."""
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
