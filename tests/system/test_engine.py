"""What the engine promises its worker, with the real model in its real process."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import sys
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from stt.settings import Settings
from tests.support.audio import needs_audio
from tests.support.engine import JFK, LONG, WORDS, ask, of, plain, request, segments, text
from tests.support.places import AUDIO
from tests.support.tracks import Made, write
from workers.audio.decode import Recording
from workers.engine.handle import EngineDied, EngineProcess, _environment

pytestmark = [pytest.mark.engine, needs_audio]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
async def engine(data_dir: Path) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess(Settings(data_dir=data_dir, span_seconds=20))
    yield engine
    await engine.close()


async def test_tracks_that_are_left_out_are_named_and_those_of_one_call_are_not(
    engine: EngineProcess, tmp_path: Path
) -> None:
    [jfk, story] = [
        np.concatenate(list(Recording(AUDIO / "clips" / name).blocks()))
        for name in ("jfk.flac", "story_0110_p03.mp3")
    ]
    dubbed = write(tmp_path / "dubbed.mkv", [Made([(0, jfk)]), Made([(0, story)])])
    events = await ask(engine, dubbed)
    assert plain(text(events)) == WORDS
    [warning] = of(events, "warning")
    assert warning["code"] == "tracks_left_out"
    assert "audio track 2" in warning["message"]
    silent = write(tmp_path / "silent.mkv", [Made([(0, 0 * jfk)]), Made([(0, jfk)])])
    events = await ask(engine, silent)
    assert plain(text(events)) == WORDS
    assert not of(events, "warning")


async def test_a_recording_becomes_text_with_language_and_word_times(engine: EngineProcess) -> None:
    events = await ask(engine, JFK)
    assert plain(text(events)) == WORDS
    assert of(events, "language")[0]["language"] == "en"
    assert of(events, "language")[0]["probability"] > 0.5
    seconds = events[-1].pop("seconds")
    assert seconds.keys() == {"decode", "transcribe"}  # the words' times come from the recogniser
    assert 0 < seconds["transcribe"] < 600
    assert events[-1] == {"type": "done", "language": "en", "duration": 11.0}
    timed = [word for segment in segments(events) for word in segment["words"]]
    assert plain(" ".join(word["word"] for word in timed)) == WORDS
    assert all(0 < word["score"] <= 1 for word in timed)
    # "ask" is said after a pause, at 3.3 s (by ear and in the wave form).
    assert timed[5]["word"] == "ask"
    assert timed[5]["start"] == pytest.approx(3.3, abs=0.3)


@pytest.mark.parametrize("name", ["jfk_64k.mp3", "jfk_video_h264_aac.mp4", "jfk_ulaw_8k.wav"])
async def test_a_container_with_fewer_bits_or_a_picture_gives_the_same_words(
    engine: EngineProcess, name: str
) -> None:
    """That all others hold the same sound, tests/unit/test_containers.py says."""
    said = plain(text(await ask(engine, AUDIO / "containers" / name, language="en")))
    if name == "jfk_ulaw_8k.wav":
        # A telephone's 8 kHz drops what an "s" is made of: there "Americans" may lose its last letters.
        assert said.endswith(WORDS.partition("ask not")[2])
    else:
        assert said == WORDS


@pytest.mark.parametrize(
    "path", sorted((AUDIO / "containers" / "broken").glob("*")), ids=lambda path: path.name
)
async def test_a_broken_file_ends_in_a_sentence_or_in_what_can_be_heard(
    engine: EngineProcess, path: Path
) -> None:
    await engine.start()
    process = engine.pid
    events = await ask(engine, path, language="en")
    if events[-1]["type"] == "error":
        assert events[-1]["kind"] == "permanent"
        assert events[-1]["code"] in ("not_media", "no_audio_track", "empty_audio")
        assert events[-1]["message"].endswith(".")
    else:
        assert plain(text(events)).startswith("and so my")
    assert engine.pid == process


async def test_one_that_is_being_killed_is_not_asked(engine: EngineProcess) -> None:
    """A heartbeat that finds its job ended kills the engine, and is itself cut off."""
    await engine.start()
    killing = asyncio.create_task(engine.kill())
    await asyncio.sleep(0)
    killing.cancel()
    assert engine.running  # as far as is known yet
    events = await ask(engine, JFK)
    assert events[-1]["type"] == "done"


async def test_after_broken_files_the_same_process_goes_on(engine: EngineProcess) -> None:
    await ask(engine, AUDIO / "containers" / "broken" / "random.mp3")
    process = engine.pid
    assert plain(text(await ask(engine, JFK))) == WORDS
    assert engine.pid == process


@pytest.mark.parametrize(
    "path", sorted((AUDIO / "containers" / "edge").glob("[!jh]*")), ids=lambda path: path.name
)
async def test_nothing_is_invented_where_nobody_speaks(engine: EngineProcess, path: Path) -> None:
    events = await ask(engine, path)
    assert text(events) == ""
    assert len(of(events, "span")) >= 1
    assert events[-1]["language"] is None


async def test_half_a_second_is_no_failure(engine: EngineProcess) -> None:
    events = await ask(engine, AUDIO / "containers" / "edge" / "half_second.wav")
    assert events[-1]["type"] == "done"
    assert len(text(events)) < 30


async def test_times_are_in_order_and_inside_the_recording(engine: EngineProcess) -> None:
    events = await ask(engine, AUDIO / "clips" / "story_0085_p01.mp3")
    duration = events[-1]["duration"]
    timed = [word for segment in segments(events) for word in segment["words"]]
    assert len(timed) > 40
    assert timed[0]["start"] >= 0
    assert timed[-1]["end"] <= duration
    assert all(word["end"] > word["start"] for word in timed)
    assert all(a["end"] <= b["start"] for a, b in itertools.pairwise(timed))
    for segment in segments(events):
        assert segment["start"] == segment["words"][0]["start"]
        assert segment["end"] == segment["words"][-1]["end"]
        assert segment["end"] - segment["start"] <= 15


async def test_words_keep_their_places_around_long_pauses(engine: EngineProcess, tmp_path: Path) -> None:
    """The pauses are left out of what the model hears, never of the times."""
    said = np.concatenate(list(Recording(JFK).blocks()))
    parts = [said, np.zeros(16_000 * 6, np.float32)] * 3
    path = tmp_path / "pauses.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((np.concatenate(parts) * 32767).astype("<i2").tobytes())
    once = [word for segment in segments(await ask(engine, JFK, language="en")) for word in segment["words"]]
    found = [
        word for segment in segments(await ask(engine, path, language="en")) for word in segment["words"]
    ]
    assert [plain(word["word"]) for word in found] == [plain(word["word"]) for word in once] * 3
    period = len(said) / 16_000 + 6
    for number, word in enumerate(found):
        times, offset = once[number % len(once)], number // len(once) * period
        assert word["start"] == pytest.approx(times["start"] + offset, abs=0.35)
        assert word["end"] == pytest.approx(times["end"] + offset, abs=0.35)


async def test_progress_never_goes_back_and_is_not_told_too_often(engine: EngineProcess) -> None:
    events = await ask(engine, AUDIO / "languages" / "de_librivox.mp3")
    told = [event["progress"] for event in of(events, "stage")]
    assert told == sorted(told)
    assert 0 <= told[0] < 0.2
    assert told[-1] == 0.99
    assert of(events, "stage")[-1]["stage"] == "finish"
    assert len(of(events, "span")) >= 3


async def test_a_resumed_job_says_what_an_uninterrupted_one_says(engine: EngineProcess) -> None:
    path = AUDIO / "languages" / "de_librivox.mp3"
    whole = await ask(engine, path)
    spans = of(whole, "span")
    done = spans[:2]
    resume = {
        "spans": 2, "end": done[-1]["end"], "language": "de",
        "segments": sum(len(span["segments"]) for span in done), "unsure": [span["unsure"] for span in done],
    }  # fmt: skip
    rest = await ask(engine, path, resume=resume)
    assert of(rest, "span") == spans[2:]
    assert {**rest[-1], "seconds": None} == {**whole[-1], "seconds": None}  # it took less time
    assert of(rest, "language") == []
    assert [span["last"] for span in spans] == [False] * (len(spans) - 1) + [True]


async def test_nothing_is_decoded_where_every_span_is_known(engine: EngineProcess) -> None:
    """Of a recording that has no sound behind its header: who decodes it finds an error."""
    path = AUDIO / "containers" / "broken" / "header_only.wav"
    resume = {"spans": 3, "end": 11.0, "language": "en", "segments": 5, "complete": True}
    events = await ask(engine, path, resume=resume)
    assert of(events, "span") == of(events, "warning") == []
    assert (events[-1]["type"], events[-1]["language"], events[-1]["duration"]) == ("done", "en", 11.0)


async def test_spans_meet_and_are_numbered(engine: EngineProcess) -> None:
    spans = of(await ask(engine, AUDIO / "languages" / "de_librivox.mp3", language="de"), "span")
    assert [span["number"] for span in spans] == list(range(len(spans)))
    assert all(a["end"] == b["start"] for a, b in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("name", "language", "said"),
    [
        ("de_leopard.wav", "de", "portal"),
        ("fr_leopard.wav", "fr", "forêts"),
        ("ja_leopard.wav", "ja", "的"),
        ("zh_aishell.wav", "zh", "市"),
        ("ru_asterisk_tt-allbusy.flac", "ru", "операторы"),
    ],
)
async def test_languages_are_recognised_as_themselves(
    engine: EngineProcess, name: str, language: str, said: str
) -> None:
    events = await ask(engine, AUDIO / "languages" / name)
    assert events[-1]["language"] == language
    assert said in text(events).lower()
    for segment in segments(events):
        joined = "".join(word["word"] for word in segment["words"])
        assert joined == "".join(segment["text"].split())


async def test_a_translation_is_english_and_keeps_the_spoken_language(engine: EngineProcess) -> None:
    events = await ask(engine, AUDIO / "languages" / "ja_leopard.wav", task="translate")
    assert events[-1]["language"] == "ja"
    assert text(events).isascii()
    timed = [word["word"] for segment in segments(events) for word in segment["words"]]
    assert " ".join(timed) == text(events).strip()
    assert len(timed) > 3


async def test_options_reach_the_model(engine: EngineProcess) -> None:
    path = AUDIO / "clips" / "story_0262_p01.mp3"
    plain_text = text(await ask(engine, path, language="en"))
    assert "Magozwe" not in plain_text
    prompted = await ask(engine, path, language="en", options={"initial_prompt": "The boy Magozwe."})
    assert "Magozwe" in text(prompted)
    # Longer than the model's context, which would be refused.
    hot = await ask(engine, path, language="en", options={"hotwords": "Magozwe " * 300})
    assert hot[-1]["type"] == "done"


@pytest.mark.parametrize("field", ["initial_prompt", "hotwords"])
async def test_what_looks_like_a_control_token_in_a_prompt_changes_no_word(
    engine: EngineProcess, field: str
) -> None:
    for text_ in (
        "Americans <|endoftext|>",
        "<|startoftranscript|><|de|><|translate|>",
        "<|nospeech|><|0.00|>",
    ):
        events = await ask(engine, JFK, language="en", options={field: text_})
        assert plain(text(events)) == WORDS, text_
        assert len([word for segment in segments(events) for word in segment["words"]]) == 22


async def test_numerals_are_written_as_words_where_asked(engine: EngineProcess) -> None:
    path = AUDIO / "languages" / "sv_nst_2.wav"
    prompt = {"initial_prompt": "Siffror: 9, 10, 11, 12."}
    assert re.search(r"\d", text(await ask(engine, path, language="sv", options=prompt)))
    options = {**prompt, "suppress_numerals": True}
    said = text(await ask(engine, path, language="sv", options=options))
    assert "sex sju" in plain(said)
    assert re.search(r"\d", said) is None


async def test_without_word_times_there_are_segments_only(engine: EngineProcess) -> None:
    events = await ask(engine, JFK, options={"word_timestamps": False})
    assert plain(text(events)) == WORDS
    assert all(segment["words"] == [] for segment in segments(events))
    assert all(segment["end"] > segment["start"] for segment in segments(events))


async def test_without_an_alignment_model_the_words_are_timed_all_the_same(data_dir: Path) -> None:
    """Swedish needs a model of the hub, which tests do not reach."""
    engine = EngineProcess(Settings(data_dir=data_dir, align="wav2vec2"))
    try:
        events = await ask(engine, AUDIO / "languages" / "sv_nst_2.wav", language="sv")
    finally:
        await engine.close()
    assert events[-1]["type"] == "done"
    assert [event["code"] for event in of(events, "warning")] == ["no_alignment_model"]
    assert all("score" in word for segment in segments(events) for word in segment["words"])


async def test_a_model_that_cannot_be_had_is_named_and_the_engine_goes_on(engine: EngineProcess) -> None:
    events = await ask(engine, JFK, model="/nonexistent/no-such-model")
    assert events[-1]["kind"] == "transient"
    assert events[-1]["code"] == "model_unavailable"
    assert "no-such-model" in events[-1]["message"]
    assert plain(text(await ask(engine, JFK, language="en"))) == WORDS


async def test_a_killed_engine_is_reported_and_the_next_question_starts_another(
    engine: EngineProcess,
) -> None:
    process = None
    with pytest.raises(EngineDied) as caught:
        async for event in engine.transcribe(request(LONG)):
            if event["type"] == "span":
                process = engine.pid
                async with asyncio.timeout(2):
                    await engine.kill()
                assert not engine.running
    assert caught.value.returncode == -signal.SIGKILL
    assert process is not None
    assert not psutil.pid_exists(process)
    assert plain(text(await ask(engine, JFK, language="en"))) == WORDS
    assert engine.pid != process


async def test_a_listener_that_leaves_gets_no_answer_to_an_old_question(engine: EngineProcess) -> None:
    answers = engine.transcribe(request(LONG))
    await anext(answers)
    await answers.aclose()
    assert plain(text(await ask(engine, JFK, language="en"))) == WORDS


async def test_a_process_that_dies_by_itself_leaves_its_last_words(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineProcess(Settings(data_dir=data_dir))
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    with pytest.raises(EngineDied) as caught:
        await ask(engine, JFK)
    assert caught.value.returncode
    assert caught.value.stderr_tail
    assert "\n" not in str(caught.value)


def test_what_went_well_is_not_told_as_the_cause_of_an_end() -> None:
    keys = {"level": "info", "event": "transcribed", "logger": "workers.engine", "timestamp": "2026-11-24"}
    tail = f"MKL: no room\n{json.dumps(keys)}\n"
    assert str(EngineDied(1, tail)) == "The engine ended with exit code 1: MKL: no room"
    killed = str(EngineDied(-signal.SIGKILL, tail))
    assert killed == "The engine was killed, perhaps because the machine ran out of memory."


async def test_the_engine_ends_with_its_worker(data_dir: Path) -> None:
    """Even if the worker is killed and can tell nobody."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from stt import logs\n"
        "from stt.settings import Settings\n"
        "from workers.engine.handle import EngineProcess\n"
        "logs.configure()\n"
        "async def main():\n"
        "    engine = EngineProcess(Settings(data_dir=Path(sys.argv[1])))\n"
        "    await engine.start()\n"
        "    print(engine.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(data_dir), stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    engine = psutil.Process(int(await worker.stdout.readline()))
    assert os.getsid(engine.pid) == engine.pid
    worker.kill()
    await worker.wait()
    await asyncio.to_thread(engine.wait, 5)


async def test_closing_ends_the_process_without_force(data_dir: Path) -> None:
    engine = EngineProcess(Settings(data_dir=data_dir))
    await engine.start()
    assert engine.pid is not None
    process = psutil.Process(engine.pid)
    await asyncio.gather(engine.start(), engine.start())
    assert engine.pid == process.pid
    await engine.close()
    assert not process.is_running()
    assert not engine.running
    await engine.close()


def test_the_engine_is_told_no_password_of_a_server(data_dir: Path) -> None:
    os.environ["STT_DATABASE_URL"] = "postgresql://u:secret@h/d"
    try:
        env = _environment(Settings(data_dir=data_dir, redis_url="redis://:secret@h"), None)
    finally:
        del os.environ["STT_DATABASE_URL"]
    assert not any("secret" in value for value in env.values())


async def test_memory_does_not_grow_with_length(tmp_path: Path, engine: EngineProcess) -> None:
    """Silence between the words, so that it costs little time: decoding and voice activity hear all of it."""
    recording = Recording(JFK)
    speech = (np.concatenate(list(recording.blocks())) * 32767).astype("<i2").tobytes()
    peaks = []
    for minutes in (1, 30):
        path = tmp_path / f"{minutes}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(speech)
            for _ in range(minutes):
                file.writeframes(bytes(60 * 32_000))
        assert plain(text(await ask(engine, path, language="en"))) == WORDS
        assert engine.pid is not None
        peaks.append(psutil.Process(engine.pid).memory_info().rss)
    # The sound alone is 106 MB longer.
    assert peaks[1] - peaks[0] < 60 * 2**20
