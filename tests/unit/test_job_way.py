"""The picture of a job's way in docs/development.md is true: its arrows are imports or declared messages."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from types import ModuleType

import pytest

from tests.support.imports import graph, modules, reached
from tests.support.places import ROOT

DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.fixture(scope="module")
def picture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("job_way", ROOT / "docs" / "job_way.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["job_way"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def declared(name: str) -> bool:
    """Whether module:name is a name that the module binds at its top."""
    module, _, symbol = name.partition(":")
    found = set()
    for node in modules()[module].tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {one.id for one in ast.walk(ast.Tuple(targets)) if isinstance(one, ast.Name)}
    return symbol in found


def starts(source: str, program: str) -> bool:
    """Whether a module runs `python -m program`."""
    return f'"-m", "{program}"' in re.sub(r"\s+", " ", modules()[source].text)


def test_each_arrow_is_an_import_a_message_or_a_process(picture: ModuleType) -> None:
    wrong = []
    for step in picture.STEPS:
        ends = (step.source, step.target)
        if missing := set(ends) - modules().keys():
            wrong.append(f"there is no {missing}")
        elif step.message:
            home = step.message.partition(":")[0]
            if not declared(step.message) or not all(home in reached(end) for end in ends):
                wrong.append(f"{step.source} and {step.target} do not share {step.message}")
        elif step.starts:
            if not any(starts(end, step.starts) for end in ends):
                wrong.append(f"neither {step.source} nor {step.target} starts {step.starts}")
            if not any(end.startswith(step.starts) for end in ends):
                wrong.append(f"{step.starts} is no end of {step.source} -> {step.target}")
        elif step.target not in graph()[step.source]:
            wrong.append(f"{step.source} does not import {step.target}")
    assert wrong == []


def test_the_picture_is_what_its_script_draws_and_the_page_shows_it(picture: ModuleType) -> None:
    assert picture.PICTURE.read_text("utf-8") == picture.draw(), "run: python docs/job_way.py"
    assert f"]({picture.PICTURE.name})" in (ROOT / "docs" / "development.md").read_text("utf-8")


def test_links_and_paths_in_the_documentation_lead_somewhere() -> None:
    wrong = []
    for page in DOCS:
        text = page.read_text("utf-8")
        for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text)):
            if "://" in target:
                continue
            place = page.parent / target if target else page
            if not place.exists() or (anchor and anchor not in anchors(place.read_text("utf-8"))):
                wrong.append(f"{page.name}: {target}#{anchor}")
        for path in re.findall(r"`((?:stt|workers|tests|bench|docs|sql)/[\w/.-]+)`", text):
            if not (ROOT / path).exists():
                wrong.append(f"{page.name}: {path}")
    assert wrong == []


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
