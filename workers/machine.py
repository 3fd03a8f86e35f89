"""Plans how many threads, replicas and windows the engine uses on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from stt.resources import cores, free_memory
from stt.settings import Settings

__all__ = ["Plan", "compute_type", "cores", "free_memory", "plan", "spare_cores"]

# Windows that one replica decodes at the same time. On a CPU, batches of 8 take a tenth less time than of 4.
BATCH = {"cpu": 8, "cuda": 16}
# Several replicas of one thread are faster than one replica with all threads, as no thread waits for another.
# But each needs memory for a batch. For a short recording one replica is loaded (`Runtime.recogniser`).
MOST_REPLICAS = 4
# Memory of one window in bytes, without the weights: the key-value caches of all layers, or on a GPU, where a
# batch is encoded as a whole, the attention of all heads over 30 s.
WINDOW_BYTES = 80 * 2**20
# Shares of the memory that is free at the start: for batches, and for the weights of models.
BATCH_SHARE, MODEL_SHARE = 0.25, 0.5
# A GPU with less free memory gets weights of 8 bits: large-v2 with batches of 8 takes 6.1 GB in float16,
# 4.5 GB in int8_float16 (faster-whisper's README), and there is more to a job than recognition.
FLOAT16_BYTES = 8 * 2**30


@dataclass(frozen=True, slots=True)
class Plan:
    """How the engine uses this machine."""

    replicas: int
    threads: int  # of each replica
    decoder_threads: int  # batches that run at the same time
    batch: int
    model_bytes: int  # memory for the weights of all loaded models


def plan(settings: Settings, device: str, threads: int, free: int) -> Plan:
    """The plan by the settings; a setting that is `auto` is chosen by the machine.

    Args:
        settings: The settings of the worker.
        device: "cpu" or "cuda".
        threads: CPU threads of this engine.
        free: Free memory of the device in bytes.
    """
    replicas = settings.replicas if isinstance(settings.replicas, int) else _replicas(device, threads)
    # On a GPU a second thread makes the spectrogram of the next batch meanwhile.
    decoder_threads = replicas if device == "cpu" else replicas + 1
    fits = int(free * BATCH_SHARE / decoder_threads / WINDOW_BYTES)
    automatic = max(1, min(BATCH[device], fits))
    return Plan(
        replicas=replicas,
        threads=max(1, threads // replicas),
        decoder_threads=decoder_threads,
        batch=settings.batch_size if isinstance(settings.batch_size, int) else automatic,
        model_bytes=settings.model_memory
        if isinstance(settings.model_memory, int)
        else int(free * MODEL_SHARE),
    )


def compute_type(settings: Settings, device: str, free: int) -> str:
    """CTranslate2's compute type: the setting, or for `auto` one that fits into the memory.

    Args:
        settings: The settings of the worker.
        device: "cpu" or "cuda".
        free: Free memory of the device in bytes.
    """
    if settings.compute_type != "auto":
        return settings.compute_type
    if device == "cpu":
        return "int8"
    return "float16" if free >= FLOAT16_BYTES else "int8_float16"


def spare_cores(settings: Settings, threads: int) -> int:
    """Number of cores that remain if each worker has an engine with `threads` threads."""
    workers = settings.workers if isinstance(settings.workers, int) else 1
    return max(0, cores() - workers * threads)


def _replicas(device: str, threads: int) -> int:
    return min(threads, MOST_REPLICAS) if device == "cpu" else 1
