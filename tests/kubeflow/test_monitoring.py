"""Dashboard and rules ask Prometheus for what TensorFlow Serving exports, and for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from mixrank.serving.rollout import deployment

MONITORING = Path(__file__).parents[2] / "kubeflow" / "base" / "monitoring"
METRICS = yaml.safe_load((MONITORING / "metrics.yaml").read_text())
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
RULES = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]["groups"][0]["rules"]
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",)}
# Labels that Prometheus adds to what it scrapes from a pod, and that of a bucket's bound.
ADDED = {"namespace", "pod", "le"}


def expressions():
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]["query"]
    for rule in RULES:
        yield f"alert {rule['alert']}", rule["expr"]


EXPRESSIONS = list(expressions())


def exported():
    """Series -> labels, as they come from the server."""
    return {
        name + suffix: set(metric["labels"]) for name, metric in METRICS.items() for suffix in SUFFIXES[metric["type"]]
    }


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_an_expression_asks_for_series_and_labels_that_exist(where, expression):
    known = exported()
    # In annotations of an alert nothing is asked for; here every name counts.
    found = re.findall(r"(:tensorflow:[\w:]+)(?:\{([^}]*)\})?", expression)
    assert found
    labels = set().union(*(known.get(name, set()) for name, _ in found)) | ADDED
    for name, selector in found:
        assert name in known, name
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        assert used <= known[name] | ADDED, name
    for group in re.findall(r"by \(([^)]*)\)", expression):
        assert {label.strip() for label in group.split(",")} <= labels
    assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}")


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_a_counter_is_asked_for_its_growth_and_a_quantile_for_its_buckets(where, expression):
    if "histogram_quantile" in expression:
        assert "_bucket" in expression and re.search(r"by \(le\b", expression)
    for name in re.findall(r":tensorflow:[\w:]+", expression):
        # How long the last load or warm-up took is a counter that hardly moves: its value is the answer.
        if "label_values" not in expression and not name.endswith(("load_latency", "warmup_latency_sum")):
            assert re.search(r"(rate|increase)\(" + re.escape(name), expression), name


def test_every_listed_metric_has_its_source_and_is_used():
    used = "".join(expression for _, expression in EXPRESSIONS)
    for name, metric in METRICS.items():
        assert metric["source"].endswith(".cc")
        assert name in used


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_panels_are_complete():
    assert {panel["type"] for panel in PANELS} == {"row", "stat", "timeseries"}
    for panel in PANELS:
        if panel["type"] == "row":
            continue
        assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references)
        assert all(target["legendFormat"] for target in panel["targets"])
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_latencies_are_shown_in_microseconds():
    for panel in PANELS:
        if any("latency_bucket" in target["expr"] for target in panel.get("targets", ())):
            assert panel["fieldConfig"]["defaults"]["unit"] == "µs"


def test_the_dashboards_variables_are_declared():
    declared = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))
    assert used == declared
    assert DASHBOARD["uid"] and DASHBOARD["schemaVersion"] >= 36


def test_prometheus_scrapes_the_configured_path_and_keeps_what_is_asked_for():
    (endpoint,) = yaml.safe_load((MONITORING / "servicemonitor.yaml").read_text())["spec"]["endpoints"]
    assert endpoint["path"] == deployment.METRICS_PATH
    config = (MONITORING.parent / "serving" / "config" / "monitoring.config").read_text()
    assert f'path: "{endpoint["path"]}"' in config
    service = next(yaml.safe_load_all((MONITORING.parent / "serving" / "service.yaml").read_text()))
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]}[endpoint["port"]] == deployment.REST_PORT
    (kept,) = endpoint["metricRelabelings"]
    assert all(re.fullmatch(kept["regex"], name) for name in exported())
