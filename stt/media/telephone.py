"""Says how to convert raw telephone recordings. They have no header, so only the name shows the format."""

from __future__ import annotations

from pathlib import PurePath

from stt.codes import Parameters

_PCM = "-f s16le -ar {} -ac 1"
# Asterisk's endings for signed linear samples are `sln` or `slin` and the rate in kHz; without a number it is
# 8.
_LINEAR_KHZ = {
    "": 8,
    "8": 8,
    "12": 12,
    "16": 16,
    "24": 24,
    "32": 32,
    "44": 44.1,
    "48": 48,
    "96": 96,
    "192": 192,
}

# FFmpeg's options for each ending of a name.
_FFMPEG = {
    **dict.fromkeys(("ulaw", "ul", "ulw", "mulaw", "mu", "pcmu", "g711u"), "-f mulaw -ar 8000 -ac 1"),
    **dict.fromkeys(("alaw", "al", "alw", "pcma", "g711a", "g711"), "-f alaw -ar 8000 -ac 1"),
    **{
        f"{name}{khz}": _PCM.format(round(rate * 1000))
        for name in ("sln", "slin")
        for khz, rate in _LINEAR_KHZ.items()
    },
    **dict.fromkeys(("pcm", "raw", "s16", "s16le", "sw"), _PCM.format(8000)),
    "g722": "-f g722",
    "g723": "-f g723_1",
    "g723_1": "-f g723_1",
    "g729": "-f g729",
    "gsm": "-f gsm -ar 8000",
    **dict.fromkeys(("g726", "g726-32"), "-f g726 -code_size 4 -ar 8000"),
    "g726-16": "-f g726 -code_size 2 -ar 8000",
    "g726-24": "-f g726 -code_size 3 -ar 8000",
    "g726-40": "-f g726 -code_size 5 -ar 8000",
}
# SoX's options for endings that FFmpeg does not read without a header.
_SOX = {"vox": "-t vox -r 8000"}
# Endings that several formats share, so the advice may be wrong.
_GUESSED = {"pcm", "raw", "s16", "s16le", "sw", "g726", "g711", "g729", "vox"}


def advice(filename: str) -> Parameters | None:
    """The parameters of `not_media` that say how to convert a recording with this name.

    None if the name is not that of a raw format.
    """
    ending = PurePath(filename).suffix[1:].lower()
    if ending in _FFMPEG:
        command = f"ffmpeg {_FFMPEG[ending]} -i call.{ending} call.wav"
    elif ending in _SOX:
        command = f"sox {_SOX[ending]} call.{ending} call.wav"
    else:
        return None
    reason = "raw_guessed" if ending in _GUESSED else "raw"
    return {"reason": reason, "ending": ending, "command": command}
