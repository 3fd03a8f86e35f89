"""The rules of the house: who imports whom, where SQL stands, who reads the environment, what is too long.

Each test names all that break its rule at once.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

from tests.support.imports import Module, below, circles, graph, modules, reached
from tests.support.places import ROOT

# Each imports only what stands in a line below its own; in the last line they may import each other.
LAYERS = (
    ("stt.__main__",),
    ("stt.cli",),
    ("stt.web", "stt.client", "stt.ops"),
    ("stt.jobs",),
    ("stt.telemetry",),
    ("stt.db", "stt.media", "stt.storage", "stt.folders"),
    (
        "stt.settings", "stt.paths", "stt.outages", "stt.pubsub", "stt.process", "stt.transcript",
        "stt.resources", "stt.texts", "stt.codes", "stt.logs", "stt.tracebacks", "stt.models",
    ),
)  # fmt: skip
SIDEWAYS = {
    ("stt.client", "stt.ops.lock"),  # to find the service that runs here
    ("stt.folders", "stt.storage"),  # to make its folders
}
ENGINE = ("workers.engine", "workers.audio", "workers.diarization")
# What starts the engine's processes and speaks with them; it belongs to the worker's process.
HANDLES = (
    "workers.engine.handle",
    "workers.engine.protocol",
    "workers.diarization.handle",
    "workers.audio.handle",
)
ENGINE_LIBRARIES = (
    "torch", "torchaudio", "whisperx", "faster_whisper", "ctranslate2", "pyannote", "senko", "sklearn",
    "transformers", "onnxruntime",
)  # fmt: skip
SQL = re.compile(
    r"^\s*(select\b.+\bfrom\b|insert\s+into\b|update\s+\w+\s+set\b|delete\s+from\b"
    r"|(create|alter|drop)\s+(table|index|type|database)\b)",
    re.IGNORECASE | re.DOTALL,
)
LINES, CLASS_LINES, TEST_LINES = 400, 200, 500


def check(rule: str, broken: Iterator[str] | set[str]) -> None:
    """Fail with all that break a rule."""
    found = sorted(broken)
    assert not found, f"{rule}:\n" + "\n".join(found)


def importers(package: str) -> Iterator[str]:
    """Our modules that import it or something of it."""
    return (
        name for name, module in modules().items() if any(below(one, [package]) for one in module.outside())
    )


def test_each_layer_imports_only_those_below_it() -> None:
    def layer(name: str) -> int:
        return next(n for n, packages in enumerate(LAYERS) if below(name, packages))

    def room(name: str) -> str:
        return ".".join(name.split(".")[:2])

    def broken() -> Iterator[str]:
        for name in (name for name in modules() if name.startswith("stt.")):
            for other in graph()[name] - {"stt"}:
                beside = room(name) == room(other) or (room(name), other) in SIDEWAYS
                lowest = layer(name) == layer(other) == len(LAYERS) - 1
                if not beside and not lowest and layer(name) >= layer(other):
                    yield f"{name} > {other}"

    check("layers", broken())


def test_the_service_never_imports_workers_nor_they_what_serves() -> None:
    def broken() -> Iterator[str]:
        above = ("stt.web", "stt.client", "stt.ops", "stt.cli")
        for name, others in graph().items():
            forbidden = ("workers",) if below(name, ["stt"]) else above
            yield from (f"{name} > {other}" for other in others if below(other, forbidden))

    check("workers", broken())


def test_nothing_goes_round_in_a_circle() -> None:
    check("circles", circles())


def test_only_the_web_wing_and_telemetry_serve_and_only_the_client_and_the_supervisor_ask() -> None:
    def broken() -> Iterator[str]:
        for name, module in modules().items():
            if below(name, ["stt.web"]):
                client = re.search(r"\bClient(Session|Timeout|Request|Response)\b", module.text)
                yield from [f"{name} uses aiohttp's client"] if client else []
                continue
            names = {one for one in module.outside() if below(one.split(".")[0], ["aiohttp", "aiohttp_sse"])}
            if below(name, ["stt.telemetry"]):
                names -= {"aiohttp.web"}
            if below(name, ["stt.client", "stt.ops.supervisor"]):
                names = {one for one in names if below(one, ["aiohttp.web", "aiohttp_sse"])}
                names |= {"aiohttp.web"} if re.search(r"\baiohttp\.web\b", module.text) else set()
            yield from (f"{name} > {one}" for one in names)
        for package in ("jinja2", "aiohttp_jinja2", "markupsafe"):
            yield from (f"{name} > {package}" for name in importers(package) if not below(name, ["stt.web"]))

    check("http", broken())


def test_only_tickets_and_the_workers_know_arq() -> None:
    may = {"stt.jobs.tickets", "stt.jobs.actions", "stt.web.context"}
    worker = re.compile(r"workers\.\w+")
    check("arq", {name for name in importers("arq") if name not in may and not worker.fullmatch(name)})


def test_pages_and_the_api_never_import_each_other() -> None:
    pages, api = "stt.web.pages", "stt.web.api"

    def broken() -> Iterator[str]:
        for name in modules():
            for wing, other in ((pages, api), (api, pages)):
                if below(name, [wing]):
                    yield from (" > ".join(way) for to, way in reached(name).items() if below(to, [other]))
            if below(name, [api]):
                yield from (f"{name} > {to}" for to in graph()[name] if below(to, [api]) and to != api)

    check("pages and api", broken())


def test_the_transcript_wing_imports_only_itself() -> None:
    own = ("stt.transcript", "stt.codes", "stt.texts")
    libraries = {"docx", "budoux"} | sys.stdlib_module_names

    def broken() -> Iterator[str]:
        for name in (name for name in modules() if below(name, ["stt.transcript"])):
            yield from (f"{name} > {other}" for other in graph()[name] if not below(other, own))
            yield from (
                f"{name} > {one}" for one in modules()[name].outside() if one.split(".")[0] not in libraries
            )

    check("transcript", broken())


def test_what_parses_strangers_files_reaches_no_server() -> None:
    ours = ("stt.db", "stt.jobs", "stt.pubsub", "stt.storage", "stt.web", "stt.ops", "stt.client")
    libraries = ("asyncpg", "redis", "arq", "aiohttp")

    def broken() -> Iterator[str]:
        for start in (name for name in modules() if below(name, (*ENGINE, "stt.media"))):
            for name, way in reached(start).items():
                if below(name, ours):
                    yield " > ".join(way)
                for one in modules()[name].outside():
                    if below(one, libraries):
                        yield " > ".join([*way, one])

    check("engine without servers", broken())


def test_only_the_engines_processes_load_its_libraries() -> None:
    starts = [name for name in modules() if not below(name, ENGINE) or below(name, HANDLES)]

    def broken() -> Iterator[str]:
        for start in starts:
            for name, way in reached(start).items():
                for one in modules()[name].outside():
                    if below(one, ENGINE_LIBRARIES):
                        yield " > ".join([*way, one])

    check("engine's libraries", broken())


def test_sql_stands_only_under_sql_and_each_query_says_its_purpose() -> None:
    def texts(module: Module) -> Iterator[str]:
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        firsts = [node.body[0] for node in module.nodes if isinstance(node, kinds) and node.body]
        docstrings = {id(one.value) for one in firsts if isinstance(one, ast.Expr)}
        for node in module.nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value

    def broken() -> Iterator[str]:
        for name, module in modules().items():
            yield from (f"{name}: {text[:40]!r}" for text in texts(module) if SQL.match(text))
        queries = (ROOT / "sql" / "queries.sql").read_text(encoding="utf-8")
        found = re.findall(r"^-- name: (\S+)\n(.*)", queries, re.MULTILINE)
        assert len(found) > 20
        yield from (name for name, line in found if not line.startswith("-- "))

    check("SQL", broken())


def test_only_settings_reads_settings_from_the_environment() -> None:
    """Others may hand a child its environment, and read what is no setting of ours."""
    handed_down = {"STT_READY_FD"}  # a pipe, from supervisor to web app

    def reads(module: Module) -> Iterator[str]:
        for node in module.nodes:
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
                owner, key = node.value, node.slice
            elif isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Attribute):
                getenv = node.func.attr == "getenv"
                owner, key = node.func if getenv else node.func.value, node.args[0]
            else:
                continue
            if re.search(r"\bos\.(environ|getenv)\b", ast.unparse(owner)):
                yield key.value if isinstance(key, ast.Constant) else ast.unparse(node)

    def broken() -> Iterator[str]:
        for name, module in modules().items():
            for key in set(reads(module)) - handed_down if name != "stt.settings" else ():
                if key.startswith("STT_") or not key.isidentifier():
                    yield f"{name}: {key}"

    check("environment", broken())


@pytest.mark.parametrize(
    ("program", "unloaded"),
    [
        ("import stt.cli", {"aiohttp.web", "structlog", "sentry_sdk", "asyncio", "asyncpg", "redis", "arq"}),
        ("import stt.web.app", set()),
        ("import stt.ops.supervisor", {"aiohttp.web"}),
        ("import stt.telemetry.ask", {"aiohttp", "asyncio", "prometheus_client", "structlog"}),
        ("import workers.transcriber", {"jinja2"}),
        ("import workers.maintenance", {"jinja2"}),
        (
            "import stt.media.probe_child",
            {"aiohttp", "pydantic", "redis", "structlog"},
        ),  # every upload waits for it
    ],
)
def test_each_program_loads_only_what_it_needs(program: str, unloaded: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}; print(*sys.modules)"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert not loaded & ({*ENGINE_LIBRARIES, "numpy"} | unloaded)


def test_files_and_classes_are_short() -> None:
    def too_long(node: ast.AST) -> bool:
        """A class may be, if its docstring says why it has so many lines."""
        if not isinstance(node, ast.ClassDef) or (node.end_lineno or 0) - node.lineno < CLASS_LINES:
            return False
        return not re.search(r"\blines\b", ast.get_docstring(node) or "")

    def broken() -> Iterator[str]:
        for name, module in modules().items():
            yield from [name] if module.text.count("\n") >= LINES else []
            yield from (f"{name}.{node.name}" for node in module.nodes if too_long(node))
        for path in (ROOT / "tests").rglob("*.py"):
            if path.read_text(encoding="utf-8").count("\n") >= TEST_LINES:
                yield str(path.relative_to(ROOT))

    check("lengths", broken())


def test_lock_files_have_hashes_and_no_addresses() -> None:
    def broken() -> Iterator[str]:
        for path in sorted((ROOT / "requirements").glob("*.txt")):
            text = path.read_text(encoding="utf-8")
            yield from [f"{path.name} has an address"] if "://" in text else []
            entries = re.split(r"\n(?=\S)", text.strip())
            yield from (f"{path.name}: {entry[:40]}" for entry in entries if "--hash=sha256:" not in entry)

    check("locks", broken())


def test_the_web_lock_holds_no_torch_and_what_the_engine_names_is_declared_and_locked_so() -> None:
    def locked(name: str) -> dict[str, str]:
        text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", text, re.MULTILINE))

    assert len(locked("web")) > 10
    heavy = ("torch", "nvidia", "whisperx", "triton")
    assert [name for name in locked("web") if name.startswith(heavy)] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {found.name: found for found in map(Requirement, extras["optional-dependencies"]["worker"])}
    for name in ("torch", "whisperx", "faster-whisper", "onnxruntime"):
        assert locked("worker")[name] in declared[name].specifier


def test_samples_are_few_small_and_attributed() -> None:
    samples = sorted((ROOT / "samples").glob("*.flac"))
    assert samples
    assert sum(path.stat().st_size for path in samples) < 1_000_000
    attribution = (ROOT / "samples" / "README.md").read_text(encoding="utf-8")
    for sample in samples:
        assert f"`{sample.name}`" in attribution
        assert sample.with_suffix(".txt").read_text(encoding="utf-8").strip()
