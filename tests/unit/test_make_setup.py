"""`make setup` says how large PyTorch's CUDA build is, where it is of no use. pip is a stub."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.places import ROOT

pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="no CUDA build for this machine"
)
NOTICE = "No NVIDIA card was found"
# It notes its arguments and, asked to install, leaves what shows that torch is there.
PYTHON = """#!/bin/sh
echo "$@" >> calls
mkdir -p .venv/lib/python3.11/site-packages/torch-2.8.0.dist-info
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name, text in ((".venv/bin/python", PYTHON), ("bin/nvidia-smi", "#!/bin/sh\nexit 9\n")):
        program(tmp_path / name, text)
    (tmp_path / ".venv/.done").mkdir()
    (tmp_path / ".venv/.done/venv").touch()
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make(folder: Path, *arguments: str) -> str:
    """Run the step of the packages; its output."""
    env = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout


def test_it_is_said_before_the_installation_and_once(folder: Path) -> None:
    first = make(folder, ".venv/.done/packages")
    assert first.index(NOTICE) < first.index("installing requirements/embedded.txt")
    assert "TORCH_INDEX" in first and "8 GB" in first
    assert NOTICE not in make(folder, ".venv/.done/packages")
    assert NOTICE not in make(folder, ".venv/.done/dev")  # torch is there already


def test_a_machine_with_a_card_is_told_nothing(folder: Path) -> None:
    program(folder / "bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    assert NOTICE not in make(folder, ".venv/.done/packages")


def test_the_cpu_build_comes_from_the_index_and_without_cuda(folder: Path) -> None:
    # What pip is given as a file is gone afterwards: the stub keeps it.
    keep = 'for file; do [ ! -f "$file" ] || cat "$file" >> lists; done\n'
    program(folder / ".venv/bin/python", PYTHON + keep)
    index = "https://example.org/cpu"
    assert NOTICE not in make(folder, ".venv/.done/packages", f"TORCH_INDEX={index}")
    [locked, torch] = (folder / "calls").read_text().splitlines()
    assert "--require-hashes" in locked and index not in locked
    assert index in torch
    assert {word.split("==")[0] for word in torch.split() if "==" in word} == {
        "torch", "torchaudio", "torchvision",
    }  # fmt: skip
    lists = (folder / "lists").read_text()
    assert "\nnvidia-ml-py==" in lists and "\nctranslate2==" in lists
    assert not [line for line in lists.splitlines() if line.startswith(("torch==", "triton==", "nvidia-cu"))]
    assert (folder / ".venv/.done/torch-index").read_text().strip() == index
