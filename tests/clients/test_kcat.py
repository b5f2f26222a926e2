"""kcat as people type it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.clients.client import CALL_TIMEOUT_S, Client
from tests.clients.kcat_client import kcat
from tests.clients.records import EPOCH_MS, Record, at_offsets, big, numbered


@pytest.fixture(autouse=True)
def _installed(clients: Callable[[str], Client]) -> None:
    clients("kcat")


def test_headers_both_ways(bootstrap: str, confluent: Client, topic: str) -> None:
    headers = ("-H", "a=1", "-H", "b=two", "-H", "a=3")
    kcat("-P", "-b", bootstrap, "-t", topic, "-k", "the key", *headers, stdin=b"first\nsecond\n")
    expected = (("a", b"1"), ("b", b"two"), ("a", b"3"))
    read = confluent.consume(bootstrap, topic, 2)
    assert [(r.key, r.value, r.headers) for r in read] == [(b"the key", v, expected) for v in (b"first", b"second")]
    output = kcat("-C", "-b", bootstrap, "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%o %h %k %s\\n")
    assert output == b"0 a=1,b=two,a=3 the key first\n1 a=1,b=two,a=3 the key second\n"


def test_a_file_is_one_record(bootstrap: str, confluent: Client, topic: str, tmp_path: Path) -> None:
    record = big(900_000)
    assert record.value is not None
    (tmp_path / "record").write_bytes(record.value)
    kcat("-P", "-b", bootstrap, "-t", topic, "-z", "snappy", str(tmp_path / "record"))
    assert confluent.consume(bootstrap, topic, 1)[0].value == record.value


@pytest.mark.parametrize(("start", "first"), [("beginning", 0), ("60", 60), ("-10", 90), ("time", 75)])
def test_starts_where_it_is_told_and_ends_at_the_end(
    bootstrap: str, confluent: Client, topic: str, start: str, first: int
) -> None:
    expected = at_offsets(numbered(100), confluent.produce(bootstrap, topic, numbered(100), codec="gzip"))
    start = f"s@{EPOCH_MS + 75}" if start == "time" else start
    output = kcat("-C", "-b", bootstrap, "-t", topic, "-p", "0", "-o", start, "-e", "-q", "-J")
    read = [json.loads(line) for line in output.splitlines()]
    assert [(r["offset"], r["ts"], r["key"]) for r in read] == [
        (record.offset, record.timestamp, (record.key or b"").decode()) for record in expected[first:]
    ]


def test_lists_topics_and_partitions(bootstrap: str, new_topic: Callable[..., str]) -> None:
    topic = new_topic(3)
    listed = json.loads(kcat("-L", "-b", bootstrap, "-t", topic, "-J"))
    (found,) = listed["topics"]
    assert found["topic"] == topic
    assert [partition["partition"] for partition in found["partitions"]] == [0, 1, 2]
    assert {partition["leader"] for partition in found["partitions"]} == {listed["brokers"][0]["id"]}
    assert listed["brokers"][0]["name"] == bootstrap


def test_lists_all_topics(bootstrap: str, topic: str) -> None:
    assert topic in {found["topic"] for found in json.loads(kcat("-L", "-b", bootstrap, "-J"))["topics"]}


def test_waiting_kcat_prints_what_comes(bootstrap: str, confluent: Client, topic: str) -> None:
    wait = ("-X", "fetch.wait.max.ms=100000", "-X", "socket.timeout.ms=200000")
    command = ["kcat", "-C", "-b", bootstrap, "-t", topic, "-p", "0", "-o", "0", "-c", "2", "-u", "-q", *wait]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert waiting.stdout is not None
        for value in (b"first", b"second"):
            confluent.produce(bootstrap, topic, [Record(None, value)])
            assert waiting.stdout.readline() == value + b"\n"
        assert waiting.wait(CALL_TIMEOUT_S) == 0
    finally:
        waiting.kill()
        waiting.communicate()
