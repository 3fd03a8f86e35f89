"""How well the engine hears: words and languages, their times, who spoke, and what it makes of no speech.

``python bench/quality.py`` does all of it with the bare engine and ``base``; ``--parts words times speakers
nothing`` selects. Recordings are those of ``../shared/audio`` beside the repository or of any folder with a
manifest (``--audio``, as ``bench/engine.py`` reads it); ``--recordings`` are beginnings of their paths.

- words: error rate and language by recording, no language given; totals by language.
- times: the first and last word of each piece (``.segments.json`` or ``.stm`` beside a recording, else the
  whole of it) against its first and last sound, and the words that are timed outside their piece. The sound
  is found by its energy: a soft first or last consonant counts as silence.
- speakers: diarization error rate for each ``multispeaker`` recording with an ``.rttm``, without collar and
  with one of 0.25 s, beside senko alone and pyannote alone (with ``STT_HF_TOKEN``). Turns that are closed
  around words (``.words.rttm``) are preferred: the literature scores AMI with them. ``--hour`` adds about an
  hour of four voices, made of the turns of ``multispeaker`` and of ``long`` in an order drawn by lot.
- nothing: what is invented where nobody speaks, ``containers/edge`` and a chord.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engine import AUDIO, LETTERS, Row, errors, normalisers, recordings

from stt import logs, settings
from workers.audio import decode, spans
from workers.audio.sound import RATE, Samples
from workers.engine.handle import EngineProcess

Turn = tuple[float, float, str]  # start, end, speaker
Piece = tuple[float, float, str]  # start, end, text
Heard = dict[str, Any]

PARTS = ("words", "times", "speakers", "nothing")
WITHOUT_SPEECH = ("digital_silence", "pyannote_empty", "room_silence", "tone", "white_noise")
# The first and last sound of a piece: louder than this share of its loud moments, and than its quiet ones so
# many times, for so many frames of 10 ms.
SOUND, OVER_QUIET, FRAMES = 0.025, 3.0, 3
FRAME = RATE // 100


class Ear:
    """The bare engine; it hears a recording once, whatever is asked about it."""

    def __init__(self, engine: EngineProcess, model: str, *, speakers: bool) -> None:
        self._engine, self._model, self._speakers = engine, model, speakers
        self._heard: dict[Path, Heard] = {}

    async def hear(self, path: Path, *, diarize: bool = False) -> Heard:
        """{"words", "text", "language", "turns"} of a recording."""
        if path not in self._heard:
            diarize = self._speakers and (diarize or path.with_suffix(".rttm").is_file())
            self._heard[path] = await self._ask(path, diarize=diarize)
        return self._heard[path]

    async def _ask(self, path: Path, *, diarize: bool) -> Heard:
        request = {
            "type": "transcribe", "path": str(path), "model": self._model, "task": "transcribe",
            "language": None, "options": {"diarize": True} if diarize else {}, "resume": {},
        }  # fmt: skip
        segments, heard = [], {"turns": []}
        async for event in self._engine.transcribe(request):
            assert event["type"] != "error", event
            segments += event["segments"] if event["type"] == "span" else []
            heard |= {"turns": event["turns"]} if event["type"] == "speakers" else {}
            heard |= {"language": event["language"]} if event["type"] == "done" else {}
            if event["type"] == "warning":
                print(f"{path.name}: {event['message']}")
        words = [word for segment in segments for word in segment["words"]]
        return heard | {"words": words, "text": "".join(segment["text"] for segment in segments)}


# Words and languages


async def words(ear: Ear, files: list[Row]) -> None:
    name, normaliser = normalisers()
    print(f"\n== words: error rate in % (of characters in zh and ja); normaliser: {name}")
    counts: dict[str, list[tuple[int, int]]] = {}
    right: dict[str, list[bool]] = {}
    for file in files:
        heard, language = await ear.hear(Path(file["path"])), file["language"]
        pair = errors(file["text"], heard["text"], normaliser(language))
        counts.setdefault(language, []).append(pair)
        right.setdefault(language, []).append(heard["language"] == language)
        mistaken = "" if right[language][-1] else f"heard as {heard['language']}"
        print(f"{file['name']:52} {language} {_rate([pair]):6.1f}  {mistaken}")
    print(f"\n{'language':8} {'files':>5} {'words':>6} {'error':>6} {'language right':>15}")
    for language in [*sorted(counts), "all"]:
        pairs = counts.get(language) or [pair for some in counts.values() for pair in some]
        flags = right.get(language) or [flag for some in right.values() for flag in some]
        said = sum(number for _, number in pairs)
        print(f"{language:8} {len(flags):5} {said:6} {_rate(pairs):6.1f} {sum(flags):12}/{len(flags)}")


def _rate(pairs: list[tuple[int, int]]) -> float:
    return 100 * sum(edits for edits, _ in pairs) / max(1, sum(number for _, number in pairs))


# Times of words


async def times(ear: Ear, files: list[Row]) -> None:
    print("\n== times: distance of a piece's first and last word from its first and last sound, in ms")
    print(
        f"{'':32} {'pieces':>6} {'starts':>7} {'median':>6} {'95 %':>6} {'bias':>6} "
        f"{'ends':>7} {'median':>6} {'95 %':>6} {'bias':>6} {'outside %':>9}"
    )
    groups: dict[str, list[list[float]]] = {}
    for file in files:
        path, known = Path(file["path"]), pieces(file)
        if file["language"] in LETTERS:  # its words cannot be told from the text
            continue
        name = file["name"] if len(known) > 1 else f"{file['name'].split('/')[0]}/, each as one piece"
        group = groups.setdefault(name, [[], [], [], []])
        found = distances(known, (await ear.hear(path))["words"], _samples(path))
        for measured, more in zip(group, found, strict=True):
            measured.extend(more)
    for name, (starts, ends, outside, count) in groups.items():
        print(f"{name:32} {sum(count):6.0f} {_spread(starts)} {_spread(ends)} {100 * np.mean(outside):9.2f}")


def _spread(found: list[float]) -> str:
    away = np.abs(found) * 1000
    bias = np.median(found) * 1000
    return f"{len(found):7} {np.median(away):6.0f} {np.percentile(away, 95):6.0f} {bias:+6.0f}"


def pieces(file: Row) -> list[Piece]:
    """What is known of when a recording's text is said."""
    path = Path(file["path"])
    if (beside := path.with_suffix(".segments.json")).is_file():
        return [(one["start"], one["end"], one["text"]) for one in json.loads(beside.read_text("utf-8"))]
    if (beside := path.with_suffix(".stm")).is_file():
        fields = [line.split(maxsplit=5) for line in beside.read_text("utf-8").splitlines()]
        return [(float(start), float(end), text) for *_, start, end, text in fields]
    return [(0.0, float(file["duration_s"]), file["text"])]


def distances(
    known: list[Piece], heard: list[dict[str, Any]], samples: Samples
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Of the first words, of the last ones (late is positive); 1 for a word outside its piece; pieces.

    Words are found in the text by what they are; those that were heard wrongly are not judged.
    """
    said = [(_plain(word), number) for number, piece in enumerate(known) for word in piece[2].split()]
    matcher = SequenceMatcher(None, [word for word, _ in said], [_plain(one["word"]) for one in heard], False)
    match = {a + n: heard[b + n] for a, b, size in matcher.get_matching_blocks() for n in range(size)}
    starts, ends, outside = [], [], []
    for place, (_, number) in enumerate(said):
        if (word := match.get(place)) is None:
            continue
        start, end, _ = known[number]
        outside.append(float(word["end"] < start or word["start"] > end))
        first, last = _sound(samples, start, end)
        if place == 0 or said[place - 1][1] != number:
            starts.append(word["start"] - first)
        if place == len(said) - 1 or said[place + 1][1] != number:
            ends.append(word["end"] - last)
    return starts, ends, outside, [float(len(known))]


def _plain(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum())


def _sound(samples: Samples, start: float, end: float) -> tuple[float, float]:
    """When the first sound of a piece begins and its last one ends."""
    piece = samples[int(start * RATE) : int(end * RATE)]
    frames = piece[: len(piece) // FRAME * FRAME].reshape(-1, FRAME)
    level = np.sqrt((frames**2).mean(axis=1))
    quiet, loud = np.percentile(level, [5, 95])
    heard = (level > max(SOUND * loud, min(OVER_QUIET * quiet, loud / 2))).astype(int)
    lasting = np.flatnonzero(np.convolve(heard, np.ones(FRAMES, int), "valid") == FRAMES)
    if not len(lasting):
        return start, end
    return start + lasting[0] * FRAME / RATE, start + (lasting[-1] + FRAMES) * FRAME / RATE


def _samples(path: Path) -> Samples:
    recording = decode.Recording(path)
    try:
        return np.concatenate(list(recording.blocks()))
    finally:
        recording.close()


# Who spoke


async def speakers(ear: Ear, folder: Path, scratch: Path, *, hour: bool) -> None:
    print("\n== speakers: diarization error rate in % without collar / with 0.25 s, and speakers found")
    files = {path.stem: (path, _rttm(_reference(path))) for path in _with_turns(folder)}
    if hour:
        files["an hour of four voices"] = an_hour(folder, scratch / "hour.wav")
    print(f"{'':24} {'speakers':>8} {'ours':>18} {'senko alone':>18} {'pyannote alone':>18}")
    for name, (path, known) in files.items():
        ours = [_turn(one) for one in (await ear.hear(path, diarize=True))["turns"]]
        columns = [ours, by_senko(path, scratch), by_pyannote(path, scratch)]
        print(
            f"{name:24} {_count(known):8}",
            *(f"{_judged(known, found):>18}" for found in columns),
            flush=True,
        )
    if not settings.load().hf_token:
        print("pyannote alone was not run: its model is had from the hub, for STT_HF_TOKEN")


def _with_turns(folder: Path) -> list[Path]:
    turns = sorted((folder / "multispeaker").glob("*.rttm"))
    return [path for one in turns for path in one.parent.glob(one.stem + ".*") if path.suffix in SOUNDS]


SOUNDS = (".wav", ".flac", ".opus", ".mp3", ".ogg")


def _reference(path: Path) -> Path:
    """The turns of a recording: those around its words alone, where there are such."""
    words = path.with_suffix(".words.rttm")
    return words if words.is_file() else path.with_suffix(".rttm")


def _rttm(path: Path) -> list[Turn]:
    fields = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [(float(f[3]), float(f[3]) + float(f[4]), f[7]) for f in fields if f]


def _turn(one: dict[str, Any]) -> Turn:
    return one["start"], one["end"], one["speaker"]


def _count(turns: list[Turn]) -> int:
    return len({speaker for _, _, speaker in turns})


def _judged(known: list[Turn], found: list[Turn] | None) -> str:
    if found is None:
        return "-"
    rates = [100 * error_rate(known, found, collar) for collar in (0.0, 0.25)]
    return f"{rates[0]:.1f} / {rates[1]:.1f}  {_count(found):2}"


def error_rate(known: list[Turn], found: list[Turn], collar: float) -> float:
    """Missed, invented and confused speech as a share of the speech there is; overlaps count.

    Nothing is judged within `collar` seconds of where a turn truly begins or ends.
    """
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(turns: list[Turn]) -> Annotation:
        made = Annotation()
        for track, (start, end, speaker) in enumerate(turns):
            made[Segment(start, end), track] = speaker
        return made

    whole = Timeline([Segment(0, max(end for _, end, _ in known + found))])
    # pyannote.metrics counts a collar from its one side to the other.
    metric = DiarizationErrorRate(collar=2 * collar)
    return float(metric(annotation(known), annotation(found), uem=whole))


def by_senko(path: Path, scratch: Path) -> list[Turn]:
    """By senko's own `diarize` in a process of its own, as it ships but for where its caches are.

    Its features need a processor with AVX-512; where that ends the process, it gets ours.
    """
    sound, answer = scratch / "senko.wav", scratch / "senko.json"
    _write(sound, _samples(path))
    for features in ("its", "our"):
        command = [sys.executable, __file__, "--senko", str(sound), str(answer), features]
        done = subprocess.run(
            command, env={**os.environ, "HOME": str(scratch)}, stderr=subprocess.DEVNULL, check=False
        )
        if done.returncode != -signal.SIGILL:
            break
        print("senko's own features: illegal instruction on this processor, so it gets ours")
    done.check_returncode()
    return [tuple(turn) for turn in json.loads(answer.read_text("utf-8"))]


def _senko(sound: Path, answer: Path, features: str) -> None:
    from senko import Diarizer

    if features == "our":
        Diarizer._extract_fbank_features = _for_senko
    found = Diarizer(device="auto", warmup=False, quiet=True).diarize(str(sound))
    turns = [_turn(one) for one in found["merged_segments"]] if found else []
    answer.write_text(json.dumps(turns), encoding="utf-8")


def _for_senko(_: Any, sound: str, parts: list[tuple[float, float]]) -> tuple[Any, ...]:
    from workers.diarization import embeddings

    samples = _samples(Path(sound))
    found = np.stack([embeddings.features(samples, max(0.0, start)).numpy() for start, _ in parts])
    count, frames, bands = found.shape
    return found.ravel(), np.full(count, frames), np.arange(count) * frames * bands, bands


def by_pyannote(path: Path, scratch: Path) -> list[Turn] | None:
    """By pyannote's pipeline through WhisperX; none without a token."""
    from workers.diarization import diarize, protocol

    if not (token := settings.load().hf_token):
        return None
    asked = protocol.DiarizationRequest(str(path), "cpu", os.cpu_count() or 1, str(scratch), token)
    return [_turn(one) for one in diarize.by_pyannote(asked, lambda event: None)]


def an_hour(folder: Path, path: Path) -> tuple[Path, list[Turn]]:
    """Turns of the constructed conversation and pieces of the long readings, shuffled: where and whose.

    The reader of the English stories is the conversation's "ben": the means of their vectors are as alike
    as those of one voice (0.98; no others are more than 0.62).
    """
    said: list[tuple[str, Samples]] = []
    conversation = folder / "multispeaker" / "constructed_3spk.opus"
    samples = _samples(conversation)
    for start, end, speaker in _rttm(conversation.with_suffix(".rttm")):
        said.append((speaker, samples[int(start * RATE) : int(end * RATE)]))
    for name, speaker in (("en_stories_32min.opus", "ben"), ("fr_magozwe_6min.ogg", "emma")):
        said += [(speaker, piece) for piece in _pieces(folder / "long" / name, 25.0)]
    lots, time, joined, turns = np.random.default_rng(1), 0.0, [], []
    for number in lots.permutation(len(said)):
        speaker, piece = said[number]
        turns.append((time, time + len(piece) / RATE, speaker))
        pause = np.zeros(int(lots.uniform(0.2, 0.7) * RATE), np.float32)
        joined += [piece * 0.05 / np.sqrt((piece**2).mean()), pause]
        time += (len(piece) + len(pause)) / RATE
    _write(path, np.concatenate(joined))
    return path, turns


def _pieces(path: Path, seconds: float) -> Iterator[Samples]:
    """Of a recording of one voice, what is said between two pauses."""
    recording = decode.Recording(path)
    try:
        for span in spans.read(recording, seconds):
            if span.speech:
                start, end = (int(time * RATE) for time in (span.speech[0].start, span.speech[-1].end))
                yield span.samples[start:end]
    finally:
        recording.close()


# Where nobody speaks


async def nothing(ear: Ear, folder: Path, scratch: Path) -> None:
    print("\n== nothing: words where nobody speaks")
    edge = folder / "containers" / "edge"
    files = [path for path in sorted(edge.glob("*")) if path.name.startswith(WITHOUT_SPEECH)]
    for name, samples in music().items():
        files.append(scratch / f"{name}.wav")
        _write(files[-1], samples)
    total = 0
    for path in files:
        heard = await ear.hear(path)
        total += (count := len(heard["text"].split()))
        print(f"{path.name:32} {count:4}  {heard['text'].strip()[:60]}")
    print(f"{'all':32} {total:4}")


def music() -> dict[str, Samples]:
    """A chord that lasts, and chords that are struck one after the other; 20 s of each."""
    time = np.arange(20 * RATE) / RATE
    since = time % 1.0  # a chord is struck each second and fades
    roots = np.array([220.0, 174.6, 261.6, 196.0])[time.astype(int) % 4]
    struck = _chord(roots, time) * np.exp(-3 * since) * np.minimum(1, since * 100)
    return {"chord": _chord(220.0, time), "chords_struck": struck.astype(np.float32)}


def _chord(root: Any, time: Any) -> Samples:
    tones = [root * third * over for third in (1, 1.26, 1.5) for over in (1, 2, 3, 4)]
    made: Samples = sum(np.sin(2 * np.pi * tone * time) / (n % 4 + 1) for n, tone in enumerate(tones))
    return (0.05 * made).astype(np.float32)


def _write(path: Path, samples: Samples) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


async def run(given: argparse.Namespace, scratch: Path) -> None:
    from workers.engine import models

    chosen = settings.load().model_copy(update={"data_dir": scratch})
    model = str(given.model or models.find("base", chosen))
    files = recordings(given.audio, given.recordings, tuning=False)
    engine = EngineProcess(chosen)
    ear = Ear(engine, model, speakers="speakers" in given.parts)
    try:
        if "words" in given.parts:
            await words(ear, files)
        if "times" in given.parts:
            await times(ear, files + joined_files(given.audio))
        if "nothing" in given.parts:
            await nothing(ear, given.audio, scratch)
        if "speakers" in given.parts:
            await speakers(ear, given.audio, scratch, hour=given.hour)
    finally:
        await engine.close()


def joined_files(folder: Path) -> list[Row]:
    """The recordings of which it is known when each part of the text is said."""
    files = recordings(folder, ["long", "multispeaker"], tuning=True)
    return [file for file in files if len(pieces(file)) > 1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--audio", type=Path, default=AUDIO)
    parser.add_argument("--recordings", nargs="+", default=["clips", "languages"])
    parser.add_argument("--hour", action="store_true", help="an hour of four voices too, some ten minutes")
    parser.add_argument("--model", type=Path, help="a folder with a CTranslate2 model; default: base")
    parser.add_argument("--senko", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.senko:
        _senko(Path(given.senko[0]), Path(given.senko[1]), given.senko[2])
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(given, Path(folder)))


if __name__ == "__main__":
    logs.configure()
    main()
