"""Imports `whisperx.asr` without the libraries that the recogniser does not need.

`whisperx.asr` imports torch, transformers, pyannote.audio, lightning, scikit-learn and pandas. They took most
of the engine's start time, and half of its memory. The recogniser needs none of them: its base class only
runs the data loader of torch, which is not used here, and voice activity detection is our own. So empty
modules replace them during the import. Afterwards these are removed, and an import of the real ones works.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog

log = structlog.stdlib.get_logger(__name__)

# Modules that `whisperx.asr` imports without need here, each with the names that it takes from it.
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
# With a GPU torch is imported: it brings the CUDA libraries, which CTranslate2 needs.
_GPU = any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"))


def import_asr() -> ModuleType:
    """The module `whisperx.asr`; if it cannot be imported with empty modules, with the real ones."""
    if "whisperx.asr" not in sys.modules:
        try:
            with _stand_ins():
                return importlib.import_module("whisperx.asr")
        except Exception as error:  # noqa: BLE001  another version may need more; then the start is slower
            log.warning("WhisperX is imported whole", error=str(error))
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
    module.__path__ = []  # makes it a package, from which modules can be imported
    for part in parts:
        setattr(module, part, type(part, (), {"__init__": _take_anything}))
    return module


def _take_anything(*_: Any, **__: Any) -> None:
    """The constructor of an empty class."""


asr = import_asr()
