"""The warnings of a job: each is sent once, and those about the recording are derived here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stt import codes
from stt.codes import WarningCode
from workers.audio.handle import SandboxedRecording
from workers.audio.sound import RATE
from workers.engine.protocol import Event

# A file was cut off if it holds less audio than its header says, by more than `MISSING_SECONDS` and by more
# than the share `MISSING_SHARE` of the audio that it holds.
MISSING_SECONDS, MISSING_SHARE = 5.0, 0.01


class WarningSender:
    """Sends each warning of a job once, however often it is given."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._sent: set[tuple[str, str]] = set()

    def __call__(self, code: WarningCode, **parameters: Any) -> None:
        """Send a warning, unless it was sent before. `parameters` are the fields of its sentence."""
        warning = codes.warning(code, **parameters)
        if (code, warning["message"]) not in self._sent:
            self._sent.add((code, warning["message"]))
            self._send({"type": "warning", **warning})

    def of_recording(self, recording: SandboxedRecording) -> None:
        """Send the warnings about what could not be read, or was left out."""
        if recording.damaged:
            self(WarningCode.DAMAGED_AUDIO, parts=recording.damaged)
        if recording.missing > max(MISSING_SECONDS, recording.decoded / RATE * MISSING_SHARE):
            self(WarningCode.BREAKS_OFF, reason="missing", seconds=recording.missing)
        elif recording.broken_off is not None:
            self(WarningCode.BREAKS_OFF, reason="unreadable", seconds=recording.broken_off)
        if recording.left_out:
            self(WarningCode.TRACKS_LEFT_OUT, left_out=recording.left_out, kept=recording.kept)
        if recording.unreadable:
            self(WarningCode.TRACKS_UNREADABLE, tracks=recording.unreadable)
