"""Transactions of every client library: what is committed is read, once, and what is not is not.

Each test plays its story (`stories.py`) with one library, on a broker and with programs that all stories share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from tests.clients.brokers import Broker
from tests.clients.client import Client
from tests.clients.conftest import unavailable
from tests.clients.groups import PARTITIONS, SETTINGS
from tests.clients.stories import Stories
from tests.clients.transactions import (
    CONSUMERS,
    LIBRARIES,
    SESSION_TIMEOUT_MS,
    TIMEOUT_MS,
    Producer,
    Refused,
    Stage,
    values,
)
from tests.kafka_reference import ToolMissing

pytestmark = pytest.mark.timeout(300)

AT_A_TIME = 3
CROWD = 100
CROWD_PARTITIONS = 4
MANY_PARTITIONS = 50
# Apache Kafka looks for transactions that have run out every ten seconds, and is to be no slower than we are.
REFERENCE_SETTINGS = {
    **SETTINGS,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "100",
    "transaction.state.log.num.partitions": "4",
    "offsets.topic.num.partitions": "4",
}
NAMES = list(LIBRARIES)


def another(library: str) -> str:
    """The library that reads, or writes, what this one has written, or is to read."""
    return NAMES[(NAMES.index(library) + 1) % len(NAMES)]


def play_turns(stage: Stage, name: str) -> None:
    library = LIBRARIES[name]
    topic, transactional_id = stage.topic(f"turns-{name}", PARTITIONS), stage.name("turns")
    producer = stage.producer(stage.shared(library.program), transactional_id)
    wanted: dict[bool, list[str]] = {True: [], False: []}
    for number in range(8):
        is_commit = number % 2 == 0
        numbered = [f"{number}-{place}" for place in range(3)]
        producer.begin()
        if number != 5:  # an empty one
            producer.send(topic, [(partition, value) for value in numbered for partition in range(PARTITIONS)])
            wanted[is_commit] += numbered
        producer.end(is_commit)
    # Seven transactions had something in them; in version 2 each of their ends moves the epoch on.
    assert stage.epoch(transactional_id) == (7 if library.version == 2 else 0)
    stage.mark(topic, PARTITIONS, "end")
    everything = sorted(wanted[True] + wanted[False])
    for reader in (name, another(name)):
        program = stage.shared(LIBRARIES[reader].program)
        found = stage.read(program, topic, PARTITIONS, "end", is_committed=True)
        assert values(found) == [wanted[True]] * PARTITIONS, reader
        all_found = stage.read(program, topic, PARTITIONS, "end", is_committed=False)
        assert values(all_found) == [everything] * PARTITIONS, reader
        assert all(set(some) <= set(whole) for some, whole in zip(found, all_found, strict=True)), reader


def play_open(stage: Stage, name: str) -> None:
    """What lies above an open transaction waits for it."""
    library = LIBRARIES[name]
    topic, transactional_id = stage.topic(f"open-{name}", 2), stage.name("open")
    program, other = stage.shared(library.program), stage.shared(LIBRARIES[another(name)].program)
    producer = stage.producer(program, transactional_id)
    producer.transact(topic, [(0, "first"), (1, "first")])
    assert stage.settled(transactional_id) == "CompleteCommit"
    before = stage.offsets(topic, 2, is_committed=False)
    producer.begin()
    producer.send(topic, [(0, "second")])
    stage.mark(topic, 2, "end")
    held, ends = stage.offsets(topic, 2, is_committed=True), stage.offsets(topic, 2, is_committed=False)
    assert held == [before[0], ends[1]]
    waiting = [stage.start_reading(one, topic, 2, "end", is_committed=True) for one in (program, other)]
    for one in (program, other):
        assert values(stage.read(one, topic, 2, "end", is_committed=False)) == [["first", "second"], ["first"]]
    assert not any(one.done() for one in waiting)
    producer.end(True)
    assert stage.settled(transactional_id) == "CompleteCommit"
    for reading in waiting:
        records = sorted(reading.result(60)["records"])
        assert [value for _, _, value in records] == ["first", "second", "first"]
    # The marker has an offset of its own.
    assert stage.offsets(topic, 2, is_committed=True) == [ends[0] + 1, ends[1]]


def play_many_partitions(stage: Stage, name: str) -> None:
    program = stage.shared(LIBRARIES[name].program)
    topic = stage.topic(f"many-{name}", MANY_PARTITIONS)
    producer = stage.producer(program, stage.name("many"))
    for number in range(4):
        sent = [(partition, f"{number}") for partition in range(MANY_PARTITIONS)]
        producer.transact(topic, sent, is_commit=number % 2 == 0)
    stage.mark(topic, MANY_PARTITIONS, "end")
    for is_committed, wanted in ((True, ["0", "2"]), (False, ["0", "1", "2", "3"])):
        found = stage.read(program, topic, MANY_PARTITIONS, "end", is_committed=is_committed)
        assert values(found) == [wanted] * MANY_PARTITIONS


def play_crowd(stage: Stage, name: str) -> None:
    """Many transactional ids write into the same partitions at the same time."""
    library = LIBRARIES[name]
    program = stage.shared(library.program)
    topic = stage.topic(f"crowd-{name}", CROWD_PARTITIONS)

    def live(number: int) -> None:
        producer = stage.producer(program, stage.name("crowd"))
        for turn in range(2):
            sent = [(partition, f"{number}-{turn}") for partition in range(number % 2, CROWD_PARTITIONS, 2)]
            producer.transact(topic, sent, is_commit=(number + turn) % 3 != 0)
        producer.close()

    with ThreadPoolExecutor(CROWD) as pool:
        for one in [pool.submit(live, number) for number in range(CROWD)]:
            one.result()
    stage.mark(topic, CROWD_PARTITIONS, "end")
    reader = stage.shared(LIBRARIES[name if library.reads_crowds else another(name)].program)
    found = stage.read(reader, topic, CROWD_PARTITIONS, "end", is_committed=True)
    for partition in range(CROWD_PARTITIONS):
        theirs = [(number, turn) for number in range(partition % 2, CROWD, 2) for turn in range(2)]
        wanted = sorted(f"{number}-{turn}" for number, turn in theirs if (number + turn) % 3 != 0)
        assert sorted(value for _, value in found[partition]) == wanted
    assert stage.offsets(topic, CROWD_PARTITIONS, is_committed=True) == stage.offsets(
        topic, CROWD_PARTITIONS, is_committed=False
    )


def play_zombies(stage: Stage, name: str) -> None:
    """A second instance aborts what the first had open; whatever the first does next is refused."""
    library = LIBRARIES[name]
    program = stage.shared(library.program)
    topic = stage.topic(f"zombies-{name}", 1)

    def commit(zombie: Producer) -> None:
        zombie.end(True)

    def send(zombie: Producer) -> None:
        zombie.send(topic, [(0, "too late")])

    def begin_anew(zombie: Producer) -> None:
        zombie.transact(topic, [(0, "too late")])

    wanted = []
    for number, act in enumerate((commit, send, begin_anew)):
        transactional_id = stage.name("zombie")
        zombie = stage.producer(program, transactional_id)
        zombie.begin()
        zombie.send(topic, [(0, "of a zombie")])
        if act is begin_anew:
            zombie.end(False)
        successor = stage.producer(program, transactional_id)
        with pytest.raises(Refused) as refused:
            act(zombie)
        assert refused.value.name in library.fenced, (act.__name__, refused.value)
        successor.transact(topic, [(0, f"{number}")])
        wanted.append(f"{number}")
    stage.mark(topic, 1, "end")
    assert values(stage.read(program, topic, 1, "end", is_committed=True)) == [wanted]


def play_timeout(stage: Stage, name: str) -> None:
    """A transaction that takes too long is aborted, its producer may not commit it, and its successor goes on."""
    library = LIBRARIES[name]
    program = stage.shared(library.program)
    topic, transactional_id = stage.topic(f"timeout-{name}", 1), stage.name("timeout")
    producer = stage.producer(program, transactional_id, timeout_ms=1000)
    producer.begin()
    producer.send(topic, [(0, "too slow")])
    stage.mark(topic, 1, "aborted")
    assert values(stage.read(program, topic, 1, "aborted", is_committed=True)) == [[]]
    assert stage.settled(transactional_id) == "CompleteAbort"
    with pytest.raises(Refused):
        producer.end(True)
    successor = stage.producer(program, transactional_id)
    successor.transact(topic, [(0, "in time")])
    stage.mark(topic, 1, "end")
    assert values(stage.read(program, topic, 1, "end", is_committed=True)) == [["aborted", "in time"]]


def play_processing(stage: Stage, name: str) -> None:
    """A processor is killed with a transaction open, and one of the same id goes on: all goes through exactly once."""
    library = (LIBRARIES | CONSUMERS)[name]
    topic, output = stage.topic(f"input-{name}", PARTITIONS), stage.topic(f"output-{name}", PARTITIONS)
    group = stage.name(f"processing-{name}")
    writer = stage.producer(
        stage.shared(LIBRARIES[another(name) if name in NAMES else "java"].program), stage.name("in")
    )
    wanted = []
    for number in range(9):
        is_commit = number % 3 != 1
        numbered = [f"{number}-{place}" for place in range(5)]
        sent = [(partition, value) for value in numbered for partition in range(PARTITIONS)]
        writer.transact(topic, sent, is_commit=is_commit)
        wanted += [f"{value}+" for value in numbered if is_commit]
    marks = stage.mark(topic, PARTITIONS, "end")
    plan = {
        "bootstrap": stage.bootstrap,
        "transactional_id": stage.name("processing"),
        "timeout_ms": TIMEOUT_MS,
        "topic": topic,
        "output": output,
        "partitions": PARTITIONS,
        "until": "end",
        "is_committed": True,
        "group": group,
        "protocol": library.protocol,
        "session_timeout_ms": SESSION_TIMEOUT_MS,
        "batch": 11,
        "abort_every": 3,
        "hold_after": 0,
    }
    # No partition is through by then.
    doomed = stage.own(library.program)
    assert doomed.ask("process", **{**plan, "hold_after": 3})["is_held"]
    doomed.kill()
    reader = stage.shared(library.program)
    reader.ask("process", **plan)
    stage.mark(output, PARTITIONS, "end")
    found = stage.read(reader, output, PARTITIONS, "end", is_committed=True)
    assert values(found) == [[*wanted, "end+"]] * PARTITIONS
    assert stage.committed(group, PARTITIONS) == [offset + 1 for offset in marks]


def play_gone(stage: Stage, name: str) -> None:
    """Offsets of a member that is no longer in the group do not get into a transaction (KIP-447)."""
    library = (LIBRARIES | CONSUMERS)[name]
    program = stage.shared(library.program)
    topic, group = stage.topic(f"gone-{name}", PARTITIONS), stage.name(f"gone-{name}")
    stage.mark(topic, PARTITIONS, "something")
    producer = stage.producer(program, stage.name("gone"))
    with pytest.raises(Refused) as refused:
        program.ask(
            "commit_when_gone",
            producer=producer.name,
            bootstrap=stage.bootstrap,
            topic=topic,
            is_committed=True,
            group=group,
            protocol=library.protocol,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            batch=1,
        )
    assert refused.value.name in library.gone
    producer.end(False)
    producer.transact(topic, [(0, "goes on")])
    assert stage.committed(group, PARTITIONS) == [-1] * PARTITIONS


STORIES: Mapping[str, Callable[[Stage, str], None]] = {
    "test_committed_and_aborted_in_turns": play_turns,
    "test_open_transaction_holds_readers_back": play_open,
    "test_many_partitions": play_many_partitions,
    "test_hundred_transactional_ids": play_crowd,
    "test_zombies_are_fenced": play_zombies,
    "test_transaction_runs_out": play_timeout,
    "test_processing_is_exactly_once": play_processing,
    "test_offsets_of_a_member_that_is_gone": play_gone,
}


@pytest.fixture(scope="module")
def stories(
    request: pytest.FixtureRequest, clients: Callable[[str], Client], brokers: Callable[..., Broker]
) -> Iterator[Stories[Stage]]:
    def open_stage(flavour: str) -> Stage:
        name, settings = ("transactions", REFERENCE_SETTINGS) if flavour == "apache-kafka" else ("groups", SETTINGS)
        return Stage(brokers(flavour, name, settings).bootstrap, clients("confluent-kafka"))

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


@pytest.mark.parametrize("library", NAMES)
def test_committed_and_aborted_in_turns(play: Callable[[str], None], library: str) -> None:
    play(library)


@pytest.mark.parametrize("library", NAMES)
def test_open_transaction_holds_readers_back(play: Callable[[str], None], library: str) -> None:
    play(library)


@pytest.mark.parametrize("library", NAMES)
def test_many_partitions(play: Callable[[str], None], library: str) -> None:
    play(library)


@pytest.mark.parametrize("library", NAMES)
def test_hundred_transactional_ids(play: Callable[[str], None], library: str) -> None:
    play(library)


@pytest.mark.parametrize("library", NAMES)
def test_zombies_are_fenced(play: Callable[[str], None], library: str) -> None:
    play(library)


@pytest.mark.parametrize("library", NAMES)
def test_transaction_runs_out(play: Callable[[str], None], library: str) -> None:
    play(library)


@pytest.mark.parametrize("library", [*NAMES, *CONSUMERS])
def test_processing_is_exactly_once(play: Callable[[str], None], library: str) -> None:
    play(library)


@pytest.mark.parametrize("library", [name for name, library in (LIBRARIES | CONSUMERS).items() if library.gone])
def test_offsets_of_a_member_that_is_gone(play: Callable[[str], None], library: str) -> None:
    play(library)
