"""Dashboards, alerts and docs/monitoring.md name metrics that are there, and all of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from stt.codes import ErrorCode
from tests.support.places import ROOT
from tests.support.promql import DASHBOARDS, check, ours, queries, rules, selectors, series
from workers.attempt_metrics import OUTCOMES
from workers.engine.life import UNWANTED, WANTED

PROMETHEUS = ROOT / "deploy" / "prometheus"
PAGE = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
QUERIES = queries()


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """The labels of every series, of those that are recorded too."""
    found = series()
    for rule in rules():
        if "record" in rule:  # one may use those before it
            found[rule["record"]] = check(rule["expr"], found)
    return found


@pytest.mark.parametrize("where", QUERIES)
def test_every_metric_and_label_of_a_query_is_there(where: str, known: dict[str, set[str]]) -> None:
    check(QUERIES[where], known)


def test_a_query_with_an_unknown_metric_or_label_is_found(known: dict[str, set[str]]) -> None:
    with pytest.raises(KeyError):
        check("sum(stt_nothing_total)", known)
    for query in ('stt_worker_busy{gpu="0"}', "sum by (model) (stt_worker_busy)", "up / on (role) up"):
        with pytest.raises(AssertionError, match="no label"):
            check(query, known)


def values(label: str) -> set[str]:
    """The values that queries of dashboards and rules compare a label with."""
    found: set[str] = set()
    for query in QUERIES.values():
        for selector in selectors(query):
            for matcher in selector.matchers.matchers:
                if matcher.name == label:
                    found |= set(matcher.value.split("|"))
    return found


def test_error_codes_of_queries_are_there() -> None:
    assert values("error_code") <= set(ErrorCode)
    assert values("error_code")


def test_causes_that_do_not_alert_are_those_that_the_worker_wants() -> None:
    assert values("cause") == set(WANTED)


def test_steps_of_queries_and_of_their_tests_are_those_of_maintenance() -> None:
    source = (ROOT / "workers" / "maintenance.py").read_text(encoding="utf-8")
    steps = set(re.findall(r'Step\("(\w+)"', source))
    assert values("step") == {"sweep"} <= steps  # the only one with a pause of minutes
    tests = (PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8")
    assert set(re.findall(r'step="(\w+)"', tests)) <= steps
    assert all(f"`{step}`" in PAGE for step in steps)


def test_jobs_of_queries_are_those_that_prometheus_reads() -> None:
    jobs = scraped("prometheus.yml")
    for query in QUERIES.values():
        for selector in selectors(query):
            for matcher in selector.matchers.matchers:
                if matcher.name == "job":
                    assert any(re.fullmatch(matcher.value, job) for job in jobs), query
    assert scraped("local.yml") == {"stt-web", "stt-worker", "stt-maintenance"} < scraped("prometheus.yml")


def scraped(name: str) -> set[str]:
    """The jobs of a configuration of Prometheus."""
    found = yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))["scrape_configs"]
    return {one["job_name"] for one in found}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_titles_ids_and_its_variables(path: Path) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    assert dashboard["uid"] == path.stem
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["title"] for panel in dashboard["panels"])
    [source] = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    assert source["query"] == "prometheus"
    used = set(re.findall(r"\$\{?(\w+)\}?", path.read_text(encoding="utf-8")))
    builtin = {"__all", "__rate_interval"}
    assert used - builtin <= {one["name"] for one in dashboard["templating"]["list"]}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed here")
@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("check config", "prometheus.yml"),
        ("check config", "local.yml"),
        ("check rules", "rules.yml"),
        ("test rules", "rules_test.yml"),
    ],
)
def test_promtool_accepts(command: str, file: str) -> None:
    words = ["promtool", *command.split(), file]
    run = subprocess.run(words, cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_has_what_a_person_needs_and_a_paragraph() -> None:
    headings = set(re.findall(r"^### (Stt\w+)\n\n\S", PAGE, re.MULTILINE))
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert headings == set(alerts)
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"]["runbook_url"] == f"docs/monitoring.md#{name.lower()}"
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"]


def test_every_alert_is_seen_to_fire_by_a_test_of_the_rules() -> None:
    tests = (PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8")
    fired = set(re.findall(r'alertname="(\w+)", alertstate="firing"', tests))
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}


def row(metric: MetricWrapperBase) -> str:
    """The row of a metric in the documentation."""
    name = metric._name + ("_total" if metric._type == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    return f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |"


@pytest.mark.parametrize("metric", ours(), ids=lambda metric: metric._name)
def test_documentation_has_every_metric(metric: MetricWrapperBase) -> None:
    assert row(metric) in PAGE.splitlines()


def test_documentation_has_the_outcomes_and_causes_of_a_worker() -> None:
    rows = {line.split("`")[1]: line for line in PAGE.splitlines() if re.match(r"\| `\w+`: ", line)}
    for name, expected in (
        ("stt_attempts_total", OUTCOMES),
        ("stt_engine_deaths_total", (*WANTED, *UNWANTED)),
    ):
        assert all(f"`{value}`" in rows[name] for value in expected)


def test_documentation_names_no_metric_that_is_not_there() -> None:
    named = set(re.findall(r"\bstt_[a-z_]+[a-z]", PAGE))
    there = set(series()) | {metric._name for metric in ours()}
    assert named <= there
