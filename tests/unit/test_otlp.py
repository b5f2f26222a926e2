"""Metrics as clients push them: read as OpenTelemetry's own classes write them, and whatever else may come."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import tracemalloc
from collections.abc import Iterator

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from pg_kafka.wire.otlp import MAX_FIELDS, InvalidOtlp, Kind, Point, Temporality, points

EXAMPLES = int(os.environ.get("PG_KAFKA_ORACLE_EXAMPLES", "8"))


def read(data: bytes) -> list[Point]:
    return [point for point in points(data) if point is not None]


def told(*metrics: Metric, resource: Resource | None = None) -> bytes:
    scope = ScopeMetrics(metrics=metrics)
    return bytes(
        MetricsData(resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=[scope])]).SerializeToString()
    )


def attribute(key: str, text: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=text))


def test_a_gauge_and_a_sum_are_read() -> None:
    resource = Resource(attributes=[attribute("group_id", "billing")])
    point = NumberDataPoint(
        attributes=[attribute("topic", "orders")], start_time_unix_nano=5, time_unix_nano=9, as_double=1.5
    )
    added = NumberDataPoint(as_int=-7, start_time_unix_nano=2**63 + 1)
    data = told(
        Metric(name="a.rate", gauge=Gauge(data_points=[point])),
        Metric(
            name="b.total",
            sum=Sum(data_points=[added], aggregation_temporality="AGGREGATION_TEMPORALITY_DELTA", is_monotonic=True),
        ),
        resource=resource,
    )
    group = (("group_id", "billing"),)
    assert read(data) == [
        Point("a.rate", group, (("topic", "orders"),), Kind.GAUGE, Temporality.UNSPECIFIED, False, 5, 1.5),
        Point("b.total", group, (), Kind.SUM, Temporality.DELTA, True, 2**63 + 1, -7),
    ]  # fmt: skip


def test_the_resource_may_come_after_its_metrics() -> None:
    scope = ScopeMetrics(metrics=[Metric(name="m", gauge=Gauge(data_points=[NumberDataPoint(as_int=1)]))])
    first = ResourceMetrics(scope_metrics=[scope]).SerializeToString()
    second = ResourceMetrics(resource=Resource(attributes=[attribute("a", "b")])).SerializeToString()
    (point,) = read(b"\x0a" + bytes([len(first + second)]) + first + second)
    assert point.resource == (("a", "b"),)


def test_attributes_are_text_whatever_they_were() -> None:
    values = [
        AnyValue(string_value="é"),
        AnyValue(bool_value=True),
        AnyValue(bool_value=False),
        AnyValue(int_value=-5),
        AnyValue(double_value=0.5),
        AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1)])),
        AnyValue(bytes_value=b"x"),
        AnyValue(),
    ]
    attributes = [KeyValue(key=str(number), value=value) for number, value in enumerate(values)]
    point = NumberDataPoint(attributes=attributes, as_int=1)
    (found,) = read(told(Metric(name="m", gauge=Gauge(data_points=[point]))))
    assert found.attributes == (("0", "é"), ("1", "true"), ("2", "false"), ("3", "-5"), ("4", "0.5"))


@pytest.mark.parametrize("point", [NumberDataPoint(time_unix_nano=1), NumberDataPoint(as_int=3, flags=1)])
def test_a_point_without_a_value_is_left_out(point: NumberDataPoint) -> None:
    assert read(told(Metric(name="m", gauge=Gauge(data_points=[point])))) == []


def test_histograms_are_read_over() -> None:
    histogram = Histogram(
        data_points=[HistogramDataPoint(count=3, sum=1.0, bucket_counts=[1, 2], explicit_bounds=[1.0])]
    )
    gauge = Metric(name="g", gauge=Gauge(data_points=[NumberDataPoint(as_int=1)]))
    assert [point.name for point in read(told(Metric(name="h", histogram=histogram), gauge))] == ["g"]


NUMBERS = st.builds(
    NumberDataPoint,
    attributes=st.lists(st.builds(attribute, st.text(max_size=5), st.text(max_size=200)), max_size=3),
    start_time_unix_nano=st.integers(0, 2**64 - 1),
    time_unix_nano=st.integers(0, 2**64 - 1),
    flags=st.sampled_from([0, 0, 0, 1, 2, 2**32 - 1]),
    as_double=st.floats(),
) | st.builds(NumberDataPoint, as_int=st.integers(-(2**63), 2**63 - 1))
METRICS = st.builds(
    Metric, name=st.text(max_size=20), unit=st.text(max_size=3), gauge=st.builds(Gauge, data_points=st.lists(NUMBERS, max_size=3))
) | st.builds(
    Metric,
    name=st.text(max_size=20),
    description=st.text(max_size=9),
    sum=st.builds(
        Sum,
        data_points=st.lists(NUMBERS, max_size=3),
        aggregation_temporality=st.integers(0, 2),
        is_monotonic=st.booleans(),
    ),
)  # fmt: skip
DATA = st.builds(
    MetricsData,
    resource_metrics=st.lists(
        st.builds(
            ResourceMetrics,
            resource=st.builds(Resource, attributes=st.lists(st.builds(attribute, st.text(max_size=5), st.text(max_size=5)))),
            scope_metrics=st.lists(st.builds(ScopeMetrics, metrics=st.lists(METRICS, max_size=4)), max_size=2),
            schema_url=st.text(max_size=5),
        ),
        max_size=2,
    ),
)  # fmt: skip


def expected(data: MetricsData) -> Iterator[Point]:
    """What OpenTelemetry's classes make of it."""
    for resource in data.resource_metrics:
        owner = tuple((one.key, one.value.string_value) for one in resource.resource.attributes)
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            which = metric.WhichOneof("data")
            if which not in ("gauge", "sum"):
                continue
            told_of = getattr(metric, which)
            for number in told_of.data_points:
                value = number.WhichOneof("value")
                if value is None or number.flags & 1:
                    continue
                yield Point(
                    metric.name,
                    owner,
                    tuple((one.key, one.value.string_value) for one in number.attributes),
                    Kind.SUM if which == "sum" else Kind.GAUGE,
                    getattr(told_of, "aggregation_temporality", 0),
                    getattr(told_of, "is_monotonic", False),
                    number.start_time_unix_nano,
                    getattr(number, value),
                )


@settings(max_examples=6 * EXAMPLES, deadline=None)
@given(DATA)
def test_what_opentelemetry_writes_is_read_as_it_was_meant(data: MetricsData) -> None:
    found, wanted = read(data.SerializeToString()), list(expected(data))
    assert [one._replace(value=0) for one in found] == [one._replace(value=0) for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.value == other.value or (math.isnan(one.value) and math.isnan(other.value))


@settings(max_examples=15 * EXAMPLES, deadline=None)
@given(DATA, st.data())
def test_damaged_bytes_are_read_or_refused(data: MetricsData, draw: st.DataObject) -> None:
    """What we refuse, Protocol Buffers refuses: but for what we never look into."""
    damaged = bytearray(data.SerializeToString())
    for _ in range(draw.draw(st.integers(1, 3))):
        if damaged:
            damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    damaged = damaged[: draw.draw(st.integers(0, len(damaged)))]
    try:
        found = read(bytes(damaged))
    except InvalidOtlp:
        with contextlib.suppress(DecodeError):
            MetricsData.FromString(bytes(damaged))
            # Groups alone: old syntax, which nobody writes.
            assert any(byte & 7 in (3, 4) for byte in damaged)
    else:
        assert len(found) <= len(damaged)


@settings(max_examples=30 * EXAMPLES, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidOtlp):
        read(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0a", "the bytes end in a number at byte 1"),
        (b"\x0a\x05\x00", "a field of 5 bytes at byte 2, 1 left"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a field of 18446744073709551615 bytes"),
        (b"\x80" * 11, "a number of more than 10 bytes"),
        (b"\x00\x00", "no field can have number 0"),
        (b"\x0b", "type 3"),
        (b"\x0f", "type 7"),
        (b"\x09\x00", "a number of 8 bytes at byte 1, 1 left"),
        (b"garbage", "type 7"),
        (b"\x0a\x06\x12\x04\x12\x02\x0a\x00"[:-1], "bytes at byte 2"),
        (told(Metric(name="abc")).replace(b"abc", b"a\xffc"), "is not UTF-8"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, words: str) -> None:
    with pytest.raises(InvalidOtlp, match=words):
        read(data)


@pytest.mark.parametrize(
    "nested",
    [
        lambda many: told(Metric(name="m", gauge=Gauge(data_points=[NumberDataPoint(attributes=many)]))),
        lambda many: told(resource=Resource(attributes=many)),
    ],
)
def test_one_point_or_resource_with_very_many_fields_is_refused(nested: object) -> None:
    many = [KeyValue(key="k")] * (MAX_FIELDS + 1)
    with pytest.raises(InvalidOtlp, match=f"more than {MAX_FIELDS} fields"):
        read(nested(many))  # type: ignore[operator]
    read(nested(many[:-1]))  # type: ignore[operator]


@pytest.mark.parametrize("unit", [b"\x0a\x00", b"\x12\x00", b"\x10\x01"], ids=["resources", "unknown", "numbers"])
def test_nothing_is_kept_of_very_many_fields_and_there_is_a_breath_after_each(unit: bytes) -> None:
    data = unit * 20_000
    tracemalloc.start()
    breaths = sum(1 for point in points(data) if point is None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert breaths == 20_000
    assert peak < 100_000


def test_a_length_allocates_nothing() -> None:
    sized = b"\x0a" + struct.pack("B", 0xFF) + b"\xff\xff\xff\x07"
    tracemalloc.start()
    with pytest.raises(InvalidOtlp):
        read(sized)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000
