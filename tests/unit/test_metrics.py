"""Counters, families, series, the registry and the text that Prometheus reads."""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import openmetrics
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pg_kafka.metrics.catalogue import CATALOGUE, SUBJECTS, Family, Kind, process
from pg_kafka.metrics.catalogue.family import counter, gauge, histogram
from pg_kafka.metrics.counters import LATENCY_S, OTHER, Histogram, Tally
from pg_kafka.metrics.exposition import Form, text
from pg_kafka.metrics.families import histograms, many, one
from pg_kafka.metrics.registry import Registry
from pg_kafka.metrics.series import Chosen, bounded

RECORDS = counter("pg_kafka_records_total", "Records.", "topic")
SIZE = gauge("pg_kafka_size_bytes", "Bytes.", "topic")
SECONDS = histogram("pg_kafka_wait_seconds", "Time.", "api")
PLAIN = Form(is_openmetrics=False, is_compressed=False)
OPENMETRICS = Form(is_openmetrics=True, is_compressed=False)


def samples(page: bytes, *, is_openmetrics: bool = False) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    parse = parse_openmetrics if is_openmetrics else parse_text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(page.decode())
        for sample in family.samples
    }


class Fixed:
    def __init__(self, *families: Metric) -> None:
        self._families = families

    def families(self) -> Iterable[Metric]:
        return self._families


class Broken:
    def families(self) -> Iterable[Metric]:
        yield one(process.SCRAPES, 1)
        raise ValueError("no figures")


def test_observation_falls_under_the_bound_that_it_reaches() -> None:
    seen = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 7.0):
        seen.observe(value)
    assert seen.counts == [2, 2, 1]
    assert seen.count == 5
    assert seen.total == pytest.approx(8.65)


def test_bounds_of_latency_grow() -> None:
    assert list(LATENCY_S) == sorted(set(LATENCY_S))


def test_buckets_are_summed_up_for_prometheus() -> None:
    seen = Histogram((0.1, 1.0))
    for value in (0.05, 0.5, 7.0):
        seen.observe(value)
    page = samples(text([histograms(SECONDS, {("Fetch",): seen})], PLAIN))
    api = ("api", "Fetch")
    assert page == {
        ("pg_kafka_wait_seconds_bucket", (api, ("le", "0.1"))): 1,
        ("pg_kafka_wait_seconds_bucket", (api, ("le", "1.0"))): 2,
        ("pg_kafka_wait_seconds_bucket", (api, ("le", "+Inf"))): 3,
        ("pg_kafka_wait_seconds_count", (api,)): 3,
        ("pg_kafka_wait_seconds_sum", (api,)): pytest.approx(7.55),
    }


@pytest.mark.parametrize("form", [PLAIN, OPENMETRICS])
def test_both_formats_are_what_their_parsers_read(form: Form) -> None:
    families = [
        many(RECORDS, {("orders",): 3, ('odd "name\\\n',): 4}),
        many(SIZE, {("orders",): 17}),
        histograms(SECONDS, {("Fetch",): Histogram()}),
    ]
    page = text(families, form)
    read = samples(page, is_openmetrics=form.is_openmetrics)
    assert read["pg_kafka_records_total", (("topic", "orders"),)] == 3
    assert read["pg_kafka_records_total", (("topic", 'odd "name\\\n'),)] == 4
    assert read["pg_kafka_size_bytes", (("topic", "orders"),)] == 17
    assert page.endswith(b"# EOF\n") is form.is_openmetrics


@given(st.text())
def test_any_label_is_read_back_as_it_was(label: str) -> None:
    try:
        label.encode()
    except UnicodeEncodeError:
        return
    assert samples(text([many(SIZE, {(label,): 1})], PLAIN)) == {("pg_kafka_size_bytes", (("topic", label),)): 1}


@pytest.mark.parametrize(
    ("accept", "encoding", "wanted"),
    [
        ("", "", Form(False, False)),
        ("*/*", "*", Form(False, False)),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1", "gzip", Form(True, True)),
        ("text/plain", "br, GZIP;q=1.0", Form(False, True)),
        ("application/openmetrics-text;q=0", "gzip;q=0.0", Form(False, False)),
        ("application/openmetrics-text;version=;;=,,;q=", ";;q=,=", Form(True, False)),
    ],
)
def test_form_is_what_the_client_accepts(accept: str, encoding: str, wanted: Form) -> None:
    assert Form.wanted(accept, encoding) == wanted


def test_compressed_page_holds_the_same() -> None:
    families = [many(SIZE, {("orders",): 17})]
    assert gzip.decompress(text(families, Form(False, True))) == text(families, PLAIN)


def test_openmetrics_says_its_version() -> None:
    assert OPENMETRICS.content_type == openmetrics.exposition.CONTENT_TYPE_LATEST
    assert "version=1.0.0" in OPENMETRICS.content_type


def test_tally_counts_what_is_beyond_its_bound_together() -> None:
    tally = Tally(2)
    for topic in ("a", "b", "c", "a", "d"):
        tally.add((topic,))
    assert tally.counts == {("a",): 2, ("b",): 1, (OTHER,): 2}


def test_place_of_a_deleted_topic_is_free_again() -> None:
    tally = Tally(1, fields=2)
    tally.add(("a", "in"))
    tally.forget(("a", "in"))
    tally.forget(("never", "there"))
    tally.add(("b", "in"))
    tally.add(("c", "in"))
    assert tally.counts == {("b", "in"): 1, (OTHER, OTHER): 1}


def weights(**by_name: float) -> dict[tuple[str, ...], float]:
    return {(name,): weight for name, weight in by_name.items()}


def names(chosen: Collection[tuple[str, ...]]) -> str:
    return "".join(sorted(name for (name,) in chosen))


def test_heaviest_get_series_of_their_own() -> None:
    chosen = Chosen()
    assert names(chosen.choose(weights(a=1, b=3, c=2), 2)) == "bc"
    assert chosen.left_out == 1


def test_who_has_a_series_keeps_it_until_it_is_gone() -> None:
    chosen = Chosen()
    chosen.choose(weights(a=2, b=1, c=0), 2)
    assert names(chosen.choose(weights(a=2, b=1, c=99), 2)) == "ab"
    assert names(chosen.choose(weights(b=1, c=99, d=5), 2)) == "bc"


def test_all_have_series_once_there_is_room() -> None:
    chosen = Chosen()
    chosen.choose(weights(a=2, b=1, c=0), 2)
    assert names(chosen.choose(weights(a=2, b=1, c=0), 3)) == "abc"
    assert chosen.left_out == 0
    assert names(chosen.choose(weights(a=2, b=1, c=9), 1)) == "c"  # the bound was lowered


def test_rest_is_summed_up_so_that_a_sum_stays_right() -> None:
    values = {("a", "0"): 1.0, ("a", "1"): 2.0, ("b", "0"): 4.0, ("c", "0"): 8.0}
    assert bounded(values, {("a", "0"), ("a", "1")}) == {("a", "0"): 1, ("a", "1"): 2, (OTHER, OTHER): 12}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1e6), max_size=20), st.integers(1, 20))
def test_no_more_are_chosen_than_may_be(by_name: dict[str, float], most: int) -> None:
    chosen = Chosen()
    labels = chosen.choose(weights(**by_name), most)
    assert len(labels) == min(most, len(by_name))
    assert chosen.left_out == len(by_name) - len(labels)
    assert sum(bounded({(name,): 1 for name in by_name}, labels).values()) == len(by_name)


def test_source_that_is_removed_tells_nothing_more() -> None:
    registry = Registry()
    first, second = Fixed(many(SIZE, {("a",): 1})), Fixed(many(SIZE, {("b",): 2}))
    registry.add(first, second)
    both = registry.collect()
    assert [family.name for family in both] == ["pg_kafka_size_bytes"]  # a name is told once
    assert len(both[0].samples) == 2
    registry.remove(first)
    assert [sample.labels for sample in registry.collect()[0].samples] == [{"topic": "b"}]


def test_source_that_fails_takes_nobody_with_it(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    registry.add(Broken(), Fixed(many(SIZE, {("a",): 1})))
    for _ in range(2):
        found = {family.name: family for family in registry.collect()}
    assert set(found) == {"pg_kafka_size_bytes", "pg_kafka_metrics_source_errors"}
    assert found["pg_kafka_metrics_source_errors"].samples[0].value == 2
    assert [record.message for record in caplog.records] == ["metrics cannot be read"]


@pytest.mark.parametrize("family", CATALOGUE.values(), ids=lambda family: family.name)
def test_catalogue_follows_the_conventions(family: Family) -> None:
    assert family.help.endswith(".") and "\n" not in family.help
    assert "|" not in family.help  # it stands in a table
    assert not family.name.startswith("pg_kafka_") or not family.name.endswith(("_ms", "_kb", "_count", "_sum"))
    if family.kind is Kind.HISTOGRAM:
        assert family.name.endswith(("_seconds", "_bytes", "_records"))


def test_no_two_families_have_one_name_but_for_total() -> None:
    """Prometheus' text format and its parsers know a counter by its name without `_total`."""
    names = [name.removesuffix("_total") for name in CATALOGUE]
    assert len(names) == len(set(names))


def test_subjects_have_titles_and_families() -> None:
    assert all(subject.TITLE and subject.FAMILIES for subject in SUBJECTS)


@pytest.mark.parametrize("name", ["records", "Records_total", "records-total", "9_total"])
def test_counter_with_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        counter(name, "Records.")


def test_tables_of_the_documentation_are_the_catalogue_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    import document_metrics

    page = document_metrics.PAGE.read_text()
    assert document_metrics.with_tables(page) == page, "run: .venv/bin/python scripts/document_metrics.py"
    assert all(f"| `{name}` |" in page for name in CATALOGUE)
