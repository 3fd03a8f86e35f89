"""A file that takes over its decoder reaches nothing from there."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stt.media import probe
from stt.process import sandbox
from tests.support.places import ROOT

ATTACK = """
import json, socket, sys
from pathlib import Path

def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"

def attack(*_, **__):
    port, other = int(sys.argv[2]), sys.argv[3]
    reached = socket.socket  # loaded before, as the sandbox lets nothing be imported
    print(json.dumps({
        "connect": tried(lambda: reached().connect(("127.0.0.1", port))),
        "datagram": tried(lambda: reached(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))),
        "read": tried(lambda: open(other).read()),
        "write": tried(lambda: open(other + ".new", "w")),
    }), file=sys.stderr)
    return "audio", None
"""


LOOK = "from stt.media import libav, probe_child\n"


def attacked(run: str, tmp_path: Path, tone: Path) -> dict[str, str]:
    """What a process can do that has run these lines; without them it can do all of it."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", ATTACK + run, str(tone), str(port), str(secret)],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    found: dict[str, str] = json.loads(done.stderr.splitlines()[-1])
    return found


def kept(name: str) -> set[str]:
    """What one of the kernel's means refuses here."""
    done = subprocess.run(
        [sys.executable, "-c", f"from stt.process import sandbox; print(*sandbox.{name}())"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_without_a_sandbox_the_attack_succeeds(tmp_path: Path, tone: Path) -> None:
    assert set(attacked("attack()", tmp_path, tone).values()) == {"done"}


def test_the_probe_reaches_no_listener_and_no_other_file(tmp_path: Path, tone: Path) -> None:
    if kept("enter") != {sandbox.FILES, sandbox.NETWORK}:
        pytest.skip("this kernel has no Landlock that knows TCP")
    run = f"{LOOK}libav.inspect = attack\nprobe_child._main(Path(sys.argv[1]), 0)"
    assert set(attacked(run, tmp_path, tone).values()) <= {"PermissionError"}


def test_the_decoder_reaches_no_listener_and_no_other_file(tmp_path: Path, tone: Path) -> None:
    if kept("enter") != {sandbox.FILES, sandbox.NETWORK}:
        pytest.skip("this kernel has no Landlock that knows TCP")
    run = (
        "from workers.audio import __main__ as child\nchild.Recording = attack\n"
        "child._answer({'path': sys.argv[1], 'longest': 0}, None, 2**31)"
    )
    with pytest.raises(subprocess.CalledProcessError) as caught:  # what it is given is no recording
        attacked(run, tmp_path, tone)
    told = next(line for line in caught.value.stderr.splitlines() if line.startswith("{"))
    assert set(json.loads(told).values()) <= {"PermissionError"}


@pytest.mark.parametrize(
    ("name", "keeps", "refused"),
    [
        ("refuse_calls", {sandbox.NETWORK}, {"connect", "datagram", "write"}),
        ("refuse_by_landlock", {sandbox.FILES, sandbox.NETWORK}, {"connect", "read", "write"}),
    ],
)
def test_each_of_the_kernels_means_refuses_what_it_says(
    name: str, keeps: set[str], refused: set[str], tmp_path: Path, tone: Path
) -> None:
    if kept(name) != keeps:
        pytest.skip(f"this kernel cannot {name}")
    found = attacked(f"from stt.process import sandbox\nsandbox.{name}()\nattack()", tmp_path, tone)
    assert {what for what, how in found.items() if how == "PermissionError"} == refused


async def test_a_kernel_without_a_sandbox_is_logged_once_and_fails_no_upload(
    monkeypatch: pytest.MonkeyPatch, tone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = asyncio.create_subprocess_exec

    async def without(*program: str, **more: Any) -> asyncio.subprocess.Process:
        at = program.index("-m")
        code = (
            "import sys; from pathlib import Path; from stt.media import probe_child; "
            "from stt.process import sandbox\n"
            "sandbox.enter = lambda *_: set()\nprobe_child._main(Path(sys.argv[1]), float(sys.argv[2]))"
        )
        return await start(*program[:at], "-c", code, *program[at + 2 :], **more)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", without)
    probe._log_missing_limits.cache_clear()
    for _ in range(2):
        assert (await probe.probe(tone)).file_type == "audio"
    [line] = [record.msg for record in caplog.records]
    assert line["allowed"] == ["files", "network"]
