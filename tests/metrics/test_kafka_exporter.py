"""Dashboards and alerts that were made for kafka_exporter find their metrics here."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.metrics import kafka_exporter
from tests.metrics.conftest import wait_for_all
from tests.metrics.kafka_exporter import Asked
from tests.metrics.prometheus import Prometheus
from tests.metrics.scene import BILLING, CLICKS, ORDERS, REPORTS, Scene

IDS = [f"{asked.by}: {asked.expression[:50]}" for asked in kafka_exporter.QUERIES]


def test_names_and_labels_are_kafka_exporters(scene: Scene) -> None:
    found = {
        family.name: {frozenset(sample.labels) for sample in family.samples}
        for family in text_string_to_metric_families(scene.leader.page())
        if family.name.startswith("kafka_")
    }
    assert found == {name: {frozenset(labels)} for name, labels in kafka_exporter.METRICS.items()}


def answer(prometheus: Prometheus, scene: Scene, asked: Asked) -> list[frozenset[str]]:
    """The labels of the series that come back."""
    expression = asked.expression.replace("$instance", scene.leader.metrics_address)
    return [frozenset(series.labels) - {"__name__"} for series in prometheus.query(expression)]


@pytest.mark.parametrize("asked", kafka_exporter.QUERIES, ids=IDS)
def test_what_people_ask_for_is_answered(prometheus: Prometheus, scene: Scene, asked: Asked) -> None:
    found = answer(prometheus, scene, asked)
    assert found, asked.expression
    assert all(asked.labels <= labels for labels in found), found


def test_with_sums_alone_the_same_is_answered_but_for_partitions(
    promtool: str, summed_scene: Scene, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By default a topic's sum stands under the name, without a label for the partition."""
    with Prometheus(tmp_path_factory.mktemp("sums"), summed_scene.targets) as prometheus:
        wait_for_all(prometheus, summed_scene)
        for asked in kafka_exporter.QUERIES:
            if asked.expression.startswith("kafka_topic_partition_leader{"):
                continue  # the number of a broker cannot be summed up
            found = answer(prometheus, summed_scene, asked)
            assert found, asked.expression
            assert all(asked.labels - {"partition"} <= labels for labels in found), asked.expression


@pytest.mark.parametrize(("label", "selector"), kafka_exporter.VARIABLES)
def test_variables_of_dashboards_are_offered(prometheus: Prometheus, label: str, selector: str) -> None:
    assert prometheus.label_values(label, selector)


def test_the_figures_are_right(prometheus: Prometheus, scene: Scene) -> None:
    expected = {
        "kafka_brokers": 2,
        f'kafka_topic_partitions{{topic="{ORDERS}"}}': 3,
        f'kafka_topic_partition_current_offset{{topic="{ORDERS}",partition="1"}}': scene.written,
        f'kafka_topic_partition_oldest_offset{{topic="{ORDERS}",partition="1"}}': 0,
        f'kafka_consumergroup_members{{consumergroup="{BILLING}"}}': 1,
        f'kafka_consumergroup_members{{consumergroup="{REPORTS}"}}': 0,
        f'kafka_consumergroup_lag{{consumergroup="{REPORTS}",topic="{ORDERS}",partition="0"}}': scene.written - 300,
        f'kafka_consumergroup_lag{{consumergroup="{REPORTS}",topic="{ORDERS}",partition="1"}}': scene.written - 10,
        f'kafka_consumergroup_lag_sum{{consumergroup="{REPORTS}",topic="{ORDERS}"}}': 2 * scene.written - 310,
        f'kafka_consumergroup_current_offset{{consumergroup="{REPORTS}",topic="{ORDERS}",partition="1"}}': 10,
        f'kafka_consumergroup_current_offset_sum{{consumergroup="{BILLING}",topic="{ORDERS}"}}': scene.read,
    }
    for expression, value in expected.items():  # what is found out every ten seconds comes later than the rest
        prometheus.wait_for(f"{expression} == {value}")
    (leader,) = prometheus.query(f'kafka_topic_partition_leader{{topic="{CLICKS}"}}')
    ids = {series.labels["id"] for series in prometheus.query("kafka_broker_info")}
    assert f"{leader.value:.0f}" in ids
    assert len(ids) == 2
