"""The wheel holds all that the program reads: it runs where no source tree is."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ROOT
from tests.support.up import private_folder, up

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with private_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def python(folder: Path) -> str:
    """The interpreter of an environment with the built wheel, and with this one's other packages.

    They come by a plain path: what an editable installation left beside them is not read.
    """
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = str(folder / "venv" / "bin" / "python")
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    [packages] = (folder / "venv" / "lib").glob("python*/site-packages")
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "others.pth").write_text("\n".join(sorted(others)))
    return python


@pytest.fixture(autouse=True)
def _no_source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)


def test_the_environment_does_not_see_the_source_tree(python: str, folder: Path) -> None:
    code = "import sys, stt, workers; print(stt.__file__, workers.__file__, *sys.path, sep='\\n')"
    done = subprocess.run([python, "-P", "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    package, worker_package, *path = done.stdout.split("\n")
    assert all(name.startswith(str(folder / "venv")) for name in (package, worker_package))
    assert str(ROOT) not in path


async def test_the_wheel_alone_serves_pages_with_their_files(python: str, folder: Path) -> None:
    async with up(folder / "data", python) as running, aiohttp.ClientSession(running.url) as session:
        page = await (await session.get("/")).text()
        assets = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page))
        for name in ("stt.css", "live.js", "vendor/htmx.min.js", "vendor/sse.min.js"):
            [address] = (address for address in assets if address.split("?")[0].endswith(f"/static/{name}"))
            async with session.get(address) as answer:
                assert answer.status == 200
                assert await answer.read() == (ROOT / "static" / name).read_bytes()
        async with session.get("/api/jobs") as answer:
            assert (answer.status, (await answer.json())["jobs"]) == (200, [])
