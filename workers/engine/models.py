"""Finds or fetches the engine's models: from two Python packages, a folder, or the Hugging Face hub.

No torch in here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from stt.codes import CodedError, ErrorCode
from stt.models import BUNDLES, HUB, MODEL_FILE, Bundle, bundle_parts
from stt.settings import Settings

log = structlog.stdlib.get_logger(__name__)

_STAMP = "verified.json"
_CHUNK = 4 * 2**20  # bytes
# Bytes of the disk that stay free when a model is written, so that the machine goes on working.
_SPARE = 64 * 2**20
# The files of a model's repository that are downloaded. The others, weights for other frameworks, are large.
_PATTERNS = ("config.json", "preprocessor_config.json", MODEL_FILE, "tokenizer.json", "vocabulary.*")
# The hub's cache has the folder of a model from the first downloaded file on. The file `_COMPLETE` is written
# when all files are there. A model without it, put there by another program, is used if the hub cannot
# be reached and the files `_NEEDED` exist.
_COMPLETE = ".stt-complete"
_NEEDED = ("config.json", MODEL_FILE, "tokenizer.json")
_LOG_EVERY = 5.0  # seconds between log lines of a download


class ModelUnavailable(CodedError):
    """A model is not installed and cannot be fetched; the text names it and says what to do."""

    def __init__(self, reason: str, **parameters: Any) -> None:
        super().__init__(ErrorCode.MODEL_UNAVAILABLE, reason=reason, **parameters)


def find(name: str, settings: Settings) -> Path:
    """The folder of a CTranslate2 model, which is downloaded or joined first if necessary.

    Args:
        name: A folder, a Whisper size, or a Hugging Face repository.
        settings: The data folder, and the token for the hub.

    Raises:
        ModelUnavailable: The model is not installed and cannot be fetched.
    """
    if Path(name).is_absolute() or name.startswith((".", "~")) or _is_folder(name):
        return _folder(name)
    if bundle := BUNDLES.get(name):
        folder = settings.data_folder.models / name
        if _join(name, bundle, folder):
            return folder
    return _download(name, settings)


def _is_folder(name: str) -> bool:
    # A name without a separator is a Whisper size, even if a folder of that name exists.
    return os.sep in name and Path(name).is_dir()


def _folder(name: str) -> Path:
    folder = Path(name).expanduser().absolute()
    if not (folder / MODEL_FILE).is_file():
        raise ModelUnavailable("no_model_file", folder=name, file=MODEL_FILE)
    return folder


def _join(name: str, bundle: Bundle, folder: Path) -> bool:
    """Join the parts of a model in `folder`, unless it is there; False if the packages are not installed.

    Args:
        name: The name of the model, for messages.
        bundle: The packages with the parts of the model.
        folder: Where the model is joined.

    Raises:
        ModelUnavailable: The packages are damaged, or the model cannot be written.
    """
    if _verified(folder, bundle.sha256):
        return True
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_name(f".{name}.lock")):
            return _join_alone(name, bundle, folder)
    except OSError as error:
        raise ModelUnavailable(
            "not_written", model=name, folder=str(folder), error=error.strerror or str(error)
        ) from error


def _join_alone(name: str, bundle: Bundle, folder: Path) -> bool:
    # Another process may have joined it while this one waited for the lock. Then the stamp or the checksum
    # matches.
    if _verified(folder, bundle.sha256):
        return True
    if (folder / MODEL_FILE).is_file():
        if _sha256(folder / MODEL_FILE) == bundle.sha256 and _complete(folder, bundle):
            _stamp(folder, bundle.sha256)
            return True
        log.warning("a model is damaged; it is made anew", model=name, folder=str(folder))
    parts = bundle_parts(bundle)
    if not parts:
        return False
    log.info("joining a model", model=name, folder=str(folder))
    _write(name, bundle, parts, folder)
    return True


def _write(name: str, bundle: Bundle, parts: list[Path], folder: Path) -> None:
    """Build the folder beside its place, and rename it to its place.

    Args:
        name: The name of the model, for messages.
        bundle: The checksum, and the files beside the weights.
        parts: The parts of the weights, in order.
        folder: Where the model goes.

    Raises:
        ModelUnavailable: The disk is full, or the packages are damaged.
    """
    needed = sum(part.stat().st_size for part in parts)
    free = shutil.disk_usage(folder.parent).free
    if free < needed + _SPARE:
        raise ModelUnavailable(
            "disk_full", model=name, folder=str(folder.parent), total=(needed + _SPARE) / 1e6,
            size=needed / 1e6, spare=_SPARE / 1e6, free=free / 1e6,
        )  # fmt: skip
    building = folder.with_name(f".{name}.building")
    shutil.rmtree(building, ignore_errors=True)  # a process that was killed may have left it
    building.mkdir()
    try:
        found = _concatenate(parts, building / MODEL_FILE)
        if found != bundle.sha256:
            raise ModelUnavailable("damaged", model=name, found=found[:12], expected=bundle.sha256[:12])
        for file in bundle.files:
            shutil.copyfile(parts[0].parent / file, building / file)
        _stamp(building, bundle.sha256)
        _replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _replace(building: Path, folder: Path) -> None:
    # A folder cannot be renamed to the name of one with files. An engine that has the old files open can
    # still read them.
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    building.rename(folder)


def _concatenate(parts: list[Path], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _verified(folder: Path, sha256: str) -> bool:
    """Whether the files are unchanged since their checksum was verified; verifying it anew takes a second."""
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
        return bool(stamp == {"sha256": sha256, **_file_stats(folder)})
    except (OSError, ValueError):
        return False


def _complete(folder: Path, bundle: Bundle) -> bool:
    return all((folder / file).is_file() for file in bundle.files)


def _stamp(folder: Path, sha256: str) -> None:
    text = json.dumps({"sha256": sha256, **_file_stats(folder)})
    (folder / _STAMP).write_text(text, encoding="utf-8")


def _file_stats(folder: Path) -> dict[str, Any]:
    """Size and modification time of each file, which show whether it was changed."""
    files = sorted(path for path in folder.iterdir() if path.name != _STAMP)
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """A lock that one process holds at a time; the kernel releases it if the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(name: str, settings: Settings) -> Path:
    """The folder of a model of the hub, from the cache if it is complete there."""
    import huggingface_hub  # noqa: PLC0415  only for models that are in no package
    from faster_whisper.utils import _MODELS  # noqa: PLC0415

    repository = name if "/" in name else _MODELS.get(name)
    if repository is None:
        raise ModelUnavailable("unknown", model=name, sizes=list(_MODELS))
    options: dict[str, Any] = {
        "cache_dir": settings.data_folder.models / HUB,
        "allow_patterns": list(_PATTERNS),
        "token": settings.hf_token or None,
    }
    cached = None
    try:
        cached = Path(huggingface_hub.snapshot_download(repository, local_files_only=True, **options))
        if (cached / _COMPLETE).is_file():
            return cached
    except huggingface_hub.errors.LocalEntryNotFoundError:
        log.debug("the model is not in the cache", model=name)
    except huggingface_hub.errors.HFValidationError as error:
        raise ModelUnavailable("bad_name", model=name, error=str(error)) from error
    log.info("downloading a model from the Hugging Face hub", model=name, repository=repository)
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, tqdm_class=_progress(name), **options))
    except Exception as error:
        if cached is not None and all((cached / file).is_file() for file in _NEEDED):
            log.warning("the model is taken from the cache as it is", model=name, error=str(error))
            return cached
        raise _unavailable(name, repository, error) from error
    found = _folder(str(folder))  # a repository without model.bin is refused now and at every later request
    (folder / _COMPLETE).touch()
    return found


def _unavailable(name: str, repository: str, error: Exception) -> ModelUnavailable:
    import huggingface_hub.errors as hub  # noqa: PLC0415

    named = {"model": name, "repository": repository}
    if isinstance(error, hub.GatedRepoError | hub.RepositoryNotFoundError):
        return ModelUnavailable("no_access", **named)
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return ModelUnavailable("not_stored", **named, error=error.strerror)
    return ModelUnavailable("no_connection", **named)


def _progress(name: str) -> Any:
    """A class of progress bars that writes log lines instead."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]  # noqa: PLC0415

    class Progress(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self._logged_at = time.monotonic()
            super().__init__(*args, **{**kwargs, "disable": False, "file": _NullStream()})

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self.unit == "B" and time.monotonic() - self._logged_at > _LOG_EVERY:
                self._logged_at = time.monotonic()
                log.info("downloading", model=name, bytes=self.n, total_bytes=self.total or None)
            return shown

    return Progress


class _NullStream:
    """A stream that drops what is written to it."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing to do."""
