"""Formats times, languages and speakers for people. Pure."""

from __future__ import annotations

from stt.transcript.languages import LANGUAGES


def clock(seconds: float) -> str:
    """A time or length of so many seconds as text: ``0:42``, ``1:02:03``."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def language_name(code: str) -> str:
    """The English name of a language: ``German`` for ``de``. An unknown code stays as it is."""
    return LANGUAGES.get(code, code)


def speaker_name(speaker: str) -> str:
    """A speaker's name for people: ``Speaker 1`` for ``SPEAKER_00``. Other names stay as they are."""
    number = speaker.removeprefix("SPEAKER_")
    return f"Speaker {int(number) + 1}" if number != speaker and number.isdecimal() else speaker
