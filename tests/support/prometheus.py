"""Debian's Prometheus with the rules of this repository, which reads roles that run on this machine."""

from __future__ import annotations

import asyncio
import shutil
from asyncio import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.support.faults import until
from tests.support.places import ROOT

CONFIGURATION = ROOT / "deploy" / "prometheus" / "prometheus.yml"
STARTS_WITHIN = 20
Sample = dict[str, Any]


class Prometheus:
    """A Prometheus that runs, by its HTTP API."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the API; an error fails with its text."""
        async with self._session.get(f"/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def query(self, expression: str) -> list[Sample]:
        """The samples of an expression now; a number is one without labels."""
        data = await self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        return list(data["result"])

    async def until_read(self, count: int) -> None:
        """Wait until so many targets of ours have answered."""
        with_answer = f'count(up{{job=~"stt-.*"}} == 1) >= {count}'
        await until(lambda: self.query(with_answer), STARTS_WITHIN)

    async def is_ready(self) -> bool:
        try:
            async with self._session.get("/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False


def configure(folder: Path, ports: Mapping[str, int]) -> Path:
    """Write the configuration of production, with a port of loopback for each job, read every second."""
    configuration = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    of_roles = [scraped for scraped in configuration["scrape_configs"] if scraped["job_name"] in ports]
    for scraped in of_roles:
        del scraped["dns_sd_configs"]
        scraped["static_configs"] = [{"targets": [f"127.0.0.1:{ports[scraped['job_name']]}"]}]
    configuration["scrape_configs"] = of_roles
    for name in configuration["rule_files"]:
        shutil.copy(CONFIGURATION.parent / name, folder)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return path


@asynccontextmanager
async def prometheus(folder: Path, port: int, targets: Mapping[str, int]) -> AsyncIterator[Prometheus]:
    """A Prometheus that reads these ports, ready.

    Args:
        folder: For its files; an empty one.
        port: Where it listens, on loopback.
        targets: The port of each job of its configuration.
    """
    configuration = configure(folder, targets)
    with (folder / "log").open("wb") as log:
        process = await subprocess.create_subprocess_exec(
            "prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            running = Prometheus(session)
            await until(running.is_ready, STARTS_WITHIN)
            yield running
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 20)
