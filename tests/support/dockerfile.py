"""Reads a Dockerfile: its stages, and in each the instructions in order. Enough for ours: no heredocs."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pathspec


@dataclass
class Stage:
    """One FROM with what follows it; each instruction is its keyword and the rest of its line."""

    name: str
    base: str  # an image, or the name of an earlier stage
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.steps if word == keyword]


def stages(text: str) -> dict[str, Stage]:
    """The stages by name, in order."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, rest = line.split(None, 1)
        if keyword == "FROM":
            base, _, name = rest.split()
            stage = found[name] = Stage(name, base)
        else:
            stage.steps.append((keyword, rest))
    return found


def assignments(rest: str) -> dict[str, str]:
    """The names and values of an ENV or ARG; an ARG without a default has an empty value."""
    return {name: value for name, _, value in (one.partition("=") for one in shlex.split(rest))}


def copied(rest: str) -> tuple[str, list[str], str]:
    """A COPY: the stage it copies from (or empty: the context), its sources, its target."""
    words = rest.split()
    source = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
    return source, words[:-1], words[-1]


def ignored(text: str) -> pathspec.PathSpec:
    """The patterns of a .dockerignore: as git's, but each begins at the root of the context."""
    patterns = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            sign, pattern = ("!", line[1:]) if line.startswith("!") else ("", line)
            pattern = "**" if pattern == "*" else pattern  # for git, `/*` is not what lies in a folder
            patterns.append(sign + (pattern if pattern.startswith("**/") else f"/{pattern}"))
    return pathspec.PathSpec.from_lines("gitignore", patterns)


def context(root: Path) -> list[Path]:
    """The files that are sent to the builder, relative to the root."""
    spec = ignored((root / ".dockerignore").read_text())
    tops = [place for place in root.iterdir() if not spec.match_file(place.name)]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file()]
    relative = (file.relative_to(root) for file in files)
    return sorted(file for file in relative if not spec.match_file(str(file)))
