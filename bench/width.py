"""Width: many partitions with little traffic, and many consumers that wait in long polls on two partitions each.

Phases: all consumers parked with a long wait, then with the wait that clients have by default, nothing happening in both;
then records arrive one by one at a fixed rate, and the latency from the moment a record is due to its consumer is taken.
Consumers use fetch sessions (KIP-227), so that a poll names no partitions that have not changed.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.measurements import Measurement
from bench.meter import memory
from bench.processes import cpu_s
from bench.raw import (
    FETCH,
    INIT_PRODUCER_ID,
    PRODUCE,
    RawConnection,
    check,
    connect,
    connect_many,
    decode,
    in_process,
)
from bench.turn import Turn
from pg_kafka.bench.batches import BatchTemplate
from pg_kafka.bench.latencies import Percentiles
from pg_kafka.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest
from pg_kafka.wire.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

PARTITIONS_OF_A_TOPIC = 100
PARKED_MS = 60_000
DEFAULT_WAIT_MS = 500
# The last versions that name topics.
_FETCH_VERSION = 12
_PRODUCE_VERSION = 8
_MARK = b"\x00due\x00at\x00"
_TIME = struct.Struct(">d")
_PADDING = bytes(100 - len(_MARK) - _TIME.size)
# After connecting, before anything is counted.
_SETTLE_S = 2.0


@dataclass(frozen=True)
class Width:
    """How wide, how long each phase, and the records a second of the last one."""

    partitions: int
    consumers: int
    seconds: float
    records_per_s: int = 200

    @property
    def name(self) -> str:
        return f"{self.partitions:,} partitions, {self.consumers:,} consumers, {self.records_per_s} records/s"

    def run(self, turn: Turn) -> Iterator[Measurement]:
        start = time.monotonic()
        each = min(PARTITIONS_OF_A_TOPIC, self.partitions)
        topics = [turn.topic(each) for _ in range(self.partitions // each)]
        created_s = time.monotonic() - start
        roles = turn.system.roles()
        places = [(topic, partition) for topic in topics for partition in range(each)]
        found, _ = in_process(measure, turn.system.host, turn.system.port, places, self, roles)
        figures = {"created_s": created_s, **found, **memory(turn.system)}
        yield turn.found("width", self.name, figures, {"partitions": self.partitions, "consumers": self.consumers})
        for topic in topics:
            turn.drop(topic)


Place = tuple[str, int]


class _Consumer:
    """One connection, always in a fetch of its session."""

    def __init__(self, connection: RawConnection, places: Sequence[Place], arrived: list[float]) -> None:
        self._connection = connection
        self._offsets = dict.fromkeys(places, 0)
        self._changed = list(places)
        self._session = 0
        self._epoch = 0
        self._arrived = arrived
        self.max_wait_ms = PARKED_MS
        self.polls = 0

    def poll(self) -> None:
        topics: dict[str, list[FetchPartition]] = {}
        for topic, partition in self._changed:
            offset = self._offsets[topic, partition]
            row = FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=1 << 20)
            topics.setdefault(topic, []).append(row)
        request = FetchRequest(
            max_wait_ms=self.max_wait_ms,
            min_bytes=1,
            max_bytes=50 << 20,
            session_id=self._session,
            session_epoch=self._epoch,
            topics=[FetchTopic(topic=topic, partitions=rows) for topic, rows in topics.items()],
        )
        self._connection.send(self._connection.frame(FETCH, _FETCH_VERSION, request), self._answered)

    def _answered(self, frame: bytes | memoryview) -> None:
        now = time.monotonic()
        answer = decode(FETCH, _FETCH_VERSION, frame)
        check(answer.error_code, "fetch")
        self.polls += 1
        self._session = answer.session_id
        self._epoch += 1
        self._changed = []
        for topic in answer.responses:
            for partition in topic.partitions:
                check(partition.error_code, f"fetch from {topic.topic}-{partition.partition_index}")
                records = bytes(partition.records or b"")
                times = due_times(records)
                if times:
                    self._arrived += ((now - due) * 1000 for due in times)
                    place = (topic.topic, partition.partition_index)
                    self._offsets[place] += len(times)
                    self._changed.append(place)
        self.poll()


class _Producer:
    """One connection that sends a record at a time; several requests may be under way."""

    def __init__(self, connection: RawConnection) -> None:
        self._connection = connection
        self._identity = (-1, -1)
        self._sequences: dict[Place, int] = {}
        self.acknowledged = 0

    async def prepare(self) -> None:
        answer = await self._connection.call(INIT_PRODUCER_ID, 0, InitProducerIdRequest(transaction_timeout_ms=60_000))
        check(answer.error_code, "no producer id")
        self._identity = (answer.producer_id, answer.producer_epoch)

    def send(self, place: Place, due: float) -> None:
        topic, partition = place
        sequence = self._sequences.get(place, 0)
        self._sequences[place] = sequence + 1
        value = _MARK + _TIME.pack(due) + _PADDING
        batch = BatchTemplate([value]).batch(int(time.time() * 1000), *self._identity, sequence)
        data = [TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=partition, records=batch)])]
        request = ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=data)
        self._connection.send(self._connection.frame(PRODUCE, _PRODUCE_VERSION, request), self._acknowledged)

    def _acknowledged(self, frame: bytes | memoryview) -> None:
        answer = decode(PRODUCE, _PRODUCE_VERSION, frame)
        check(answer.responses[0].partition_responses[0].error_code, "produce")
        self.acknowledged += 1


async def measure(
    host: str, port: int, places: Sequence[Place], workload: Width, roles: Mapping[str, int]
) -> dict[str, float]:
    """In the client's process."""
    failed = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: _fail(failed, context))
    arrived: list[float] = []
    connections = await connect_many(host, port, workload.consumers)
    consumers = []
    for number, connection in enumerate(connections):
        own = [places[(2 * number + more) % len(places)] for more in range(2)]
        consumers.append(_Consumer(connection, own, arrived))
    watched = [failed, *(connection.lost for connection in connections)]
    # Sessions are opened by a poll that comes back at once.
    for consumer in consumers:
        consumer.max_wait_ms = 0
        consumer.poll()
        consumer.max_wait_ms = PARKED_MS
    await _phase(watched, _SETTLE_S)
    parked = await _cpu_percent(watched, workload.seconds, roles)
    found = {f"parked_cpu_percent_{role}": percent for role, percent in parked.items()}
    found["idle_cpu_percent"] = sum(parked.values())

    producer = _Producer(await connect(host, port))
    await producer.prepare()
    chance = random.Random(0)
    # Wakes every consumer, whose next poll has the clients' default wait.
    for consumer in consumers:
        consumer.max_wait_ms = DEFAULT_WAIT_MS
    for place in dict.fromkeys(place for consumer in consumers for place in consumer._offsets):
        producer.send(place, time.monotonic())
    await _phase(watched, _SETTLE_S)
    polls = sum(consumer.polls for consumer in consumers)
    polling = await _cpu_percent(watched, workload.seconds, roles)
    found |= {f"polling_cpu_percent_{role}": percent for role, percent in polling.items()}
    found["polls_per_s"] = (sum(consumer.polls for consumer in consumers) - polls) / workload.seconds

    del arrived[:]
    read = [place for consumer in consumers for place in consumer._offsets]
    start = time.monotonic()
    before = cpu_s(roles)
    count = int(workload.seconds * workload.records_per_s)
    for number in range(count):
        due = start + number / workload.records_per_s
        await _phase(watched, max(0.0, due - time.monotonic()))
        producer.send(chance.choice(read), due)
    await _phase(watched, _SETTLE_S)
    spent = {role: (after - before[role]) / count * 1e6 for role, after in cpu_s(roles).items()}
    found |= {f"cpu_s_per_million_{role}": seconds for role, seconds in spent.items()}
    if len(arrived) < count:
        raise RuntimeError(f"{len(arrived)} of {count} records came")
    for connection in connections:
        connection.close()
    return {**found, **Percentiles.of(arrived).figures()}


def due_times(records: bytes) -> list[float]:
    """When the records of some batches were due."""
    found = []
    at = records.find(_MARK)
    while at >= 0:
        found.append(_TIME.unpack_from(records, at + len(_MARK))[0])
        at = records.find(_MARK, at + len(_MARK))
    return found


async def _cpu_percent(
    watched: Sequence[asyncio.Future[None]], seconds: float, roles: Mapping[str, int]
) -> dict[str, float]:
    """What each role uses of one core while nothing is done here."""
    before, start = cpu_s(roles), time.monotonic()
    await _phase(watched, seconds)
    took = time.monotonic() - start
    return {role: (after - before[role]) / took * 100 for role, after in cpu_s(roles).items()}


async def _phase(watched: Sequence[asyncio.Future[None]], seconds: float) -> None:
    """Wait; raises what has failed."""
    if seconds < 0.05:  # too short to look at a thousand futures
        await asyncio.sleep(seconds)
        return
    done, _ = await asyncio.wait(watched, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for future in done:
        future.result()


def _fail(failed: asyncio.Future[None], context: Mapping[str, object]) -> None:
    error = context.get("exception")
    if not failed.done():
        failed.set_exception(error if isinstance(error, Exception) else RuntimeError(str(context["message"])))
