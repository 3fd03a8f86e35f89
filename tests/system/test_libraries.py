"""The engine loads what it needs, when it needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.places import ROOT
from workers.engine import whisperx_asr


@pytest.mark.process
@pytest.mark.skipif(whisperx_asr._GPU, reason="with a GPU, torch brings CUDA's libraries")
def test_the_engine_starts_without_torch_and_what_wants_it_gets_it() -> None:
    program = (
        "import sys, workers.engine.transcription; assert not {'torch', 'transformers'} & set(sys.modules);"
        "import torch, whisperx.alignment; assert torch.zeros(1).item() == 0"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
