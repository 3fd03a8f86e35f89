"""`stt up`: the embedded servers, migrations, and every role as children of one process."""

from __future__ import annotations

import asyncio
import signal
import time
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import asyncpg
import structlog
from setproctitle import setproctitle

from stt import db, folders
from stt.ops import free_ports, gpus
from stt.ops.embedded.server import ServersError
from stt.ops.embedded.servers import Servers
from stt.ops.lock import Held, Lock, hold
from stt.ops.roles import ROLE_STOP, Role, Service, Web, keep, show
from stt.ops.workers import make_workers
from stt.outages import DatabaseUnavailable
from stt.settings import Settings
from stt.telemetry import ports

log = structlog.stdlib.get_logger(__name__)

READY_POLL_SECONDS = 0.05
NOT_READY_LOG_SECONDS = 20.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Everything that `stt up` started, in the order in which it stops."""

    def __init__(self, settings: Settings, lock: Lock) -> None:
        self.settings = settings
        self._lock = lock
        self._servers = Servers(settings)
        self.roles: list[Role] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Start everything, keep it alive until a signal comes, stop everything."""
        self._handle_signals()
        start = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([start, stopping], return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                await asyncio.wait([stopping, *self._keepers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (start, stopping):
                task.cancel()
            await asyncio.wait([start, stopping])
            await self._stop()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # started by nohup
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            log.info("hurrying", signal=number.name)
            self._hurry.set()
        else:
            log.info("stopping", signal=number.name)
            self._stopping.set()

    async def _start(self) -> None:
        await self._servers.start()
        for server in self._servers.running:
            self._keep(server)
        await db.migrate(self._servers.database_url)
        web = self.make_roles()
        await asyncio.gather(*(role.start() for role in self.roles))
        for role in self.roles:
            self._keep(role)
        url = await web.url
        await self._until_ready(url)
        self._lock.announce(url)
        print(f"ready: {url}", flush=True)  # noqa: T201

    def make_roles(self) -> Web:
        """Make the roles: web, maintenance, and the workers, by default one for each GPU.

        Returns:
            The web role.
        """
        devices = gpus.usable(self.settings)
        count = gpus.worker_count(self.settings, devices)
        env = {
            "STT_DATABASE_URL": self._servers.database_url,
            "STT_REDIS_URL": self._servers.redis_url,
            "STT_WORKERS": str(count),  # each worker takes its share of the cores
        }
        web = Web({**env, **ports.environment(self.settings, 0)})
        maintenance = {**env, **ports.environment(self.settings, 1)}
        self.roles += [web, Role("maintenance", ["workers.maintenance"], maintenance)]
        self.roles += make_workers(self.settings, devices, count, env=env, first_port=2, stop_steps=ROLE_STOP)
        return web

    def _keep(self, service: Service) -> None:
        self._keepers.append(asyncio.create_task(keep(service)))

    async def _until_ready(self, url: str) -> None:
        """Wait until the web app is ready for uploads. Log the reason if that takes long."""
        log_at = time.monotonic() + NOT_READY_LOG_SECONDS
        async with aiohttp.ClientSession() as session:
            while problem := await _not_ready(session, url):
                if time.monotonic() > log_at:
                    log.warning("not ready yet", problem=problem)
                    log_at = time.monotonic() + NOT_READY_LOG_SECONDS
                await asyncio.sleep(READY_POLL_SECONDS)

    async def _stop(self) -> None:
        """Stop the roles, which still write to the servers, then the servers."""
        for keeper in self._keepers:
            keeper.cancel()
        results = await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(role.stop(self._hurry) for role in self.roles))
        await self._servers.stop(self._hurry)
        for result in results:
            if isinstance(result, Exception):  # not the cancellation above
                raise result


async def _not_ready(session: aiohttp.ClientSession, url: str) -> str:
    try:
        async with session.get(f"{reachable(url)}/health/ready") as answer:
            return "" if answer.status == 200 else f"{answer.status} {await answer.text()}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return str(error) or type(error).__name__


def reachable(url: str) -> str:
    """`url` with the loopback address in place of 0.0.0.0 or ::, to which nobody can connect."""
    parts = urlsplit(url)
    own = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(parts.hostname or "")  # noqa: S104
    return urlunsplit(parts._replace(netloc=f"{own}:{parts.port}")) if own else url


def run(settings: Settings) -> int:
    """Run everything until SIGTERM or SIGINT. Returns the exit code; a line on stderr explains a 1."""
    setproctitle("stt up")
    try:
        with hold(settings.data_dir) as lock:
            folders.prepare_data(settings)
            folders.prepare_storage(settings)
            if wrong := free_ports.wrong(settings):
                return _fail(wrong)
            asyncio.run(_supervise(settings, lock))
    except OSError as error:
        return _fail(folders.sentence(error, settings))
    except (Held, folders.FolderError, ServersError, db.MigrationError) as error:
        return _fail(str(error))
    except DatabaseUnavailable as error:
        return _fail(f"{'STT_DATABASE_URL: ' if settings.database_url else ''}{error}")
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return _fail(f"PostgreSQL: {error}")
    return 0


async def _supervise(settings: Settings, lock: Lock) -> None:
    await Supervisor(settings, lock).run()


def _fail(sentence: str) -> int:
    show(f"stt up: {sentence}")
    return 1
