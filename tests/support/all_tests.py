"""`make test`: all tests, in runs of pytest one after another: `python -m tests.support.all_tests [ARGS]`.

The fast tiers run in three processes. What measures time or starts engines runs alone. Arguments go to every
run; if they name files, there is one run with just these. The last line sums up all runs as pytest does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

from tests.support.places import ROOT

PARALLEL = ("-n", "3", "--dist", "loadfile")
ON_DEBIANS_SERVERS = tuple(
    f"tests/services/test_{name}.py" for name in ("servers", "jobs", "events", "maintenance")
)
RUNS = (
    ("tests/unit", "tests/services", *PARALLEL),
    ("--servers=debian", *ON_DEBIANS_SERVERS, *PARALLEL),
    ("tests/system",),
)
PASSED, FAILED, INTERRUPTED, NOTHING_SELECTED = 0, 1, 2, 5  # exit codes of pytest


def main(arguments: list[str], runs: tuple[tuple[str, ...], ...] = RUNS) -> int:
    """Run them all, also after one that failed. Returns the exit code: of the first that failed."""
    started = time.monotonic()
    codes: list[int] = []
    counts: Counter[str] = Counter()
    for run in ((),) if names_files(arguments) else runs:
        code, counted = pytest([*run, *arguments])
        codes.append(code)
        counts += counted
        if code == INTERRUPTED:
            break
    print(summary(counts, time.monotonic() - started), flush=True)
    return result(codes, selected=bool(arguments))


def names_files(arguments: list[str]) -> bool:
    """Whether an argument is a folder of tests, a file there, or a test in one."""
    paths = [Path(argument.split("::")[0]).resolve() for argument in arguments]
    return any(path.exists() and path.is_relative_to(ROOT / "tests") for path in paths)


def result(codes: list[int], *, selected: bool) -> int:
    """The exit code of all runs.

    Args:
        codes: Of each run.
        selected: The caller gave arguments: they may select no test of one run, but not none at all.
    """
    if selected and PASSED in codes:
        codes = [code for code in codes if code != NOTHING_SELECTED]
    return next((code for code in codes if code != PASSED), PASSED)


def pytest(arguments: list[str]) -> tuple[int, Counter[str]]:
    """Run pytest. Returns its exit code, and how many tests passed, failed and so on."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [sys.executable, "-m", "pytest", f"--junit-xml={report.name}", *arguments]
        code = _wait(subprocess.Popen(command))
        text = Path(report.name).read_text(encoding="utf-8")
    return code, counted(text)


def _wait(process: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # pytest got the signal too, and ends in order


def counted(report: str) -> Counter[str]:
    """The numbers of a report in JUnit's XML; none if pytest did not get so far."""
    if not report:
        return Counter()
    counts: Counter[str] = Counter()
    for suite in ElementTree.fromstring(report).iter("testsuite"):
        found = {name: int(suite.get(name, "0")) for name in ("failures", "errors", "skipped")}
        counts["failed"] += found["failures"]
        counts["errors"] += found["errors"]
        counts["skipped"] += found["skipped"]
        counts["passed"] += int(suite.get("tests", "0")) - sum(found.values())
    return counts


def summary(counts: Counter[str], seconds: float) -> str:
    """One line as pytest's last one."""
    shown = [f"{counts[name]} {name}" for name in ("failed", "passed", "skipped", "errors") if counts[name]]
    spent = f"{seconds:.2f}s ({timedelta(seconds=int(seconds))})"
    return f" {', '.join(shown) or 'no tests ran'} in {spent} ".center(80, "=")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
