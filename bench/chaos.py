"""Everything that can break breaks, at random, under load: afterwards every recording has its text.

``python bench/chaos.py --seconds 120 --seed 1`` runs the real service (2 web, 2 workers, maintenance,
PostgreSQL, Valkey) in a folder of its own, sends it recordings, cancels and deletes some, meanwhile kills,
freezes, restarts, flushes and fills what it is made of. The order of the faults is the seed's; their moments
are those of the machine. It prints what happened, and ends with exit code 1 if anything was lost, done twice
or left over.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import av
import numpy as np
import psutil

from stt import db
from stt.jobs import tickets
from stt.ops.embedded.postgres import Postgres
from stt.ops.embedded.server import Server
from stt.ops.embedded.valkey import Valkey
from stt.process.child import Child
from stt.storage import Storage
from workers import maintenance

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"
RATE = 16000
LEASE, SPAN = 4.0, 10.0
WEBS, WORKERS = 2, 2
OUTSTANDING = 8  # jobs that wait or run at a time: the load is bounded
DISK = 440 * 2**20  # uploads stop below 256 MiB of free space
RESTART_SECONDS = 0.5
DRAIN_SECONDS = 600
# Notes every change of a status, and what was known of the job when it happened.
WATCH = """
create table seen (at timestamptz default clock_timestamp(), id uuid, before text, after text,
    old_claim bigint, claim bigint, asked boolean, heard timestamptz, due timestamptz,
    unsaved float8, recognised float8);  -- seconds beyond the last saved span, and what was heard of them
create function watch() returns trigger language plpgsql as $$ begin
    if old.status is distinct from new.status then
        insert into seen (id, before, after, old_claim, claim, asked, heard, due, unsaved, recognised)
        select new.id, old.status, new.status, old.claim, new.claim, old.cancel_requested, old.updated_at,
            greatest(new.not_before, clock_timestamp()), greatest(old.duration_seconds - saved, 0),
            greatest(least(old.progress, 1) * old.duration_seconds - saved, 0)
        from (select coalesce(max("end"), 0) as saved from spans where job_id = old.id) as known;
    end if;
    return new;
end $$;
create trigger watch after update on jobs for each row execute function watch();
"""
# What is done once is never done again: nothing leaves an end.
ALLOWED = {
    ("pending", "processing"), ("pending", "cancelled"),
    ("processing", "completed"), ("processing", "failed"), ("processing", "cancelled"),
    ("processing", "pending"),
}  # fmt: skip


class Role:
    """One of the service's processes; started again whenever it dies."""

    def __init__(self, name: str, module: list[str], env: dict[str, str], log: Path) -> None:
        self.name, self.env = name, env
        self._program = [sys.executable, "-P", "-m", *module]
        self._log = log.open("a")
        self.child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            env = {**os.environ, **self.env}
            self.child = await Child.start(self._program, on_line=self._write, env=env, cwd=ROOT)
            code = await self.child.wait()
            self._write(f"bench: {self.name} ended with {code}")
            await asyncio.sleep(RESTART_SECONDS)

    def _write(self, line: str) -> None:
        self._log.write(f"{time.strftime('%X')} {self.name}: {line}\n")
        self._log.flush()

    def send(self, number: signal.Signals) -> bool:
        if self.child is None or not self.child.running:
            return False
        self.child.process.send_signal(number)
        return True

    def engine(self) -> psutil.Process | None:
        if self.child is None or not self.child.running:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.child.process.pid).children():
                return process
        return None

    async def stop(self) -> None:
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self.child:
            await self.child.stop(((signal.SIGTERM, 15),))
        self._log.close()


@dataclass
class Upload:
    """A recording that was answered with 201, and what was asked of it since."""

    id: str
    recording: str
    cancel: str = ""  # "", "answered", "perhaps"
    delete: str = ""


@dataclass
class Counts:
    """What is printed at the end."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    not_ready: float = 0.0
    problems: list[str] = field(default_factory=list)
    swept: int = 0


class House:
    """The whole service, part by part."""

    def __init__(self, folder: Path, *, disk: bool) -> None:
        self.folder = folder
        self.root = folder / "storage"
        self.disk = disk
        self.postgres = Postgres(folder / "data" / "postgres")
        self.valkey = Valkey(folder / "data" / "valkey")
        self.ports = [_free_port() for _ in range(WEBS)]
        self.restarting = asyncio.Lock()
        env = {name: value for name, value in os.environ.items() if not name.startswith("STT_")}
        env |= {
            "STT_DATA_DIR": str(folder / "data"), "STT_STORAGE_URL": f"file://{self.root}",
            "STT_DATABASE_URL": self.postgres.url, "STT_REDIS_URL": self.valkey.url,
            "STT_LEASE_SECONDS": str(LEASE), "STT_SPAN_SECONDS": str(SPAN), "STT_THREADS": "1",
            "STT_MAX_ATTEMPTS": "1000", "STT_MODEL": "base", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        log = folder / "log"
        self.webs = [
            Role(f"web {n}", ["stt", "web"], {**env, "STT_PORT": str(port)}, log)
            for n, port in enumerate(self.ports)
        ]
        self.workers = [Role(f"worker {n}", ["workers.transcriber"], env, log) for n in range(WORKERS)]
        self.maintenance = Role("maintenance", ["workers.maintenance"], env, log)
        self.family: dict[int, float] = {}  # every process there was, by id and time of birth

    @property
    def roles(self) -> list[Role]:
        return [*self.webs, *self.workers, self.maintenance]

    def url(self, n: int) -> str:
        return f"http://127.0.0.1:{self.ports[n]}"

    async def start(self) -> None:
        self.folder.joinpath("data").mkdir(mode=0o700)
        await asyncio.gather(self.postgres.start(), self.valkey.start())
        await db.migrate(self.postgres.url)
        connection = await asyncpg.connect(self.postgres.url)
        await connection.execute(WATCH)
        await connection.close()
        for role in self.roles:
            await role.start()

    async def stop(self) -> None:
        self.note_family()
        await asyncio.gather(*(role.stop() for role in self.roles))

    async def stop_servers(self) -> None:
        await asyncio.gather(self.postgres.stop(), self.valkey.stop())

    def note_family(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.family[process.pid] = process.create_time()

    def survivors(self) -> list[str]:
        """Processes of the service that outlived it."""
        servers = {s.child.process.pid for s in (self.postgres, self.valkey) if s.child}
        found = []
        for pid, born in self.family.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                ours = process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE
                if ours and pid not in servers and process.ppid() not in servers:
                    found.append(f"{pid} {' '.join(process.cmdline())[:60]}")
        return found


class Chaos:
    """Faults, one after the other; those that last are ended in the background."""

    def __init__(self, house: House, rng: random.Random, counts: Counts) -> None:
        self.house, self.rng, self.counts = house, rng, counts
        self._lasting: set[asyncio.Task[None]] = set()
        self._frozen: set[str] = set()
        self._full = False
        self._deck: list[Callable[[], Awaitable[str]]] = []

    async def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.house.note_family()
            if not self._deck:  # every kind comes up before one comes again
                self._deck = self._kinds()
                self.rng.shuffle(self._deck)
            if kind := await self._deck.pop()():
                self.counts.faults[kind] += 1
                print(f"  {kind}", flush=True)
            await asyncio.sleep(self.rng.uniform(1.5, 5.0))
        await asyncio.gather(*self._lasting)

    def _kinds(self) -> list[Callable[[], Awaitable[str]]]:
        kinds = [
            self.kill_worker, self.kill_worker, self.kill_engine, self.kill_engine, self.kill_web,
            self.kill_maintenance, self.freeze_worker, self.restart_valkey, self.flush_valkey,
            self.restart_postgres,
        ]  # fmt: skip
        return [*kinds, self.fill_disk] if self.house.disk else kinds

    async def kill_worker(self) -> str:
        return "worker killed" if self.rng.choice(self.house.workers).send(signal.SIGKILL) else ""

    async def kill_web(self) -> str:
        return "web killed" if self.rng.choice(self.house.webs).send(signal.SIGKILL) else ""

    async def kill_maintenance(self) -> str:
        return "maintenance killed" if self.house.maintenance.send(signal.SIGKILL) else ""

    async def kill_engine(self) -> str:
        engine = self.rng.choice(self.house.workers).engine()
        if engine is None:
            return ""
        with contextlib.suppress(psutil.NoSuchProcess):
            engine.kill()
        return "engine killed"

    async def freeze_worker(self) -> str:
        worker = self.rng.choice(self.house.workers)
        child = worker.child
        if worker.name in self._frozen or child is None or not worker.send(signal.SIGSTOP):
            return ""
        self._frozen.add(worker.name)
        self._last(self._thaw(worker, child))
        return "worker frozen past its lease"

    async def _thaw(self, worker: Role, child: Child) -> None:
        await asyncio.sleep(LEASE * 2)
        if child.running:
            child.process.send_signal(signal.SIGCONT)
        self._frozen.discard(worker.name)

    async def restart_valkey(self) -> str:
        number = self.rng.choice([signal.SIGKILL, signal.SIGTERM])
        self._last(self._restart(self.house.valkey, number))
        return "Valkey restarted"

    async def restart_postgres(self) -> str:
        self._last(self._restart(self.house.postgres, signal.SIGQUIT))
        return "PostgreSQL restarted at once"

    async def _restart(self, server: Server, number: signal.Signals) -> None:
        async with self.house.restarting:
            assert server.child
            if server.child.running:
                server.child.process.send_signal(number)
            await server.child.wait()
            await asyncio.sleep(1)  # away for a while
            await server.start()

    async def flush_valkey(self) -> str:
        async with self.house.restarting, connected(self.house.valkey.url) as redis:
            await redis.flushall()
        return "Valkey flushed"

    async def fill_disk(self) -> str:
        if self._full:
            return ""
        self._full = True
        self._last(self._fill())
        return "disk filled"

    async def _fill(self) -> None:
        filler = self.house.root / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:  # it may be full already
            for _ in range(DISK // 2**20 + 1):
                file.write(bytes(2**20))
                file.flush()
        await asyncio.sleep(5)
        filler.unlink(missing_ok=True)
        self._full = False

    def _last(self, what: Any) -> None:
        task = asyncio.create_task(what)
        self._lasting.add(task)


class Load:
    """People: they send recordings, and change their minds."""

    def __init__(self, house: House, rng: random.Random, counts: Counts, recordings: dict[str, Path]) -> None:
        self.house, self.rng, self.counts, self.recordings = house, rng, counts, recordings
        self.uploads: list[Upload] = []
        self.sent = 0

    async def run(self, session: aiohttp.ClientSession, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await self._act(session)
            await asyncio.sleep(self.rng.uniform(0.1, 1.0))

    async def _act(self, session: aiohttp.ClientSession) -> None:
        waiting = await self._outstanding(session)
        if waiting is None:
            return
        if waiting < OUTSTANDING:
            await self.send(session, self.rng.choice(sorted(self.recordings)))
        kept = [
            upload for upload in self.uploads[-OUTSTANDING * 2 :] if not upload.cancel and not upload.delete
        ]
        if kept and self.rng.random() < 0.08:
            await self._cancel(session, self.rng.choice(kept))
        elif kept and self.rng.random() < 0.08:
            await self._delete(session, self.rng.choice(kept))

    async def _outstanding(self, session: aiohttp.ClientSession) -> int | None:
        count = 0
        for status in ("pending", "processing"):
            answered, body = await self._ask(session, "GET", f"/api/jobs?status={status}&limit=50")
            if answered != "200":
                return None
            count += len(body["jobs"])
        return count

    async def send(self, session: aiohttp.ClientSession, recording: str) -> Upload | None:
        self.sent += 1
        form = aiohttp.FormData()
        form.add_field("priority", self.rng.choice(["low", "normal", "high"]))
        form.add_field(
            "file", self.recordings[recording].read_bytes(), filename=f"{recording}-{self.sent}.wav"
        )
        answered, body = await self._ask(session, "POST", "/api/jobs/upload", data=form)
        self.counts.answers[f"upload {answered}"] += 1
        if answered != "201":
            return None
        self.uploads.append(Upload(body["id"], recording))
        return self.uploads[-1]

    async def _cancel(self, session: aiohttp.ClientSession, upload: Upload) -> None:
        answered, _ = await self._ask(session, "POST", f"/api/jobs/{upload.id}/cancel")
        self.counts.answers[f"cancel {answered}"] += 1
        upload.cancel = {"200": "answered", "409": ""}.get(answered, "perhaps")

    async def _delete(self, session: aiohttp.ClientSession, upload: Upload) -> None:
        answered, _ = await self._ask(session, "DELETE", f"/api/jobs/{upload.id}")
        self.counts.answers[f"delete {answered}"] += 1
        upload.delete = "answered" if answered == "204" else "perhaps"

    async def _ask(
        self, session: aiohttp.ClientSession, method: str, path: str, **more: Any
    ) -> tuple[str, dict[str, Any]]:
        url = self.house.url(self.rng.randrange(WEBS)) + path
        try:
            async with session.request(method, url, **more) as response:
                json = response.content_type.endswith("json")
                return str(response.status), await response.json(content_type=None) if json else {}
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            return type(error).__name__, {}


async def watch_readiness(house: House, session: aiohttp.ClientSession, counts: Counts) -> None:
    """The longest time in which no web process said that it is ready."""
    since = time.monotonic()
    while True:
        for n in range(WEBS):
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
                timeout = aiohttp.ClientTimeout(2)
                async with session.get(f"{house.url(n)}/health/ready", timeout=timeout) as response:
                    if response.status == 200:
                        since = time.monotonic()
        counts.not_ready = max(counts.not_ready, time.monotonic() - since)
        await asyncio.sleep(0.2)


async def drained(pool: asyncpg.Pool, seconds: float = DRAIN_SECONDS) -> bool:
    """Wait until nothing waits or runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not await pool.fetchval("select count(*) from jobs where status in ('pending', 'processing')"):
            return True
        await asyncio.sleep(0.2)
    return False


async def check(house: House, load: Load, texts: dict[str, str], pool: asyncpg.Pool, counts: Counts) -> None:
    """Every recording, row, transition, file and key."""
    rows = {str(row["id"]): row for row in await pool.fetch("select * from jobs")}
    for upload in load.uploads:
        row = rows.get(upload.id)
        if row is None:
            if not upload.delete:
                counts.problems.append(f"{upload.id} is gone, and nobody deleted it")
        elif upload.delete == "answered":
            counts.problems.append(f"{upload.id} is there, and was deleted")
        elif upload.cancel == "answered" and row["status"] != "cancelled":
            counts.problems.append(f"{upload.id} is {row['status']}, and was cancelled")
        elif row["status"] == "cancelled" and not upload.cancel and not upload.delete:
            counts.problems.append(f"{upload.id} is cancelled, and nobody asked for it")
    for row in rows.values():
        check_row(row, texts, counts)
    disturbed = [upload.id for upload in load.uploads[len(texts) :]]
    if not any(rows[id_]["status"] == "completed" for id_ in disturbed if id_ in rows):
        counts.problems.append(
            f"of {len(disturbed)} uploads under faults none was completed: nothing is shown"
        )
    await check_history(pool, counts)
    await check_files(house, rows, pool, counts)
    await check_keys(house, counts)


def check_row(row: asyncpg.Record, texts: dict[str, str], counts: Counts) -> None:
    recording = str(row["original_filename"]).partition("-")[0]
    if row["status"] == "completed" and row["transcription_text"] != texts[recording]:
        counts.problems.append(f"{row['id']} ({recording}) has another text: {row['transcription_text']}")
    elif row["status"] not in ("completed", "cancelled"):
        counts.problems.append(f"{row['id']} is {row['status']}: {row['error_code']} {row['error_message']}")


async def check_history(pool: asyncpg.Pool, counts: Counts) -> None:
    for row in await pool.fetch("select * from seen"):
        change = (row["before"], row["after"])
        if change not in ALLOWED:
            counts.problems.append(f"{row['id']} went from {change[0]} to {change[1]}")
        if row["asked"] and change[0] == "processing" and change[1] != "cancelled":
            counts.problems.append(f"{row['id']} became {change[1]} after a cancel")
    for row in await pool.fetch(
        "select id, count(job_id) as versions from jobs left join transcripts on job_id = id "
        "group by id having count(job_id) <> (status = 'completed')::integer"
    ):
        counts.problems.append(f"{row['id']} has {row['versions']} transcripts")


async def check_files(
    house: House, rows: dict[str, asyncpg.Record], pool: asyncpg.Pool, counts: Counts
) -> None:
    """What a crash left behind is swept once it is old; then there is what rows name, and nothing else."""
    before = set(files(house.root))
    for path in house.root.rglob("*"):
        os.utime(path, (1, 1))
    await maintenance.Sweeper(Storage(house.root), seconds=0).sweep(pool)
    after = set(files(house.root))
    counts.swept = len(before - after)
    named = {row["file_path"] for row in rows.values()}
    named |= {row["transcription_file_path"] for row in rows.values() if row["transcription_file_path"]}
    counts.problems += [f"the file {key} is left over" for key in sorted(after - named)]
    counts.problems += [f"the file {key} is missing" for key in sorted(named - after)]
    empty = [path for path in (house.root / "results").iterdir() if path.name not in rows]
    counts.problems += [f"the folder {path} is left over" for path in empty]


def files(root: Path) -> Iterator[str]:
    return (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


async def check_keys(house: House, counts: Counts) -> None:
    """Spare tickets may wait; every other key ends by itself, soon."""
    async with connected(house.valkey.url) as redis:
        waiting = await redis.zrange(tickets.TRANSCRIBE_QUEUE, 0, -1)
        known_keys = {f"arq:job:{ticket.decode()}" for ticket in waiting}
        if len(known_keys) > 30:
            counts.problems.append(f"{len(known_keys)} tickets are left over")
        for key in [key.decode() for key in await redis.keys("*")]:
            known = key in known_keys or key == tickets.TRANSCRIBE_QUEUE
            left = await redis.ttl(key)
            if not known and (left == -1 or left > 600):  # -2: it has ended by now
                counts.problems.append(f"the key {key} is left over ({left} s)")


async def report(load: Load, pool: asyncpg.Pool, counts: Counts) -> None:
    statuses = await pool.fetch("select status, count(*) as jobs from jobs group by status order by status")
    lost = await pool.fetchrow(
        """
        select count(*) as jobs, coalesce(max(extract(epoch from at - heard)), 0) as noticed,
            coalesce(sum(least(unsaved, $1)), 0) as at_most, coalesce(sum(recognised), 0) as again
        from seen where before = 'processing' and after = 'pending'""",
        SPAN * 1.5,
    )
    recovered = await pool.fetchrow("""
        select coalesce(max(extract(epoch from next.at - lost.heard)), 0) as longest,
            coalesce(max(extract(epoch from next.at - lost.due)), 0) as waited
        from seen as lost
        cross join lateral (select at from seen where id = lost.id and before = 'pending'
            and after = 'processing' and at > lost.at order by at limit 1) as next
        where lost.before = 'processing' and lost.after = 'pending'""")
    assert lost
    assert recovered
    print(f"sent {load.sent}, accepted {len(load.uploads)}")
    for title, counter in (("answers", counts.answers), ("faults", counts.faults)):
        print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counter.items())))
    print("jobs: " + ", ".join(f"{row['status']} {row['jobs']}" for row in statuses))
    # What was heard of a span that was not saved, as the rows' progress told it up to a second before; and at
    # most, as no span is longer than one and a half times the setting.
    print(
        f"attempts interrupted: {lost['jobs']}; audio done again: {lost['again']:.0f} s, "
        f"at most {lost['at_most']:.0f} s"
    )
    print(
        f"longest recovery, from a job's last sign of life to its next attempt: {recovered['longest']:.1f} s"
    )
    print(f"  longest until it was released: {lost['noticed']:.1f} s")
    print(f"  longest wait when it was due again (others' turns included): {recovered['waited']:.1f} s")
    print(f"longest without any web process that is ready: {counts.not_ready:.1f} s")
    print(f"files that a crash had left and the sweep removed: {counts.swept}")


def make_recordings(folder: Path) -> dict[str, Path]:
    """The samples, and some of them one after the other, so that there are several spans."""
    samples = {re.split(r"[-.]", path.name)[0]: _decode(path) for path in sorted(SAMPLES.glob("*.flac"))}
    pause = np.zeros(RATE, np.int16)
    made = {name: [sound] for name, sound in samples.items()}
    names = sorted(samples)
    made["two"] = [samples[names[0]], pause, samples[names[0]]]
    made["three"] = [samples[names[0]], pause, samples[names[0]], pause, samples[names[0]]]
    return {name: _write(folder / f"{name}.wav", np.concatenate(parts)) for name, parts in made.items()}


def _decode(path: Path) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as source:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        frames = [out for frame in source.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def _write(path: Path, samples: np.ndarray[Any, Any]) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    redis = await tickets.connect(url)
    try:
        yield redis
    finally:
        await redis.aclose()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk for the storage that can be filled without harm, where we may mount one."""
    folder.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(folder)]
    mounted = sys.platform == "linux" and os.geteuid() == 0
    mounted = mounted and subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        print("no small disk can be mounted here: none is filled")
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


async def undisturbed(load: Load, session: aiohttp.ClientSession, pool: asyncpg.Pool) -> dict[str, str]:
    """Each recording's text in a quiet house."""
    sent = [upload for name in sorted(load.recordings) if (upload := await load.send(session, name))]
    assert len(sent) == len(load.recordings), "not all recordings were accepted"
    assert await drained(pool), "the quiet run did not end"
    rows = await pool.fetch("select id, status, transcription_text from jobs")
    texts = {str(row["id"]): row["transcription_text"] for row in rows}
    assert all(row["status"] == "completed" for row in rows), rows
    return {upload.recording: texts[upload.id] for upload in sent}


async def until_ready(house: House, session: aiohttp.ClientSession, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        for n in range(WEBS):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{house.url(n)}/health/ready") as response:
                        if response.status == 200:
                            break
                await asyncio.sleep(0.1)


async def run(folder: Path, seconds: float, seed: int) -> Counts:
    with small_disk(folder / "storage") as disk:
        house = House(folder, disk=disk)
        try:
            await house.start()
            return await _run(house, seconds, seed)
        finally:
            await house.stop()
            await house.stop_servers()


async def _run(house: House, seconds: float, seed: int) -> Counts:
    counts = Counts()
    load = Load(house, random.Random(seed), counts, make_recordings(house.folder))
    timeout = aiohttp.ClientTimeout(30)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await until_ready(house, session)
        async with await db.create_pool(house.postgres.url, max_size=2) as pool:
            texts = await undisturbed(load, session, pool)
        print(f"undisturbed: {len(texts)} recordings; now {seconds:.0f} s of faults", flush=True)
        watcher = asyncio.create_task(watch_readiness(house, session, counts))
        await asyncio.gather(
            load.run(session, seconds), Chaos(house, random.Random(seed), counts).run(seconds)
        )
        async with await db.create_pool(house.postgres.url, max_size=2) as pool:
            if not await drained(pool):
                counts.problems.append(f"jobs still wait or run {DRAIN_SECONDS} s after the last fault")
            watcher.cancel()
            await house.stop()
            await check(house, load, texts, pool, counts)
            counts.problems += [f"the process {process} is left over" for process in house.survivors()]
            await report(load, pool, counts)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="keep the service's log here")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # everything is ended then too
    with tempfile.TemporaryDirectory(prefix="stt-chaos-") as folder:
        try:
            counts = asyncio.run(run(Path(folder), given.seconds, given.seed))
        finally:
            if given.log:
                given.log.write_bytes(Path(folder, "log").read_bytes())
    for problem in counts.problems:
        print(f"WRONG: {problem}")
    print("nothing was lost, done twice or left over" if not counts.problems else "FAILED")
    return 1 if counts.problems else 0


if __name__ == "__main__":
    sys.exit(main())
