"""Reads commands of Docker without Docker: names of files, services and build targets, and flags."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import yaml

from tests.support.places import ROOT

# Flags of `docker compose` itself and of its commands, as its manual lists them: those with a value, and
# those without. Add one here that Docker knows.
GLOBAL = ("-f --file --env-file --profile -p --project-name --project-directory --progress", "")
FLAGS = {
    "up": ("--scale -t --timeout --pull --wait-timeout --attach --no-attach --exit-code-from",
           "-d --detach --build --no-build --wait --force-recreate --no-recreate --no-deps --remove-orphans "
           "--quiet-pull --no-start --always-recreate-deps"),
    "down": ("-t --timeout --rmi", "-v --volumes --remove-orphans"),
    "build": ("--build-arg --builder --progress", "--pull --no-cache --push -q --quiet"),
    "pull": ("--policy", "-q --quiet --include-deps --ignore-buildable --ignore-pull-failures"),
    "push": ("", "-q --quiet --include-deps"),
    "logs": ("-n --tail --since --until --index", "-f --follow -t --timestamps --no-color --no-log-prefix"),
    "ps": ("--format --filter --status", "-a --all -q --quiet --services --no-trunc"),
    "exec": ("-u --user -w --workdir -e --env --index", "-T --no-TTY -d --detach -i --interactive"),
    "run": ("-u --user -w --workdir -e --env -v --volume --entrypoint --name -l --label -p --publish",
            "--rm -T --no-TTY -d --detach -i --interactive --no-deps --build -q --quiet --quiet-pull"),
    "stop": ("-t --timeout", ""),
    "start": ("--wait-timeout", "--wait"),
    "restart": ("-t --timeout", "--no-deps"),
    "kill": ("-s --signal", "--remove-orphans"),
    "rm": ("", "-f --force -s --stop -v --volumes"),
    "cp": ("--index", "-a --archive -L --follow-link"),
    "create": ("--scale --pull", "--build --force-recreate --no-recreate"),
    "config": ("--format -o --output", "-q --quiet --services --volumes --images --no-interpolate"),
    "images": ("--format", "-q --quiet"),
    "top": ("", ""),
    "version": ("--format -f", "--short"),
}  # fmt: skip
SERVICES = {"up", "build", "pull", "push", "logs", "ps", "stop", "start", "restart", "kill", "rm", "create"}
FIRST_IS_SERVICE = {"exec", "run"}


def wrong_words(words: list[str]) -> str:
    """The first word of a command of Docker that names nothing; empty for other commands."""
    words = [word for word in words if word != "sudo"]
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if words[:2] == ["docker", "compose"]:
        return _wrong_in_compose(words[2:])
    if words[:2] in (["docker", "build"], ["docker", "buildx"]):
        return _wrong_in_build(words[2:])
    return ""


def _wrong_in_compose(words: list[str]) -> str:
    flags, words, wrong = _flags(words, *GLOBAL)
    files = [value for name, value in flags if name in ("-f", "--file")] or ["docker-compose.yml"]
    missing = [file for file in files if not (ROOT / file).is_file()]
    if wrong or missing:
        return wrong or missing[0]
    command, *rest = words
    if command not in FLAGS:
        return command
    flags, names, wrong = _flags(rest, *FLAGS[command])
    scaled = [value.partition("=")[0] for name, value in flags if name == "--scale"]
    if command in FIRST_IS_SERVICE:
        names = names[:1]
    elif command not in SERVICES:
        names = []
    known = {name for file in files for name in services(file)}
    return wrong or next((name for name in [*scaled, *names] if name not in known), "")


def _wrong_in_build(words: list[str]) -> str:
    targets = re.findall(
        r"^FROM .+ AS (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.IGNORECASE
    )
    named = re.findall(r"--target[= ](\S+)", " ".join(words))
    return next((name for name in named if name not in targets), "")


def _flags(words: list[str], valued: str, plain: str) -> tuple[list[tuple[str, str]], list[str], str]:
    """The flags before the first other word (all flags, for commands that take services), that and the
    words after it, and the first flag that is unknown."""
    flags, rest = [], list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if name in valued.split():
            flags.append((name, value if equals else rest.pop(0)))
        elif name not in plain.split():
            return flags, rest, name
    return flags, rest, ""


@cache
def services(file: str) -> set[str]:
    """The services of a compose file."""
    found: dict[str, Any] = yaml.load((ROOT / file).read_text(), _Loader)
    return set(found.get("services") or {})


class _Loader(yaml.SafeLoader):
    """Compose's own tags, such as ``!reset``, are read as nothing."""


_Loader.add_multi_constructor("!", lambda *_: None)
