"""`make test`: several runs of pytest that count as one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support import all_tests

TESTS = """
import pytest

def test_good(): pass
def test_other(): pass
@pytest.mark.skipif(True, reason="here")
def test_skipped(): pass
def test_bad(): assert not {bad}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders of tests: one test of the first one fails."""
    (tmp_path / "pytest.ini").touch()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"test_{name}.py").write_text(TESTS.format(bad=name == "one"))
    return tmp_path


def run(folder: Path, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run both folders. Returns the exit code and the last line."""
    runs = tuple(("-p", "no:cacheprovider", str(folder / name)) for name in ("one", "two"))
    code = all_tests.main(list(arguments), runs)
    return code, capfd.readouterr().out.splitlines()[-1]


def test_a_failure_keeps_no_other_run_from_running_and_all_are_summed_up(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, line = run(folder, capfd)
    assert code == 1
    assert "= 1 failed, 5 passed, 2 skipped in " in line


def test_a_selection_may_leave_a_run_without_tests_but_not_all(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, capfd, "-k", "test_two and good")[0] == 0
    code, line = run(folder, capfd, "-k", "nothing_is_called_so")
    assert code == all_tests.NOTHING_SELECTED
    assert "no tests ran" in line


def test_a_run_without_tests_that_nobody_asked_for_fails() -> None:
    assert all_tests.result([0, 5, 0], selected=False) == 5
    assert all_tests.result([0, 5, 1], selected=True) == 1
    assert all_tests.result([0, 3, 1], selected=False) == 3


def test_a_file_is_run_once_and_alone() -> None:
    assert all_tests.names_files(["-k", "upload", f"{__file__}::test_x"])
    assert not all_tests.names_files(["-k", "docs"])  # there is such a folder, but not of tests


def test_a_report_that_was_never_written_counts_nothing() -> None:
    assert all_tests.counted("") == Counter()


def test_the_summary_is_a_line_like_that_of_pytest() -> None:
    line = all_tests.summary(Counter(passed=700, skipped=1), 641.5)
    assert " 700 passed, 1 skipped in 641.50s (0:10:41) " in line
    assert line.startswith("==")
    assert line.endswith("==")
