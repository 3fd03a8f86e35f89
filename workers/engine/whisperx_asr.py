"""WhisperX's recogniser without the libraries that only its other parts use.

Importing `whisperx.asr` imports torch, transformers, pyannote.audio, lightning, scikit-learn and pandas:
most of the time that the engine took to start, and half of its memory. Of all those the recogniser needs
nothing here: its base class only runs the data loader of torch, and voice activity is ours. So while it is
imported, empty modules stand in for them; afterwards they are gone, and whoever imports the real ones gets
those.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

# What WhisperX's recogniser imports by name from modules it does not need.
_UNUSED = {
    "pandas": (),
    "pyannote": (),
    "pyannote.core": ("Annotation", "Segment"),
    "transformers": ("Pipeline",),
    "transformers.pipelines": (),
    "transformers.pipelines.pt_utils": ("PipelineIterator",),
    "whisperx.vads.pyannote": ("Pyannote",),
    "whisperx.vads.silero": ("Silero",),
}
_TORCH = {"torch": ("Tensor", "device"), "torch.nn": (), "torch.nn.functional": ()}
# Where there is a GPU, torch brings CUDA's libraries, without which CTranslate2 cannot use it.
_GPU = any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"))


def recogniser() -> ModuleType:
    """The module `whisperx.asr`; with all it imports where it cannot do without."""
    if "whisperx.asr" not in sys.modules:
        try:
            with _stand_ins():
                return importlib.import_module("whisperx.asr")
        except Exception as error:  # noqa: BLE001  another version may need more: slower is no failure
            log.warning("WhisperX is imported whole: %s", error)
            for name in [name for name in sys.modules if name.partition(".")[0] == "whisperx"]:
                del sys.modules[name]
    return importlib.import_module("whisperx.asr")


@contextmanager
def _stand_ins() -> Iterator[None]:
    unused = _UNUSED if _GPU or "torch" in sys.modules else _UNUSED | _TORCH
    placed = {name: _stand_in(name, parts) for name, parts in unused.items() if name not in sys.modules}
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name in placed:
            sys.modules.pop(name, None)


def _stand_in(name: str, parts: tuple[str, ...]) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []  # it may have modules in it
    for part in parts:
        setattr(module, part, type(part, (), {"__init__": _take_anything}))
    return module


def _take_anything(*_: Any, **__: Any) -> None:
    """How a class that does nothing is made."""


asr = recogniser()
