"""The documentation's commands name what there is; those that need no more are run in tests/system."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.compose import wrong_words
from tests.support.documentation import (
    DATA,
    MAKE_TARGETS,
    NEEDS,
    PAGES,
    Block,
    blocks,
    commands,
    paths,
    substituted,
)
from tests.support.documentation import shell_blocks as having
from tests.support.places import ROOT

SHELL = [block for needs in ("", *NEEDS) for block in having(needs=needs)]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_holds(page: str) -> None:
    """One without a language, or as `bash` or `console`, would be run by nobody."""
    known = {"sh", *(f"sh {need}" for need in NEEDS), *DATA}
    assert [(block.line, block.info) for block in blocks(page) if block.info not in known] == []


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_files_of_the_repository_that_a_command_names_are_there(block: Block) -> None:
    made = set(re.findall(r">\s*(\S+)", block.text))  # by the block itself
    assert [path for path in paths(block.text) if not (ROOT / path).exists() and path not in made] == []


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_targets_of_make_are_there(block: Block) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = [words[1] for words in commands(block.text) if words[:1] == ["make"]]
    assert [target for target in made if target not in known] == []


def test_targets_that_are_run_elsewhere_are_still_in_the_makefile() -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert MAKE_TARGETS.keys() - known - {"test-servers"} == set()


@pytest.mark.parametrize("block", having(needs="docker"), ids=str)
def test_docker_commands_name_services_flags_and_targets_that_there_are(block: Block) -> None:
    assert [wrong for words in commands(block.text) if (wrong := wrong_words(words))] == []


@pytest.mark.parametrize("block", having(needs="kubernetes"), ids=str)
def test_kubectl_knows_the_commands_and_flags(block: Block, tmp_path: Path) -> None:
    """It parses its arguments before it connects, here to a port where nobody listens."""
    kubeconfig = tmp_path / "config"
    cluster = {"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "none", "context": {"cluster": "none", "user": ""}}
    kubeconfig.write_text(
        yaml.safe_dump({"clusters": [cluster], "contexts": [context], "current-context": "none"})
    )
    for words in commands(block.text):
        if words[:1] == ["kubectl"]:
            answer = subprocess.run(
                [*words, "--request-timeout=1s"], env={"KUBECONFIG": str(kubeconfig), "PATH": _path()},
                cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False,
            )  # fmt: skip
            assert not re.search(r"unknown|invalid|required|must be|not exist", answer.stderr), answer.stderr


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def test_what_stands_for_the_readers_own_is_replaced() -> None:
    text = "curl http://127.0.0.1:8000/api/jobs/ID/events -H 'X-ID: 1' localhost:9465/metrics $ID"
    assert substituted(text, "http://127.0.0.1:1234", 5000) == (
        "curl http://127.0.0.1:1234/api/jobs/$(newest-job)/events -H 'X-ID: 1' 127.0.0.1:5001/metrics $ID"
    )


def test_commands_are_parted_as_a_shell_does() -> None:
    text = "a 'b c' \\\n  d | e && f  # g\ncat <<EOF > h\nno command\nEOF\nX=1 i\n"
    assert [words for words in commands(text) if words] == [
        ["a", "b c", "d"], ["e"], ["f"], ["cat", ">", "h"], ["X=1", "i"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("docker compose up -d --build web", ""),
        ("docker compose -f docker-compose.yml exec -T web stt health --ready", ""),
        ("docker compose up -d --scale web=2 nothere", "nothere"),
        ("docker compose -f nothere.yml up", "nothere.yml"),
        ("docker compose up --detatch", "--detatch"),
        ("docker compose upp", "upp"),
        ("docker build --target nothere .", "nothere"),
        ("sudo docker compose logs -f nothere", "nothere"),
    ],
)
def test_a_wrong_word_of_docker_is_found(command: str, wrong: str) -> None:
    if not (ROOT / "docker-compose.yml").exists():
        pytest.skip("there is no docker-compose.yml yet")
    assert wrong_words(command.split()) == wrong
