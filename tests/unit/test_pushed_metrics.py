"""Series made of what clients push: names, labels, what several clients are together, and how many there are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from pg_kafka.broker.metrics.telemetry import TelemetrySource
from pg_kafka.broker.telemetry import Telemetry
from pg_kafka.coordinator import pushed_metrics
from pg_kafka.coordinator.client_metrics import shown
from pg_kafka.coordinator.pushed_metrics import MAX_TEXT_CHARACTERS, OTHER, UNUSED_MS, Detail, PushedMetrics, named
from pg_kafka.wire.otlp import Attributes, Kind, Point, Temporality

EXAMPLES = int(os.environ.get("PG_KAFKA_ORACLE_EXAMPLES", "8"))

ONE, TWO = UUID(int=21), UUID(int=22)
KAFKAS = "org.apache.kafka."
COUNTER = KAFKAS + "producer.record.send.total"
GAUGE = KAFKAS + "producer.record.send.rate"
COUNTER_NAME, GAUGE_NAME = "org_apache_kafka_producer_record_send", "org_apache_kafka_producer_record_send_rate"


def gauge(value: float, name: str = GAUGE, attributes: Attributes = (), resource: Attributes = ()) -> Point:
    return Point(name, resource, attributes, Kind.GAUGE, 0, False, 0, value)


def delta(value: float, name: str = COUNTER, attributes: Attributes = (), resource: Attributes = ()) -> Point:
    return Point(name, resource, attributes, Kind.SUM, Temporality.DELTA, True, 0, value)


def cumulative(value: float, start: int = 1, name: str = COUNTER, is_monotonic: bool = True) -> Point:
    return Point(name, (), (), Kind.SUM, Temporality.CUMULATIVE, is_monotonic, start, value)


def push(
    of: PushedMetrics,
    *points: Point,
    by: UUID = ONE,
    client: str = "app",
    detail: Detail = Detail(),  # noqa: B008 - immutable
    now_ms: int = 0,
) -> None:
    one = of.begin(by, client, detail, now_ms)
    for point in points:
        one.add(point)
    of.take(one)


Told = dict[str, dict[tuple[tuple[str, str], ...], float]]


def told(of: PushedMetrics) -> Told:
    return {name.name: dict(series) for name, series in of.families()}


def labels(client: str = "app", **others: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"client_id": client, **others}.items()))


# -- names and labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "is_counter", "name"),
    [
        (COUNTER, True, "org_apache_kafka_producer_record_send"),
        (GAUGE, False, "org_apache_kafka_producer_record_send_rate"),
        ("my.application-metric", False, "application_my_application_metric"),
        ("pg_kafka_state", False, "application_pg_kafka_state"),
        ("org_apache_kafka_x", False, "application_org_apache_kafka_x"),
        (KAFKAS + "a.total", False, "org_apache_kafka_a_total_now"),
        (KAFKAS + "a.info", False, "org_apache_kafka_a_info_now"),
        (KAFKAS + "a.created", True, "org_apache_kafka_a_created_all"),
        (KAFKAS + "a.total.total", True, "org_apache_kafka_a_total_all"),
        (KAFKAS + "é\n{}", False, "org_apache_kafka_____"),
    ],
)
def test_a_name_becomes_one_of_prometheus(original: str, is_counter: bool, name: str) -> None:
    found = named(original, is_counter)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("original", ["", "x" * (MAX_TEXT_CHARACTERS + 1)])
def test_some_names_cannot_be_shown(original: str) -> None:
    assert named(original, False) is None


def test_labels_are_the_client_and_what_it_gives_a_number() -> None:
    of = PushedMetrics()
    resource = (("group_id", "g"), ("client_rack", "r"), ("group_member_id", "m"), ("service.name", "s"))
    attributes = (
        ("topic", "orders"), ("partition", "3"), ("node.id", "1"), ("1st", "x"), ("__name__", "y"), ("client_id", "z"), ("", "q"),
    )  # fmt: skip
    push(of, gauge(1, attributes=attributes, resource=resource))
    expected = {"group_id": "g", "client_rack": "r", "topic": "orders", "node_id": "1", "_1st": "x"}
    assert told(of) == {GAUGE_NAME: {labels(**expected): 1}}
    detail = Detail(by_instance=True, by_partition=True)
    push(of, gauge(1, attributes=attributes, resource=resource), detail=detail)
    more = {"group_member_id": "m", "partition": "3", "client_instance_id": shown(ONE)}
    assert told(of) == {GAUGE_NAME: {labels(**expected, **more): 1}}


def test_long_labels_are_cut_and_many_left_out() -> None:
    of = PushedMetrics()
    push(of, gauge(1, attributes=tuple((f"l{n}", "v" * 5000) for n in range(100))), client="c" * 5000)
    ((found,),) = told(of).values()
    assert len(found) == pushed_metrics.MAX_LABELS
    assert max(len(value) for _, value in found) == MAX_TEXT_CHARACTERS


# -- sums ----------------------------------------------------------------------------------------------------------------


def test_what_clients_add_is_added_up_and_stays() -> None:
    of = PushedMetrics()
    push(of, delta(2))
    push(of, delta(3))
    push(of, delta(10), by=TWO)
    of.forget([ONE, TWO])
    assert told(of) == {COUNTER_NAME: {labels(): 15}}


def test_of_a_sum_since_a_start_what_has_been_added_counts() -> None:
    of = PushedMetrics()
    for value, start in ((100, 1), (103, 1), (103, 1), (7, 2), (9, 2), (4, 2)):
        push(of, cumulative(value, start))
    assert told(of) == {COUNTER_NAME: {labels(): 3 + 7 + 2 + 4}}


def test_a_push_that_is_not_taken_changes_nothing() -> None:
    of = PushedMetrics()
    push(of, cumulative(5), delta(1, KAFKAS + "other.total"))
    before = told(of)
    one = of.begin(ONE, "app", Detail(), 0)
    one.add(cumulative(50))
    one.add(delta(4, KAFKAS + "other.total"))
    assert told(of) == before
    push(of, cumulative(6))
    assert told(of)[COUNTER_NAME] == {labels(): 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_no_number_makes_a_sum_go_back_or_away(value: float) -> None:
    of = PushedMetrics()
    push(of, delta(2))
    push(of, delta(value))
    assert told(of) == {COUNTER_NAME: {labels(): 2}}
    assert of.left_out == 1


def test_a_sum_stays_a_number() -> None:
    of = PushedMetrics()
    push(of, delta(1.5e308))
    push(of, delta(1.5e308))
    assert told(of) == {COUNTER_NAME: {labels(): 1.5e308}}


def test_a_sum_that_may_go_back_is_a_gauge() -> None:
    of = PushedMetrics()
    push(of, cumulative(5, name=GAUGE, is_monotonic=False))
    push(of, cumulative(3, name=GAUGE, is_monotonic=False))
    assert told(of) == {GAUGE_NAME: {labels(): 3}}
    push(of, delta(3, GAUGE)._replace(is_monotonic=False), by=TWO)
    assert told(of) == {GAUGE_NAME: {labels(): 3}}


def test_a_sum_that_nobody_adds_to_is_forgotten() -> None:
    of = PushedMetrics()
    push(of, delta(1), gauge(1))
    push(of, delta(1, KAFKAS + "other.total"), by=TWO, now_ms=1)
    of.forget_unused(UNUSED_MS)
    assert set(told(of)) == {GAUGE_NAME, KAFKAS.replace(".", "_") + "other"}
    of.forget_unused(UNUSED_MS + 1)
    assert set(told(of)) == {GAUGE_NAME}


# -- gauges --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "together"),
    [
        ("rate", 33),
        ("lag", 33),
        ("count", 33),
        ("max", 20),
        ("min", 3),
        ("avg", 11),
        ("io.ratio", 11),
        ("seconds.ago", 20),
    ],
)
def test_what_several_figures_are_together(end: str, together: float) -> None:
    name, of = KAFKAS + "consumer.x." + end, PushedMetrics()
    partitions = [gauge(value, name, (("partition", str(value)),)) for value in (3, 10)]
    push(of, *partitions)
    push(of, gauge(20, name), by=TWO)
    assert list(told(of).values()) == [{labels(): together}]


def test_clients_are_told_apart_by_their_ids() -> None:
    of = PushedMetrics()
    push(of, gauge(1), client="a")
    push(of, gauge(2), client="b", by=TWO)
    assert told(of) == {GAUGE_NAME: {labels("a"): 1, labels("b"): 2}}


def test_a_figure_goes_with_its_client_and_when_it_is_told_no_more() -> None:
    of = PushedMetrics()
    push(of, gauge(1), gauge(5, GAUGE, (("topic", "t"),)))
    push(of, gauge(2), by=TWO)
    push(of, gauge(3))
    assert told(of) == {GAUGE_NAME: {labels(): 5}}
    push(of)  # nothing is said, as by a client that says goodbye
    assert told(of) == {GAUGE_NAME: {labels(): 5}}
    of.forget([ONE, UUID(int=99)])
    assert told(of) == {GAUGE_NAME: {labels(): 2}}
    of.forget([TWO])
    assert (told(of), of.series, of.left_out) == ({}, 0, 0)


# -- bounds --------------------------------------------------------------------------------------------------------------


def test_beyond_the_bound_of_a_metric_all_are_summed_up() -> None:
    of, detail = PushedMetrics(), Detail(most=2)
    points = [gauge(n, attributes=(("topic", str(n)),)) for n in range(1, 6)]
    points += [delta(n, attributes=(("topic", str(n)),)) for n in range(1, 6)]
    push(of, *points, detail=detail)
    other = (("client_id", OTHER),)
    expected = {labels(topic="1"): 1, labels(topic="2"): 2, other: 12}
    assert told(of) == {GAUGE_NAME: expected, COUNTER_NAME: expected}
    assert (of.series, of.left_out) == (6, 6)
    push(of, *points[:3], detail=detail)
    assert of.left_out == 1


def test_all_metrics_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushed_metrics, "MAX_FAMILIES", 30)
    of, detail = PushedMetrics(), Detail(most=2)
    for n in range(100):
        push(of, *(gauge(1, f"m{n}", (("topic", t),)) for t in "abc"), by=UUID(int=n + 2), detail=detail)
    assert len(told(of)) == 30
    assert of.series <= 2 * pushed_metrics.SERIES_PER_METRIC + 30


def test_no_series_are_none() -> None:
    of = PushedMetrics()
    push(of, gauge(1), detail=Detail(most=0))
    assert (told(of), of.left_out) == ({}, 1)


def test_one_push_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushed_metrics, "MAX_PUSHED", 3)
    of = PushedMetrics()
    push(of, *(gauge(1, attributes=(("topic", str(n)),)) for n in range(9)))
    assert told(of)[GAUGE_NAME][("client_id", OTHER),] == 6
    push(of, *(cumulative(1, name=f"c{n}.total") for n in range(9)), by=TWO)
    assert sum(1 for name in told(of) if name.startswith("application_")) == 3


def test_one_name_is_one_kind_of_metric() -> None:
    of = PushedMetrics()
    push(of, delta(1, "x"), gauge(-5, "x"), by=UUID(int=23))
    assert told(of) == {"application_x": {labels(): 1}}
    of = PushedMetrics()
    push(of, delta(1, "x.total"))
    push(of, gauge(5, "x"), by=TWO)
    assert told(of) == {"application_x": {labels(): 1}}
    assert of.left_out == 1


# -- what Prometheus sees ------------------------------------------------------------------------------------------------


class Served:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        return self._families


ATTRIBUTES = st.lists(
    st.tuples(st.sampled_from(["topic", "partition", "a.b", "a_b", "client_id"]), st.text(max_size=4)), max_size=3
)
NAMES = st.sampled_from([COUNTER, GAUGE, "x", "x.total", "x_total", "x.max", "x.info", "x.created"]) | st.text(
    max_size=5
)
POINTS = st.builds(
    Point,
    name=NAMES,
    resource=st.just(()),
    attributes=ATTRIBUTES.map(tuple),
    kind=st.sampled_from(Kind),
    temporality=st.sampled_from(Temporality),
    is_monotonic=st.booleans(),
    start_ns=st.integers(0, 2),
    value=st.floats() | st.integers(-5, 5),
)  # fmt: skip


class Pushes(RuleBasedStateMachine):
    """Whatever is pushed: counters never go back, all is bounded, and Prometheus' own parsers take the page."""

    @initialize(most=st.integers(1, 4))
    def begin(self, most: int) -> None:
        self.telemetry = Telemetry(lambda: 0)
        self.most = most
        self.counted: Told = {}

    @rule(
        points=st.lists(POINTS, max_size=8),
        number=st.integers(0, 3),
        client=st.text(max_size=3),
        detail=st.tuples(st.booleans(), st.booleans()),
    )
    def push(self, points: list[Point], number: int, client: str, detail: tuple[bool, bool]) -> None:
        push(self.telemetry.pushed, *points, by=UUID(int=number + 2), client=client, detail=Detail(*detail, self.most))

    @rule(number=st.integers(0, 3))
    def forget(self, number: int) -> None:
        self.telemetry.pushed.forget([UUID(int=number + 2)])

    @invariant()
    def no_sum_goes_back(self) -> None:
        if not hasattr(self, "telemetry"):
            return
        now = {name.name: dict(series) for name, series in self.telemetry.pushed.families() if name.is_counter}
        for name, series in self.counted.items():
            assert all(now[name][which] >= value for which, value in series.items())
        self.counted = now

    @invariant()
    def is_bounded(self) -> None:
        if hasattr(self, "telemetry"):
            found = told(self.telemetry.pushed)
            assert all(len(series) <= self.most + 1 for series in found.values())
            assert self.telemetry.pushed.series == sum(len(series) for series in found.values())

    @rule()
    def prometheus_takes_it(self) -> None:
        served = Served(TelemetrySource(self.telemetry).families())
        for page, reader in (
            (generate_latest(served), parse),  # type: ignore[arg-type]
            (generate_openmetrics(served), parse_openmetrics),  # type: ignore[arg-type]
        ):
            families = list(reader(page.decode()))
            names = [family.name for family in families]
            assert len(names) == len(set(names))
            samples = [(one.name, tuple(sorted(one.labels.items()))) for family in families for one in family.samples]
            assert len(samples) == len(set(samples))


TestPushes = Pushes.TestCase
TestPushes.settings = settings(max_examples=5 * EXAMPLES, stateful_step_count=12, deadline=None)
