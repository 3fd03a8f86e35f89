"""The commands of the documentation, and how a test runs them.

A fenced block whose info string is ``sh`` holds commands that a test runs. A second word says what else they
need: ``sh docker``, ``sh kubernetes``, ``sh root``. Those are checked as far as that is possible without.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.support.places import ROOT

PAGES = ("README.md", "CONTRIBUTING.md", "samples/README.md", *(f"docs/{path.name}" for path in sorted(
    (ROOT / "docs").glob("*.md")
)))  # fmt: skip
NEEDS = ("docker", "kubernetes", "root")
# Other languages that a block may be in; they hold no commands.
DATA = ("json", "yaml", "toml", "ini", "text", "python", "promql", "sql", "http", "caddyfile", "nginx")
# Not run by this test, as each is a whole job of its own.
MAKE_TARGETS = {
    "setup": "the check on a fresh machine runs it: it downloads gigabytes",
    "up": "the check on a fresh machine runs it; tests/system/test_up.py runs the same `stt up`",
    "test": "this test is part of it",
    "test-fast": "part of `make test`",
    "test-servers": "it runs the service tier on other servers",
    "lint": "a job of its own",
    "bench": "minutes; its figures are in docs/benchmarks.md",
}
# Files that a page expects its reader to have: our own recording under that name.
READERS_RECORDINGS = ("talk.mp3",)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its info string, its content."""

    page: str
    line: int
    info: str
    text: str

    @property
    def needs(self) -> str:
        """What its commands need beside this machine: one of `NEEDS`, or nothing."""
        return self.info.partition(" ")[2]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    """Every fenced block of a page."""
    for token in MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type == "fence":
            assert token.map
            yield Block(page, token.map[0] + 1, token.info.strip(), token.content)


def shell_blocks(*, needs: str) -> list[Block]:
    """The blocks of commands, of all pages, that need this."""
    return [
        block
        for page in PAGES
        for block in blocks(page)
        if block.info.partition(" ")[0] == "sh" and block.needs == needs
    ]


def runs_make_only(block: Block) -> bool:
    """Whether it only makes targets that are run elsewhere."""
    lines = [words for words in commands(block.text) if words]
    return all(words[0] == "make" and words[1] in MAKE_TARGETS for words in lines)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each simple command; comments are left out.

    Pipes, `&&` and the like part commands. A here-document is left out, as its lines are no commands.
    """
    text = re.sub(r"<<-?\s*['\"]?(\w+)['\"]?(.*)\n(?:.*\n)*?\s*\1\n", r"\2\n", text)
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("|&;") and word:
                yield words
                words = []
            else:
                words.append(word)
        yield words


def substituted(text: str, url: str, metrics_port: int) -> str:
    """The commands for a service that runs elsewhere than the documented one.

    The address 127.0.0.1:8000 (or localhost:8000) becomes that of the service; ports 9464 to 9466 of loopback
    become its metrics ports; the word ID becomes the newest job, once that has ended (``newest-job``).
    """
    loopback = r"(?:127\.0\.0\.1|localhost)"
    text = re.sub(rf"http://{loopback}:8000\b", url, text)
    text = re.sub(
        rf"{loopback}:(946[456])\b", lambda found: f"127.0.0.1:{metrics_port + int(found[1]) - 9464}", text
    )
    return re.sub(r"(?<![\w$-])ID(?![\w-])", "$(newest-job)", text)


def paths(text: str) -> Iterator[str]:
    """The words that name a file or folder of the repository."""
    tops = "|".join(sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."))
    pattern = rf"(?:{tops})/[\w./-]+|docker-compose[\w.-]*\.yml|Dockerfile|Makefile"
    for words in commands(text):
        for word in words:
            found = re.fullmatch(rf"(?:\./)?({pattern})", word.rpartition("=")[2].removeprefix("@"))
            if found:
                yield found[1]


NEWEST_JOB = """#!{python}
import json, sys, time, urllib.request
for _ in range(600):
    with urllib.request.urlopen("{url}/api/jobs?limit=1") as answer:
        [job] = json.load(answer)["jobs"]
    if job["status"] not in ("pending", "processing"):
        print(job["id"])
        sys.exit()
    time.sleep(0.1)
sys.exit("the newest job has not ended within a minute")
"""


def write_newest_job(folder: Path, python: str, url: str) -> None:
    """The program ``newest-job``: it prints the id of the newest job, once that has ended."""
    program = folder / "newest-job"
    program.write_text(NEWEST_JOB.format(python=python, url=url))
    program.chmod(0o755)
