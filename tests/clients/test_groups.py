"""Members of consumer groups, of every library, come, go, die and stall while a producer goes on.

In every story all records are read, no partition has two owners at once, and committed offsets never go back. A story
takes some 20 seconds of mostly waiting (for sessions to end), so all are played at the same time (`stories.py`).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from tests.clients.brokers import Broker
from tests.clients.client import Client
from tests.clients.conftest import unavailable
from tests.clients.groups import LIBRARIES, PARTITIONS, Group, Library, Process, Traffic, Watcher
from tests.clients.stories import Stories
from tests.kafka_reference import ToolMissing

pytestmark = pytest.mark.timeout(400)

AT_A_TIME = 6
# Libraries whose assignors of these names agree on what they write into each other's metadata.
MIXED = ("confluent-kafka", "java", "franz-go", "sarama", "aiokafka", "kafka-python")
_numbers = itertools.count(1)


@dataclass
class Stage:
    """Where a story is played: a broker, member programs that stories share, and one that may be killed."""

    bootstrap: str
    admin: Client
    traffic: Traffic
    watcher: Watcher
    _shared: dict[str, Process] = field(default_factory=dict)
    _own: list[Process] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def shared(self, program: str) -> Process:
        with self._lock:
            if program not in self._shared:
                self._shared[program] = Process(program)
            return self._shared[program]

    def own(self, program: str) -> Process:
        process = Process(program)
        self._own.append(process)
        return process

    def group(self, name: str, protocol: str) -> Group:
        """A new group on a new topic that gets records from now on."""
        topic = f"{name}-{next(_numbers)}"
        with self._lock:  # the first call makes what the others use
            self.admin.create_topic(self.bootstrap, topic, PARTITIONS)
        self.watcher.watch(topic, protocol)
        self.traffic.begin(topic)
        return Group(self.bootstrap, topic, topic)

    def finish(self, group: Group) -> None:
        """The account: the last records are read and committed, the last members leave, and nothing was wrong."""
        ends = self.traffic.end(group.topic)
        group.wait_until_read(ends)
        group.leave(*(member for member in group.members.values() if member.is_there))
        group.check(ends)
        assert self.watcher.committed(group.id) == ends
        faults = [fault for fault in self.watcher.faults if fault.startswith(f"{group.id}:")]
        assert not faults, faults[:20]

    def close(self) -> None:
        self.watcher.stop()
        self.traffic.stop()
        for process in (*self._shared.values(), *self._own):
            process.kill()


def come_and_go(stage: Stage, library: Library, assignor: str, name: str) -> None:
    group = stage.group(name, library.protocol)
    home = stage.shared(library.program)
    first = group.join("first", home, library, assignor)
    group.wait_until_owned(first)
    second = group.join("second", home, library, assignor)
    group.wait_until_owned(first, second)
    doomed = stage.own(library.program)
    third = group.join("third", doomed, library, assignor)
    group.wait_until_owned(first, second, third)
    group.kill(doomed)
    group.wait_until_owned(first, second)
    group.leave(second)
    group.wait_until_owned(first)
    if assignor != "cooperative-sticky" or library.knows_what_it_lost:
        # It stalls beyond max.poll.interval.ms: the group goes on without it, and takes it back.
        group.pause(first)
        fourth = group.join("fourth", home, library, assignor)
        group.wait_until_owned(fourth)
        group.resume(first)
        group.wait_until_owned(first, fourth)
    stage.finish(group)


def default_assignor(library: Library) -> str:
    return "range" if library.protocol == "classic" else "uniform"


def play_come_and_go(stage: Stage, library: str) -> None:
    come_and_go(stage, LIBRARIES[library], default_assignor(LIBRARIES[library]), f"go-{library}")


def play_cooperative(stage: Stage, library: str) -> None:
    come_and_go(stage, LIBRARIES[library], "cooperative-sticky", f"cooperative-{library}")


def play_static(stage: Stage, name: str) -> None:
    """A static member that goes and is back before its session ends has what it had, and nobody else notices.

    A classic member may go by kill -9. In the consumer protocol the next one is refused until it has said goodbye.
    """
    library = LIBRARIES[name]
    is_classic = library.protocol == "classic"
    group = stage.group(f"static-{name}", library.protocol)
    # Not too short for the start of a process.
    times = {"session_timeout_ms": 30_000, "max_poll_interval_ms": 40_000}
    assignor = default_assignor(library)
    home = stage.shared(library.program)
    stays = group.join("stays", home, library, assignor, instance_id="stays", **times)
    group.wait_until_owned(stays)
    doomed = stage.own(library.program) if is_classic else home
    before = group.join("before", doomed, library, assignor, instance_id="restarts", **times)
    group.wait_until_owned(stays, before)
    had, generation = before.owned, stays.generation
    told = sum(event.member == stays.name and event.what == "owned" for event in group.events)
    if is_classic:
        group.kill(doomed)
    else:
        group.leave(before)
    after = group.join("after", home, library, assignor, instance_id="restarts", **times)
    group.wait_until_owned(stays, after)
    assert after.owned == had
    assert stays.generation == generation
    assert sum(event.member == stays.name and event.what == "owned" for event in group.events) == told, group.story()
    ends = stage.traffic.end(group.topic)
    group.wait_until_read(ends)
    group.leave(stays, after)
    assert stage.watcher.committed(group.id) == ends


def play_mixed(stage: Stage, first: str) -> None:
    """Libraries in one group, each of which leads it once: whoever has been there longest leaves."""
    group = stage.group(f"mixed-{first}", "classic")
    start = MIXED.index(first)
    members = []
    for name in (MIXED[start:] + MIXED[:start])[:3]:
        members.append(group.join(name, stage.shared(name), LIBRARIES[name], "range"))
        group.wait_until_owned(*members)
    while len(members) > 1:
        group.leave(members.pop(0))
        group.wait_until_owned(*members)
    stage.finish(group)


STORIES: Mapping[str, Callable[[Stage, str], None]] = {
    "test_members_come_and_go": play_come_and_go,
    "test_cooperative_members_come_and_go": play_cooperative,
    "test_static_member_restarts_unnoticed": play_static,
    "test_libraries_share_a_group": play_mixed,
}


@pytest.fixture(scope="module")
def stories(
    request: pytest.FixtureRequest, clients: Callable[[str], Client], group_brokers: Callable[[str], Broker]
) -> Iterator[Stories[Stage]]:
    def open_stage(flavour: str) -> Stage:
        bootstrap = group_brokers(flavour).bootstrap
        stage = Stage(bootstrap, clients("confluent-kafka"), Traffic(bootstrap), Watcher(bootstrap))
        stage.watcher.start()
        stage.traffic.start()
        return stage

    with closing(Stories(request, STORIES, open_stage, AT_A_TIME)) as found:
        yield found


@pytest.fixture
def play(request: pytest.FixtureRequest, stories: Stories[Stage], group_flavour: str) -> Callable[[str], None]:
    """Plays this test's story with a library, or has done so already."""

    def of(library: str) -> None:
        try:
            stories.play(group_flavour, request.node.originalname, library)
        except ToolMissing as missing:
            unavailable(missing)

    return of


@pytest.mark.parametrize("library", LIBRARIES)
def test_members_come_and_go(play: Callable[[str], None], library: str) -> None:
    """One joins after the other, one is killed, one leaves, one stalls beyond max.poll.interval.ms and comes back."""
    play(library)


@pytest.mark.parametrize("library", ["confluent-kafka", "java", "franz-go", "kafka-python"])
def test_cooperative_members_come_and_go(play: Callable[[str], None], library: str) -> None:
    play(library)


@pytest.mark.parametrize("library", [name for name, library in LIBRARIES.items() if library.has_static_members])
def test_static_member_restarts_unnoticed(play: Callable[[str], None], library: str) -> None:
    play(library)


@pytest.mark.parametrize("library", MIXED[::2])
def test_libraries_share_a_group(play: Callable[[str], None], library: str) -> None:
    play(library)
