"""Voice activity detectors with the interface that WhisperX's pipeline expects."""

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
    """A stretch of speech with the attributes that WhisperX expects. Seconds."""

    start: float
    end: float
    speaker: str = "UNKNOWN"


class SpeechVad(asr.Vad):  # type: ignore[misc,name-defined]
    """A detector of `workers.audio` behind WhisperX's interface; `make_detector` makes one for a stream."""

    def __init__(self, make_detector: Callable[[], vad.SpeechDetector]) -> None:
        self.make_detector = make_detector
        super().__init__(make_detector().params.onset)

    def __call__(self, audio: dict[str, Any], **_: Any) -> list[Piece]:
        samples, detector = np.asarray(audio["waveform"], np.float32), self.make_detector()
        found = vad.probabilities(samples, detector)
        speech = vad.speech(found, len(samples) / RATE, detector.params)
        return [Piece(part.start, part.end) for part in speech]

    @staticmethod
    def preprocess_audio(audio: Samples) -> Samples:
        """The samples as they are: the detector needs no preparation."""
        return audio

    def windows(self, speech: Sequence[vad.Speech], samples: Samples, longest: float) -> list[Window]:
        """The windows of a span.

        Args:
            speech: The speech of the span, in order.
            samples: The audio of the span, 16 kHz mono.
            longest: Seconds from the start to the end of a window, at most.
        """
        return pack(speech, samples, longest)


class SileroVad(SpeechVad):
    """The Silero model that comes with faster-whisper; it needs no download."""

    def __init__(self) -> None:
        super().__init__(vad.SileroDetector)


class PyannoteVad(SpeechVad):
    """pyannote's model, which comes with WhisperX; it is loaded when the first detector gets audio."""

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(vad_pyannote.PyannoteModel(device, threads).detector)
