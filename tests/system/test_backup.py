"""deploy/backup/backup.sh and deploy/secrets.sh, run as they are against PostgreSQL 15 and Redis 7."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import re
import subprocess
import time
from asyncio import subprocess as children
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio
import redis.exceptions
import yaml

from stt import db
from tests.support import debian
from tests.support.caddy import CADDY
from tests.support.jobs import new
from tests.support.places import ROOT
from tests.support.up import private_folder
from tests.support.uploads import until

pytestmark = pytest.mark.skipif(bool(debian.missing()), reason=debian.missing())
BACKUP, SECRETS = ROOT / "deploy" / "backup" / "backup.sh", ROOT / "deploy" / "secrets.sh"
DAY = 86400


def make_secrets(folder: Path, *arguments: str, password: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", SECRETS, *arguments], env=os.environ | {"STT_SECRETS": str(folder), "CADDY": str(CADDY)},
        cwd=ROOT, input=password, capture_output=True, text=True, check=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A PostgreSQL 15 with one job in its database, and folders for secrets, dumps and metrics."""

    postgres: debian.Postgres
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{self.folder}/programs:{debian.POSTGRES}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1", "PGPORT": str(self.postgres.port), "PGUSER": "stt", "PGDATABASE": "stt",
            "BACKUP_PASSWORD_FILE": str(self.folder / "secrets" / "postgres_password"),
            "BACKUP_FOLDER": str(self.folder / "dumps"), "BACKUP_METRICS": str(self.folder),
        }  # fmt: skip

    def backup(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", BACKUP, *(command or ["now"])],
            env=self.environ | more,
            capture_output=True,
            text=True,
            check=False,
        )

    def dumps(self) -> list[Path]:
        return sorted((self.folder / "dumps").iterdir())

    def program(self, name: str, script: str) -> None:
        """Put a program before the real one of that name."""
        path = self.folder / "programs" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Place]:
    with private_folder() as folder:
        folder.chmod(0o755)
        assert make_secrets(folder / "secrets").returncode == 0
        password = (folder / "secrets" / "postgres_password").read_text()
        postgres = debian.Postgres(folder / "postgres", user="stt")
        await postgres.start(password=password)
        await db.migrate(postgres.url)
        async with await db.create_pool(postgres.url) as pool:
            await new(pool)
        yield Place(postgres, folder)
        await postgres.stop()


@pytest.fixture
def place(server: Place) -> Place:
    for name in ("dumps", "programs"):
        (server.folder / name).mkdir(exist_ok=True)
        for path in (server.folder / name).iterdir():
            path.unlink()
    (server.folder / "backup.prom").unlink(missing_ok=True)
    return server


async def test_a_dump_takes_the_place_of_the_database(place: Place) -> None:
    began = int(time.time())
    done = place.backup()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr)["event"] == "database dumped"
    [dump] = place.dumps()
    assert re.fullmatch(r"stt-\d{8}T\d{6}Z\.dump", dump.name)
    assert dump.stat().st_mode & 0o077 == 0
    [success] = re.findall(r"^stt_backup_\w+_seconds (\d+)$", metrics(place), re.MULTILINE)
    assert began <= int(success) <= time.time()

    await execute(place.postgres.url, "delete from jobs")
    assert place.backup("restore", str(dump)).returncode == 0
    assert await execute(place.postgres.url, "select count(*) from jobs") == 1
    assert await db.migrate(place.postgres.url) == []
    databases = await execute(place.postgres.admin, "select array_agg(datname) from pg_database")
    [before] = [name for name in databases if name.startswith("stt_before_")]
    assert await execute(place.postgres.url.replace("/stt?", f"/{before}?"), "select count(*) from jobs") == 0


async def test_a_dump_that_cannot_be_restored_changes_nothing(place: Place) -> None:
    broken = place.folder / "broken.dump"
    broken.write_text("PGDMP")
    assert place.backup("restore", str(broken)).returncode != 0
    assert place.backup("restore", str(place.folder / "missing")).returncode == 2
    assert await execute(place.postgres.url, "select count(*) from jobs") == 1


async def execute(url: str, statement: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def metrics(place: Place) -> str:
    return (place.folder / "backup.prom").read_text()


def test_old_dumps_are_removed_after_a_new_one_only(place: Place) -> None:
    for days, name in ((15, "stt-old.dump"), (13, "stt-young.dump"), (15, "other.dump")):
        path = place.folder / "dumps" / name
        path.touch()
        os.utime(path, (time.time() - days * DAY,) * 2)
    assert place.backup(PGDATABASE="missing").returncode == 1
    assert len(place.dumps()) == 3
    assert place.backup(BACKUP_DAYS="14").returncode == 0
    names = [path.name for path in place.dumps()]
    assert "stt-old.dump" not in names
    assert {"stt-young.dump", "other.dump"} < set(names)
    assert len(names) == 3


HALF = 'for word; do case $word in --file=*) echo PGDMP > "${word#--file=}" ;; esac; done; '


@pytest.mark.parametrize(
    ("programs", "more"),
    [
        ({}, {"PGPORT": "1"}),
        ({}, {"PGPASSWORD": "wrong", "BACKUP_PASSWORD_FILE": ""}),
        ({"pg_dump": HALF + "exit 1"}, {}),
        ({"pg_dump": HALF + "exit 0"}, {}),
        ({"sync": "exit 1"}, {}),
    ],
    ids=["no server", "wrong password", "ends early", "cannot be read", "full disk"],
)
def test_a_failed_dump_is_told_and_leaves_nothing(
    place: Place, programs: dict[str, str], more: dict[str, str]
) -> None:
    for name, script in programs.items():
        place.program(name, script)
    done = place.backup(**more)
    assert done.returncode == 1
    line = json.loads(done.stderr.splitlines()[-1])
    assert (line["level"], line["event"]) == ("error", "database not dumped")
    assert place.dumps() == []
    assert not (place.folder / "backup.prom").exists()


def test_a_dump_that_was_cut_is_not_accepted(place: Place) -> None:
    place.program("pg_dump", f'{debian.POSTGRES}/pg_dump "$@"; for word; do case $word in --file=*) '
                  'truncate --size=-200 "${word#--file=}" ;; esac; done')  # fmt: skip
    assert place.backup().returncode == 1
    assert place.dumps() == []


def test_the_health_is_the_age_of_the_newest_dump(place: Place) -> None:
    assert place.backup("check").returncode == 1
    assert place.backup().returncode == 0
    assert place.backup("check").returncode == 0
    os.utime(place.dumps()[0], (time.time() - 27 * 3600,) * 2)
    assert place.backup("check").returncode == 1


async def test_each_night_at_the_given_time(place: Place) -> None:
    """It dumps at once, as there is none yet, sleeps until the time, and dumps again."""
    slept = place.folder / "slept"
    place.program("sleep", f'echo "$1" >> {slept}; [ "$(wc -l < {slept})" = 1 ] || exec tail -f /dev/null')
    at = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=200)
    nightly = await children.create_subprocess_exec(
        "sh", BACKUP, "nightly", env=place.environ | {"BACKUP_TIME": at.strftime("%H:%M")}
    )
    await until(lambda: slept.exists() and len(slept.read_text().split()) == 2)
    assert 199 * 60 - 5 <= int(slept.read_text().split()[0]) <= 200 * 60
    assert 1 <= len(place.dumps()) <= 2  # two within one second have one name
    nightly.terminate()
    async with asyncio.timeout(5):
        assert await nightly.wait() == 0
    slept.unlink()


def test_secrets_that_exist_are_kept_and_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert make_secrets(folder).returncode == 0
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert make_secrets(folder).returncode == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert folder.stat().st_mode & 0o777 == 0o700
    compose = yaml.safe_load((ROOT / "docker-compose.production.yml").read_text())
    by_hand = {"proxy_users", "elasticsearch_password"}
    assert {Path(one["file"]).name for one in compose["secrets"].values()} == set(before) | by_hand


def test_people_are_added_and_get_a_new_password(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    for name, password in (("alice", "correct horse"), ("bob", "battery staple"), ("alice", "horse correct")):
        done = make_secrets(folder, "user", name, password=f"{password}\n")
        assert done.returncode == 0, done.stderr
        assert password not in done.stdout + done.stderr
    lines = (folder / "proxy_users").read_text().splitlines()
    assert [re.sub(r" \$2a\$12\$\S{53}$", "", line) for line in lines] == ["bob", "alice"]


@pytest.mark.parametrize(
    ("name", "password"), [("a b", "correct horse"), ("", "correct horse"), ("al", "short")]
)
def test_a_name_or_password_that_will_not_do_is_refused(tmp_path: Path, name: str, password: str) -> None:
    assert make_secrets(tmp_path / "secrets", "user", name, password=password).returncode == 2
    assert not (tmp_path / "secrets" / "proxy_users").exists()


async def test_redis_asks_for_the_password_of_the_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    make_secrets(folder)
    command = yaml.safe_load((ROOT / "docker-compose.production.yml").read_text())["services"]["redis"][
        "command"
    ]
    command = [part.replace("/run/secrets", str(folder)) for part in command]
    password = (folder / "redis_password").read_text()
    assert password not in " ".join(command)
    server = debian.Redis(tmp_path / "redis", command=command)
    stranger_url, url = server.url, (folder / "redis_url").read_text()
    server.url = url.replace("@redis:6379", f"@127.0.0.1:{server.port}")
    await server.start()  # it waits for an answer to that URL
    stranger = redis.asyncio.from_url(stranger_url)
    with pytest.raises(redis.exceptions.AuthenticationError):
        await stranger.ping()
    await stranger.aclose()
    await server.stop()
