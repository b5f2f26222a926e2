"""What brokers tell is what Prometheus reads: promtool, Prometheus itself, and the Python library's own parsers."""

from __future__ import annotations

import gzip
import re
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text
from tests.metrics.prometheus import Prometheus
from tests.metrics.prometheus import promtool as run_promtool
from tests.metrics.scene import ORDERS, Scene

from pg_kafka.metrics.catalogue import CATALOGUE, Kind

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
# kafka_exporter's own names, which promtool's advice is not about.
OLD_NAMES = re.compile(r"^kafka_\w+_sum non-histogram and non-summary metrics should not have ", re.MULTILINE)


@pytest.mark.parametrize("which", ["leader", "other"])
def test_promtool_accepts_the_page(promtool: str, scene: Scene, which: str) -> None:
    done = run_promtool("check", "metrics", stdin=getattr(scene, which).page())
    assert [line for line in (done.stdout + done.stderr).splitlines() if not OLD_NAMES.match(line)] == []


@pytest.mark.parametrize("which", ["leader", "other"])
def test_the_librarys_parsers_accept_both_forms(scene: Scene, which: str) -> None:
    broker = getattr(scene, which)
    plain = {family.name: family for family in prometheus_text(broker.page())}
    strict = {family.name: family for family in openmetrics(broker.page(Accept=OPENMETRICS))}
    assert plain.keys() == strict.keys()
    for name, family in strict.items():
        known = CATALOGUE[f"{name}_total" if family.type == "counter" else name]
        assert family.type == known.kind == plain[name].type
        assert family.documentation == known.help


def test_prometheus_takes_every_line(prometheus: Prometheus, scene: Scene) -> None:
    """Twice the same series in a page, or one with a time, would be refused or dropped."""
    for series in prometheus.query("scrape_samples_scraped"):
        broker = next(one for one in (scene.leader, scene.other) if one.metrics_address == series.labels["instance"])
        lines = [line for line in broker.page().splitlines() if line and not line.startswith("#")]
        names = [line.rpartition(" ")[0] for line in lines]
        assert len(names) == len(set(names))
        assert prometheus.query(f'up{{instance="{broker.metrics_address}"}}')[0].value == 1
    added = prometheus.query("scrape_samples_post_metric_relabeling - scrape_samples_scraped")
    assert {series.value for series in added} == {0}


def test_no_label_hides_one_that_prometheus_gives(prometheus: Prometheus) -> None:
    found = prometheus.query('count by (__name__) ({exported_job!=""} or {exported_instance!=""})')
    assert [series.labels["__name__"] for series in found] == []


def test_counters_do_not_go_back(prometheus: Prometheus) -> None:
    for family in CATALOGUE.values():
        if family.kind is Kind.COUNTER:
            assert all(series.value == 0 for series in prometheus.query(f"resets({family.name}[1h])")), family.name


def test_sums_by_default_and_partitions_when_asked(scene: Scene, summed_scene: Scene) -> None:
    for one, labels in ((scene, {"topic", "partition"}), (summed_scene, {"topic"})):
        clients = one.connected()
        ends = sum(clients.end_offset(ORDERS, partition) for partition in range(3))
        found = [
            sample
            for family in prometheus_text(one.leader.page())
            for sample in family.samples
            if sample.name == "kafka_topic_partition_current_offset" and sample.labels["topic"] == ORDERS
        ]
        assert {frozenset(sample.labels) for sample in found} == {frozenset(labels)}
        assert sum(sample.value for sample in found) == ends
        assert ('partition="' in one.leader.page()) == ("partition" in labels)


def test_compressed_pages_are_the_same(scene: Scene) -> None:
    url = f"http://{scene.leader.metrics_address}/metrics"
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        page = gzip.decompress(answer.read()).decode()
    names = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
    assert names == {line.split()[2] for line in scene.leader.page().splitlines() if line.startswith("# TYPE")}
