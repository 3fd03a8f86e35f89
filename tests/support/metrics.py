"""What a role tells Prometheus, read as Prometheus reads it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

import aiohttp
import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]


class Scrape:
    """The samples of one answer."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            (sample.name, dict(sample.labels), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels; fails for a metric that is not there."""
        assert name.removesuffix("_total").removesuffix("_count") in self.text, f"no {name}"
        return sum(value for one, has, value in self.samples if one == name and labels.items() <= has.items())

    def series(self) -> int:
        """How many series are ours."""
        return sum(name.startswith("stt_") for name, *_ in self.samples)

    def label_values(self) -> set[str]:
        """Every value of a label of ours."""
        return {value for name, has, _ in self.samples if name.startswith("stt_") for value in has.values()}


def of_this_process() -> Scrape:
    """The metrics of the process of the test, in which apps and attempts run too."""
    return Scrape(generate_latest(REGISTRY).decode())


async def of(port: int) -> Scrape:
    """The metrics of a role."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        assert response.status == 200
        return Scrape(await response.text())


def check_with_promtool(scrape: Scrape) -> None:
    """Fail if Prometheus' own tool has anything to say against names, types and units."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scrape.text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
