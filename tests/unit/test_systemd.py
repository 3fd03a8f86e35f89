"""The unit of systemd: systemd accepts it, its settings are ours, and it stops no slower than it waits."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stt.cli import cli
from stt.settings import load
from tests.support.places import ROOT

UNIT, ENVIRONMENT = (ROOT / "deploy" / "systemd" / name for name in ("stt.service", "stt.env"))
STOPS_WITHIN = 10  # seconds, as `stt up` promises


def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="apt-get install systemd")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    installed = UNIT.read_text(encoding="utf-8").replace("/opt/stt/.venv/bin/stt", sys.executable)
    unit.write_text(installed, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    about_it = [line for line in done.stderr.splitlines() if "stt" in line]
    assert (done.returncode, about_it) == (0, [])


def test_it_starts_a_command_of_ours() -> None:
    program, command = service()["ExecStart"].split()
    assert program == "/opt/stt/.venv/bin/stt"
    assert command in cli.commands


def test_it_waits_longer_than_the_service_takes_to_stop() -> None:
    assert service()["KillMode"] == "mixed"
    assert int(service()["TimeoutStopSec"]) > STOPS_WITHIN


def test_its_settings_are_settings_of_ours() -> None:
    lines = ENVIRONMENT.read_text(encoding="utf-8").splitlines()
    given = dict(line.lstrip("#").split("=", 1) for line in lines if "STT_" in line.split("=")[0])
    given |= dict(item.split("=", 1) for item in service()["Environment"].split())
    ours = {name: value for name, value in given.items() if name.startswith("STT_")}
    settings = load(ours, Path("/nonexistent"))
    assert all(name.removeprefix("STT_").lower() in type(settings).model_fields for name in ours)
    assert (settings.data_dir, settings.metrics_port) == (Path("/var/lib/stt"), 9464)


def test_the_sandbox_of_the_decoder_may_be_entered() -> None:
    allowed = service()["SystemCallFilter"].split()
    assert {"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"} <= {*allowed}
