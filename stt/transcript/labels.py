"""Formats times, languages and speakers for people. Pure."""

from __future__ import annotations

from stt.transcript.languages import LANGUAGES


def clock(seconds: float) -> str:
    """A time in a recording, or its length, in seconds: ``0:42``, ``1:02:03``."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def language_name(code: str) -> str:
    """A language in English: ``German`` for ``de``; an unknown code as it is."""
    return LANGUAGES.get(code, code)


def speaker_name(speaker: str) -> str:
    """A speaker's label for a person: ``Speaker 1`` for ``SPEAKER_00``; other names as they are."""
    number = speaker.removeprefix("SPEAKER_")
    return f"Speaker {int(number) + 1}" if number != speaker and number.isdecimal() else speaker
