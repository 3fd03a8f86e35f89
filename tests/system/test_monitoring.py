"""Debian's Prometheus reads a running service: every rule and every query of the dashboards works on that."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.support.faults import Environ, role, until, web
from tests.support.journeys import ended, english, upload
from tests.support.ports import free_ports
from tests.support.prometheus import Prometheus, prometheus
from tests.support.promql import DASHBOARDS, queries, rules, selectors, series

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed here"),
]

JOBS = ("stt-web", "stt-maintenance", "stt-worker")
# What such a service has no series for: it has no GPU, its engine loads no model, no proxy tells of backups,
# and nothing alerts.
ELSEWHERE = re.compile(r"stt_gpu_\w+|stt_model_load\w+|stt_backup_\w+|ALERTS")
# Of errors, and of the proxy, there are none.
NONE_HERE = ('status=~"5.."', 'job="stt-backup"')


@pytest.fixture
async def reader(environ: Environ, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that has read a web app, maintenance and a worker after they did a job."""
    port = free_ports(4)
    ports = dict(zip(JOBS, range(port, port + 3), strict=True))

    def own(job: str) -> Environ:
        return environ | {"STT_PORT": "0", "STT_METRICS_PORT": str(ports[job])}

    async with (
        web(own("stt-web")) as (_, url),
        role(own("stt-worker"), "tests.support.fake_worker"),
        prometheus(tmp_path, port + 3, ports) as running,
        aiohttp.ClientSession(url) as session,
    ):
        await running.until_read(2)
        await transcribed(running, session, 1)
        # It counts the stored jobs when it starts, and then every 15 seconds.
        async with role(own("stt-maintenance"), "workers.maintenance"):
            await transcribed(running, session, 2)  # what happens once in a series is no rate
            await running.until_read(3)
            await until(lambda: running.query("stt_jobs"), 20)
            yield running


async def transcribed(reader: Prometheus, session: aiohttp.ClientSession, count: int) -> None:
    """Have one more job done, and wait until Prometheus knows of so many."""
    assert (await ended(session, await upload(session, english())))["status"] == "completed"
    await until(lambda: reader.query(f'stt_jobs_ended_total{{status="completed"}} == {count}'), 10)


async def test_rules_and_dashboards_work_on_what_a_service_gives(reader: Prometheus) -> None:
    await every_metric_is_read(reader)
    await every_rule_is_evaluated(reader)
    await every_query_finds_its_series(reader)
    await every_variable_of_a_dashboard_has_a_value(reader)
    await nothing_alerts(reader)


async def every_metric_is_read(reader: Prometheus) -> None:
    names = set(await reader.get("label/__name__/values"))
    assert sorted(name for name in series().keys() - names if not ELSEWHERE.fullmatch(name)) == []
    assert sorted(name for name in names - series().keys() if name.startswith("stt_")) == []


async def every_rule_is_evaluated(reader: Prometheus) -> None:
    async def evaluated() -> bool:
        groups = (await reader.get("rules"))["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        assert len(found) == len(rules())
        assert {rule["name"]: rule["lastError"] for rule in found if rule.get("lastError")} == {}
        return all(rule["health"] == "ok" for rule in found)

    await until(evaluated, 10)


async def every_query_finds_its_series(reader: Prometheus) -> None:
    """Each query is evaluated, and each selector in it has series: a wrong value of a label has none."""

    async def without() -> list[str]:
        found = []
        for where, query in queries().items():
            await reader.query(query)
            found += [f"{where}: {text}" for text in expected(query) if not await reader.query(text)]
        return found

    async def all_found() -> bool:
        return await without() == []

    with suppress(TimeoutError):  # rules are evaluated each second
        await until(all_found, 5)
    assert await without() == []


def expected(query: str) -> list[str]:
    """The selectors of a query that have series in a service without faults."""
    there = [one.prettify() for one in selectors(query) if not ELSEWHERE.fullmatch(one.name)]
    return [text for text in there if not any(one in text for one in NONE_HERE)]


async def every_variable_of_a_dashboard_has_a_value(reader: Prometheus) -> None:
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text(encoding="utf-8"))["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert match
                assert await reader.get(f"label/{match[2]}/values", **{"match[]": match[1]})


async def nothing_alerts(reader: Prometheus) -> None:
    """In a service that is well no alert is even pending; the disk of this machine may be full."""

    alerts = 'ALERTS{alertname!~"SttDisk.*"}'

    async def quiet() -> bool:
        return not await reader.query(alerts)

    with suppress(TimeoutError):
        await until(quiet, 15)
    assert [one["metric"]["alertname"] for one in await reader.query(alerts)] == []
