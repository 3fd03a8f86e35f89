"""What the processes of a running `stt up` hold at a moment, and whether it grows over time.

`bench/soak.py` uses it. Every quantity has a name of a role and a unit, such as ``web uss_mb``.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from stt.jobs import tickets
from stt.ops.embedded.postgres import Postgres
from stt.ops.embedded.valkey import Valkey
from stt.storage import INCOMING, Storage

MB = 1e6
# By the unit: how much more the last quarter may hold than the first, absolutely or as a part of the first.
TOLERANCES = {
    "uss_mb": (6.0, 0.05),
    "rss_mb": (6.0, 0.05),
    "fds": (4.0, 0.0),
    "threads": (2.0, 0.0),
    "processes": (1.0, 0.0),
    "deleted_open": (1.0, 0.0),
    "connections": (3.0, 0.0),
    "idle_in_transaction": (1.0, 0.0),
    "clients": (3.0, 0.0),
    "keys": (5.0, 0.1),
    "memory_mb": (2.0, 0.1),
    "size_mb": (8.0, 0.1),
    "files": (3.0, 0.0),
    "series": (12.0, 0.05),
    "listeners": (4.0, 0.0),
    "stored": (5.0, 0.1),
}
# Where a role needs another one.
ROLE_TOLERANCES = {
    # glibc keeps what an engine once needed for its largest batch, so that this may come late.
    "engine rss_mb": (60.0, 0.08),
    "engine uss_mb": (60.0, 0.08),
    # Each connection has a process, which keeps the tables that it has used; autovacuum's come and go.
    "postgres fds": (0.0, 0.1),
    "postgres rss_mb": (20.0, 0.1),
    "postgres uss_mb": (10.0, 0.1),
    "postgres processes": (4.0, 0.0),
    "postgres threads": (4.0, 0.0),
}
TITLES = ("up", "web", "maintenance", "worker", "engine", "decoder")
ROLES = (*TITLES, "postgres", "valkey")

Sample = dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """Whether a quantity grew between the first and the last quarter of the measured time."""

    name: str
    samples: int
    first: float  # median of the first quarter
    last: float  # of the last quarter
    most: float
    per_hour: float  # slope of the fitted line
    tolerance: float
    noticed: float  # the growth by hour that would just be noticed
    growing: bool


def judge(name: str, times: Sequence[float], values: Sequence[float]) -> Verdict | None:
    """Fit a line and compare the quarters; None for fewer than eight samples.

    A quantity grows if the median of its last quarter is more than the tolerance above that of its first,
    and the line rises by more than the tolerance too. So a single outlier is no growth, nor is a wave.

    Args:
        name: Role and unit; the unit decides the tolerance.
        times: Seconds, ascending.
        values: As many values.
    """
    if len(values) < 8:
        return None
    quarter = len(values) // 4
    first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
    slope = float(np.polyfit(np.asarray(times) - times[0], np.asarray(values, float), 1)[0])
    tolerance = _tolerance(name, first)
    span = times[-1] - times[0]
    between = statistics.fmean(times[-quarter:]) - statistics.fmean(times[:quarter])
    return Verdict(
        name=name,
        samples=len(values),
        first=first,
        last=last,
        most=max(values),
        per_hour=slope * 3600,
        tolerance=tolerance,
        noticed=tolerance / between * 3600,
        growing=last - first > tolerance and slope * span > tolerance,
    )


def _tolerance(name: str, first: float) -> float:
    absolute, part = ROLE_TOLERANCES.get(name) or TOLERANCES[name.split()[1]]
    return max(absolute, part * abs(first))


def judge_all(samples: Sequence[Mapping[str, float]], warm_up: float) -> list[Verdict]:
    """Every quantity, from the end of the warm-up on.

    Of the engine, the longest life is judged: a cancel and idling end its process, and a new one begins
    small. The warm-up is left out of that life too.
    """
    measured = [one for one in samples if one["seconds"] >= warm_up]
    life = _longest_life(samples, warm_up)
    verdicts = []
    for name in sorted({name for one in measured for name in one if " " in name}, key=_place):
        among = life if name.startswith("engine ") else measured
        known = [one for one in among if name in one]
        verdicts.append(judge(name, [one["seconds"] for one in known], [one[name] for one in known]))
    return [verdict for verdict in verdicts if verdict]


def _longest_life(samples: Sequence[Mapping[str, float]], warm_up: float) -> list[Mapping[str, float]]:
    engines = Counter(one["engine"] for one in samples if "engine" in one)
    if not engines:
        return []
    [(pid, _)] = engines.most_common(1)
    life = [one for one in samples if one.get("engine") == pid]
    return [one for one in life if one["seconds"] >= life[0]["seconds"] + warm_up]


def _place(name: str) -> tuple[int, str]:
    role = name.split(maxsplit=1)[0]
    return (ROLES.index(role) if role in ROLES else len(ROLES), name)


class Sampler:
    """Looks at the processes, servers and folders of one `stt up`."""

    def __init__(self, up: int, data_dir: Path, temporary: Path, metrics: Mapping[str, str]) -> None:
        """Connects to nothing yet.

        Args:
            up: Process id of `stt up`.
            data_dir: Its data folder, with embedded servers.
            temporary: The folder that it has as TMPDIR.
            metrics: The address of each role's metrics.
        """
        self._up = psutil.Process(up)
        self._storage, self._temporary = Storage(data_dir), temporary
        self._metrics = metrics
        self._database_url = Postgres(data_dir / "postgres").url
        self._redis_url = Valkey(data_dir / "valkey").url
        self.family: dict[int, float] = {}  # every process that was seen: id, and when it was born
        self.unread: Counter[str] = Counter()  # metrics that did not answer, by role

    async def open(self) -> None:
        """Connect to the servers, with one connection each."""
        self.pool = await asyncpg.create_pool(self._database_url, min_size=0, max_size=1)
        self.redis = await tickets.connect(self._redis_url)
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5))

    async def close(self) -> None:
        """Leave the servers."""
        await self._session.close()
        await self.redis.aclose()
        await self.pool.close()

    async def sample(self) -> Sample:
        """Every quantity as it is now."""
        found = self.processes()
        found |= await self._servers()
        found |= await self._files()
        for role, url in self._metrics.items():
            found |= await self._read_metrics(role, url)
        return found

    def processes(self) -> Sample:
        """Memory, descriptors, threads and number of the processes, by role."""
        found: defaultdict[str, float] = defaultdict(float)
        for process in [self._up, *self._up.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, FileNotFoundError):
                self.family[process.pid] = process.create_time()
                role = role_of(process)
                if role == "engine":
                    found["engine"] = process.pid
                for unit, value in _held(process).items() if role else ():
                    found[f"{role} {unit}"] += value
        return dict(found)

    async def _servers(self) -> Sample:
        row = await self.pool.fetchrow("""
            select count(*) filter (where backend_type = 'client backend') - 1 as connections,
                count(*) filter (where state like 'idle in transaction%') as idle_in_transaction,
                pg_database_size(current_database()) / 1e6 as size_mb
            from pg_stat_activity""")
        assert row
        clients, memory = await self.redis.info("clients"), await self.redis.info("memory")
        return {
            **{f"postgres {name}": float(value) for name, value in row.items()},
            "valkey clients": clients["connected_clients"] - 1,
            "valkey keys": await self.redis.dbsize(),
            "valkey memory_mb": memory["used_memory"] / MB,
            "jobs stored": await self.pool.fetchval("select count(*) from jobs"),
        }

    async def _files(self) -> Sample:
        stored = self._storage.keys()
        named = await self.named_keys()
        incoming = {key for key in stored if key.startswith(INCOMING)}
        return {
            "incoming files": len(incoming),
            "unnamed files": len(stored.keys() - named - incoming),
            "temporary files": sum(1 for path in self._temporary.rglob("*") if path.is_file()),
        }

    async def named_keys(self) -> set[str]:
        """The files that rows name."""
        rows = await self.pool.fetch("select file_path, transcription_file_path from jobs")
        return {key for row in rows for key in row if key}

    def stored_keys(self) -> set[str]:
        """The files that there are."""
        return set(self._storage.keys())

    async def metrics(self, role: str) -> dict[str, float]:
        """The metrics of a role, by name and labels. Raises aiohttp.ClientError if it does not answer."""
        async with self._session.get(self._metrics[role]) as response:
            response.raise_for_status()
            families = text_string_to_metric_families(await response.text())
        return {_series(one.name, one.labels): one.value for family in families for one in family.samples}

    async def _read_metrics(self, role: str, url: str) -> Sample:
        try:
            read = await self.metrics(role)
        except (aiohttp.ClientError, TimeoutError):
            self.unread[role] += 1
            return {}
        found = {f"{role} series": float(len(read))}
        if role == "web":
            found["web listeners"] = read["stt_event_listeners"]
        return found


def _series(name: str, labels: Mapping[str, str]) -> str:
    return name + "".join(f" {key}={value}" for key, value in sorted(labels.items()))


def role_of(process: psutil.Process) -> str:
    """Which role a process of `stt up` is; empty for one that has just begun or looks into an upload."""
    title = " ".join(process.cmdline()).strip()
    for role in TITLES:
        if title.startswith(f"stt {role}"):
            return role
    if process.name() == "postgres":
        return "postgres"
    return "valkey" if process.name().startswith("valkey") else ""


def _held(process: psutil.Process) -> dict[str, float]:
    memory = process.memory_full_info()
    return {
        "rss_mb": memory.rss / MB,
        "uss_mb": memory.uss / MB,
        "fds": process.num_fds(),
        "threads": process.num_threads(),
        "processes": 1,
        "deleted_open": _deleted_open(process.pid),
    }


def _deleted_open(pid: int) -> int:
    """Files that are deleted and still open; they take room on the disk. Only Linux tells."""
    count = 0
    with suppress(FileNotFoundError, PermissionError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                target = str(link.readlink())
                count += target.endswith(" (deleted)") and not target.startswith(("/memfd:", "/dev/"))
    return count
