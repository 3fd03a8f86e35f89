"""What the decoder promises: the right sound of any file, exactly, in little memory, of that file only."""

from __future__ import annotations

import errno
import itertools
import os
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest

from stt.media import errors, libav
from tests.support.audio import Float, decode, encode, hertz, loudness, needs_audio, tone, write_wav
from tests.support.places import AUDIO
from workers.audio import spans, vad
from workers.audio.decode import Recording
from workers.audio.resampler import Resampler
from workers.audio.sound import BLOCK_SECONDS, RATE
from workers.engine import words


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 96_000])
def test_any_sample_rate_keeps_length_and_pitch(tmp_path: Path, rate: int) -> None:
    samples = decode(write_wav(tmp_path / "a.wav", tone(3, 440, rate), rate=rate))
    assert abs(len(samples) - 3 * RATE) <= 16
    assert hertz(samples) == pytest.approx(440, abs=1)


def test_a_silent_channel_does_not_halve_the_voice(tmp_path: Path) -> None:
    voice = tone(2)
    one = decode(write_wav(tmp_path / "one.wav", voice, 0 * voice))
    assert loudness(one) == pytest.approx(loudness(voice), rel=0.02)


@pytest.mark.parametrize("channels", [9, 16])
def test_a_recording_of_many_microphones_is_read(channels: int, tmp_path: Path) -> None:
    voice = tone(2)
    samples = decode(write_wav(tmp_path / "many.wav", *[0 * voice] * (channels - 1), voice))
    assert hertz(samples) == pytest.approx(300, abs=1)
    assert loudness(samples) == pytest.approx(loudness(voice), rel=0.02)


def test_two_speakers_on_two_channels_are_both_heard(tmp_path: Path) -> None:
    left = np.concatenate([tone(20, 300), 0 * tone(2)])
    right = np.concatenate([0 * tone(20), tone(2, 700)])
    samples = decode(write_wav(tmp_path / "two.wav", left, right))
    assert hertz(samples[20 * RATE :]) == pytest.approx(700, abs=2)
    assert loudness(samples[int(20.3 * RATE) :]) > 0.4 * loudness(tone(2))


def test_an_inverted_channel_does_not_cancel_the_other(tmp_path: Path) -> None:
    samples = decode(write_wav(tmp_path / "inverted.wav", tone(2), -tone(2)))
    assert loudness(samples) == pytest.approx(loudness(tone(2)), rel=0.02)


def test_the_default_track_is_taken(tmp_path: Path) -> None:
    path = encode(tmp_path / "tracks.mkv", [tone(2, 300), tone(2, 700)])
    assert hertz(decode(path)) == pytest.approx(700, abs=2)


def test_decoding_from_a_sample_gives_exactly_the_rest(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 25 * RATE).astype(np.float32)
    path = encode(tmp_path / "noise.m4a", [noise])
    whole = decode(path)
    for start in (0, 1, 12_345, 20 * RATE, len(whole) + 5):
        np.testing.assert_array_equal(decode(path, start), whole[start:])


def test_nothing_is_lost_where_the_format_changes_on_the_way() -> None:
    """A stream of broadcasts does; what was gathered before belongs to the format before."""
    resampler, made = Resampler(), list[Float]()
    for rate in (RATE, 48_000, 44_100):
        for part in np.split(tone(1.2, 300, rate), range(1000, rate, 1000)):
            frame = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
            frame.sample_rate = rate
            made += resampler.feed(frame)
    made += resampler.flush()
    assert sum(map(len, made)) == pytest.approx(3.6 * RATE, abs=50)
    assert hertz(np.concatenate(made)) == pytest.approx(300, abs=3)


def test_missing_sound_leaves_a_silence_and_what_lies_around_it_keeps_its_place(tmp_path: Path) -> None:
    """A file cut together from a stream has such holes."""
    path = tmp_path / "hole.mkv"
    with av.open(path, "w") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start, pitch in ((0, 300), (60, 700)):
            # 50 ms each, as from a stream; 1.1 s leave a rest in the filter.
            for part in range(0, RATE * 11 // 10, 800):
                made = tone(1.1, pitch)[None, part : part + 800]
                frame = av.AudioFrame.from_ndarray((made * 32767).astype("<i2"), format="s16", layout="mono")
                frame.sample_rate, frame.pts = RATE, start * RATE + part
                out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    samples = decode(path)
    assert len(samples) == pytest.approx(61.1 * RATE, abs=RATE // 100)
    assert hertz(samples[:RATE]) == pytest.approx(300, abs=3)
    assert loudness(samples[RATE * 7 // 8 : RATE * 109 // 100]) > 0.2
    assert loudness(samples[RATE * 111 // 100 : RATE * 599 // 10]) < 0.01
    assert hertz(samples[60 * RATE :]) == pytest.approx(700, abs=3)


def test_time_stamps_gone_wrong_do_not_make_days_of_silence(tmp_path: Path) -> None:
    path = tmp_path / "years.mkv"
    with av.open(path, "w") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start in (0, 10 * 366 * 86_400):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, RATE), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, start * RATE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert len(decode(path)) == 2 * RATE
    assert libav.inspect(path) == ("audio", None)


def test_a_resumed_recording_does_not_hold_what_it_skips(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", np.tile(tone(60, rate=8_000), 20), rate=8_000)
    recording = Recording(path)
    tracemalloc.start()
    try:
        next(recording.blocks(19 * 60 * RATE))
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        recording.close()
    # All that is skipped would be 73 MB.
    assert max(held, most) < 10 * 2**20


def test_a_file_that_holds_less_than_it_promises_is_found_out(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 60 * RATE).astype(np.float32)
    path = encode(tmp_path / "whole.m4a", [noise], movflags="faststart")
    cut = tmp_path / "cut.m4a"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    for file, missing in ((path, 0), (cut, 40)):
        recording = Recording(file)
        list(recording.blocks())
        assert recording.missing == pytest.approx(missing, abs=1)
        recording.close()


class Failing:
    """A container whose disk fails after some packets, for good."""

    def __init__(self, container: av.container.InputContainer, packets: int) -> None:
        self._container, self._packets = container, packets

    def demux(self, stream: av.AudioStream) -> Iterator[errors.Packet]:
        packets, self._packets = self._packets, 0
        yield from itertools.islice(self._container.demux(stream), packets)
        raise av.error.OSError(errno.EIO, os.strerror(errno.EIO))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)


def fail_after(recording: Recording, packets: int) -> None:
    track = recording._tracks[0]
    track._container = cast(Any, Failing(track._container, packets))


def test_an_input_error_of_a_file_that_can_be_read_is_its_end(tmp_path: Path) -> None:
    recording = Recording(write_wav(tmp_path / "tone.wav", tone(60)))
    fail_after(recording, 100)
    found = sum(map(len, recording.blocks()))
    assert 0 < found < 60 * RATE
    assert recording.broken_off == pytest.approx(found / RATE, abs=0.5)


def test_a_disk_that_fails_is_not_the_end_of_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libav, "_is_readable", lambda _: False)
    recording = Recording(write_wav(tmp_path / "tone.wav", tone(60)))
    fail_after(recording, 100)
    with pytest.raises(OSError, match="Input/output error"):
        list(recording.blocks())


def test_a_file_that_cannot_be_read_now_is_not_called_no_media(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise av.error.OSError(errno.EIO, os.strerror(errno.EIO))

    path = write_wav(tmp_path / "tone.wav", tone(1))
    monkeypatch.setattr(av, "open", fail)
    monkeypatch.setattr(libav, "_is_readable", lambda _: False)
    with pytest.raises(OSError, match="Input/output error"):
        libav.open_media(path)


def test_damaged_packets_are_counted_and_the_rest_is_heard(tmp_path: Path) -> None:
    path = encode(tmp_path / "tone.mp4", [tone(30)])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 600] = bytes(range(256)) * 2 + bytes(88)
    path.write_bytes(data)
    recording = Recording(path)
    samples = np.concatenate(list(recording.blocks()))
    assert recording.damaged > 0
    assert 25 * RATE < len(samples) <= 30.5 * RATE


def test_blocks_are_small_whatever_the_length(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", np.tile(tone(60, rate=8_000), 20), rate=8_000)
    recording = Recording(path)
    assert max(len(block) for block in recording.blocks()) < (BLOCK_SECONDS + 1) * RATE
    assert recording.duration == pytest.approx(1200, abs=0.1)


def test_encrypted_sound_is_named_as_such(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "drm.mp4", [tone(2)], encryption_scheme="cenc-aes-ctr",
        encryption_key="00112233445566778899aabbccddeeff", encryption_kid="00" * 16,
    )  # fmt: skip
    with pytest.raises(errors.MediaError) as caught:
        decode(path)
    assert caught.value.code == "encrypted"


POINTERS = {
    "talk.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
    "hls.mp3": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
    "talk.ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "concat.mp3": "ffconcat version 1.0\nfile '{}'\n",
    "talk.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period>'
    "<AdaptationSet><Representation><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("name", POINTERS)
def test_files_that_point_to_others_are_not_media(tmp_path: Path, name: str) -> None:
    secret = write_wav(tmp_path / "secret.wav", tone(2))
    pointer = tmp_path / name
    pointer.write_text(POINTERS[name].format(secret.name))
    with pytest.raises(errors.MediaError) as caught:
        libav.open_media(pointer)
    assert caught.value.code == "not_media"


def box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I", len(data) + 8) + kind + data


def alias(name: str) -> bytes:
    """A QuickTime data reference "the file of this name, in my folder"."""
    utf16 = name.encode("utf-16-be")
    return box(
        b"alis", bytes(4), bytes(10), b"\x01v" + bytes(26), bytes(12), bytes([len(name)]), name.encode(),
        bytes(63 - len(name)), bytes(16), struct.pack(">HH", 1, 1), bytes(16),
        struct.pack(">HHH", 14, len(utf16) + 2, len(name)), utf16,
        struct.pack(">HH", 2, len(name)), name.encode() + bytes(len(name) % 2),
        struct.pack(">HH", 0xFFFF, 0),
    )  # fmt: skip


def refer(movie: bytes, name: str) -> bytes:
    """The movie with the reference of its only track changed, and the sizes of the boxes around it."""
    reference = alias(name)
    at = movie.index(b"dref") + 12
    old = struct.unpack(">I", movie[at : at + 4])[0]
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        # The last `dinf` before the reference: minf of a movie holds one for its handler too.
        place = movie.rindex(kind, 0, at) - 4
        size = struct.unpack(">I", movie[place : place + 4])[0] + len(reference) - old
        movie = movie[:place] + struct.pack(">I", size) + movie[place + 4 :]
    return movie[:at] + reference + movie[at + old :]


def test_a_quicktime_reference_to_another_file_is_not_followed(tmp_path: Path) -> None:
    """Its data reference names a neighbour, whose sound must not become the transcript of this file."""
    own, other = tmp_path / "own.mov", tmp_path / "other.mov"
    encode(own, [tone(2, 300)], codec="pcm_s16le")
    encode(other, [tone(2, 700)], codec="pcm_s16le")
    own.write_bytes(refer(own.read_bytes(), other.name))
    with av.open(str(own), options={"enable_drefs": "1"}) as followed:  # so the file is what it claims
        heard = np.concatenate([frame.to_ndarray()[0] for frame in followed.decode(audio=0)])
    assert hertz(heard.astype(np.float32)) == pytest.approx(700, abs=2)
    with pytest.raises(errors.MediaError):
        decode(own)


def test_an_address_is_never_opened() -> None:
    with pytest.raises(OSError, match="No such file"):
        libav.open_media("http://127.0.0.1:9/a.mp3")


@needs_audio
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("zero_bytes.wav", "not_media"),
        ("random.mp3", "not_media"),
        ("text.mp3", "not_media"),
        ("lfs_pointer.wav", "not_media"),
        ("image.png.mp3", "not_media"),
        ("ps_bad.wav", "not_media"),
        ("header_only.wav", "empty_audio"),
        ("zero_samples.flac", "empty_audio"),
        ("video_without_audio.mp4", "no_audio_track"),
    ],
)
def test_what_cannot_be_heard_says_why(name: str, code: str) -> None:
    with pytest.raises(errors.MediaError) as caught:
        decode(AUDIO / "containers" / "broken" / name)
    assert caught.value.code == code


@needs_audio
@pytest.mark.parametrize("name", ["truncated.mp3", "truncated.flac", "wrong_data_size.wav", "mp3_named.wav"])
def test_of_a_broken_file_what_can_be_decoded_is_heard(name: str) -> None:
    assert loudness(decode(AUDIO / "containers" / "broken" / name)) > 0.1


def test_voice_activity_does_not_depend_on_how_the_stream_is_cut() -> None:
    noise = np.random.default_rng(2).normal(0, 0.05, 7 * RATE + 321).astype(np.float32)
    listener = vad.SileroDetector()
    parts = [listener.process(part) for part in np.array_split(noise, 13)]
    np.testing.assert_allclose(
        np.concatenate([*parts, listener.flush()]), vad.probabilities(noise), atol=1e-6
    )


@needs_audio
def test_spans_cover_the_recording_and_are_cut_where_nobody_speaks() -> None:
    recording = Recording(AUDIO / "long" / "en_magozwe_6min.mp3")
    found = list(spans.read(recording, 60))
    assert [span.number for span in found] == list(range(len(found)))
    assert found[0].start == 0
    assert found[-1].end == recording.decoded
    for before, after in itertools.pairwise(found):
        assert before.end == after.start
        assert before.speech[-1].end < len(before.samples) / RATE + 1e-6
        assert loudness(before.samples[-RATE // 10 :]) < 0.01
    assert len(found[0].samples) / RATE <= spans.FIRST_SECONDS


@needs_audio
def test_spans_read_from_a_cut_are_those_of_an_uninterrupted_run() -> None:
    path = AUDIO / "long" / "en_magozwe_6min.mp3"
    whole = list(spans.read(Recording(path), 60))
    for number in (1, 3):
        rest = list(spans.read(Recording(path), 60, number=number, start=whole[number].start))
        assert [(s.number, s.start, s.end, s.speech) for s in rest] == [
            (s.number, s.start, s.end, s.speech) for s in whole[number:]
        ]


@needs_audio
@pytest.mark.parametrize(
    "name",
    ["digital_silence_30s.flac", "tone_440hz_10s.flac", "white_noise_20s.ogg", "room_silence_4s.wav"],
)
def test_no_speech_is_found_where_nobody_speaks(name: str) -> None:
    found = list(spans.read(Recording(AUDIO / "containers" / "edge" / name), 60))
    assert [span.speech for span in found] == [[]]


def test_words_are_in_order_inside_the_window_and_never_empty() -> None:
    wild = [words.Word(f" w{n}", start, end) for n, (start, end) in enumerate(
        [(0, 0), (0, 9), (5, 4), (5, 5), (40, 41), (29.99, 30.4), (-3, -2), (30, 30)]
    )]  # fmt: skip
    placed = words.place(wild, [vad.Speech(1, 6), vad.Speech(8, 30)], 1, 30)
    assert [word.text for word in placed] == [word.text for word in wild]
    assert placed[0].start >= 1
    assert placed[-1].end <= 30
    assert all(word.end - word.start > 0.019 for word in placed)
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(placed))


def test_a_word_does_not_begin_or_end_in_the_padding_around_speech() -> None:
    speech = [vad.Speech(1, 5, lead=0.3, tail=0.3)]
    first, last = words.place([words.Word(" a", 0.9, 2), words.Word(" b", 4, 5)], speech, 1, 5)
    assert first.start == pytest.approx(1.3 - words.SOFT)
    assert last.end == pytest.approx(4.7 + words.SOFT)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (" Mr. Smith paid 3.5 dollars. He left!", [" Mr. Smith paid 3.5 dollars.", " He left!"]),
        (" See e.g. page 5. Really?! Yes…", [" See e.g. page 5.", " Really?!", " Yes…"]),
        (' "Go." he said. J. R. Tolkien wrote.', [' "Go."', " he said.", " J. R. Tolkien wrote."]),
        ("客観的だ。本当ですか?はい。", ["客観的だ。", "本当ですか?", "はい。"]),
        (" ¿Qué? Nada.", [" ¿Qué?", " Nada."]),
    ],
)
def test_segments_are_sentences(text: str, sentences: list[str]) -> None:
    spread = words.spread(text, -0.1, [vad.Speech(0, 5)])
    assert [segment["text"] for segment in words.segments(spread)] == sentences


@pytest.mark.parametrize("text", [" word" * 400, "語" * 900, " a, b" * 200, " x" + "y" * 5000])
def test_no_text_is_lost_and_no_segment_is_long(text: str) -> None:
    spread = words.spread(text, -0.1, [vad.Speech(0, 60), vad.Speech(70, 200)])
    segments = words.segments(spread)
    assert "".join(segment["text"] for segment in segments) == text
    for segment in segments:
        short = segment["end"] - segment["start"] <= words.LONGEST_SECONDS
        assert len(segment["words"]) == 1 or (short and len(segment["text"]) <= words.LONGEST_WIDTH)
