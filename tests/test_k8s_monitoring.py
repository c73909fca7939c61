"""Alerts, dashboard and scalers: they parse, go off when they should, and ask for what services export."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from enlight_common import web
from k8s_manifests import K8S, ROOT, of_kind
from prometheus_client.parser import text_string_to_metric_families

MONITORING = K8S / "components/monitoring"
#: What the Prometheus operator gives every sample.
OF_TARGETS = {"job", "pod", "namespace", "instance", "container", "service", "endpoint"}
#: Words of PromQL that are not followed by a bracket.
WORDS = {
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "and",
    "or",
    "unless",
    "bool",
    "offset",
}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not here: apt-get install prometheus")
    return found


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The alert rules as Prometheus reads them."""
    (rule,) = of_kind("overlays/gke", "PrometheusRule")
    file = tmp_path / "alerts.rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    return file


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_go_off_when_they_should_and_only_then(promtool: str, rules: Path) -> None:
    run(promtool, "check", "rules", "--lint-fatal", rules)
    tests = rules.with_name("alerts_test.yaml")
    shutil.copy(MONITORING / "alerts_test.yaml", tests)
    run(promtool, "test", "rules", tests)


def test_every_alert_has_a_test_in_which_it_goes_off() -> None:
    (rule,) = of_kind("overlays/gke", "PrometheusRule")
    alerts = {one["alert"] for group in rule["spec"]["groups"] for one in group["rules"]}
    tests = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    set_off = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one.get("exp_alerts")}
    assert set_off == alerts


def expressions() -> dict[str, str]:
    """Every expression under k8s/ by where it stands, with Grafana's variables filled in."""
    found = {}
    (rule,) = of_kind("overlays/gke", "PrometheusRule")
    for group in rule["spec"]["groups"]:
        for one in group["rules"]:
            found[f"alert {one['alert']}"] = one["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"].replace(
                "$namespace", "enlight"
            )
    for one in of_kind("overlays/gke", "ScaledObject"):
        found["ScaledObject"] = one["spec"]["triggers"][0]["metadata"]["query"]
    for one in of_kind("overlays/gke", "ScaledJob"):
        found["ScaledJob"] = one["spec"]["triggers"][0]["metadata"]["valueLocation"]
    return found


def dashboard() -> dict[str, Any]:
    (made,) = [one for one in of_kind("overlays/gke", "ConfigMap") if "enlight.json" in one["data"]]
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    return dict(json.loads(made["data"]["enlight.json"]))


def test_every_expression_parses(promtool: str, tmp_path: Path) -> None:
    recorded = [{"record": f"e:{i}", "expr": one} for i, one in enumerate(expressions().values())]
    file = tmp_path / "expressions.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": recorded}]}))
    run(promtool, "check", "rules", file)


def exported() -> dict[str, set[str]]:
    """Each sample that a service exports, with its labels.

    Those of every request come out of a real app, the others out of the collectors' source, since some are
    there only while a model is loaded.
    """
    found: dict[str, set[str]] = {"up": set()}
    app = web.create_app("probed", max_body_bytes=1, ready=lambda: True)
    client = app.test_client()
    client.get("/healthz").close()  # counted when the answer is closed
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    for file in ROOT.glob("*/src/*/metrics.py"):
        for name, labels in declared(ast.parse(file.read_text())):
            found.setdefault(name, set()).update(labels)
    return found


def declared(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("MetricFamily"):
            suffix = "_total" if getattr(node.func, "id", "").startswith("Counter") else ""
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            labels = ast.literal_eval(given["labels"]) if "labels" in given else []
            yield str(ast.literal_eval(node.args[0])) + suffix, set(labels)


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that a PromQL expression names, each with the labels that it matches."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    selector = re.compile(r"([a-zA-Z_:][\w:]*)(?!\w)(?!\s*\()\s*(\{[^}]*\})?")
    for name, matchers in selector.findall(bare):
        if name not in WORDS:
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def test_every_expression_names_only_what_services_export() -> None:
    real = exported()
    for where, expression in expressions().items():
        named = list(asked(expression))
        assert named, where
        for name, labels in named:
            assert name in real, (where, name)
            assert labels <= real[name] | OF_TARGETS, (where, name, labels)


def test_metrics_are_told_from_functions_labels_and_words() -> None:
    expression = (
        'sum by (job) (rate(a_total{status=~"5..", route="b c{"}[5m])) / on(x) count(d == 1) unless on() e'
    )
    found = list(asked(re.sub(r"\[[^\]]*\]", "", expression)))
    assert found == [("a_total", {"status", "route"}), ("d", set()), ("e", set())]


def test_prometheus_asks_every_service_that_has_metrics() -> None:
    (monitor,) = of_kind("overlays/gke", "ServiceMonitor")
    (rule,) = monitor["spec"]["selector"]["matchExpressions"]
    with_metrics = {
        one["metadata"]["labels"]["app.kubernetes.io/name"]
        for one in of_kind("overlays/gke", "Service")
        if one["spec"]["ports"][0]["name"] == "http"
    }
    assert set(rule["values"]) == with_metrics - {"dreambooth-nginx"}
