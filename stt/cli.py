"""The `stt` command: one thin function a sub-command."""
# A command imports its modules when it runs: `stt migrate` needs no web app.
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from stt import __version__, logs, settings
from stt.folders import FolderError
from stt.jobs.options import JobOptions
from stt.settings import Settings, SettingsError
from stt.telemetry.ports import PortError
from stt.transcript.formats import FORMATS

HELP = {
    "model": "Whisper size, Hugging Face id, or folder; the service's default if not given.",
    "language": "ISO 639-1 code, such as de; detected if not given.",
    "task": "Transcribe, or translate into English.",
    "priority": "Which of the waiting jobs come first.",
    "word_timestamps": "Times of single words.",
    "initial_prompt": "Text that sets style and spelling.",
    "hotwords": "Words to expect, such as names.",
    "suppress_numerals": "Write numbers as words.",
    "multilingual": "Detect the language again and again, for recordings that switch it.",
    "diarize": "Tell the speakers apart.",
    "min_speakers": "With --diarize: this many speakers at least.",
    "max_speakers": "With --diarize: this many speakers at most.",
}


def main() -> None:
    try:
        cli(prog_name="stt")
    except SettingsError as error:
        print(f"stt: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except (FolderError, PortError) as error:
        print(f"stt: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Self-hosted speech to text. Settings are environment variables: see docs/configuration.md."""


def _load(role: str) -> Settings:
    loaded = settings.load()
    logs.setup(loaded, role)
    if loaded.sentry_dsn:
        from stt.outages import UNAVAILABLE
        from stt.telemetry import sentry

        sentry.setup(loaded, role, outages=UNAVAILABLE)
    return loaded


def _load_for_role(role: str) -> Settings:
    """The settings of a role that runs alone: it starts no servers, so it needs their URLs.

    Raises:
        SettingsError: A URL is missing.
    """
    loaded = _load(role)
    for name in ("database_url", "redis_url"):
        if not getattr(loaded, name):
            variable = settings.PREFIX + name.upper()
            raise SettingsError(f"{variable}: a role on its own needs it; `stt up` brings its own")
    return loaded


@cli.command()
def up() -> None:
    """Run everything: web, maintenance, workers, and the servers they need."""
    from stt.ops import supervisor

    sys.exit(supervisor.run(_load("up")))


@cli.command()
def web() -> None:
    """Run the web app alone."""
    from stt.web import serve

    serve.run(_load_for_role("web"))


@cli.command()
def worker() -> None:
    """Run the transcription workers alone: one, or one for each GPU (STT_WORKERS)."""
    from stt.ops import workers

    sys.exit(workers.run(_load_for_role("worker")))


@cli.command()
def maintenance() -> None:
    """Run the maintenance worker alone."""
    from stt.ops import workers

    _load_for_role("maintenance")
    workers.become("workers.maintenance")


@cli.command()
def migrate() -> None:
    """Bring the database to this version's schema."""
    import asyncio

    import asyncpg

    from stt import db
    from stt.outages import DatabaseUnavailable

    url = _load_for_role("migrate").database_url
    try:
        applied = asyncio.run(db.migrate(url))
    except DatabaseUnavailable as error:
        sys.exit(f"stt migrate: STT_DATABASE_URL: {error}")
    except (db.MigrationError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        sys.exit(f"stt migrate: {error}")
    click.echo(f"migrations applied: {', '.join(map(str, applied)) or 'none were missing'}")


@cli.command()
@click.option("--ready", is_flag=True, help="Whether it has all that it needs, not only whether it runs.")
def health(ready: bool) -> None:
    """Ask the role that runs here for its health; exit code 1 and the reason if something is wrong."""
    from stt.telemetry.ask import ask

    well, line = ask(settings.load(), ready=ready)
    click.echo(line)
    sys.exit(0 if well else 1)


@cli.command()
def doctor() -> None:
    """Check what the service needs; say what to do about each failure."""
    import asyncio

    from stt.ops import doctor as checks

    sys.exit(asyncio.run(checks.run(_load("doctor"))))


def _option_fields(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each option field of an upload."""
    for name, field in reversed(JobOptions.model_fields.items()):
        flag, kind = "--" + name.replace("_", "-"), field.annotation
        extra: dict[str, Any] = {"default": None, "help": HELP.get(name)}
        if kind is bool:
            flag = f"{flag}/--no{flag[1:]}"
        elif get_origin(kind) is Literal:
            extra["type"] = click.Choice(get_args(kind))
        elif int in (kind, *get_args(kind)):
            extra["type"] = int
        command = click.option(flag, name, **extra)(command)
    return command


def _format_list(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    for name in names:
        if name not in FORMATS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(FORMATS)}")
    return names


@cli.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--format", "formats", default="", callback=_format_list,
    help=f"Formats to write, separated by commas: {', '.join(FORMATS)}.",
)  # fmt: skip
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the results; the current one if only --format is given.",
)  # fmt: skip
@click.option("--server", help="URL of a running service [default: STT_SERVER].")
@_option_fields
def transcribe(
    files: tuple[Path, ...],
    formats: tuple[str, ...],
    output: Path | None,
    server: str | None,
    **fields: str | bool | int | None,
) -> None:
    """Transcribe FILES. The text goes to standard output, or into files with --format or --output.

    Uses the service at --server or STT_SERVER, else the running `stt up` of the data folder, else
    starts one for the run.
    """
    from stt.client.transcribe import Target, run

    loaded = _load("transcribe")
    target = Target(formats or (("txt",) if output else ()), output or Path())
    given = {name: _as_text(value) for name, value in fields.items() if value is not None}
    sys.exit(run(loaded, server or loaded.server, files, given, target))


def _as_text(value: str | bool | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
