"""The queries of dashboards, rules and alerts, and which metrics and labels each of them names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import yaml
from prometheus_client.metrics import MetricWrapperBase

from stt.telemetry import metrics
from tests.support.places import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))

# What Prometheus adds when it reads a target.
_TARGET = {"job", "instance"}
# What others than our roles make, and which labels it has.
_FOREIGN = {
    "up": _TARGET,
    "stt_backup_last_success_timestamp_seconds": _TARGET,  # deploy/backup/backup.sh
    "ALERTS": {"alertname", "alertstate", "severity"},
    **dict.fromkeys(
        ("process_start_time_seconds", "process_resident_memory_bytes", "process_open_fds"), _TARGET
    ),
}
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def ours() -> list[MetricWrapperBase]:
    """Every metric of the service."""
    return [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]


def series() -> dict[str, set[str]]:
    """The labels of each series that Prometheus reads from the service, by its name."""
    found = dict(_FOREIGN)
    for metric in ours():
        for suffix in _SUFFIXES[metric._type]:
            extra = {"le"} if suffix == "_bucket" else set()
            found[metric._name + suffix] = {*metric._labelnames, *_TARGET, *extra}
    return found


def rules() -> list[dict[str, Any]]:
    """Every rule, those that record and those that alert."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str]]:
    """Every query of every dashboard: where it stands, and its text as Grafana would send it."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                text = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
                assert "$" not in text, f"a variable that this test does not know: {text}"
                yield f"{path.stem}: {panel['title']} {target['refId']}", text


def queries() -> dict[str, str]:
    """Every query of dashboards and rules, by where it stands."""
    named = {f"rules: {rule.get('record') or rule['alert']}": rule["expr"] for rule in rules()}
    return named | dict(panels())


def check(query: str, known: dict[str, set[str]]) -> set[str]:
    """The labels that a query's result may have.

    Raises:
        KeyError: It names a metric that is not among those known.
        AssertionError: It names a label that the metric does not have.
    """
    return _labels(promql.parse(query), known)


def selectors(query: str) -> list[promql.VectorSelector]:
    """Every place of a query that takes series, with its matchers."""
    found: list[promql.VectorSelector] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        if isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)
        return True

    promql.walk(promql.parse(query), visit)
    return found


def _labels(node: Any, known: dict[str, set[str]]) -> set[str]:
    labels: set[str] = set()  # of a number or a text
    match node:
        case promql.VectorSelector():
            labels = known[node.name]
            _known({matcher.name for matcher in node.matchers.matchers}, labels, node)
        case promql.MatrixSelector():
            labels = _labels(node.vector_selector, known)
        case promql.Call():
            labels = labels.union(*(_labels(one, known) for one in node.args))
        case promql.AggregateExpr():
            labels = _of_aggregation(node, known)
        case promql.BinaryExpr():
            labels = _of_two(node, known)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            labels = _labels(node.expr, known)
    return labels


def _of_aggregation(node: Any, known: dict[str, set[str]]) -> set[str]:
    labels = _labels(node.expr, known)
    if node.modifier is None:
        return set()
    assert node.modifier.type == promql.AggModifierType.By, "this test knows `by` only"
    _known(set(node.modifier.labels), labels, node)
    return set(node.modifier.labels)


def _of_two(node: Any, known: dict[str, set[str]]) -> set[str]:
    left, right = _labels(node.lhs, known), _labels(node.rhs, known)
    matching = node.modifier and node.modifier.matching
    if matching:
        _known(set(matching.labels), left & right, node)
    return left | right


def _known(named: set[str], labels: set[str], node: Any) -> None:
    assert named <= labels, f"no label {named - labels} in {node.prettify()}"
