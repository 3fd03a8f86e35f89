"""How much memory an upload takes, and how fast it is beside a plain copy through loopback to disk.

``python bench/upload.py [GIB]`` (4 by default) starts PostgreSQL, Valkey and the web app in a folder of its
own, uploads a WAV file of that size, and prints one table. The plain copy is a client that sends the same
bytes over a TCP connection on loopback to a process that writes them to the same disk and calls fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import psutil

from stt import db, logs
from stt.ops.embedded import servers
from stt.settings import load

CHUNK = 2**20
ROUNDS = 3


def body(size: int) -> Iterator[bytes]:
    """A WAV file of silence, `size` bytes long."""
    rate = 48000
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", min(size - 8, 2**32 - 1), b"WAVE", b"fmt ", 16, 1, 2, rate,
        rate * 4, 4, 16, b"data", min(size - 44, 2**32 - 1),
    )  # fmt: skip
    yield header
    zeros = bytes(CHUNK)
    left = size - len(header)
    while left > 0:
        yield zeros[:left]
        left -= CHUNK


async def as_form(size: int) -> AsyncIterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.wav"\r\n\r\n'
    for chunk in body(size):
        yield chunk
    yield b"\r\n--b--\r\n"


def plain_copy(size: int, folder: Path) -> float:
    """Seconds to send `size` bytes through loopback to a file, fsync included."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.perf_counter()
        sender = threading.Thread(target=_send, args=(server.getsockname(), size))
        sender.start()
        connection, _ = server.accept()
        path = folder / "plain"
        with connection, path.open("wb", buffering=0) as file:
            while chunk := connection.recv(CHUNK):
                file.write(chunk)
            os.fsync(file.fileno())
        sender.join()
        seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def _send(address: tuple[str, int], size: int) -> None:
    with socket.create_connection(address) as connection:
        for chunk in body(size):
            connection.sendall(chunk)


class Memory:
    """The most memory a process has while it is watched, in bytes above what it had before."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self.peak = self._process.memory_info().rss

    async def watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._process.memory_info().rss)
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def web(folder: Path) -> AsyncIterator[tuple[str, int]]:
    """The web role alone: its URL and process id."""
    settings = load({"STT_DATA_DIR": str(folder)})
    async with servers.servers(settings) as (database_url, redis_url):
        await db.migrate(database_url)
        ready, theirs = os.pipe()
        environ = {
            **os.environ, "STT_DATA_DIR": str(folder), "STT_DATABASE_URL": database_url, "STT_PORT": "0",
            "STT_REDIS_URL": redis_url, "STT_READY_FD": str(theirs), "STT_LOG_LEVEL": "WARNING",
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "stt", "web", env=environ, pass_fds=[theirs]
        )
        os.close(theirs)
        with os.fdopen(ready) as pipe:
            url = (await asyncio.to_thread(pipe.readline)).strip()
        try:
            yield url, process.pid
        finally:
            process.terminate()
            await process.wait()


async def upload(session: aiohttp.ClientSession, size: int) -> float:
    """Seconds to upload `size` bytes, until the job is there; the job is deleted afterwards."""
    began = time.perf_counter()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with session.post("/api/jobs/upload", data=as_form(size), headers=headers) as response:
        job = await response.json(content_type=None)
        assert response.status == 201, job
    seconds = time.perf_counter() - began
    async with session.delete(f"/api/jobs/{job['id']}") as response:
        assert response.status == 204
    return seconds


async def main(gib: float) -> None:
    size = int(gib * 2**30)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as name:
        folder = Path(name)
        async with (
            web(folder) as (url, pid),
            aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(None)) as session,
        ):
            await upload(session, 2**20)  # everything is imported and connected
            memory = Memory(pid)
            watcher = asyncio.create_task(memory.watch())
            pairs = []
            for _ in range(ROUNDS):
                ours = await upload(session, size)
                plain = await asyncio.to_thread(plain_copy, size, folder)
                pairs.append((ours, plain))
            watcher.cancel()
    ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(plain / ours for ours, plain in pairs)
    print(f"{gib:g} GiB, median of {ROUNDS} rounds")
    print(f"upload      {size / ours / 1e6:7.0f} MB/s")
    print(f"plain copy  {size / plain / 1e6:7.0f} MB/s   (upload has {ratio:.0%} of its speed)")
    print(f"web process {memory.before / 1e6:7.1f} MB before, {memory.peak / 1e6:.1f} MB at the most", end="")
    print(f" (+{(memory.peak - memory.before) / 1e6:.1f} MB)")


if __name__ == "__main__":
    logs.configure()
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 4))
