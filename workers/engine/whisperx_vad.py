"""Voice activity detection in the form that WhisperX's pipeline takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workers.audio import vad, vad_pyannote
from workers.audio.sound import RATE, Samples
from workers.engine.whisperx_asr import asr
from workers.engine.windows import Window, pack


@dataclass(frozen=True, slots=True)
class Piece:
    """Speech in the shape WhisperX gives it."""

    start: float
    end: float
    speaker: str = "UNKNOWN"


class SpeechVad(asr.Vad):  # type: ignore[misc,name-defined]
    """WhisperX's interface to voice activity, with what `listen` makes."""

    def __init__(self, listen: Callable[[], vad.SpeechDetector]) -> None:
        self.listen = listen
        super().__init__(listen().params.onset)

    def __call__(self, audio: dict[str, Any], **_: Any) -> list[Piece]:
        samples, listener = np.asarray(audio["waveform"], np.float32), self.listen()
        found = vad.probabilities(samples, listener)
        speech = vad.speech(found, len(samples) / RATE, listener.params)
        return [Piece(part.start, part.end) for part in speech]

    @staticmethod
    def preprocess_audio(audio: Samples) -> Samples:
        """Samples are taken as they are."""
        return audio

    def windows(self, speech: Sequence[vad.Speech], samples: Samples, longest: float) -> list[Window]:
        """Windows over the speech of a span; none takes more than `longest` seconds of it."""
        return pack(speech, samples, longest)


class SileroVad(SpeechVad):
    """With the Silero model that needs no download."""

    def __init__(self) -> None:
        super().__init__(vad.SileroDetector)


class PyannoteVad(SpeechVad):
    """With pyannote's model, which comes with WhisperX; loaded when it first hears something."""

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(vad_pyannote.PyannoteModel(device, threads).detector)
