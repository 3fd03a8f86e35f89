"""The models that stay loaded between jobs, and the threads that run them."""

from __future__ import annotations

import errno
import logging
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ctranslate2

from stt.models import MODEL_FILE
from stt.settings import Settings
from workers import machine
from workers.engine import costs, models
from workers.engine.align import Aligner
from workers.engine.recognise import Recogniser
from workers.engine.whisperx_vad import PyannoteVad, SileroVad

log = logging.getLogger(__name__)


# What a try that follows one without enough memory computes with, where it may be less exact.
SMALLER = {
    "float32": "int8", "float16": "int8_float16", "bfloat16": "int8_bfloat16", "int16": "int8",
    "default": "int8",
}  # fmt: skip


class Engine:
    """What stays loaded between jobs."""

    def __init__(self, chosen: Settings) -> None:
        self.settings = chosen
        self.device = _device(chosen)
        free = _gpu_memory() if self.device == "cuda" else machine.free_memory()
        self.compute_type = machine.compute_type(chosen, self.device, free)
        self.threads = threads = chosen.threads if isinstance(chosen.threads, int) else machine.cores()
        self.plan = machine.plan(chosen, self.device, threads, free)
        self.batch = self.plan.batch
        self.lanes = ThreadPoolExecutor(self.plan.lanes, "lane")
        self.aligner = Aligner(self.device, chosen.data_folder.alignment_models, threads)
        self.vad = PyannoteVad(self.device, threads) if chosen.vad == "pyannote" else SileroVad()
        self.costs = costs.Book(chosen.data_folder.costs)
        self.load_seconds = 0.0  # that loading models took so far
        self._loaded: OrderedDict[tuple[Path, str, bool], tuple[int, Recogniser]] = OrderedDict()
        ctranslate2.set_random_seed(0)
        log.info("%s, %s: %s", self.device, self.compute_type, self.plan)

    def compute_type_for(self, *, less_memory: bool) -> str:
        """What to compute with."""
        return SMALLER.get(self.compute_type, self.compute_type) if less_memory else self.compute_type

    def recogniser(self, name: str, *, less_memory: bool = False, windows: int | None = None) -> Recogniser:
        """The model `name`, loaded if it is not there; those that were not used for longest make room.

        For a recording of so few `windows` that half of the replicas or more would have nothing to do, it is
        a copy of a single replica with all threads, where there is memory for both.

        Raises:
            ModelUnavailable: it cannot be had.
        """
        folder = models.find(name, self.settings)
        compute_type = self.compute_type_for(less_memory=less_memory)
        size = (folder / MODEL_FILE).stat().st_size * (2 if compute_type == "float32" else 1)
        wanted = folder, compute_type, self._alone(folder, compute_type, size, windows)
        if wanted not in self._loaded:
            self._make_room(size)
            replicas, threads = (1, self.threads) if wanted[-1] else (self.plan.replicas, self.plan.threads)
            begun = time.monotonic()
            made = Recogniser.load(
                folder, self.device, compute_type,
                threads=threads, replicas=replicas, beam=self.settings.beam_size, vad_model=self.vad,
            )  # fmt: skip
            seconds = time.monotonic() - begun
            self.load_seconds += seconds
            log.info(
                "model %s loaded in %.1f s (%s, %s, %d replicas of %d threads)",
                name, seconds, self.device, compute_type, replicas, threads,
            )  # fmt: skip
            self._loaded[wanted] = size, made
        self._loaded.move_to_end(wanted)
        return self._loaded[wanted][1]

    def _alone(self, folder: Path, compute_type: str, size: int, windows: int | None) -> bool:
        """Whether a copy of one replica is worth it, and there or loaded without making room."""
        if self.device != "cpu" or windows is None or 2 * windows > self.plan.replicas:
            return False
        return (folder, compute_type, True) in self._loaded or self._fits(size)

    def _fits(self, size: int) -> bool:
        return sum(held for held, _ in self._loaded.values()) + size <= self.plan.model_bytes

    def _make_room(self, size: int) -> None:
        while self._loaded and not self._fits(size):
            (folder, *_), _ = self._loaded.popitem(last=False)
            log.info("the model %s makes room for another", folder.name)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):  # of a process that could not be started
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    # CUDA, cuBLAS, MKL, C++; a thread needs memory for its stack.
    said = ("out of memory", "alloc_failed", "failed to allocate", "bad_alloc", "can't start new thread")
    return isinstance(error, MemoryError) or any(words in text for words in said)


def _device(chosen: Settings) -> str:
    if chosen.device != "auto":
        return chosen.device
    return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"


def _gpu_memory() -> int:
    """Bytes that are free on the GPU."""
    import torch  # noqa: PLC0415  with a GPU it is loaded anyway

    free: int = torch.cuda.mem_get_info()[0]
    return free
