"""`pg-kafka bench` as a user runs it."""

import asyncio
import json
from typing import Any

import pytest
from tests.broker.command import run

from pg_kafka.bench.batches import BatchTemplate
from pg_kafka.bench.cluster import temporary_topic
from pg_kafka.bench.connection import METADATA, BenchError, Connection
from pg_kafka.bench.load import init_producer, produce_frame, read_acknowledgement
from pg_kafka.bench.open_loop import OpenLoop
from pg_kafka.wire.messages.metadata import MetadataRequest


def topics(broker: Any) -> set[str]:
    with Connection(broker.host, broker.port) as connection:
        return {topic.name for topic in connection.call(METADATA, MetadataRequest(topics=None)).topics}


def test_figures_of_all_phases(broker: Any) -> None:
    place = f"{broker.host}:{broker.port}"
    options = ("--seconds", "0.2", "--producers", "2", "--partitions", "3", "--compression", "lz4", "--rate", "200")
    done = run("bench", "--bootstrap", place, "--json", *options)

    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["options"]["bootstrap"] == place
    report = found["report"]
    assert report["consumed_records"] == report["produced_records"] > 0
    assert 0 < report["end_to_end_ms"]["p50_ms"] <= report["end_to_end_ms"]["max_ms"]


def test_report_for_people_leaves_no_topic_behind(broker: Any) -> None:
    done = run("bench", "--bootstrap", f"{broker.host}:{broker.port}", "--seconds", "0.1", "--rate", "100")

    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines()[1:5]] == ["produce", "a", "consume", "end"]
    assert not {name for name in topics(broker) if name.startswith("pg-kafka-bench")}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--bootstrap", "127.0.0.1:1"], "pg-kafka: no broker can be reached at 127.0.0.1:1: Connection refused\n"),
        (["--bootstrap", "nowhere"], "pg-kafka: --bootstrap wants HOST:PORT, as in 127.0.0.1:9092, not 'nowhere'\n"),
    ],
)
def test_error_is_one_sentence(arguments: list[str], sentence: str) -> None:
    done = run("bench", *arguments)
    assert (done.code, done.out, done.err) == (1, "", sentence)


async def test_latency_is_of_all_records_of_the_open_loop(broker: Any) -> None:
    def measure() -> int:
        with temporary_topic(broker.host, broker.port, 1) as topic:
            template = BatchTemplate([b"x"] * 50)
            found = OpenLoop(topic, template, rate=1000, seconds=0.3, warm_up_s=0.1, report=lambda _: None).run()
            assert found.acknowledged_ms.count == found.end_to_end_ms.count
            return found.end_to_end_ms.count

    assert await asyncio.to_thread(measure) == 300


async def test_open_loop_notices_a_second_writer(broker: Any) -> None:
    def measure() -> None:
        with temporary_topic(broker.host, broker.port, 1) as topic, topic.connect(0) as other:
            template = BatchTemplate([b"x"])
            other.send(produce_frame(other, topic.name, 0, template.batch(0, *init_producer(other), 0)))
            read_acknowledgement(other)
            OpenLoop(topic, template, rate=100, seconds=0.1, warm_up_s=0.0, report=lambda _: None).run()

    with pytest.raises(BenchError, match="somebody else writes"):
        await asyncio.to_thread(measure)
