"""Transactional producers under test: processes that hold them, and the place where their stories are played.

A `Program` is one run of a program of one library (`transactors.py` says what it understands). A `Stage` is a broker with
one program of each library and what every story needs of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import confluent_kafka
from tests.broker.rawclient import RawClient, only
from tests.clients.agents import go_agent
from tests.clients.client import Client
from tests.clients.groups import node_program, place_of
from tests.kafka_reference import JAVA_DIR, ROOT, compiled, java

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.describe_transactions import DescribeTransactionsRequest
from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from pg_kafka.wire.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup

WAIT_S = 60.0
TIMEOUT_MS = 60_000
SESSION_TIMEOUT_MS = 3000
LIST_OFFSETS, OFFSET_FETCH, DESCRIBE_TRANSACTIONS = 2, 9, 65
OLD_JAVA_DIR = JAVA_DIR.with_name("java-3.9")

_building = threading.Lock()
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Library:
    """A client library with the version of transactions that it speaks with a broker that has both."""

    program: str
    version: int
    fenced: tuple[str, ...]
    """What it calls the broker's refusal of a producer that has a successor."""
    gone: tuple[str, ...] = ()
    """What it calls the refusal of offsets of a member that has left; none: it does not say which member they are from."""
    protocol: str = "classic"
    reads_crowds: bool = True
    """kafkajs wants aborted transactions in the order of their starts; Apache Kafka tells them in that of their ends."""


_JAVA_FENCED = ("ProducerFencedException", "InvalidProducerEpochException")
_FENCED = ("PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH")
LIBRARIES = {
    "java": Library("java", 2, _JAVA_FENCED, ("CommitFailedException",)),
    "java-3.9": Library("java-3.9", 1, _JAVA_FENCED, ("CommitFailedException",)),
    "confluent-kafka": Library(
        "confluent-kafka", 1, ("_FENCED", "INVALID_PRODUCER_EPOCH"), ("ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID")
    ),
    "franz-go": Library("franz-go", 2, _FENCED),
    "franz-go-v1": Library("franz-go-v1", 1, _FENCED),
    "sarama": Library("sarama", 1, _FENCED, ("UNKNOWN_MEMBER_ID",)),
    "aiokafka": Library("aiokafka", 1, ("ProducerFenced",)),
    "kafka-python": Library(
        "kafka-python", 1, ("ProducerFencedError", "InvalidProducerEpochError"), ("CommitFailedError",)
    ),
    "kafkajs": Library("kafkajs", 1, _FENCED, reads_crowds=False),
}
CONSUMERS = {
    "java-consumer": Library("java", 2, _JAVA_FENCED, ("CommitFailedException",), "consumer"),
    "confluent-kafka-consumer": Library(
        "confluent-kafka", 1, ("_FENCED", "INVALID_PRODUCER_EPOCH"), ("UNKNOWN_MEMBER_ID",), "consumer"
    ),
}


def command(program: str) -> list[str]:
    """The command line of a program, built when necessary; raises ToolMissing."""
    with _building:
        if program in ("java", "java-3.9"):
            classes = compiled(JAVA_DIR / "Transactors.java")
            return java("Transactors", more_classes=classes, libraries=JAVA_DIR if program == "java" else OLD_JAVA_DIR)
        if program.startswith(("franz-go", "sarama")):
            return [str(go_agent()), program, "transactors"]
        if program == "kafkajs":
            return node_program("transactors.js")
        return [sys.executable, str(Path(__file__).with_name("transactors.py")), program]


class Refused(Exception):
    """A request that failed; `name` is what the library calls the error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Program:
    """One run of a program; requests are worked on side by side."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._asked: dict[int, Future[dict[str, Any]]] = {}
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            command(name), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, op: str, **arguments: Any) -> Future[dict[str, Any]]:
        """Asks for something; the answer comes, or Refused."""
        answer: Future[dict[str, Any]] = Future()
        assert self._process.stdin is not None
        with self._lock:
            number = next(self._ids)
            self._asked[number] = answer
            self._process.stdin.write(json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        return answer

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self.start(op, **arguments).result(WAIT_S)

    def kill(self) -> None:
        """kill -9; what was asked for and is not answered never will be."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            asked = self._asked.pop(answer.pop("id"))
            if "error" in answer:
                asked.set_exception(Refused(answer["error"], answer["text"]))
            else:
                asked.set_result(answer)
        for asked in list(self._asked.values()):
            asked.set_exception(AssertionError(f"the {self.name} process has ended"))


@dataclass
class Producer:
    """A transactional producer in a program."""

    program: Program
    name: str

    def transact(self, topic: str, values: Iterable[tuple[int, str]], is_commit: bool = True) -> None:
        """A whole transaction with these values in these partitions."""
        self.begin()
        self.send(topic, values)
        self.end(is_commit)

    def begin(self) -> None:
        self.program.ask("begin", producer=self.name)

    def send(self, topic: str, values: Iterable[tuple[int, str]]) -> None:
        records = [[topic, partition, value] for partition, value in values]
        self.program.ask("send", producer=self.name, records=records)

    def end(self, is_commit: bool) -> None:
        self.program.ask("commit" if is_commit else "abort", producer=self.name)

    def close(self) -> None:
        self.program.ask("close", producer=self.name)


@dataclass
class Stage:
    """Where a story is played."""

    bootstrap: str
    admin: Client
    _shared: dict[str, Program] = field(default_factory=dict)
    _own: list[Program] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        settings = {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "log_level": 0}
        self._plain = confluent_kafka.Producer(settings)

    def shared(self, program: str) -> Program:
        """The program of a library that all stories share."""
        with self._lock:
            if program not in self._shared:
                self._shared[program] = Program(program)
            return self._shared[program]

    def own(self, program: str) -> Program:
        """Another one, to be killed."""
        process = Program(program)
        self._own.append(process)
        return process

    def close(self) -> None:
        for program in (*self._shared.values(), *self._own):
            program.kill()

    def name(self, what: str) -> str:
        """A name that nobody has used, for a topic, a group or a transactional id."""
        return f"{what}-{next(_numbers)}"

    def topic(self, what: str, partitions: int) -> str:
        """A new topic whose partitions can be used."""
        topic = self.name(what)
        with self._lock:  # the first call makes what the others use
            self.admin.create_topic(self.bootstrap, topic, partitions)
        asyncio.run(self._wait_until_led(topic, partitions))
        return topic

    def producer(self, program: Program, transactional_id: str, timeout_ms: int = TIMEOUT_MS) -> Producer:
        """A new producer, which has its producer id."""
        producer = Producer(program, self.name("producer"))
        program.ask(
            "open",
            producer=producer.name,
            bootstrap=self.bootstrap,
            transactional_id=transactional_id,
            timeout_ms=timeout_ms,
        )
        return producer

    def mark(self, topic: str, partitions: int, value: str) -> list[int]:
        """Writes a value into each partition, in no transaction; returns the offsets."""
        written: dict[int, int] = {}

        def delivered(error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
            assert error is None, error
            written[message.partition()] = message.offset()

        for partition in range(partitions):
            self._plain.produce(topic, value, partition=partition, on_delivery=delivered)
        assert self._plain.flush(WAIT_S) == 0
        return [written[partition] for partition in range(partitions)]

    def start_reading(
        self, program: Program, topic: str, partitions: int, until: str, *, is_committed: bool
    ) -> Future[dict[str, Any]]:
        return program.start(
            "read",
            bootstrap=self.bootstrap,
            topic=topic,
            partitions=partitions,
            until=until,
            is_committed=is_committed,
        )

    def read(
        self, program: Program, topic: str, partitions: int, until: str, *, is_committed: bool
    ) -> list[list[tuple[int, str]]]:
        """Offset and value of what there is in each partition up to a value."""
        reading = self.start_reading(program, topic, partitions, until, is_committed=is_committed)
        return by_partition(reading.result(WAIT_S)["records"], partitions)

    def offsets(self, topic: str, partitions: int, *, is_committed: bool) -> list[int]:
        """The high watermarks, or the last stable offsets."""

        async def ask() -> list[int]:
            async with await RawClient.connect(place_of(self.bootstrap)) as client:
                listed = await self._list_offsets(client, topic, partitions, is_committed)
                assert not any(one.error_code for one in listed), listed
                return [one.offset for one in listed]

        return asyncio.run(ask())

    def committed(self, group: str, partitions: int) -> list[int]:
        """The committed offsets of a group, -1 where there is none; waits for transactions that are just ending."""

        async def ask() -> list[int]:
            request = OffsetFetchRequest(
                groups=[OffsetFetchRequestGroup(group_id=group, topics=None)], require_stable=True
            )
            async with asyncio.timeout(WAIT_S), await RawClient.connect(place_of(self.bootstrap)) as client:
                while True:
                    answer = only((await client.call(request, OFFSET_FETCH, 8)).groups)
                    found = {one.partition_index: one for topic in answer.topics for one in topic.partitions}
                    codes = {answer.error_code, *(one.error_code for one in found.values())}
                    if codes <= {ErrorCode.NONE}:
                        return [found[each].committed_offset if each in found else -1 for each in range(partitions)]
                    assert codes <= {ErrorCode.NONE, ErrorCode.UNSTABLE_OFFSET_COMMIT}, answer
                    await asyncio.sleep(0.05)

        return asyncio.run(ask())

    def settled(self, transactional_id: str) -> str:
        """The state of a transactional id when its last transaction has ended in all partitions.

        Apache Kafka answers before that.
        """

        async def ask() -> str:
            async with asyncio.timeout(WAIT_S), await RawClient.connect(place_of(self.bootstrap)) as client:
                while True:
                    state = (await self._described(client, transactional_id)).transaction_state
                    if not state.startswith("Prepare"):
                        break
                    await asyncio.sleep(0.02)
                return str(state)

        return asyncio.run(ask())

    def epoch(self, transactional_id: str) -> int:
        """The epoch that the producer of a transactional id has now."""

        async def ask() -> int:
            async with await RawClient.connect(place_of(self.bootstrap)) as client:
                return int((await self._described(client, transactional_id)).producer_epoch)

        return asyncio.run(ask())

    @staticmethod
    async def _described(client: RawClient, transactional_id: str) -> Any:
        request = DescribeTransactionsRequest(transactional_ids=[transactional_id])
        state = only((await client.call(request, DESCRIBE_TRANSACTIONS, 0)).transaction_states)
        assert state.error_code == 0, state
        return state

    async def _wait_until_led(self, topic: str, partitions: int) -> None:
        """Apache Kafka answers before the leaders of the partitions are ready."""
        async with asyncio.timeout(WAIT_S), await RawClient.connect(place_of(self.bootstrap)) as client:
            while True:
                listed = await self._list_offsets(client, topic, partitions, False)
                if not any(one.error_code for one in listed):
                    break
                await asyncio.sleep(0.05)

    @staticmethod
    async def _list_offsets(client: RawClient, topic: str, partitions: int, is_committed: bool) -> list[Any]:
        asked = [ListOffsetsPartition(partition_index=partition, timestamp=-1) for partition in range(partitions)]
        topics = [ListOffsetsTopic(name=topic, partitions=asked)]
        request = ListOffsetsRequest(replica_id=-1, isolation_level=int(is_committed), topics=topics)
        answer = only((await client.call(request, LIST_OFFSETS, 7)).topics)
        return sorted(answer.partitions, key=lambda one: one.partition_index)


def by_partition(records: Sequence[Sequence[Any]], partitions: int) -> list[list[tuple[int, str]]]:
    """Records as programs tell them, as offset and value for each partition, in the order in which they came."""
    found: list[list[tuple[int, str]]] = [[] for _ in range(partitions)]
    for partition, offset, value in records:
        found[partition].append((offset, value))
    for one in found:
        assert one == sorted(set(one)), f"offsets go back or repeat: {one}"
    return found


def values(found: list[list[tuple[int, str]]]) -> list[list[str]]:
    return [[value for _, value in one] for one in found]
