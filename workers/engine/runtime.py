"""What stays loaded between jobs: the models, and the threads that run them."""

from __future__ import annotations

import errno
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import ctranslate2
import structlog

from stt.models import MODEL_FILE
from stt.settings import Settings
from workers import machine
from workers.engine import models, rates
from workers.engine.align import Aligner
from workers.engine.recognise import Recogniser
from workers.engine.whisperx_vad import PyannoteVad, SileroVad

log = structlog.stdlib.get_logger(__name__)

# The compute type of an attempt after one that ran out of memory: it is less exact.
SMALLER_COMPUTE_TYPE = {
    "float32": "int8", "float16": "int8_float16", "bfloat16": "int8_bfloat16", "int16": "int8",
    "default": "int8",
}  # fmt: skip


class Runtime:
    """Models, decoder threads and the plan for this machine. One process has one instance."""

    def __init__(self, chosen: Settings) -> None:
        self.settings = chosen
        self.device = _device(chosen)
        free = _gpu_memory() if self.device == "cuda" else machine.free_memory()
        self.compute_type = machine.compute_type(chosen, self.device, free)
        self.threads = threads = chosen.threads if isinstance(chosen.threads, int) else machine.cores()
        self.plan = machine.plan(chosen, self.device, threads, free)
        self.batch = self.plan.batch
        # Decoder threads run the encoder and the decoder of Whisper.
        self.decoder_pool = ThreadPoolExecutor(self.plan.decoder_threads, "decoder")
        self.aligner = Aligner(self.device, chosen.data_folder.alignment_models, threads)
        self.vad = PyannoteVad(self.device, threads) if chosen.vad == "pyannote" else SileroVad()
        self.rates = rates.RateStore(chosen.data_folder.costs)
        self.on_load: Callable[[float], None] = lambda _: None  # called with the seconds of each load
        self.load_seconds = 0.0  # time that loading models has taken so far
        self._loaded: OrderedDict[tuple[Path, str, bool], tuple[int, Recogniser]] = OrderedDict()
        ctranslate2.set_random_seed(0)
        log.info("engine ready", device=self.device, compute_type=self.compute_type, **asdict(self.plan))

    def compute_type_for(self, *, less_memory: bool) -> str:
        """The compute type of a job; `less_memory`: an earlier attempt ran out of memory."""
        return (
            SMALLER_COMPUTE_TYPE.get(self.compute_type, self.compute_type)
            if less_memory
            else self.compute_type
        )

    def recogniser(self, name: str, *, less_memory: bool = False, windows: int | None = None) -> Recogniser:
        """The model, loaded if it is not. To make room, the least recently used models are unloaded.

        A recording may have so few windows that half of the replicas or more would have no work. It gets a
        second copy of the model, with one replica that has all threads, if there is memory for both.

        Args:
            name: A folder, a Whisper size, or a Hugging Face repository.
            less_memory: Whether an earlier attempt ran out of memory.
            windows: How many windows the whole recording has, where that is known.

        Raises:
            ModelUnavailable: The model is not installed and cannot be fetched.
        """
        folder = models.find(name, self.settings)
        compute_type = self.compute_type_for(less_memory=less_memory)
        size = (folder / MODEL_FILE).stat().st_size * (2 if compute_type == "float32" else 1)
        wanted = folder, compute_type, self._wants_one_replica(folder, compute_type, size, windows)
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
            self.on_load(seconds)
            log.info(
                "model loaded", model=name, seconds=round(seconds, 1), device=self.device,
                compute_type=compute_type, replicas=replicas, threads=threads,
            )  # fmt: skip
            self._loaded[wanted] = size, made
        self._loaded.move_to_end(wanted)
        return self._loaded[wanted][1]

    def _wants_one_replica(self, folder: Path, compute_type: str, size: int, windows: int | None) -> bool:
        """Whether one replica with all threads is faster, and is loaded or fits without unloading another.

        Args:
            folder: The model.
            compute_type: Of its weights.
            size: Bytes of its weights in memory.
            windows: How many windows the whole recording has, where that is known.
        """
        if self.device != "cpu" or windows is None or 2 * windows > self.plan.replicas:
            return False
        return (folder, compute_type, True) in self._loaded or self._fits(size)

    def _fits(self, size: int) -> bool:
        return sum(held for held, _ in self._loaded.values()) + size <= self.plan.model_bytes

    def _make_room(self, size: int) -> None:
        while self._loaded and not self._fits(size):
            (folder, *_), _ = self._loaded.popitem(last=False)
            log.info("a model is unloaded to make room for another", model=folder.name)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the CPU or the GPU."""
    if isinstance(error, OSError):  # a process could not be started
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    # Messages of CUDA, cuBLAS, MKL and C++; a thread that cannot start lacks memory for its stack.
    messages = ("out of memory", "alloc_failed", "failed to allocate", "bad_alloc", "can't start new thread")
    return isinstance(error, MemoryError) or any(message in text for message in messages)


def _device(chosen: Settings) -> str:
    if chosen.device != "auto":
        return chosen.device
    return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"


def _gpu_memory() -> int:
    """Free memory of the GPU, in bytes."""
    import torch  # noqa: PLC0415  with a GPU it is imported anyway

    free: int = torch.cuda.mem_get_info()[0]
    return free
