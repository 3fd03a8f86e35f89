"""Every command of the documentation that needs neither Docker nor a cluster nor root runs as it stands."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.documentation import (
    READERS_RECORDINGS,
    Block,
    runs_make_only,
    shell_blocks,
    substituted,
    write_newest_job,
)
from tests.support.places import ROOT
from tests.support.ports import free_ports
from tests.support.up import Up, environment, prepared, private_folder, up

pytestmark = [pytest.mark.process, pytest.mark.engine]

BLOCKS = [block for block in shell_blocks(needs="") if not runs_make_only(block)]
# Programs that a reader of the page has, and this machine may lack.
OPTIONAL = ("promtool",)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with private_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def copy(folder: Path) -> Path:
    """The repository's files and what setup made, with this environment as its `.venv`."""
    target = folder / "stt"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    shutil.copytree(ROOT / "static" / "vendor", target / "static" / "vendor", dirs_exist_ok=True)
    (target / ".venv").symlink_to(sys.prefix)
    for name in READERS_RECORDINGS:
        shutil.copy2(ROOT / "samples" / "en-demo-abouttotry.flac", target / name)
    return target


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_ports(3)


@pytest.fixture(scope="module")
async def service(folder: Path, metrics_port: int) -> AsyncIterator[Up]:
    data = prepared(folder / "data")
    async with up(data, METRICS_PORT=str(metrics_port)) as running:
        yield running


@pytest.mark.parametrize("block", BLOCKS, ids=str)
async def test_the_commands_of_the_documentation_run(
    block: Block, copy: Path, service: Up, metrics_port: int, folder: Path
) -> None:
    for program in OPTIONAL:
        if program in block.text and not shutil.which(program):
            pytest.skip(f"{program} is not installed here")
    home = folder / "home"
    home.mkdir(exist_ok=True)
    (home / ".curlrc").write_text("fail-with-body\n")  # an error that is answered is a failure
    write_newest_job(home, sys.executable, service.url)
    env = environment(service.data_dir, METRICS_PORT=str(metrics_port)) | {
        "HOME": str(home), "PATH": f"{home}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    script = "set -eu\n" + substituted(block.text, service.url, metrics_port)
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", script, cwd=copy, env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, f"{script}\n{output.decode()}"
