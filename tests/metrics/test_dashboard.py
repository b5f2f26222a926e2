"""Every panel, variable and annotation of the dashboard has something to show, on brokers at work."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.metrics.prometheus import Prometheus
from tests.metrics.scene import BILLING, ORDERS, REPORTS, Scene
from tests.metrics.test_grafana import DASHBOARD, PICTURES

from pg_kafka.dashboards.alerts import RULES
from pg_kafka.metrics.catalogue import CATALOGUE, Family

VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
# What does not happen to these brokers, so that there are no series of it, and why.
EMPTY = {
    "pg_kafka_disk_": "the disk of a PostgreSQL that is given cannot be seen; test_alerts.py has one that can",
    "pg_kafka_logins_": "nobody has to log in",
    "pg_kafka_tls_handshakes_": "nobody speaks TLS",
    "pg_kafka_quota_wait_": "nobody has a quota",
    "pg_kafka_connections_refused_": "all connections are wanted",
    "pg_kafka_connections_delayed_": "all connections are wanted",
    "pg_kafka_telemetry_pushes_": "nobody has subscribed to metrics of clients, so that they push none",
    "pg_kafka_connection_waits_": "no connection has to wait",
}


def as_chosen(expression: str, values: dict[str, str] | None = None) -> str:
    """With values in the place of variables, as Grafana puts them there; All is `.*`."""
    known = dict.fromkeys(VARIABLES, ".*") | {"__rate_interval": "15s"} | (values or {})
    return re.sub(r"\$(\w+)", lambda found: known[found[1]], expression)


def targets() -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in PICTURES for target in panel["targets"]]


@pytest.mark.parametrize(("title", "expression"), targets(), ids=lambda text: text[:40])
def test_each_panel_shows_something(prometheus: Prometheus, title: str, expression: str) -> None:
    found = prometheus.query_range(as_chosen(expression))
    if any(name in expression for name in EMPTY):
        assert found == []
        return
    assert found, expression
    values = [float(value) for series in found for _, value in series["values"]]
    assert any(value == value for value in values), "nothing but NaN"


@pytest.mark.parametrize(
    "panel", [one for one in PICTURES if one["type"] == "timeseries"], ids=lambda one: one["title"]
)
def test_lines_of_a_graph_have_names_of_their_own(prometheus: Prometheus, panel: dict[str, Any]) -> None:
    names = []
    for target in panel["targets"]:
        legend = target["legendFormat"]
        for series in prometheus.query_range(as_chosen(target["expr"])):
            asked = set(re.findall(r"\{\{(\w+)\}\}", legend))
            assert asked <= set(series["metric"]), (legend, series["metric"])
            names.append(re.sub(r"\{\{(\w+)\}\}", lambda found, one=series: one["metric"][found[1]], legend))
    assert len(names) == len(set(names)), names


def test_variables_offer_what_there_is(prometheus: Prometheus, scene: Scene) -> None:
    offered = {}
    for name, variable in VARIABLES.items():
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            offered[name] = prometheus.label_values(label, as_chosen(selector))
    assert offered["job"] == ["pg_kafka"]
    assert sorted(offered["instance"]) == sorted(scene.targets)
    assert ORDERS in offered["topic"]
    assert {BILLING, REPORTS} <= set(offered["consumergroup"])


def test_what_is_chosen_is_all_that_is_shown(prometheus: Prometheus) -> None:
    chosen = {"topic": ORDERS, "consumergroup": BILLING}
    for title, expression in targets():
        for series in prometheus.query_range(as_chosen(expression, chosen)):
            for label, value in chosen.items():
                if f'{label}=~"${label}"' in expression:
                    assert series["metric"].get(label, value) == value, title


def test_nobody_is_shown_who_is_not_chosen(prometheus: Prometheus) -> None:
    for title, expression in targets():
        assert prometheus.query_range(as_chosen(expression, {"instance": "nobody:1"})) == [], title


def test_the_annotation_is_a_valid_question(prometheus: Prometheus) -> None:
    (annotation,) = DASHBOARD["annotations"]["list"]
    prometheus.query_range(as_chosen(annotation["target"]["expr"]))


def families(expression: str) -> list[Family]:
    """The metrics that an expression asks for."""
    names = re.findall(r"\b(?:pg_kafka|kafka|process)_\w+", expression)
    return [CATALOGUE[name if name in CATALOGUE else re.sub("_(bucket|count|sum)$", "", name)] for name in names]


@pytest.mark.parametrize(
    ("title", "expression"), [*targets(), *((rule.name, rule.expression) for rule in RULES)], ids=lambda text: text[:40]
)
def test_expressions_ask_for_metrics_and_labels_that_there_are(title: str, expression: str) -> None:
    of_all = {"job", "instance", "pod", "le", "partition"}
    asked = {label for group in re.findall(r"\b(?:by|on|without) \((.*?)\)", expression) for label in group.split(", ")}
    asked |= set(re.findall(r'(\w+)(?:=|!=|=~|!~)"', expression))
    known = {label for family in families(expression) for label in family.labels}
    assert asked <= known | of_all
    assert known or not asked - of_all
