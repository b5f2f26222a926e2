"""The client of `pg-kafka bench`: its batches, its percentiles, and what it says when there is nobody to measure."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.wire_batches import records

from pg_kafka.bench import load
from pg_kafka.bench.batches import BatchTemplate, next_sequence, values_for
from pg_kafka.bench.connection import BenchError, Connection
from pg_kafka.bench.latencies import Percentiles
from pg_kafka.wire import compression
from pg_kafka.wire._records import decode_batch, peek

NOW = 1_700_000_000_000


@pytest.mark.parametrize("codec", [compression.NONE, compression.LZ4, compression.ZSTD])
@pytest.mark.parametrize("count", [None, 1, 7])
def test_batches_are_what_others_read(codec: int, count: int | None) -> None:
    values = [b"%d" % n * (n + 1) for n in range(200)]
    wire = BatchTemplate(values, codec).batch(NOW, 5, 1, 30, count)

    assert records([wire]) == [(n, None, value) for n, value in enumerate(values[:count])]
    batch = decode_batch(wire)
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (5, 1, 30)
    assert (batch.codec, batch.base_timestamp, batch.max_timestamp) == (codec, NOW, NOW)


@pytest.mark.parametrize("record_bytes", [1, 100, 1000, 100_000])
def test_values_fill_a_batch_and_no_more(record_bytes: int) -> None:
    values = values_for(65_536, record_bytes, bytes(range(256)) * 1000)
    wire = BatchTemplate(values).batch(NOW)

    assert {len(value) for value in values} == {record_bytes}
    assert len(values) == 1 or 0.85 * 65_536 < len(wire) <= 65_536


def test_sequences_wrap_around_to_zero() -> None:
    assert next_sequence(0, 5) == 5
    assert next_sequence(2**31 - 1, 1) == 0


def test_percentiles_are_of_records() -> None:
    assert Percentiles.of(range(1, 1001)).figures() == {"p50_ms": 500, "p99_ms": 990, "p99.9_ms": 999, "max_ms": 1000}
    weighted = Percentiles.weighted([(9.0, 1), (1.0, 98), (5.0, 1)])
    assert (weighted.count, weighted.at(98), weighted.at(99), weighted.at(99.9)) == (100, 1.0, 5.0, 9.0)


def test_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Percentiles.of([]).at(50)


def test_reading_goes_on_after_the_last_whole_batch() -> None:
    whole = BatchTemplate([b"a", b"b"]).batch(NOW)
    wire = whole + struct.pack(">q", 2) + whole[8:]
    assert peek(wire, len(whole)).base_offset == 2

    assert load._after(memoryview(wire), 0, 0) == 4
    assert load._after(memoryview(wire)[:-1], 0, 0) == 2
    assert load._after(memoryview(wire), 1, 0) == 4  # a fetch may begin within a batch
    with pytest.raises(BenchError, match="partition 6: offset 2 where 1 was due"):
        load._after(memoryview(wire)[len(whole) :], 1, 6)


def test_nobody_there_is_one_sentence() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(BenchError, match=rf"^no broker can be reached at 127\.0\.0\.1:{port}: Connection refused$"):
        Connection("127.0.0.1", port)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_another_protocol_is_one_sentence(answer: bytes) -> None:
    with answering(answer) as port:
        with pytest.raises(
            BenchError, match=rf"^what listens at 127\.0\.0\.1:{port} does not answer like a Kafka broker"
        ):
            Connection("127.0.0.1", port)


def test_silence_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(BenchError, match="has not answered for"):
            Connection("127.0.0.1", server.getsockname()[1], timeout_s=0.1)


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that gives one connection this answer and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()
