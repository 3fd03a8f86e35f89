"""Who imports whom in stt/ and workers/, read from the source once."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from tests.support.places import ROOT


@dataclass(frozen=True)
class Module:
    """A module of the program."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def imported(self) -> set[str]:
        """All that it imports, also inside functions; `from a import b` is a.b."""
        found: set[str] = set()
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name} imports relatively"
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        return found

    def outside(self) -> set[str]:
        """What it imports that is not ours."""
        return {name for name in self.imported if not below(name, ("stt", "workers"))}


def below(name: str, packages: Iterable[str]) -> bool:
    """Whether a dotted name is one of these or lies in it."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@cache
def modules() -> dict[str, Module]:
    """Every module of the program, by its dotted name."""
    found = {}
    for package in ("stt", "workers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = Module(name, path)
    return found


@cache
def graph() -> dict[str, set[str]]:
    """Which of our modules each one imports."""
    return {name: {_ours(one) for one in module.imported} - {"", name} for name, module in modules().items()}


def _ours(name: str) -> str:
    """The module that is meant by a dotted name, or by the name of something in it."""
    for candidate in (name, name.rpartition(".")[0]):
        if candidate in modules():
            return candidate
    return ""


def reached(start: str) -> dict[str, list[str]]:
    """Every module that comes with this one, each with the way to it."""
    ways, waiting = {start: [start]}, [start]
    while waiting:
        here = waiting.pop(0)
        for there in sorted(graph()[here] - ways.keys()):
            ways[there] = [*ways[here], there]
            waiting.append(there)
    return ways


def circles() -> Iterator[str]:
    """Every pair of modules of which each reaches the other, once."""
    ways = {name: reached(name) for name in graph()}
    for name, found in ways.items():
        for other in found.keys() - {name}:
            if name < other and name in ways[other]:
                yield " > ".join([*found[other], *ways[other][name][1:]])
