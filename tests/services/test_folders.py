"""A data folder that cannot be used is said in one line that names its setting, whatever is started."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from stt import folders
from stt.ops.lock import hold
from stt.settings import Settings
from tests.support.places import ROOT
from tests.support.up import private_folder, stt

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk and become another user")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that any user may pass through."""
    with private_folder() as folder:
        folder.chmod(0o755)
        yield folder


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", folder], stderr=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        pytest.skip("nothing may be mounted here")  # nobody but root, and not in every container
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def a_file(place: Path, _: ExitStack) -> Path:
    (place / "data").touch()
    return place / "data"


def below_a_file(place: Path, _: ExitStack) -> Path:
    (place / "data").touch()
    return place / "data" / "stt"


def a_link_to_nothing(place: Path, _: ExitStack) -> Path:
    (place / "data").symlink_to("nowhere")
    return place / "data"


def with_a_file_for_uploads(place: Path, _: ExitStack) -> Path:
    (place / "data").mkdir()
    (place / "data" / "uploads").touch()
    return place / "data"


def read_only(place: Path, stack: ExitStack) -> Path:
    return stack.enter_context(disk(place / "data", "ro"))


def full(place: Path, stack: ExitStack) -> Path:
    folder = stack.enter_context(disk(place / "data", "size=64k"))
    with pytest.raises(OSError, match="No space"), (folder / "film.mkv").open("wb", 0) as film:
        while True:
            film.write(bytes(4096))
    return folder


BROKEN = {
    a_file: "data is not a folder",
    below_a_file: "data is not a folder",
    a_link_to_nothing: "data is not a folder",
    with_a_file_for_uploads: "uploads is not a folder",
    read_only: "is on a disk that is read-only",
    full: "has no room left",
}
ALONE = ("web", "worker", "maintenance")
URLS = {"DATABASE_URL": "postgresql://localhost:1/x", "REDIS_URL": "redis://localhost:1"}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_data_folder_that_cannot_be_used_is_named(
    place: Path, broken: Callable[[Path, ExitStack], Path]
) -> None:
    with ExitStack() as stack:
        settings = Settings(data_dir=broken(place, stack))
        told = f"^STT_DATA_DIR: .*{BROKEN[broken]}[.] [A-Z].*[.]$"
        with pytest.raises(folders.FolderError, match=told):
            folders.prepare_storage(settings)
        if broken is not with_a_file_for_uploads:  # the lock lies beside it
            with pytest.raises(folders.FolderError, match=told), hold(settings.data_dir):
                pass


@pytest.mark.parametrize(
    "broken", [a_file, below_a_file, read_only, full], ids=lambda broken: broken.__name__
)
def test_the_doctor_looks_and_leaves_no_trace(place: Path, broken: Callable[[Path, ExitStack], Path]) -> None:
    with ExitStack() as stack:
        settings = Settings(data_dir=broken(place, stack))
        with pytest.raises(folders.FolderError, match=BROKEN[broken]):
            folders.check(settings)
    folders.check(Settings(data_dir=place / "new" / "data"))
    assert not (place / "new").exists()


def test_a_storage_of_its_own_is_named_by_its_own_setting(place: Path) -> None:
    (place / "films").touch()
    settings = Settings(data_dir=place / "data", storage_url=f"file://{place}/films")
    with pytest.raises(folders.FolderError, match=r"^STT_STORAGE_URL: .*films is not a folder"):
        folders.prepare_storage(settings)
    folders.prepare_data(settings)
    (place / "data" / "models").rmdir()
    (place / "data" / "models").touch()
    with pytest.raises(folders.FolderError, match=r"^STT_DATA_DIR: .*models is not a folder"):
        folders.prepare_data(settings)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_folder_of_another_user_is_named(place: Path) -> None:
    pid = os.fork()
    if not pid:  # as another user, who can never become root again
        os.setgroups([])
        os.setuid(NOBODY)
        said = ""
        try:
            folders.prepare_data(Settings(data_dir=place / "data"))
        except folders.FolderError as error:
            said = str(error)
        os._exit(0 if "STT_DATA_DIR" in said and "may not be written to by this user" in said else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("command", ["up", "web", "worker", "maintenance", "transcribe", "doctor"])
async def test_every_command_says_it_in_one_line_and_fails(place: Path, command: str) -> None:
    folder = a_file(place, ExitStack())
    files = [str(ROOT / "pyproject.toml")] if command == "transcribe" else []
    code, out, err = await stt(command, *files, data_dir=folder, **(URLS if command in ALONE else {}))
    assert code == 1
    assert "Traceback" not in out + err
    assert f"STT_DATA_DIR: {folder} is not a folder" in (out if command == "doctor" else err)
    assert command == "doctor" or len(err.splitlines()) == 1


@as_root
async def test_a_disk_too_small_for_the_database_is_said_in_one_line(place: Path) -> None:
    with disk(place / "data", "size=2m,mode=0700") as folder:
        code, _, err = await stt("up", data_dir=folder)
    assert code == 1
    assert "Traceback" not in err
    assert "No space left on device" in err.splitlines()[-1]
    assert "STT_DATA_DIR" in err.splitlines()[-1]


async def test_a_file_in_the_place_of_a_server_s_folder_is_named(place: Path) -> None:
    for name in ("postgres", "valkey"):
        folder = place / name
        folder.mkdir(mode=0o700)
        (folder / name).touch()
        code, _, err = await stt("up", data_dir=folder)
        assert code == 1
        assert f"{folder / name} is not a folder" in err.splitlines()[-1]
        assert "STT_DATA_DIR" in err.splitlines()[-1]
