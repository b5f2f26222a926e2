"""End-to-end latency at a fixed rate: from the moment a record is due until a consumer has it.

Record i is due `i / rate` seconds after the start, whatever the broker does: one that stalls makes all records that fall
due meanwhile late, and each of them counts (no coordinated omission). What is due leaves at once, in one batch, unless five
requests are under way; then it waits for a place and its clock goes on.

Three threads: one sends, one takes acknowledgements, one consumes. One partition, one producer, and nobody else writes
to the topic: so an offset says which record it is.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pg_kafka.bench.batches import BatchTemplate, next_sequence
from pg_kafka.bench.cluster import Topic
from pg_kafka.bench.connection import FETCH, BenchError, Connection
from pg_kafka.bench.latencies import Percentiles
from pg_kafka.bench.load import (
    FETCH_VERSION,
    IN_FLIGHT,
    fetch_request,
    init_producer,
    next_offsets,
    produce_frame,
    read_acknowledgement,
)

# Threads and connections are there by then.
_START_IN_S = 0.2
# How late records may be before the measurement is given up.
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Latencies:
    """Of all records that were due after the warm-up, in ms."""

    end_to_end_ms: Percentiles
    acknowledged_ms: Percentiles
    batches: int


class OpenLoop:
    """One measurement; `run` once."""

    def __init__(
        self,
        topic: Topic,
        template: BatchTemplate,
        rate: float,
        seconds: float,
        warm_up_s: float,
        report: Callable[[int], None],
    ) -> None:
        self._topic = topic
        self._template = template
        self._rate = rate
        self._total = max(1, int(rate * (warm_up_s + seconds)))
        self._warm_up = min(self._total - 1, int(rate * warm_up_s))
        self._report = report
        self._start = 0.0
        self._places = threading.Semaphore(IN_FLIGHT)
        self._under_way: deque[int] = deque()  # number of records in each request
        self._failure: BaseException | None = None
        self._failing = threading.Lock()
        # First record, number of records, and when.
        self._acknowledged: list[tuple[int, int, float]] = []
        self._arrived: list[tuple[int, int, float]] = []

    def run(self) -> Latencies:
        """Raises BenchError."""
        with self._topic.connect(0) as producer, self._topic.connect(0) as consumer:
            identity = init_producer(producer)
            self._start = time.monotonic() + _START_IN_S
            tasks = (
                lambda: self._send(producer, identity),
                lambda: self._take_acknowledgements(producer),
                lambda: self._consume(consumer),
            )
            with ThreadPoolExecutor(len(tasks)) as threads:
                for task in tasks:
                    threads.submit(self._guard, task, (producer, consumer))
        if self._failure is not None:
            raise self._failure
        return Latencies(self._late(self._arrived), self._late(self._acknowledged), len(self._acknowledged))

    def _guard(self, work: Callable[[], None], connections: Iterable[Connection]) -> None:
        """Run one of the threads; when it fails, the others end with it."""
        try:
            work()
        except BaseException as error:
            with self._failing:
                self._failure = self._failure or error
            self._places.release()
            for connection in connections:
                connection.abort()

    def _send(self, connection: Connection, identity: tuple[int, int]) -> None:
        sent = sequence = 0
        while sent < self._total and self._failure is None:
            time.sleep(max(0.0, self._start + sent / self._rate - time.monotonic()))
            self._places.acquire()
            due = int((time.monotonic() - self._start) * self._rate) + 1
            count = min(due - sent, self._total - sent, self._template.count)
            batch = self._template.batch(int(time.time() * 1000), *identity, sequence, count)
            self._under_way.append(count)
            connection.send(produce_frame(connection, self._topic.name, 0, batch))
            sent += count
            sequence = next_sequence(sequence, count)

    def _take_acknowledgements(self, connection: Connection) -> None:
        record = 0
        while record < self._total and self._failure is None:
            offset = read_acknowledgement(connection)
            now = time.monotonic()
            count = self._under_way.popleft()
            self._places.release()
            if offset != record:
                raise BenchError(
                    f"a batch got offset {offset}, not {record}: somebody else writes to {self._topic.name}"
                )
            self._acknowledged.append((record, count, now))
            record += count

    def _consume(self, connection: Connection) -> None:
        offset = 0
        deadline = self._start + self._total / self._rate + _PATIENCE_S
        while offset < self._total and self._failure is None:
            offsets = {0: offset}
            answer = connection.call(FETCH, fetch_request(self._topic.name, offsets), FETCH_VERSION)
            now = time.monotonic()
            after = next_offsets(answer, offsets).get(0, offset)
            if after > offset:
                self._arrived.append((offset, after - offset, now))
                self._report(after - offset)
                offset = after
            elif now > deadline:
                raise BenchError(f"only {offset} of {self._total} records came: the broker does not keep up")

    def _late(self, moments: Iterable[tuple[int, int, float]]) -> Percentiles:
        return Percentiles.of(
            (moment - self._start - record / self._rate) * 1000
            for first, count, moment in moments
            for record in range(max(first, self._warm_up), first + count)
        )
