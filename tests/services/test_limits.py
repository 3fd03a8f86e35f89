"""What a stranger's file can cost is bounded: memory, time, length; and it reaches no file and no network."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from stt import resources
from stt.media import errors, frames, libav, probe
from stt.storage import Storage
from stt.web.problems import of_domain_error
from tests.support import hostile
from tests.support.audio import encode, tone, write_wav
from tests.support.places import ROOT
from tests.support.uploads import form, send, stored
from workers.audio import handle
from workers.audio.decode import Recording
from workers.audio.sound import RATE

HOSTILE = (
    "hostile_flac_1hz.flac", "hostile_wav_1GHz.wav", "hostile_wav_65_channels.wav", "hostile_flac_hours.flac",
)  # fmt: skip
# Rates and channels that no recording has, and the edge of what is taken.
NUMBERS = (
    (1, 1), (999_999_937, 2), (2**31 - 1, 1), (16_000, 65), (16_000, 255), (16_000, 64), (1_000, 8),
)  # fmt: skip
# Formats that cannot express such a rate or so many channels, or whose frames have both once more.
CANNOT_SAY = {
    "rate": {"flac", "ogg_flac", "mov"}, "slow": {"ogg_flac"},
    "channels": {"flac", "ogg_flac", "wavpack", "matroska"},
}  # fmt: skip
# Codecs of a WAV, and what its header may say of their blocks.
WAV_CODES = (0, 1, 2, 3, 6, 7, 0x11, 0x22, 0x31, 0x50, 0x55, 0x83, 0xFF, 0x161, 0x270, 0xFFFE, 0xFFFF)
WAV_BLOCKS = ((16, 65_535), (64, 1), (0, 0), (65_535, 7))
MEMORY = 2**30  # a regression must not take the machine
MEGABYTES = 400  # of the process that looks at all files here; libav and numpy take 50 of them

JUDGE = """
import json, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
from stt.media import errors, libav
from workers.audio.decode import Recording

def outcome(look):
    try:
        return str(look())
    except errors.MediaError as error:
        return error.code

for path in sorted(Path(sys.argv[1]).iterdir()):
    probed = outcome(lambda: libav.inspect(path, packets=500)[0])
    decoded = outcome(lambda: sum(map(len, Recording(path, 3600).blocks())))
    # Not ru_maxrss, which begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    print(json.dumps([path.name, probed, decoded, peak]), flush=True)
"""


def siblings() -> Iterator[tuple[str, bytes]]:
    for name, make in hostile.RATES.items():
        for rate, channels in NUMBERS:
            yield f"{name}_{rate}_{channels}", make(rate, channels)
    for code in WAV_CODES:
        for bits, align in WAV_BLOCKS:
            yield f"wav_code_{code}_{bits}_{align}", hostile.wav(8_000, 1, code=code, bits=bits, align=align)
    for block in (1, 2**20, 2**31 - 1):
        yield f"alac_block_{block}", hostile.alac(16_000, 1, block=block)
        yield f"ape_block_{block}", hostile.ape(16_000, 1, block=block)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, int]]:
    """What the probe and the engine's decoder say to every file, and the most memory so far in MB."""
    folder = tmp_path_factory.mktemp("siblings")
    for name, data in siblings():
        (folder / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", JUDGE, str(folder), str(MEMORY)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (probed, decoded, peak) for name, probed, decoded, peak in lines}


@pytest.mark.parametrize("name", hostile.RATES)
def test_a_rate_that_no_recording_has_is_refused(name: str, judged: dict[str, Any]) -> None:
    for rate, channels in NUMBERS[:3]:
        if name in CANNOT_SAY["slow" if rate == 1 else "rate"]:
            continue
        for said in judged[f"{name}_{rate}_{channels}"][:2]:
            assert said in ("unsupported_codec", "not_media")


@pytest.mark.parametrize("name", sorted(hostile.RATES.keys() - CANNOT_SAY["channels"]))
def test_more_channels_than_can_be_resampled_are_refused(name: str, judged: dict[str, Any]) -> None:
    for channels in (65, 255):
        for said in judged[f"{name}_16000_{channels}"][:2]:
            assert said in ("unsupported_codec", "not_media")


def test_no_header_takes_much_memory(judged: dict[str, Any]) -> None:
    assert len(judged) == len(list(siblings()))
    most = max(judged, key=lambda name: judged[name][2])
    assert judged[most][2] < MEGABYTES, most


def test_what_the_probe_takes_can_be_decoded_and_the_other_way_round(judged: dict[str, Any]) -> None:
    """Else a job fails that should have been refused before it was one."""
    apart = {
        name: (probed, decoded)
        for name, (probed, decoded, _) in judged.items()
        if (probed in ("audio", "video")) != decoded.isdigit() or decoded == "0"
    }
    assert apart == {}


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_sane_formats_stay_readable(channels: int, tmp_path: Path) -> None:
    for rate in (8_000, 22_050, 48_000, 192_000, 384_000):
        path = write_wav(tmp_path / "a.wav", *[tone(0.5, rate=rate)] * channels, rate=rate)
        assert libav.inspect(path)[0] == "audio"
        assert sum(map(len, Recording(path).blocks())) == pytest.approx(RATE / 2, abs=2)


def test_dsd_of_the_highest_rate_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.dsf"
    path.write_bytes(hostile.dsf(2_822_400, 1))
    assert frames.format_of(libav.audio_stream(libav.open_media(path))) == (2_822_400, 1)
    Recording(path).close()


def test_a_frame_of_a_mad_format_in_the_middle_is_one_damaged_part(tmp_path: Path) -> None:
    """The sound around it is read on; 1 Hz would make hours of four thousand samples."""
    path = tmp_path / "middle.flac"
    path.write_bytes(hostile.flac(16_000, 1, block=4096, frames=60, own=[16_000] * 5 + [1]))
    assert libav.inspect(path)[0] == "audio"
    recording = Recording(path)
    samples = sum(map(len, recording.blocks()))
    assert recording.damaged == 10
    assert samples < 61 * 4096


def test_a_recording_of_sixty_five_channels_is_refused_by_its_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(hostile.wav(16_000, 65))
    with pytest.raises(errors.MediaError, match="65 channels; no more than 64"):
        Recording(path)


# Length


def flac_that_says(seconds: int, tmp_path: Path) -> Path:
    """Ten seconds whose header tells another length."""
    noise = np.random.default_rng(3).normal(0, 0.1, 10 * RATE).astype(np.float32)
    path = encode(tmp_path / "said.flac", [noise], "flac")
    data = bytearray(path.read_bytes())
    packed = int.from_bytes(data[18:26], "big")
    data[18:26] = (packed >> 36 << 36 | seconds * RATE).to_bytes(8, "big")
    path.write_bytes(data)
    return path


@pytest.fixture
def environ(environ: dict[str, str]) -> dict[str, str]:
    return environ | {"STT_MAX_DURATION_SECONDS": "5400"}


async def test_a_recording_that_is_too_long_is_refused_before_there_is_a_row(
    client: TestClient, storage: Storage, tmp_path: Path
) -> None:
    path = write_wav(tmp_path / "long.wav", np.zeros(8_000 * 5401, np.float32), rate=8_000)
    status, problem = await send(client, form(path))
    assert (status, problem["code"], problem["title"]) == (422, "too_long", "Too long")
    assert "is 1 h 30 min long; at most 1 h 30 min" in problem["detail"]
    assert "STT_MAX_DURATION_SECONDS" in problem["detail"]
    assert stored(storage) == []


async def test_the_hostile_files_are_refused_before_there_is_a_row(
    client: TestClient, storage: Storage, shared_audio: Path
) -> None:
    for name in HOSTILE:
        status, problem = await send(client, form(shared_audio / "cases" / name))
        right = (422, "too_long") if name == "hostile_flac_hours.flac" else (415, "unsupported_codec")
        assert (status, problem["code"]) == right, name
        assert problem["detail"].endswith(".")
    assert stored(storage) == []


def test_a_length_that_the_bytes_cannot_hold_is_not_believed(tmp_path: Path) -> None:
    path = flac_that_says(100 * 3600, tmp_path)
    assert libav.inspect(path, longest=86_400)[0] == "audio"
    assert sum(map(len, Recording(path, 86_400).blocks())) == 10 * RATE
    with pytest.raises(errors.MediaError) as caught:
        libav.inspect(flac_that_says(12, tmp_path), longest=11)
    assert caught.value.code == "too_long"


def test_where_no_header_tells_the_length_decoding_ends_at_the_limit(tmp_path: Path) -> None:
    path = encode(tmp_path / "live.webm", [tone(60)], "libopus", live="1")
    assert libav.inspect(path, longest=20) == ("audio", None)
    for recording in (Recording(path, 20), handle.SandboxedRecording(path, 20)):
        with pytest.raises(errors.MediaError, match="at most 20 s") as caught:
            list(recording.blocks())
        assert caught.value.code == "too_long"
        recording.close()
    assert sum(map(len, Recording(path, 0).blocks())) == 60 * RATE


# The decoder's process


def test_the_process_gives_what_decoding_here_gives(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 25 * RATE).astype(np.float32)
    path = encode(tmp_path / "noise.m4a", [noise])
    for start in (0, 12_345):
        here, there = Recording(path), handle.SandboxedRecording(path)
        np.testing.assert_array_equal(
            np.concatenate(list(there.blocks(start))), np.concatenate(list(here.blocks(start)))
        )
        for name in ("duration", "missing", "damaged", "decoded"):
            assert getattr(there, name) == getattr(here, name)
        there.close()
        here.close()


def test_a_missing_file_is_an_error_of_the_file() -> None:
    with pytest.raises(FileNotFoundError):
        handle.SandboxedRecording(Path("/nonexistent"))


@pytest.fixture(autouse=True)
def _no_spare_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the decoders that wait for a recording; before what starts them is as it was."""
    yield
    while handle._spares:
        process = handle._spares.pop()
        process.kill()
        process.communicate()


def start_with(monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """Every decoder runs these lines first."""
    code = (
        "from workers.audio import __main__ as child\nfrom stt import resources\n"
        f"from stt.media import errors\nfrom stt.process import sandbox\n{lines}\n"
    )
    program = [sys.executable, "-c", code + "child.main()"]
    start = partial(
        subprocess.Popen, program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
        env=handle._environment(),
    )  # fmt: skip
    monkeypatch.setattr(handle, "_start", start)
    monkeypatch.setattr(handle, "_spares", [])


@pytest.fixture
def hungry(tmp_path: Path) -> Path:
    """A file that takes some 200 MB to decode."""
    path = tmp_path / "hungry.flac"
    path.write_bytes(hostile.flac(1_000, 8))
    return path


def decode(path: Path) -> int:
    recording = handle.SandboxedRecording(path)
    try:
        return sum(map(len, recording.blocks()))
    finally:
        recording.close()


CEILING = "resources.decoding_ceiling = lambda: 350 * 2**20"


def test_a_file_that_takes_more_than_the_ceiling_is_to_blame(
    monkeypatch: pytest.MonkeyPatch, hungry: Path, tmp_path: Path
) -> None:
    start_with(monkeypatch, CEILING)
    with pytest.raises(errors.MediaError) as caught:
        decode(hungry)
    assert caught.value.code == "too_much_memory"
    assert decode(write_wav(tmp_path / "tone.wav", tone(30))) == 30 * RATE


def test_a_machine_without_memory_is_not_the_fault_of_the_file(
    monkeypatch: pytest.MonkeyPatch, hungry: Path
) -> None:
    start_with(monkeypatch, CEILING + "\nsandbox.is_own_limit = lambda ceiling: False")
    with pytest.raises(MemoryError):
        decode(hungry)


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (signal.SIGKILL, handle.DecoderDied, "killed"),  # by the kernel, where memory ran out
        (signal.SIGSEGV, handle.DecoderDied, "SIGSEGV"),
        (signal.SIGXCPU, errors.MediaError, "longer than playing"),
    ],
)
def test_how_the_process_ended_is_said(
    number: signal.Signals, error: type[Exception], words: str, tmp_path: Path
) -> None:
    recording = handle.SandboxedRecording(write_wav(tmp_path / "tone.wav", tone(60)))
    os.kill(recording._process.pid, number)
    recording._process.wait()  # then the next request finds no reader
    with pytest.raises(error, match=words):
        list(recording.blocks())
    recording.close()


def test_a_file_that_takes_far_longer_to_decode_than_to_play_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each of its frames of 16 samples has another rate, so each takes a resampler of its own."""
    path = tmp_path / "slow.flac"
    path.write_bytes(hostile.flac(16_000, 1, block=16, frames=1500, own=[65_535, 65_533]))
    start_with(monkeypatch, "child.SPARE_SECONDS = 1")
    with pytest.raises(errors.MediaError) as caught:
        decode(path)
    assert caught.value.code == "too_slow"


@pytest.mark.parametrize(
    ("own", "status", "code"), [(True, 415, "too_much_memory"), (False, 503, "short_of_memory")]
)
async def test_only_a_file_that_takes_more_than_the_probe_may_is_refused_for_good(
    own: bool, status: int, code: str, monkeypatch: pytest.MonkeyPatch, hungry: Path
) -> None:
    start = asyncio.create_subprocess_exec

    async def small(*program: str, **more: Any) -> asyncio.subprocess.Process:
        at = program.index("-m")
        lines = (
            "import sys; from pathlib import Path; from stt import resources; "
            "from stt.media import probe_child; from stt.process import sandbox\n"
            f"resources.decoding_ceiling = lambda: 200 * 2**20\nsandbox.is_own_limit = lambda _: {own}\n"
            "probe_child._main(Path(sys.argv[1]), float(sys.argv[2]))"
        )
        return await start(*program[:at], "-c", lines, *program[at + 2 :], **more)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", small)
    with pytest.raises((errors.MediaError, probe.NoMemoryForProbe)) as caught:
        await probe.probe(hungry)
    problem = of_domain_error(caught.value)
    assert problem
    assert (problem.status, problem.code) == (status, code)


# What the machine gives


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of 64 GiB with 16 cores, whose control groups a test may fill."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {64 * 2**20} kB\nMemAvailable: {32 * 2**20} kB\n")
    monkeypatch.setattr(resources, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(resources, "CGROUPS", tmp_path)
    monkeypatch.setattr(resources, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(resources, "cores", lambda: 16)
    return tmp_path


def test_probes_are_bounded_by_the_machines_memory(machine: Path) -> None:
    assert resources.decoding_ceiling() == 2 * 2**30
    assert resources.probes_at_once() == 8
    assert resources.free_memory() == 32 * 2**30


@pytest.mark.parametrize(
    ("own", "folder", "limit", "used"),
    [
        ("0::/", "", "memory.max", "memory.current"),
        ("0::/a.slice/b.service", "a.slice", "memory.max", "memory.current"),
        ("3:cpu:/x\n4:memory:/docker/1", "memory/docker/1", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("4:cpu,memory:/docker/1", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_a_containers_limit_counts_whichever_group_has_it(
    machine: Path, own: str, folder: str, limit: str, used: str
) -> None:
    (machine / "own").write_text(own + "\n")
    (machine / folder).mkdir(parents=True, exist_ok=True)
    (machine / folder / limit).write_text(f"{4 * 2**30}\n")
    (machine / folder / used).write_text(f"{2**30}\n")
    assert resources.all_memory() == 4 * 2**30
    assert resources.free_memory() == 3 * 2**30
    assert resources.decoding_ceiling() == 2**30
    assert resources.probes_at_once() == 1


def test_no_limit_of_a_control_group_is_none(machine: Path) -> None:
    (machine / "memory.max").write_text("max\n")
    (machine / "memory").mkdir()
    (machine / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (machine / "memory" / "memory.usage_in_bytes").write_text("1\n")
    assert resources.all_memory() == 64 * 2**30


def test_a_recording_that_was_read_leaves_its_decoder_to_the_next(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "tone.wav", tone(3))
    assert decode(path) == 3 * RATE
    [process] = handle._spares
    assert decode(path) == 3 * RATE
    assert handle._spares == [process]
    unread = handle.SandboxedRecording(path)
    unread.close()
    assert process.returncode is not None
    assert decode(path) == 3 * RATE
