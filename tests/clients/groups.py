"""Consumer groups under test: processes that hold members, a producer that goes on, and the account of it all.

A `Process` is a member program of one library (`group_members.py` says what it understands). A `Group` has members in
one or more of them, a topic with traffic, and every event; `check()` holds the events against what a group promises.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import confluent_kafka
from tests.broker.rawclient import RawClient, only
from tests.clients.agents import go_agent
from tests.kafka_reference import BUILD_DIR, HOST, JAVA_DIR, ROOT, class_path, java, need

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_describe import ConsumerGroupDescribeRequest
from pg_kafka.wire.messages.describe_groups import DescribeGroupsRequest
from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from pg_kafka.wire.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup

PARTITIONS = 6
WAIT_S = 60.0
NODE_DIR = Path(__file__).resolve().parent / "node"
# What the brokers of these tests allow; Kafka's own bounds would make each expiry take from six to 45 seconds.
SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "4000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "300",
}
# As SETTINGS, for brokers whose compacted topics are cleaned soon.
CLEANING = {**SETTINGS, "log.cleaner.backoff.ms": "200"}
TIMES = {"session_timeout_ms": 4000, "heartbeat_interval_ms": 300, "max_poll_interval_ms": 5000}

_building = threading.Lock()
_PASSING = (
    ErrorCode.GROUP_ID_NOT_FOUND,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.NOT_COORDINATOR,
)
LIST_OFFSETS, OFFSET_FETCH, DESCRIBE_GROUPS, CONSUMER_GROUP_DESCRIBE = 2, 9, 15, 69


class Place(NamedTuple):
    """A broker's address, as RawClient wants it."""

    host: str
    port: int


def place_of(bootstrap: str) -> Place:
    return Place(HOST, int(bootstrap.rpartition(":")[2]))


@dataclass(frozen=True)
class Library:
    """A client library with the group protocol that it is to use."""

    program: str
    protocol: str = "classic"
    has_static_members: bool = True
    """Among them those that join again as they were; franz-go subscribes in the consumer protocol with a second request."""
    knows_what_it_lost: bool = True
    """A cooperative member that the group went on without stops committing what was its own; franz-go and kafka-python do not."""


LIBRARIES = {
    "confluent-kafka": Library("confluent-kafka"),
    "confluent-kafka-consumer": Library("confluent-kafka", "consumer"),
    "aiokafka": Library("aiokafka"),
    "kafka-python": Library("kafka-python", knows_what_it_lost=False),
    "java": Library("java"),
    "java-consumer": Library("java", "consumer"),
    "franz-go": Library("franz-go", knows_what_it_lost=False),
    "franz-go-consumer": Library("franz-go", "consumer", has_static_members=False),
    "sarama": Library("sarama"),
    "kafkajs": Library("kafkajs", has_static_members=False),
}


def command(program: str) -> list[str]:
    """The command line of a member program, built when necessary; raises ToolMissing."""
    with _building:
        if program == "java":
            return java("GroupMembers", more_classes=java_classes())
        if program in ("franz-go", "sarama"):
            return [str(go_agent()), program, "members"]
        if program == "kafkajs":
            return node_program("members.js")
        return [sys.executable, str(Path(__file__).with_name("group_members.py")), program]


def java_classes() -> Path:
    """The folder with the compiled programs; compiled once, for several processes."""
    sources, target = [JAVA_DIR / "GroupMembers.java", JAVA_DIR / "ToolRunner.java"], BUILD_DIR / "classes"
    compiled = [target / f"{source.stem}.class" for source in sources]
    oldest = min((file.stat().st_mtime if file.exists() else 0.0 for file in compiled), default=0.0)
    if oldest < max(source.stat().st_mtime for source in sources):
        compiler = need("javac", "apt-get install openjdk-17-jdk-headless")
        subprocess.run([compiler, "-cp", class_path(), "-d", str(target), *sources], check=True, timeout=120)
    return target


def node_program(name: str) -> list[str]:
    """The command line of a program beside what npm has installed by the lock file."""
    node, npm = (need(tool, "apt-get install nodejs npm") for tool in ("node", "npm"))
    target = BUILD_DIR / "node"
    target.mkdir(parents=True, exist_ok=True)
    lock = target / "package-lock.json"
    wanted = (NODE_DIR / "package-lock.json").read_bytes()
    is_there = lock.exists() and lock.read_bytes() == wanted and (target / "node_modules" / "kafkajs").exists()
    for file in NODE_DIR.iterdir():
        shutil.copyfile(file, target / file.name)
    if not is_there:
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=target, check=True, capture_output=True, timeout=300)
    return [node, str(target / name)]


@dataclass(frozen=True)
class Event:
    """Something that a member told."""

    member: str
    at: int
    what: str
    partitions: tuple[int, ...] = ()
    partition: int = -1
    first: int = -1
    last: int = -1
    offset: int = -1
    generation: int | None = None
    member_id: str = ""
    error: str = ""


class Process:
    """One run of a member program; its members may be of several groups."""

    def __init__(self, program: str) -> None:
        self._listeners: dict[str, Callable[[Event], None]] = {}
        self._process = subprocess.Popen(
            command(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def tell(self, op: str, member: str, **settings: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, "member": member, **settings}).encode() + b"\n")
        self._process.stdin.flush()

    def listen(self, member: str, listener: Callable[[Event], None]) -> None:
        self._listeners[member] = listener

    def kill(self) -> int:
        """kill -9; returns when that was, in ms of the wall clock, after everything told before has been heard."""
        at = int(time.time() * 1000)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return at

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "partitions" in told:
                told["partitions"] = tuple(told["partitions"])
            event = Event(**told)
            self._listeners[event.member](event)


class Traffic(threading.Thread):
    """One producer that sends to each partition of some topics, steadily."""

    def __init__(self, bootstrap: str, pause_s: float = 0.1) -> None:
        super().__init__(daemon=True)
        self._place = place_of(bootstrap)
        self._open: set[str] = set()
        self._failures: list[str] = []
        self._under_way: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "reconnect.backoff.max.ms": 200,
                "log_level": 0,
                "error_cb": lambda error: None,
            }
        )

    def begin(self, topic: str) -> None:
        with self._changed:
            self._open.add(topic)

    def end(self, topic: str) -> list[int]:
        """Sends no more to a topic; the ends of its partitions when everything sent has been acknowledged."""
        with self._changed:
            self._open.discard(topic)
            assert self._changed.wait_for(lambda: not self._under_way[topic], WAIT_S)
            assert not self._failures, self._failures[:5]
        return asyncio.run(self._ends(topic))

    async def _ends(self, topic: str) -> list[int]:
        asked = [ListOffsetsPartition(partition_index=partition, timestamp=-1) for partition in range(PARTITIONS)]
        request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=topic, partitions=asked)])
        async with await RawClient.connect(self._place) as client:
            answer = only((await client.call(request, LIST_OFFSETS, 7)).topics)
        return [one.offset for one in sorted(answer.partitions, key=lambda one: one.partition_index)]

    def run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            with self._changed:
                for topic in self._open:
                    self._under_way[topic] += PARTITIONS
                    for partition in range(PARTITIONS):
                        self._producer.produce(topic, b"%d" % number, partition=partition, on_delivery=self._delivered)
            number += 1
            self._producer.poll(self._pause_s)
            self._stopping.wait(self._pause_s / 2)

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        self._producer.flush(WAIT_S)

    def _delivered(self, error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
        with self._changed:
            self._under_way[message.topic()] -= 1
            if error is not None:
                self._failures.append(error.str())
            self._changed.notify_all()


class Watcher(threading.Thread):
    """Asks the broker for committed offsets and assignments of groups, again and again, and notes what must not be."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(daemon=True)
        self.faults: list[str] = []
        self._place = place_of(bootstrap)
        self._groups: dict[str, str] = {}
        self._newest: dict[tuple[str, int], int] = {}
        self._stopping = threading.Event()

    def watch(self, group: str, protocol: str) -> None:
        self._groups[group] = protocol

    def run(self) -> None:
        asyncio.run(self._watch())

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def committed(self, group: str) -> list[int]:
        """The committed offsets, -1 where there is none."""

        async def ask() -> list[int]:
            async with await RawClient.connect(self._place) as client:
                return await committed(client, group)

        return asyncio.run(ask())

    async def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                async with await RawClient.connect(self._place) as client:
                    while not self._stopping.is_set():
                        for group, protocol in list(self._groups.items()):
                            await self._look(client, group, protocol)
                        await asyncio.sleep(0.3)
            except (OSError, EOFError, TimeoutError):  # the broker is away
                await asyncio.sleep(0.1)

    async def _look(self, client: RawClient, group: str, protocol: str) -> None:
        for partition, offset in enumerate(await committed(client, group)):
            before = self._newest.get((group, partition), -1)
            if offset < before:
                self.faults.append(f"{group}: committed offset of {partition} went from {before} to {offset}")
            self._newest[group, partition] = max(before, offset)
        owned = await assigned(client, group, protocol)
        if len(owned) != len(set(owned)):
            self.faults.append(f"{group}: owned twice: {sorted(owned)}")


async def committed(client: RawClient, group: str) -> list[int]:
    """The committed offsets of a group as the broker tells them, -1 where there is none."""
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=group, topics=None)])
    answer = only((await client.call(request, OFFSET_FETCH, 8)).groups)
    if answer.error_code in _PASSING:
        return []
    assert answer.error_code == 0, answer
    found = {one.partition_index: one for topic in answer.topics for one in topic.partitions}
    assert not any(one.error_code for one in found.values()), answer
    return [found[partition].committed_offset if partition in found else -1 for partition in range(PARTITIONS)]


async def assigned(client: RawClient, group: str, protocol: str) -> list[int]:
    """The partitions of the group's members as the broker tells them."""
    if protocol == "consumer":
        wide = await client.call(ConsumerGroupDescribeRequest(group_ids=[group]), CONSUMER_GROUP_DESCRIBE, 0)
        topics = [topic for member in only(wide.groups).members for topic in member.assignment.topic_partitions]
        return [partition for topic in topics for partition in topic.partitions]
    old = only((await client.call(DescribeGroupsRequest(groups=[group]), DESCRIBE_GROUPS, 5)).groups)
    found = [_assignment(bytes(member.member_assignment)) for member in old.members]
    return [partition for one in found for partition in one]


def _assignment(data: bytes) -> list[int]:
    """The partitions in the assignment of one topic, as classic members write it: version, topics, user data."""
    if not data:
        return []
    _, topics = struct.unpack_from(">hi", data)
    position, found = 6, []
    for _ in range(topics):
        (size,) = struct.unpack_from(">h", data, position)
        (count,) = struct.unpack_from(">i", data, position + 2 + size)
        found += struct.unpack_from(f">{count}i", data, position + 6 + size)
        position += 6 + size + 4 * count
    return found


@dataclass
class Member:
    """Where a member lives, and what it said last."""

    name: str
    process: Process
    settings: dict[str, Any]
    told: tuple[int, ...] = ()
    owned: tuple[int, ...] = ()  # what it told, without what it had before a pause and may have lost since
    generation: int | None = None
    is_there: bool = True
    is_paused: bool = False


@dataclass
class Group:
    """One group of one topic."""

    bootstrap: str
    id: str
    topic: str
    events: list[Event] = field(default_factory=list)
    members: dict[str, Member] = field(default_factory=dict)
    _heard: threading.Condition = field(default_factory=threading.Condition)

    def join(self, name: str, process: Process, library: Library, assignor: str = "range", **more: Any) -> Member:
        """Lets a member join; returns at once."""
        settings = {
            "bootstrap": self.bootstrap,
            "topic": self.topic,
            "group": self.id,
            "protocol": library.protocol,
            "assignor": assignor,
            "instance_id": None,
            **TIMES,
            **more,
        }
        full_name = f"{self.id}-{name}"
        member = Member(full_name, process, settings)
        with self._heard:
            self.members[full_name] = member
        process.listen(full_name, self._hear)
        process.tell("join", full_name, **settings)
        return member

    def leave(self, *members: Member) -> None:
        """Lets members leave in good order, and waits until they have."""
        for member in members:
            member.process.tell("leave", member.name)
        self.wait("leave", lambda: not any(member.is_there for member in members))

    def pause(self, member: Member) -> None:
        """The member stops polling: holds on to what it has and does nothing."""
        member.process.tell("pause", member.name)
        self.wait("pause", lambda: member.is_paused)

    def resume(self, member: Member) -> None:
        member.process.tell("resume", member.name)

    def kill(self, process: Process) -> None:
        """kill -9 of a process, with all its members."""
        at = process.kill()
        with self._heard:
            for member in self.members.values():
                if member.process is process and member.is_there:
                    member.is_there, member.owned = False, ()
                    self.events.append(Event(member.name, at, "killed"))

    def wait(self, what: str, is_so: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Returns when something is so, which is asked anew with each event."""
        deadline = time.monotonic() + timeout_s
        with self._heard:
            while not is_so():
                failed = [event for event in self.events if event.what == "failed"]
                assert not failed, failed
                left = deadline - time.monotonic()
                assert left > 0, f"{self.id}: after {timeout_s:.0f} s still waiting to {what}:\n{self.story()}"
                self._heard.wait(left)

    def wait_until_quiet(self, what: str, is_so: Callable[[], bool], quiet_ms: int) -> None:
        """Returns when something is so and no member has told anything for a while: nothing else says that it stays so."""
        while True:
            self.wait(what, is_so)
            with self._heard:
                count = len(self.events)
                if not self._heard.wait_for(lambda: len(self.events) > count, quiet_ms / 1000):  # noqa: B023 - at once
                    return

    def wait_until_owned(self, *owners: Member) -> None:
        """All partitions have one owner each, each of these members has some, and all have read since."""
        self.wait(f"be owned by {[owner.name for owner in owners]}", lambda: self._is_owned_by(owners))
        with self._heard:
            start = len(self.events)
        self.wait(
            f"be read by {[owner.name for owner in owners]}",
            lambda: (
                self._is_owned_by(owners)
                and {owner.name for owner in owners}
                <= {event.member for event in self.events[start:] if event.what == "records"}
            ),
        )

    def wait_until_read(self, ends: list[int]) -> None:
        """Everything below these offsets has been read."""
        self.wait("be read to the end", lambda: not self._unread(ends))

    def commits(self, partition: int) -> list[int]:
        """The offsets whose commit was accepted, in order."""
        with self._heard:
            found = [one for one in self.events if one.what == "committed" and one.partition == partition]
        return [one.offset for one in sorted(found, key=lambda one: one.at)]

    def story(self) -> str:
        """The events that are no records, for messages."""
        with self._heard:
            told = [event for event in self.events if event.what not in ("records", "committed")][-60:]
            return "\n".join(
                f"{event.at % 1_000_000} {event.member} {event.what} {event.partitions} {event.generation} {event.error}"
                for event in told
            )

    def check(self, ends: list[int]) -> None:
        """Raises AssertionError with everything that is wrong."""
        with self._heard:
            faults = [f"partition {partition}: not read {missing}" for partition, missing in self._unread(ends).items()]
        faults += self._two_owners_at_once()
        faults += self._two_owners_in_a_generation()
        faults += self._commits_that_went_back()
        assert not faults, "\n".join([*faults[:20], self.story()])

    def _hear(self, event: Event) -> None:
        with self._heard:
            member = self.members[event.member]
            match event.what:
                case "owned":
                    gained = set(event.partitions) - set(member.told)
                    member.owned = tuple(sorted(gained | (set(event.partitions) & set(member.owned))))
                    member.told, member.generation = event.partitions, event.generation
                case "left" | "failed":
                    member.is_there, member.owned = False, ()
                case "paused":
                    member.is_paused, member.owned = True, ()
                case "resumed":
                    member.is_paused = False
            self.events.append(event)
            self._heard.notify_all()

    def _is_owned_by(self, owners: Iterable[Member]) -> bool:
        owned = [partition for owner in owners for partition in owner.owned]
        return sorted(owned) == list(range(PARTITIONS)) and all(owner.owned for owner in owners)

    def _unread(self, ends: list[int]) -> dict[int, list[int]]:
        missing = {partition: set(range(end)) for partition, end in enumerate(ends)}
        for event in self.events:
            if event.what == "records":
                missing[event.partition] -= set(range(event.first, event.last + 1))
        return {partition: sorted(offsets) for partition, offsets in missing.items() if offsets}

    def _two_owners_at_once(self) -> list[str]:
        """Of ownership as members tell it; who is paused or dead owns nothing that others must respect."""
        owners: dict[int, str] = {}
        owned: dict[str, set[int]] = defaultdict(set)
        told: dict[str, set[int]] = defaultdict(set)
        faults = []
        for event in sorted(self.events, key=lambda event: event.at):
            match event.what:
                case "owned":
                    now = set(event.partitions) & (owned[event.member] | (set(event.partitions) - told[event.member]))
                    told[event.member] = set(event.partitions)
                case "killed" | "left" | "paused":
                    now = set()
                case _:
                    continue
            for partition in owned[event.member] - now:
                del owners[partition]
            owned[event.member] &= now
            for partition in sorted(now - owned[event.member]):
                if partition in owners:
                    faults.append(f"{partition} owned by {owners[partition]} and {event.member} at {event.at}")
                else:
                    owners[partition] = event.member
                    owned[event.member].add(partition)
        return faults

    def _two_owners_in_a_generation(self) -> list[str]:
        readers: dict[tuple[int, int], set[str]] = defaultdict(set)
        for event in self.events:
            if event.what == "records" and event.generation is not None and event.generation >= 0:
                readers[event.generation, event.partition].add(event.member)
        return [
            f"{place} (generation, partition) read by {names}" for place, names in readers.items() if len(names) > 1
        ]

    def _commits_that_went_back(self) -> list[str]:
        faults = []
        for partition in range(PARTITIONS):
            offsets = self.commits(partition)
            faults += [f"partition {partition}: {a} and then {b}" for a, b in pairwise(offsets) if a > b]
        return faults
