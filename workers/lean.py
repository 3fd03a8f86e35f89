"""WhisperX's recogniser without the libraries that only its other parts use.

Importing `whisperx.asr` imports transformers, pyannote.audio, lightning, scikit-learn and pandas, which
was most of the time that the engine took to start. Of all those the recogniser needs nothing here: its base
class only runs the data loader of torch, and voice activity is ours. So while it is imported, empty modules
stand in for them; afterwards they are gone, and whoever imports the real ones gets those.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

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
    placed = {name: _stand_in(name) for name in _UNUSED if name not in sys.modules}
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name in placed:
            sys.modules.pop(name, None)


def _stand_in(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []  # it may have modules in it
    for attribute in _UNUSED[name]:
        setattr(module, attribute, type(attribute, (), {}))
    return module
