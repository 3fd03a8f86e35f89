"""What the machine has, and what the engine uses of it. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass

from stt.resources import cores, free_memory
from stt.settings import Settings

__all__ = ["Plan", "compute_type", "cores", "free_memory", "plan", "spare_cores"]

# Windows that one replica decodes at once. On a CPU 8 take a tenth less time than 4; a GPU is filled by them.
BATCH = {"cpu": 8, "cuda": 16}
# Replicas of a thread each are faster than one with all of them, as no thread waits for another. But each
# takes the memory of a batch. A recording too short for all of them is an exception (`Runtime.recogniser`).
MOST_REPLICAS = 4
# What a window takes beside the model's weights: what all layers keep of it while it is decoded, or on a GPU,
# where a batch is encoded at once, the attention of all heads over 30 s.
WINDOW_BYTES = 80 * 2**20
# Of the memory that is free at the start: what batches, and what models may fill.
BATCH_SHARE, MODEL_SHARE = 0.25, 0.5
# With less on a GPU the weights are kept in 8 bits: large-v2 with batches of 8 takes 6.1 GB in float16,
# 4.5 GB in int8_float16 (faster-whisper's README), and there is more to a job than recognition.
FLOAT16_BYTES = 8 * 2**30


@dataclass(frozen=True, slots=True)
class Plan:
    """How the engine works on this machine."""

    replicas: int
    threads: int  # of each replica
    decoder_threads: int  # batches that run at the same time
    batch: int
    model_bytes: int  # what loaded models may take


def plan(settings: Settings, device: str, threads: int, free: int) -> Plan:
    """The settings, and where they say `auto` what suits the machine with so much free memory."""
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
    """What to compute with: the setting, or what suits the device and so much free memory of it."""
    if settings.compute_type != "auto":
        return settings.compute_type
    if device == "cpu":
        return "int8"
    return "float16" if free >= FLOAT16_BYTES else "int8_float16"


def spare_cores(settings: Settings, threads: int) -> int:
    """Cores that no engine computes on, where each of the workers has one with so many threads."""
    workers = settings.workers if isinstance(settings.workers, int) else 1
    return max(0, cores() - workers * threads)


def _replicas(device: str, threads: int) -> int:
    return min(threads, MOST_REPLICAS) if device == "cpu" else 1
