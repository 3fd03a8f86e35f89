"""A recording arrives whole or not at all, whatever the client does."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt.jobs import tickets
from stt.storage import Storage
from stt.web import filenames
from tests.support.uploads import form, send, stored, until


async def test_an_upload_becomes_a_pending_job_with_a_ticket(
    client: TestClient, tone: Path, storage: Storage, redis: ArqRedis
) -> None:
    status, job = await send(client, form(tone, "Übung 1.wav"))
    assert status == 201
    assert job["original_filename"] == "Übung 1.wav"
    assert (job["status"], job["file_type"], job["file_size"]) == ("pending", "audio", 32044)
    assert job["duration_seconds"] == pytest.approx(1.0)
    [path] = stored(storage)
    assert path.read_bytes() == tone.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(await tickets.waiting(redis)) == 1


async def test_option_fields_may_come_after_the_file(client: TestClient, tone: Path) -> None:
    data = form(tone)
    data.add_field("language", "de")
    data.add_field("initial_prompt", "Grüße")
    status, job = await send(client, data)
    assert status == 201
    assert job["options"] == {"initial_prompt": "Grüße"}
    async with client.get(f"/api/jobs/{job['id']}") as response:
        assert (await response.json())["language"] is None  # asked for, not yet heard


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"langage": "de"}, "langage"),
        ({"language": "tlh"}, "language"),
        ({"model": "../../etc"}, "model"),
        ({"task": "sing"}, "task"),
        ({"priority": "9"}, "priority"),
        ({"word_timestamps": "perhaps"}, "word_timestamps"),
        ({"min_speakers": "2"}, "min_speakers"),
        ({"diarize": "true", "max_speakers": "21"}, "max_speakers"),
        ({"max_speakers": "2", "diarize": "true", "min_speakers": "3"}, "max_speakers"),
    ],
)
async def test_a_bad_option_is_named_and_nothing_is_left(
    client: TestClient, tone: Path, storage: Storage, fields: dict[str, str], named: str
) -> None:
    status, problem = await send(client, form(tone, **fields))
    assert (status, problem["code"], problem["field"]) == (422, "bad_option", named)
    assert stored(storage) == []


async def test_speakers_may_be_asked_for(client: TestClient, tone: Path) -> None:
    asked = {"diarize": "true", "min_speakers": "2", "max_speakers": "2", "multilingual": "true"}
    status, job = await send(client, form(tone, **asked))
    assert status == 201
    assert job["options"] == {"diarize": True, "min_speakers": 2, "max_speakers": 2, "multilingual": True}


async def test_an_empty_file_is_422(client: TestClient, tmp_path: Path, storage: Storage) -> None:
    empty = tmp_path / "empty.mp3"
    empty.touch()
    status, problem = await send(client, form(empty))
    assert (status, problem["code"]) == (422, "empty_file")
    assert stored(storage) == []


async def test_a_form_without_a_file_is_422(client: TestClient) -> None:
    status, problem = await send(client, form(None, model="base"))
    assert (status, problem["code"]) == (422, "no_file")


@pytest.mark.parametrize(
    "content",
    [
        b"just some text that is no recording at all\n" * 50,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"\x89PNG\r\n\x1a\n" + bytes(400),
    ],
    ids=["text", "hls", "concat", "png"],
)
async def test_what_is_no_media_is_415_whatever_its_name(
    client: TestClient, tmp_path: Path, storage: Storage, content: bytes
) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    status, problem = await send(client, form(path, "talk.mp3"))
    assert (status, problem["code"]) == (415, "not_media")
    assert stored(storage) == []


async def test_a_playlist_that_points_to_a_real_recording_is_no_media(
    client: TestClient, tone: Path, tmp_path: Path
) -> None:
    path = tmp_path / "list"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tone}\n#EXT-X-ENDLIST\n")
    status, problem = await send(client, form(path, "talk.mp3"))
    assert (status, problem["code"]) == (415, "not_media")


@pytest.mark.parametrize("ending", ["ulaw", "AL", "sln16", "g722", "raw"])
async def test_raw_telephone_sound_is_refused_with_how_to_convert_it(
    client: TestClient, tmp_path: Path, storage: Storage, ending: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(127 + n % 7 for n in range(40_000)))
    status, problem = await send(client, form(path, f"call.{ending}"))
    assert (status, problem["code"]) == (415, "not_media")
    assert "without a header" in problem["detail"]
    assert f" -i call.{ending.lower()} call.wav" in problem["detail"]
    assert stored(storage) == []


async def test_a_recording_with_a_header_is_taken_whatever_its_ending(client: TestClient, tone: Path) -> None:
    status, job = await send(client, form(tone, "call.ulaw"))
    assert (status, job["original_filename"]) == (201, "call.ulaw")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("cases/audible_like.aax", "encrypted", "copy-protected"),
        ("cases/telephone_raw.ulaw", "not_media", "ffmpeg -f mulaw -ar 8000 "),
        ("containers/broken/truncated.mp4", "not_media", "without its index"),
    ],
)
async def test_what_cannot_be_read_says_what_it_is(
    client: TestClient, shared_audio: Path, name: str, code: str, words: str
) -> None:
    status, problem = await send(client, form(shared_audio / name, Path(name).name))
    assert (status, problem["code"]) == (415, code)
    assert words in problem["detail"]


async def test_a_video_is_known_by_its_content(client: TestClient, shared_audio: Path) -> None:
    path = shared_audio / "containers" / "jfk_video_h264_aac.mp4"
    status, job = await send(client, form(path, "sound.mp3"))
    assert (status, job["file_type"]) == (201, "video")


async def test_a_video_without_sound_is_415(client: TestClient, shared_audio: Path) -> None:
    path = shared_audio / "containers" / "broken" / "video_without_audio.mp4"
    status, problem = await send(client, form(path))
    assert (status, problem["code"]) == (415, "no_audio_track")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\talk.mp3", "talk.mp3"),
        ("a\nb\x00c\u202e.mp3", "abc.mp3"),
        ("..", "recording"),
        ("<img src=x onerror=alert(1)>.mp3", "<img src=x onerror=alert(1)>.mp3"),
    ],
)
async def test_a_file_name_is_data_never_a_path(
    client: TestClient, tone: Path, storage: Storage, name: str, kept: str
) -> None:
    quoted = name.replace("\\", "\\\\").replace("\n", "%0A").replace("\x00", "%00")
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + quoted.encode() + b'"\r\n\r\n'
        + tone.read_bytes() + b"\r\n--x--\r\n"
    )  # fmt: skip
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    status, job = await send(client, body, headers=headers)
    assert status == 201
    assert job["original_filename"].replace("%0A", "").replace("%00", "") == kept
    assert [path.name for path in stored(storage)] == [job["id"]]


@pytest.mark.parametrize(
    ("disposition", "kept"),
    [
        ('name="file"; filename="say %22hi%22.wav"', 'say "hi".wav'),
        ('name="file"; filename="say \\"hi\\".wav"', 'say "hi".wav'),
        ('name="file"; filename="100%25 %41 %2f.wav"', "100%25 %41 %2f.wav"),
        ('name="file"; filename="a%0D%0Ab%0a.wav"', "ab.wav"),
        ('name="file"; filename="one; two; three=4.wav"', "one; two; three=4.wav"),
        ('name="file"; filename="dir\\a.wav"', "a.wav"),
        ("name=file; filename=plain.wav", "plain.wav"),
        ('filename="b.wav" ;name = "file"', "b.wav"),
        ("name=file; filename=\"x.wav\"; filename*=UTF-8''na%C3%AFve%20%22.wav", 'naïve ".wav'),
        ("name=file; filename=\"x.wav\"; filename*=klingon''%41", "x.wav"),
        ("name=file; filename=\"x.wav\"; filename*=UTF-8''%ff", "x.wav"),
        ('name="file"', "recording"),
        ('name="file"; filename=""', "recording"),
        ('name="file"; filename="\u200c\u200d"', "recording"),
        (
            'name="file"; filename="\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.wav"',
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.wav",
        ),
        ('name="file"; filename="👩\u200d👩\u200d👧.wav"', "👩\u200d👩\u200d👧.wav"),
        ('name="file"; filename="क्\u200dष \U0001fae8 \uf8ff.wav"', "क्\u200dष \U0001fae8 \uf8ff.wav"),
        ('name="file"; filename="a\u202egpj\u2066\u200e\u2028\ufeff\ufffe.wav"', "agpj.wav"),
        ('name="file"; filename="e\u0301.wav"', "e\u0301.wav"),
    ],
)
def test_a_name_is_read_as_browsers_and_curl_write_it(disposition: str, kept: str) -> None:
    name, filename = filenames.disposition(f"form-data; {disposition}")
    assert (name, filenames.clean(filename)) == ("file", kept)


@pytest.fixture
def small(environ: dict[str, str]) -> None:
    environ["STT_MAX_UPLOAD_BYTES"] = "20000"


async def test_a_larger_file_than_allowed_is_413_and_removed(
    small: None, client: TestClient, tone: Path, storage: Storage
) -> None:
    status, problem = await send(client, form(tone))
    assert (status, problem["code"]) == (413, "too_large")
    assert stored(storage) == []


async def test_a_far_too_large_file_is_refused_before_its_bytes_are_sent(
    small: None, client: TestClient
) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        f"POST /api/jobs/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {2**40}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
    )
    assert b" 413 " in await reader.readline()
    writer.close()


async def test_a_client_that_hangs_up_leaves_nothing(
    client: TestClient, storage: Storage, pool: object
) -> None:
    _, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        b"POST /api/jobs/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + bytes(2**21)
    )
    await writer.drain()
    await until(lambda: any(path.stat().st_size for path in stored(storage)))
    writer.close()
    await until(lambda: not stored(storage))
    async with client.get("/api/jobs") as response:
        assert (await response.json())["jobs"] == []


async def test_a_form_that_ends_early_is_400_and_leaves_nothing(
    client: TestClient, tone: Path, storage: Storage
) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + tone.read_bytes()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    status, problem = await send(client, body, headers=headers)
    assert (status, problem["code"]) == (400, "bad_form")
    assert stored(storage) == []


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        (errno.ENOSPC, 507, "disk_full"),
        (errno.EDQUOT, 507, "disk_full"),
        (errno.EROFS, 503, "storage_unavailable"),
        (errno.ETIMEDOUT, 503, "storage_unavailable"),  # a TimeoutError, but not of the database
    ],
)
async def test_an_upload_that_cannot_be_stored_leaves_nothing(
    client: TestClient, tone: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch,
    number: int, status: int, code: str,
) -> None:  # fmt: skip
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    got, problem = await send(client, form(tone))
    assert (got, problem["code"]) == (status, code)
    assert not stored(storage)
    async with client.get("/api/jobs") as response:
        assert (await response.json())["jobs"] == []


async def test_a_storage_that_fails_after_the_file_has_its_name_does_not_fail_the_upload(
    client: TestClient, tone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client would send the recording again, and there would be two jobs."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", fail)
    status, _ = await send(client, form(tone))
    assert status == 201


async def test_another_website_changes_nothing(client: TestClient, tone: Path) -> None:
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        status, problem = await send(client, form(tone), headers=headers)
        assert (status, problem["code"]) == (403, "cross_site")
    own = {"Origin": f"http://{client.host}:{client.port}", "Sec-Fetch-Site": "same-origin"}
    assert (await send(client, form(tone), headers=own))[0] == 201


async def test_an_unknown_host_is_not_answered(client: TestClient, tone: Path) -> None:
    for path in ("/", "/api/jobs"):
        async with client.get(path, headers={"Host": "rebound.example"}) as response:
            assert response.status == 421
    assert (await send(client, form(tone), headers={"Host": "rebound.example"}))[0] == 421
