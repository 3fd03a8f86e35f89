"""Whose words are whose: turns laid over a transcript, and the engine that finds them in conversations."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt import codes
from stt.settings import Settings
from stt.transcript.schema import Segment, Turn
from stt.transcript.speakers import assign, ordered
from workers.diarization import clustering
from workers.engine.handle import EngineProcess

pytestmark = pytest.mark.engine

Event = dict[str, Any]


def turn(start: float, end: float, speaker: str) -> Turn:
    return {"start": start, "end": end, "speaker": speaker}


def said(text: str, *times: tuple[float, float]) -> Segment:
    words = [
        {"word": word, "start": start, "end": end}
        for word, (start, end) in zip(text.split(), times, strict=True)
    ]
    return {"start": times[0][0], "end": times[-1][1], "text": text, "avg_logprob": -0.2, "words": words}


def test_the_first_to_speak_is_speaker_00() -> None:
    turns = ordered([turn(5, 6, "B"), turn(0, 4, "C"), turn(7, 8, "A"), turn(9, 10, "C")])
    assert [one["speaker"] for one in turns] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_02", "SPEAKER_00"]


def test_a_segment_is_split_where_the_speaker_changes() -> None:
    segment = said(
        " Are you there? Yes, I am.", (0, 0.3), (0.3, 0.5), (0.5, 0.9), (1.2, 1.5), (1.5, 1.6), (1.6, 2)
    )
    parts = assign([segment], [turn(0, 1, "A"), turn(1, 2, "B")])
    assert [(part["speaker"], part["text"], part["start"], part["end"]) for part in parts] == [
        ("A", " Are you there?", 0, 0.9),
        ("B", " Yes, I am.", 1.2, 2),
    ]
    assert [word["speaker"] for part in parts for word in part["words"]] == ["A"] * 3 + ["B"] * 3
    assert parts[1]["avg_logprob"] == -0.2


def test_where_two_speak_at_once_the_one_heard_longer_counts() -> None:
    (part,) = assign([said(" No!", (1.0, 2.0))], [turn(0, 1.4, "A"), turn(1.2, 3, "B")])
    assert part["speaker"] == "B"


def test_a_word_just_outside_every_turn_is_of_the_nearest_and_a_far_one_of_its_neighbours() -> None:
    near, far = said(" Hm.", (4.5, 4.6)), said(" Well then.", (7.0, 7.2), (20.0, 20.2))
    turns = [turn(0, 4, "A"), turn(6, 6.9, "B")]
    assert [part["speaker"] for part in assign([near, far], turns)] == ["A", "B"]
    (alone,) = assign([said(" Ghost.", (100, 101))], turns)
    assert "speaker" not in alone


def test_without_word_times_a_segment_is_of_whoever_speaks_most_of_it() -> None:
    segment = {"start": 0.0, "end": 10.0, "text": " Who knows.", "words": []}
    assert assign([segment], [turn(0, 3, "A"), turn(3, 10, "B")]) == [{**segment, "speaker": "B"}]


def test_no_turns_leave_the_transcript_as_it_is() -> None:
    segments = [said(" As it was.", (0, 1), (1, 2), (2, 3))]
    assert assign(segments, []) == segments


_times = st.floats(0, 60)
_turns = st.lists(
    st.builds(
        lambda start, length, who: turn(start, start + length, who), _times, _times, st.sampled_from("ABC")
    )
)


@given(_turns, st.lists(st.tuples(st.sampled_from([" no", " 3", ".5", "の", " why?"]), _times), min_size=1))
def test_no_word_is_lost_or_moved(turns: list[Turn], words: list[tuple[str, float]]) -> None:
    clock, listed = 0.0, []
    for word, pause in words:
        listed.append({"word": word.strip(), "start": clock + pause / 10, "end": clock + pause / 10 + 0.2})
        clock = listed[-1]["end"]
    segment = {"start": 0.0, "end": clock, "text": "".join(word for word, _ in words), "words": listed}
    parts = assign([segment], turns)
    assert "".join(part["text"] for part in parts) == segment["text"]
    assert [word["word"] for part in parts for word in part["words"]] == [word["word"] for word in listed]
    bounds = [time for part in parts for time in (part["start"], part["end"])]
    assert bounds == sorted(bounds)


# Voices that are drawn by lot: how alike those of one speaker and of two are, as in real recordings


def voices(hours: float, shares: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Who speaks in each stretch of a recording, and a vector for it."""
    lots = np.random.default_rng(seed)
    count = int(hours * 4500)
    turns = lots.choice(len(shares), count // 15 + 1, p=shares)
    spoken = np.repeat(turns, 15)[:count]
    common, own = lots.normal(size=192), lots.normal(size=(len(shares), 192))
    vectors = common + own[spoken] + 0.9 * lots.normal(size=(count, 192))
    return spoken, vectors.astype(np.float32)


def right(spoken: np.ndarray, labels: np.ndarray) -> float:
    """The share of stretches whose speaker is the one that their label mostly means."""
    pairs = np.zeros((spoken.max() + 1, labels.max() + 1), int)
    np.add.at(pairs, (spoken, labels), 1)
    return float(pairs.max(axis=0).sum() / len(spoken))


@pytest.mark.parametrize(("hours", "shares"), [(0.2, [0.5, 0.3, 0.2]), (10, [0.6, 0.2, 0.1, 0.06, 0.04])])
def test_speakers_are_as_many_as_speak_however_long(hours: float, shares: list[float]) -> None:
    spoken, vectors = voices(hours, shares)
    tracemalloc.start()
    labels = clustering.cluster(vectors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(labels)) == len(shares)
    assert right(spoken, labels) > 0.99
    assert peak < 150e6  # a matrix of all with all would take 16 GB


@pytest.mark.parametrize("count", [1, 2, 6, 12, 16, 20])
def test_speakers_are_as_many_as_speak_however_many(count: int) -> None:
    spoken, vectors = voices(0.3, [1 / count] * count)
    assert len(np.unique(spoken)) == count
    labels = clustering.cluster(vectors)
    assert len(np.unique(labels)) == count
    assert right(spoken, labels) > 0.99
    np.testing.assert_array_equal(clustering.cluster(vectors), labels)


@pytest.mark.parametrize("count", [1, 2, 12])
def test_what_is_repeated_does_not_part_a_voice_from_itself(count: int) -> None:
    """Announcements: the vectors most alike are of the same words."""
    spoken, vectors = (rows[::4] for rows in voices(0.1, [1 / count] * count))
    noise = 0.05 * np.random.default_rng(1).normal(size=(8, *vectors.shape))
    repeated = (vectors + noise).reshape(-1, vectors.shape[1]).astype(np.float32)
    assert len(np.unique(clustering.cluster(repeated))) == len(np.unique(spoken))


def test_who_says_little_is_a_speaker_and_one_or_two_stretches_are_none() -> None:
    spoken, vectors = voices(0.2, [0.5, 0.3, 0.2])
    for stretches, count in ((2, 2), (8, 3)):
        kept = (spoken < 2) | (np.cumsum(spoken == 2) <= stretches)
        labels = clustering.cluster(vectors[kept])
        assert len(np.unique(labels)) == count
        assert right(spoken[kept], labels) > 0.99


@pytest.mark.parametrize(("asked", "count"), [({"at_most": 2}, 2), ({"at_least": 5}, 5), ({"at_most": 9}, 3)])
def test_hours_of_speech_are_held_to_the_number_that_is_asked(asked: dict[str, int], count: int) -> None:
    labels = clustering.cluster(voices(2, [0.5, 0.3, 0.2])[1], **asked)
    assert len(np.unique(labels)) == count


def test_a_limit_below_the_number_who_speak_leaves_as_many_as_it_says() -> None:
    assert len(np.unique(clustering.cluster(voices(0.05, [0.5, 0.42, 0.08])[1], at_most=2))) == 2
    assert len(np.unique(clustering.cluster(voices(0.2, [1 / 12] * 12)[1], at_most=10))) == 10


def test_where_stretches_of_two_speakers_overlap_the_turn_changes_in_the_middle() -> None:
    stretches = [(0.0, 1.5), (0.6, 2.1), (1.2, 2.7), (1.8, 3.3)]
    assert clustering.turns([0, 0, 1, 1], stretches) == [turn(0, 1.65, "0"), turn(1.65, 3.3, "1")]
    assert clustering.turns([0, 1, 0, 0], stretches) == [turn(0, 3.3, "0")]  # nobody says so little


@pytest.mark.parametrize("count", [1, 2, 3, 5, 39, 40])
def test_as_many_speakers_as_vectors_can_be_asked_for(count: int) -> None:
    vectors = voices(0.05, [0.5, 0.5])[1][:count]
    for asked in {1, min(2, count), min(20, count)}:
        labels = clustering.cluster(vectors, asked, asked)
        assert len(np.unique(labels)) == asked


# With the real models

# Each is another person. Some are telephone voices of 8 kHz, and their levels differ.
VOICES = [
    "clips/jfk.flac", "clips/libri_61-70968-0000.flac", "clips/librivox_austen_0870.wav",
    "clips/mfa_acoustic_corpus.flac", "clips/story_0085_p01.mp3", "clips/telephone8k_demo-echotest.wav",
    "languages/de_librivox.mp3", "languages/fr_asterisk_confbridge-mute-extended.flac",
    "languages/it_asterisk_demo-abouttotry.flac", "languages/ru_asterisk_demo-abouttotry.flac",
    "languages/sv_nst_2.wav", "languages/zh_aishell.wav", "languages/es_leopard.wav",
    "languages/fr_leopard.wav", "languages/it_leopard.wav", "languages/ja_leopard.wav",
]  # fmt: skip


@pytest.fixture(scope="module")
def hear(shared_audio: Path) -> Callable[[int, int], np.ndarray]:
    """Vectors of the first 4.2 s of so many `VOICES`, with so many least bits of noise."""
    from workers.audio import decode, sound  # noqa: PLC0415
    from workers.diarization.embeddings import EmbeddingModel, subsegments  # noqa: PLC0415  torch takes seconds

    model = EmbeddingModel("cpu")

    @functools.cache
    def one(name: str, bits: int) -> np.ndarray:
        with contextlib.closing(decode.Recording(shared_audio / name)) as recording:
            samples = np.concatenate(list(recording.blocks()))[: int(4.2 * sound.RATE)]
        noise = np.random.default_rng(0).integers(-bits, bits + 1, len(samples)) / 32768
        parts = list(subsegments(0.0, len(samples) / sound.RATE))
        return model.embed((samples + noise).astype(np.float32), parts)

    return lambda count, bits: np.concatenate([one(name, bits) for name in VOICES[:count]])


@pytest.mark.parametrize("count", [1, 2, 6, 12, 16])
def test_real_voices_are_as_many_as_there_are(hear: Callable[[int, int], np.ndarray], count: int) -> None:
    labels = clustering.cluster(hear(count, 0))
    assert len(np.unique(labels)) == count
    assert right(labels, clustering.cluster(hear(count, 1))) == 1.0


@pytest.fixture(scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess(Settings(data_dir=tmp_path_factory.mktemp("speakers")))
    yield engine
    await engine.close()


async def ask(engine: EngineProcess, path: Path, **options: Any) -> list[Event]:
    return [event async for event in engine.transcribe(_request(path, options))]


def _request(path: Path, options: dict[str, Any]) -> Event:
    return {
        "type": "transcribe", "path": str(path), "model": "base", "language": "en",
        "task": "transcribe", "options": {"diarize": True, **options}, "resume": {},
    }  # fmt: skip


def turns_in(events: list[Event]) -> list[Turn]:
    (event,) = [event for event in events if event["type"] == "speakers"]
    return ordered(event["turns"])


def names(turns: list[Turn]) -> list[str]:
    return sorted({one["speaker"] for one in turns})


def rttm(path: Path) -> list[Turn]:
    fields = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [turn(float(f[3]), float(f[3]) + float(f[4]), f[7]) for f in fields if f]


def error_rate(reference: list[Turn], found: list[Turn], collar: float = 0.25) -> float:
    """Diarization error rate: missed, invented and confused speech as a share of the speech there is.

    Frames of 10 ms; none are judged so close to a boundary of the reference as `collar`, in seconds.
    """
    length = int(max(one["end"] for one in reference + found) * 100) + 100
    judged = np.ones(length, bool)
    for edge in (time for one in reference for time in (one["start"], one["end"])):
        judged[max(0, round((edge - collar) * 100)) : round((edge + collar) * 100)] = False

    def grid(turns: list[Turn]) -> np.ndarray:
        made = np.zeros((max(4, len(names(turns))), length), bool)
        for one in turns:
            made[names(turns).index(one["speaker"]), round(one["start"] * 100) : round(one["end"] * 100)] = (
                True
            )
        return made[:, judged]

    true, heard = grid(reference), grid(found)
    shared = true.astype(int) @ heard.T.astype(int)
    right = max(
        sum(shared[a, b] for a, b in enumerate(order)) for order in permutations(range(len(heard)), len(true))
    )
    return float((np.maximum(true.sum(0), heard.sum(0)).sum() - right) / true.sum())


async def test_three_speakers_are_three_and_their_words_theirs(
    engine: EngineProcess, shared_audio: Path
) -> None:
    folder = shared_audio / "multispeaker"
    events = await ask(engine, folder / "leopard_3spk.wav")
    segments = [one for event in events if event["type"] == "span" for one in event["segments"]]
    parts = assign(segments, turns_in(events))
    assert parts[0]["speaker"] == "SPEAKER_00"
    spoken = [(word["word"], word["speaker"]) for part in parts for word in part["words"]]
    expected = json.loads((folder / "leopard_3spk.words.json").read_text(encoding="utf-8"))
    assert [int(who[-1]) + 1 for _, who in spoken] == [word["speaker_tag"] for word in expected]
    assert events[-1]["type"] == "done"


async def test_turns_are_where_they_were_taken(engine: EngineProcess, shared_audio: Path) -> None:
    path = shared_audio / "multispeaker" / "falcon_3spk.wav"
    events = await ask(engine, path)
    turns = turns_in(events)
    assert len(names(turns)) == 3
    assert error_rate(rttm(path.with_suffix(".rttm")), turns) < 0.1
    shares = [event["progress"] for event in events if event["type"] == "stage"]
    assert shares == sorted(shares)
    assert "speakers" in [event["stage"] for event in events if event["type"] == "stage"]


async def test_a_long_conversation_keeps_its_speakers_apart(
    engine: EngineProcess, shared_audio: Path
) -> None:
    path = shared_audio / "multispeaker" / "constructed_3spk.opus"
    known = {
        "spans": 1,
        "end": 738.0,
        "segments": 1,
        "language": "en",
        "complete": True,
    }  # only who spoke is not
    request = _request(path, {}) | {"resume": known}
    turns = turns_in([event async for event in engine.transcribe(request)])
    assert len(names(turns)) == 3
    assert error_rate(rttm(path.with_suffix(".rttm")), turns) < 0.05


@pytest.mark.parametrize(("options", "count"), [({"max_speakers": 2}, 2), ({"min_speakers": 4}, 4)])
async def test_the_number_of_speakers_is_as_asked(
    engine: EngineProcess, shared_audio: Path, options: Event, count: int
) -> None:
    events = await ask(engine, shared_audio / "multispeaker" / "falcon_3spk.wav", **options)
    assert len(names(turns_in(events))) == count


def test_fewer_speakers_than_asked_for_are_told_of() -> None:
    from workers.diarization import diarize, protocol  # noqa: PLC0415  torch takes seconds

    told: list[dict[str, Any]] = []
    for at_least in (None, 2, 3):
        asked = protocol.DiarizationRequest("x", "cpu", 1, "x", at_least=at_least)
        diarize.warn_of_few([turn(0, 1, "a"), turn(1, 2, "b")], asked, told.append)
    assert [event["warning"] for event in told] == ["fewer_speakers"]
    assert "Only 2 of at least 3" in codes.message(told[0]["warning"], **told[0]["parameters"])


async def test_where_nobody_speaks_nobody_is_named(engine: EngineProcess, shared_audio: Path) -> None:
    events = await ask(engine, shared_audio / "containers" / "edge" / "digital_silence_30s.flac")
    assert not [event for event in events if event["type"] == "speakers"]
    assert (events[-1]["type"], events[-1]["language"]) == ("done", None)


async def test_a_failure_costs_the_names_and_not_the_text(engine: EngineProcess, shared_audio: Path) -> None:
    """The process is killed as the kernel does when memory is short."""
    path = shared_audio / "multispeaker" / "falcon_3spk.wav"
    events = []
    async for event in engine.transcribe(_request(path, {})):
        events.append(event)
        if event.get("stage") == "speakers":
            assert engine.pid
            for child in psutil.Process(engine.pid).children():
                child.kill()
    (warning,) = [event for event in events if event["type"] == "warning"]
    assert warning["code"] == "speakers_failed"
    assert next(event for event in events if event["type"] == "span")["segments"]
    assert events[-1]["type"] == "done"


async def test_the_process_ends_with_the_engine(engine: EngineProcess, shared_audio: Path) -> None:
    path = shared_audio / "multispeaker" / "falcon_3spk.wav"
    children: list[psutil.Process] = []
    with pytest.raises(Exception, match="stopped"):
        async for event in engine.transcribe(_request(path, {})):
            if event.get("stage") == "speakers" and engine.pid:
                children = psutil.Process(engine.pid).children()
                asyncio.get_running_loop().create_task(engine.kill())
    assert children
    assert psutil.wait_procs(children, timeout=5)[1] == []
