"""`stt doctor`: checks what the service needs, with advice for each check that fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import asyncpg
import av
import redis.asyncio
import redis.exceptions
from rich.console import Console

from stt import folders, models
from stt.folders import FolderError
from stt.ops import gpus
from stt.ops.embedded.postgres import Postgres
from stt.ops.embedded.server import ServersError
from stt.ops.embedded.servers import Servers
from stt.ops.lock import holder
from stt.settings import Settings

CODECS = ("aac", "mp3", "opus", "vorbis", "flac", "pcm_s16le", "alac", "amrnb", "wmav2")
LEAST_FREE_BYTES = 5 * 2**30
CONNECT_SECONDS = 5
COUNT_CUDA = "import ctranslate2; print(ctranslate2.get_cuda_device_count())"


class Failed(Exception):
    """A check failed: what is wrong, and advice."""

    def __init__(self, wrong: str, advice: str) -> None:
        super().__init__(wrong)
        self.wrong, self.advice = wrong, advice


Check = Callable[[Settings], Awaitable[str]]  # returns what was found; raises Failed


async def run(settings: Settings) -> int:
    """Print one line for each check, with advice under a failure. Returns the exit code, 1 if one failed."""
    console = Console(highlight=False, soft_wrap=True)
    failed = 0
    for name, check in CHECKS.items():
        try:
            head, text = "[green]ok[/]   ", await check(settings)
        except (Failed, FolderError) as failure:
            failed = 1
            head, text = "[red]wrong[/]", f"{failure.wrong}\n      {failure.advice}"
        console.print(head, end=" ")
        console.print(f"{name}: {text}", markup=False)
    return failed


async def check_media(_: Settings) -> str:
    """PyAV, with FFmpeg's libraries, decodes the usual codecs."""
    missing = [name for name in CODECS if not _can_decode(name)]
    if missing:
        raise Failed(
            f"PyAV {av.__version__} cannot decode {', '.join(missing)}",
            "Install PyAV's wheel: pip install --force-reinstall --only-binary :all: av",
        )
    library = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"PyAV {av.__version__} with libavcodec {library}"


def _can_decode(name: str) -> bool:
    try:
        av.codec.Codec(name, "r")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


async def check_gpu(settings: Settings) -> str:
    """The engine can use the GPUs that the driver shows."""
    if settings.device == "cpu":
        return "not asked for (STT_DEVICE=cpu)"
    shown = await asyncio.to_thread(gpus.listed)
    usable = await asyncio.to_thread(_cuda_devices)
    if usable:
        return ", ".join(shown.values()) or f"{usable} CUDA devices"
    if shown:
        raise Failed(
            f"{', '.join(shown.values())}: there, but the engine cannot use it",
            "Look at `nvidia-smi` for the driver's version, at CUDA_VISIBLE_DEVICES, and that "
            "the CUDA build is installed (`make setup` without TORCH_INDEX).",
        )
    if settings.device == "cuda":
        raise Failed(
            "none found, and STT_DEVICE=cuda asks for one",
            "Install NVIDIA's driver, give the container its GPU (--gpus all), or set STT_DEVICE=auto.",
        )
    return "none, the CPU does the work"


def _cuda_devices() -> int:
    # In a process of its own: this one must not load the engine's libraries.
    done = subprocess.run([sys.executable, "-c", COUNT_CUDA], capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 0


async def check_engine(_: Settings) -> str:
    """The packages of the worker are installed."""
    try:
        found = [f"{name} {version(name)}" for name in ("whisperx", "faster-whisper", "torch")]
    except PackageNotFoundError as error:
        raise Failed(
            f"{error.name} is not installed",
            "Install the worker's part: make setup. A machine that only runs `stt web` needs none.",
        ) from None
    return ", ".join(found)


async def check_model(settings: Settings) -> str:
    """The default model is on this disk, or in installed packages."""
    with folders.explained(folders.DATA_DIR, settings.data_dir):
        folder = models.find_on_disk(settings.model, settings.data_folder.models)
    if folder is not None:
        return f"{settings.model} in {folder}"
    if settings.model in models.BUNDLES and models.bundle_parts(models.BUNDLES[settings.model]):
        return f"{settings.model}, in packages; put together by the first job"
    if Path(settings.model).is_absolute():
        raise Failed(
            f"{settings.model} holds no {models.MODEL_FILE}", "Set STT_MODEL to a CTranslate2 model."
        )
    raise Failed(
        f"{settings.model} is not on this disk",
        "The first job downloads it from the Hugging Face hub; where that cannot be reached, set "
        "STT_MODEL to a folder with a CTranslate2 model, or to base and run `make setup`.",
    )


async def check_database(settings: Settings) -> str:
    """PostgreSQL answers, or the embedded one can be started."""
    if not settings.database_url and not holder(settings.data_dir):
        return await asyncio.to_thread(_embedded_postgres, settings)
    url = Servers(settings).database_url
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Failed(
            f"{type(error).__name__}: {error}",
            "Start PostgreSQL and look at STT_DATABASE_URL, or unset it to use the embedded one.",
        ) from None
    found = connection.get_settings().server_version
    await connection.close()
    return f"PostgreSQL {found} answers"


def _embedded_postgres(settings: Settings) -> str:
    try:
        postgres = Postgres(settings.data_folder.postgres)
        postgres.check_version()
    except ServersError as error:
        raise Failed("the embedded PostgreSQL would not start", str(error)) from None
    return "embedded, `stt up` starts it"


async def check_redis(settings: Settings) -> str:
    """Redis or Valkey answers, or the embedded one can be started."""
    if not settings.redis_url and not holder(settings.data_dir):
        return "embedded, `stt up` starts it"
    client: redis.asyncio.Redis = redis.asyncio.from_url(  # type: ignore[no-untyped-call]
        Servers(settings).redis_url,
        socket_timeout=CONNECT_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
    )
    try:
        info = await client.info("server")
    except (OSError, redis.exceptions.RedisError) as error:
        raise Failed(
            f"{type(error).__name__}: {error}",
            "Start Redis or Valkey and look at STT_REDIS_URL, or unset it to use the embedded one.",
        ) from None
    finally:
        await client.aclose()
    found = info.get("valkey_version", info["redis_version"])  # Valkey gives both
    return f"{info.get('server_name', 'redis')} {found} answers"


async def check_folders(settings: Settings) -> str:
    """The folders exist or can be made, and can be written to."""
    folders.check(settings)
    return " and ".join(dict.fromkeys(map(str, (settings.data_dir, settings.storage_dir))))


async def check_disk(settings: Settings) -> str:
    """The disks have room for recordings."""
    found = []
    for folder in dict.fromkeys((settings.data_dir, settings.storage_dir)):
        place = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
        with folders.explained(folders.DATA_DIR, folder):
            free = shutil.disk_usage(place).free
        found.append(f"{free / 2**30:.1f} GiB free in {folder}")
        if free < LEAST_FREE_BYTES:
            raise Failed(
                f"{found[-1]}, less than the {LEAST_FREE_BYTES / 2**30:.0f} GiB that recordings soon take",
                "Delete recordings that nobody needs, or move STT_DATA_DIR to a larger disk.",
            )
    return ", ".join(found)


CHECKS: dict[str, Check] = {
    "folders": check_folders,
    "media": check_media,
    "engine": check_engine,
    "GPU": check_gpu,
    "model": check_model,
    "database": check_database,
    "Redis": check_redis,
    "disk space": check_disk,
}
