"""Where the tests find what they read."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"
# Real speech that is not part of this repository.
AUDIO = Path(os.environ.get("STT_TEST_AUDIO", ROOT.parent / "shared" / "audio"))
