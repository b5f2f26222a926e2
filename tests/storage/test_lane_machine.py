"""Any order of appends, writes of groups, commits, failures and take-overs, played by Hypothesis on a real PostgreSQL.

The model is what clients know: an idempotent producer sends each batch again, unchanged, until it is acknowledged; a plain
one sends it once. Rules queue batches, wait for answers, cut sessions, restart, and let a second broker take over from one
that is dead or only silent. At any time an acknowledged batch is at its offset and high watermarks do not go back; in the
end every idempotent batch is in the log once, in its producer's order, and the log has neither gaps nor repeats. Groups
write numbers that grow, and what is loaded is what was acknowledged last; journals are rotated meanwhile. Two thirds of
the batches are compressed, and kept as they came until SQL asks for their topic, again and again.

PG_KAFKA_MACHINE_EXAMPLES=200 plays more.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.storage.janitors import janitor_of, job
from tests.storage.leader import Leader, frozen, stop_beating
from tests.wire_batches import batch, records, values

from pg_kafka.coordinator.producer_state import WINDOW_BATCHES
from pg_kafka.coordinator.records import Record
from pg_kafka.errors import StorageError
from pg_kafka.storage import lane as lane_module
from pg_kafka.storage import lane_recovery, staging
from pg_kafka.storage.groups import GroupStore
from pg_kafka.storage.partition import AppendResult
from pg_kafka.storage.sessions import CONNECTION_ERRORS, Fenced
from pg_kafka.storage.topics import NewTopic, Topic
from pg_kafka.wire._records import batches_in, peek
from pg_kafka.wire.error_codes import ErrorCode

T = TypeVar("T")
PARTITIONS = 2
PRODUCERS = 2
GROUPS = 3
TIMEOUT_MS = 100
CODECS = (0, 3, 4)  # none, lz4, zstd
EXAMPLES = int(os.environ.get("PG_KAFKA_MACHINE_EXAMPLES", "8"))
RETRIABLE = (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.REQUEST_TIMED_OUT)

partitions = st.integers(0, PARTITIONS - 1)
producers = st.integers(0, PRODUCERS - 1)
groups = st.integers(0, GROUPS - 1)
_machines = itertools.count()


@dataclass(eq=False)
class Sent:
    """A batch of a client's."""

    texts: tuple[bytes, ...]
    sequence: int = -1
    offset: int | None = None
    answer: asyncio.Future[AppendResult] | None = None


@dataclass
class Stream:
    """What one idempotent producer sends to one partition, in order."""

    producer_id: int
    batches: list[Sent] = field(default_factory=list)

    @property
    def next_sequence(self) -> int:
        return sum(len(sent.texts) for sent in self.batches)

    @property
    def acknowledged(self) -> list[Sent]:
        return [sent for sent in self.batches if sent.offset is not None]

    def wire(self, sent: Sent, shift: int = 0) -> bytes:
        codec = CODECS[sent.sequence % len(CODECS)]
        return batch(
            values(*sent.texts), codec=codec, producer_id=self.producer_id, epoch=0, sequence=sent.sequence + shift
        )


@dataclass
class GroupModel:
    """What one group has written: numbers that grow, each in a record that replaces the one before."""

    stored: int = 0  # the last that was acknowledged or loaded
    possible: set[int] = field(default_factory=set)  # larger ones of which nobody has said what became of them
    waiting: dict[int, asyncio.Future[StorageError | None]] = field(default_factory=dict)
    informed: set[int] = field(default_factory=set)  # those that began when all earlier ones had their answers


class LaneMachine(RuleBasedStateMachine):
    dsn = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.name = f"t{next(_machines)}"  # all of a run share the database; an id of Python's comes again
        self.marks = [0] * PARTITIONS
        self.plain: list[list[Sent]] = [[] for _ in range(PARTITIONS)]
        self.streams: dict[tuple[int, int], Stream] = {}
        self.groups = [GroupModel() for _ in range(GROUPS)]
        self.answered_twice = False
        self.silent: Leader | None = None
        self.silent_partition: Any = None
        self.leader = self.run(self.started())
        self.run(self.make_topic())

    # -- tools -------------------------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    async def started(self, **settings: int) -> Leader:
        leader = Leader(self.dsn, checkpoint_bytes=400, backend_timeout_ms=TIMEOUT_MS, **settings)
        await leader.start()
        await leader.keep_layouts(idle_s=0.0)
        return leader

    async def make_topic(self) -> None:
        self.number += 1
        topics: list[Topic | int] = []
        while not topics:
            try:
                new = NewTopic(f"{self.name}-{self.number}", PARTITIONS, {"storage.layout": "batches"})
                topics = await self.leader.topics.create([new])
            except StorageError:
                await asyncio.sleep(0.02)
        assert isinstance(topics[0], Topic)
        self.topic_id = topics[0].id
        self.marks = [0] * PARTITIONS
        self.plain = [[] for _ in range(PARTITIONS)]
        self.streams = {
            (producer, index): Stream(1000 * self.number + producer)
            for producer in range(PRODUCERS)
            for index in range(PARTITIONS)
        }

    async def send(self, index: int, wire: bytes) -> asyncio.Future[AppendResult]:
        """Queue a batch; a partition that cannot be loaded now answers so."""
        try:
            return self.leader.send(await self.leader.partition(self.leader.topics.by_id[self.topic_id], index), wire)
        except StorageError as error:
            head = peek(wire)
            if head.producer_id >= 0:  # as Produce does
                self.leader.log.first_batches.await_again(
                    self.topic_id, index, head.producer_id, head.producer_epoch, head.base_sequence
                )
            answer: asyncio.Future[AppendResult] = self.loop.create_future()
            answer.set_result(AppendResult(error.code))
            return answer

    async def result(self, answer: asyncio.Future[AppendResult]) -> AppendResult:
        return await asyncio.wait_for(answer, 30)

    def texts(self, count: int) -> tuple[bytes, ...]:
        self.number += count
        return tuple(b"%d" % n for n in range(self.number - count, self.number))

    def take(self, sent: Sent, result: AppendResult) -> None:
        """A client looks at an answer."""
        sent.answer = None
        if result.error == 0:
            assert sent.offset in (None, result.base_offset), f"{sent} is acknowledged at {result.base_offset} as well"
            sent.offset = result.base_offset
        else:
            assert result.error in (*RETRIABLE, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER), result

    async def settle(self) -> None:
        """Wait for every answer."""
        for sent in self.all_sent():
            if sent.answer is not None:
                self.take(sent, await self.result(sent.answer))

    def write_number(self, group: int) -> None:
        self.number += 1
        number = self.number
        answer: asyncio.Future[StorageError | None] = self.loop.create_future()

        def done(error: StorageError | None) -> None:
            self.answered_twice |= answer.done()
            if not answer.done():
                answer.set_result(error)

        store = GroupStore(self.leader.log, self.leader.control)
        store.write(f"{self.name}-{group}", [Record("classic", "", {"number": number})], (), (), done)
        if all(earlier.done() for earlier in self.groups[group].waiting.values()):
            self.groups[group].informed.add(number)
        self.groups[group].waiting[number] = answer

    async def settle_groups(self) -> None:
        """Take the answers in order; after a failure the later ones of the group failed as well."""
        for group in self.groups:
            has_failed = False
            for number, answer in group.waiting.items():
                error = await asyncio.wait_for(answer, 30)
                assert error is None or error.retriable
                has_failed = has_failed and number not in group.informed
                assert error is not None or not has_failed, "a write overtook one that failed"
                has_failed = error is not None
                if error is None:
                    group.stored = number
                    group.possible.clear()
                elif self.leader.over.is_set():
                    group.possible.add(number)
            group.waiting.clear()
            group.informed.clear()

    async def check_groups(self) -> None:
        store = GroupStore(self.leader.log, self.leader.control)
        for _ in range(100):
            try:
                loaded, _ = await store.load()
                break
            except StorageError:
                if self.leader.over.is_set():
                    return
                await asyncio.sleep(0.02)
        else:
            raise AssertionError("never loaded")
        found = {group.group_id: group.records[0].value for group in loaded if len(group.records) == 1}
        for index, group in enumerate(self.groups):
            value = found.get(f"{self.name}-{index}")
            number = value["number"] if value else 0
            assert number == group.stored or number in group.possible, (number, group)
            group.stored = number
            group.possible.clear()

    def forget_answers(self) -> None:
        """The broker is gone: what has not been answered never will be."""
        for group in self.groups:
            for number, answer in group.waiting.items():
                if answer.done() and answer.result() is None:
                    group.stored = number
                    group.possible = {other for other in group.possible if other > number}
                else:
                    group.possible.add(number)
            group.waiting.clear()
            group.informed.clear()
        for sent in self.all_sent():
            if sent.answer is not None:
                if sent.answer.done():
                    self.take(sent, sent.answer.result())
                sent.answer = None

    def all_sent(self) -> list[Sent]:
        return [*(s for one in self.plain for s in one), *(s for one in self.streams.values() for s in one.batches)]

    async def stored(self) -> dict[int, list[tuple[int, bytes]]]:
        connection = await asyncpg.connect(self.dsn)
        try:
            rows = await connection.fetch(
                "SELECT partition, base_offset, last_offset, leader_epoch, values, batch FROM kafka.log WHERE topic = $1 "
                "ORDER BY partition, base_offset",
                self.topic_id,
            )
        finally:
            await connection.close()
        found: dict[int, list[tuple[int, bytes]]] = {index: [] for index in range(PARTITIONS)}
        epochs = [0] * PARTITIONS
        for row in rows:
            log = found[row["partition"]]
            assert row["base_offset"] == len(log), f"offset {row['base_offset']} where {len(log)} comes next"
            assert row["leader_epoch"] >= epochs[row["partition"]], "a row of an older leader"
            epochs[row["partition"]] = row["leader_epoch"]
            if row["batch"] is None:
                log += [(row["base_offset"] + n, value) for n, value in enumerate(row["values"])]
            else:
                log += [(offset, value or b"") for offset, _, value in records(batches_in(row["batch"]))]
            assert len(log) == row["last_offset"] + 1
        return found

    # -- rules -------------------------------------------------------------------------------------------------------

    @rule(index=partitions, count=st.integers(1, 4))
    def append(self, index: int, count: int) -> None:
        sent = Sent(self.texts(count))
        self.plain[index].append(sent)
        codec = CODECS[self.number % len(CODECS)]
        sent.answer = self.run(self.send(index, batch(values(*sent.texts), codec=codec)))

    @rule(producer=producers, index=partitions, counts=st.lists(st.integers(1, 3), min_size=1, max_size=3))
    def append_in_sequence(self, producer: int, index: int, counts: list[int]) -> None:
        stream = self.streams[producer, index]
        for count in counts:
            stream.batches.append(Sent(self.texts(count), stream.next_sequence))
        self.deliver(producer, index)

    @rule(producer=producers, index=partitions)
    def deliver(self, producer: int, index: int) -> None:
        """Send again, in order, what is not acknowledged: not before all answers to what was sent before are here."""
        stream = self.streams[producer, index]
        waiting = [sent for sent in stream.batches if sent.offset is None][:WINDOW_BATCHES]
        if all(sent.answer is None or sent.answer.done() for sent in waiting):
            for sent in waiting:
                if sent.answer is not None:
                    self.take(sent, sent.answer.result())
            for sent in [sent for sent in waiting if sent.offset is None]:
                sent.answer = self.run(self.send(index, stream.wire(sent)))

    @rule(producer=producers, index=partitions, back=st.integers(1, WINDOW_BATCHES))
    def send_duplicate(self, producer: int, index: int, back: int) -> None:
        stream = self.streams[producer, index]
        self.run(self.settle())
        old = stream.acknowledged[-WINDOW_BATCHES:]
        if len(old) >= back and len(stream.acknowledged) == len(stream.batches):
            sent = old[-back]
            result = self.run(self.result(self.run(self.send(index, stream.wire(sent)))))
            assert result.error in RETRIABLE or (result.error, result.base_offset) == (0, sent.offset), result

    @rule(producer=producers, index=partitions, shift=st.integers(1, 3))
    def leave_a_gap(self, producer: int, index: int, shift: int) -> None:
        stream = self.streams[producer, index]
        self.run(self.settle())
        if stream.batches and len(stream.acknowledged) == len(stream.batches):
            beyond = Sent((b"never",), stream.next_sequence)
            result = self.run(self.result(self.run(self.send(index, stream.wire(beyond, shift)))))
            assert result.error in (*RETRIABLE, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER), result

    @rule(group=groups, count=st.integers(1, 3))
    def write_as_a_group(self, group: int, count: int) -> None:
        async def write() -> None:  # a refusal is told by the loop that runs
            for _ in range(count):
                self.write_number(group)

        self.run(write())

    @rule()
    def load_groups(self) -> None:
        self.run(self.settle_groups())
        self.run(self.check_groups())

    @rule(steps=st.integers(1, 4))
    def rotate_journals(self, steps: int) -> None:
        """With a janitor of its own, which is gone afterwards, perhaps in the middle."""

        async def rotate() -> None:
            leader = self.leader
            janitor = janitor_of(
                self.dsn,
                leader.log,
                owner=leader.log.node_id,
                segment_bytes=1 << 40,
                segment_ms=1 << 40,
                compression="none",
                journal_bytes=0,
                snapshot_grace_s=0.0,
                open_session=leader.membership.open_writer,
            )
            try:
                await janitor._connect()
                for _ in range(steps):
                    await job(janitor, "rotate journals").step()
            except (StorageError, Fenced, asyncpg.PostgresError, *CONNECTION_ERRORS):
                pass
            finally:
                await janitor.stop()

        self.run(rotate())

    @rule(milliseconds=st.sampled_from([20, 200, 2000]))
    def ask_by_sql(self, milliseconds: int) -> None:
        """A query waits for the topic's batches to be unpacked, perhaps not long enough."""

        async def ask() -> None:
            connection = await asyncpg.connect(self.dsn)
            try:
                topic = self.leader.topics.by_id[self.topic_id]
                await connection.execute(f"SET statement_timeout = {milliseconds}")
                await connection.fetchval("SELECT kafka.unpack($1)", topic.name)
                assert not await connection.fetchval(
                    "SELECT count(*) FROM kafka.extents WHERE topic = $1 AND packed_from IS NOT NULL AND NOT ("
                    "SELECT keeps_batches FROM kafka.topics WHERE id = $1)",
                    topic.id,
                )
            except (asyncpg.QueryCanceledError, asyncpg.ObjectNotInPrerequisiteStateError):
                pass
            finally:
                await connection.close()

        self.run(ask())

    @rule()
    def wait_for_answers(self) -> None:
        self.run(self.settle())

    @rule(milliseconds=st.integers(0, 20))
    def let_time_pass(self, milliseconds: int) -> None:
        self.run(asyncio.sleep(milliseconds / 1000))

    @rule(which=st.sampled_from(["lane", "control", "heartbeat", "reader", ""]), is_sudden=st.booleans())
    def cut_sessions(self, which: str, is_sudden: bool) -> None:
        async def terminate() -> None:
            connection = await asyncpg.connect(self.dsn)
            await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE $1 AND datname = current_database()",
                f"pg_kafka {which}%",
            )
            await connection.close()

        if is_sudden and which == "lane":
            for lane in self.leader.log._lanes:
                for session in lane._sessions:
                    session.drop()
        else:
            self.run(terminate())

    @rule(which=st.sampled_from([(0,), (1,), (0, 1)]), milliseconds=st.sampled_from([5, 150, 400]))
    def freeze_backends(self, which: tuple[int, ...], milliseconds: int) -> None:
        """Those of a lane: for a moment, until they are given up, and until their lane has said that it waits."""
        sessions = [lane._sessions[n] for lane in self.leader.log._lanes for n in which if n < len(lane._sessions)]
        pids = [session.identity.pid for session in sessions if not session.is_closed]
        with frozen(pids):
            self.run(asyncio.sleep(milliseconds / 1000))

    @rule()
    def write_checkpoints(self) -> None:
        for lane in self.leader.log._lanes:
            lane._staging.mark_checkpoints()
            lane._wake.set()

    @rule(index=partitions)
    def delete_rows_are_gone_and_a_new_topic_comes(self, index: int) -> None:
        async def replace() -> None:
            await self.settle()
            self.check(await self.stored(), is_final=False)
            topic = self.leader.topics.by_id[self.topic_id]
            late = await self.send(index, batch(values(b"late")))
            for _ in range(20):
                try:
                    await self.leader.topics.delete([topic])
                    break
                except StorageError:
                    await asyncio.sleep(0.05)
            await self.result(late)
            await self.make_topic()

        self.run(replace())

    @rule(is_orderly=st.booleans())
    def restart(self, is_orderly: bool) -> None:
        if is_orderly:
            self.run(self.leader.stop())
        else:
            self.leader.crash()
        self.forget_answers()
        self.leader = self.run(self.started())

    @precondition(lambda self: self.silent is None)
    @rule()
    def take_over_from_the_silent(self) -> None:
        """The broker lives on without heartbeats and does not know that it has a successor."""

        async def replace() -> None:
            old = self.leader
            await stop_beating(old.membership)
            try:
                self.silent_partition = await old.partition(old.topics.by_id[self.topic_id], 0)
            except StorageError:
                self.silent_partition = None
            self.leader = await self.started(heartbeat_ms=100, eviction_ms=500)
            self.silent = old

        self.run(replace())
        self.forget_answers()

    @precondition(lambda self: self.silent is not None)
    @rule()
    def write_as_the_silent(self) -> None:
        silent, self.silent = self.silent, None
        assert silent is not None
        refused: list[StorageError | None] = []

        async def write() -> None:
            store, zombie = GroupStore(silent.log, silent.control), Record("classic", "", {"number": -1})
            store.write(f"{self.name}-0", [zombie], (), (), refused.append)
            if self.silent_partition is not None:
                answer = silent.send(self.silent_partition, batch(values(b"zombie")))
                done, _ = await asyncio.wait([answer], timeout=1)
                assert not done or answer.result().error != 0

        try:
            self.run(write())
            assert None not in refused
        finally:
            silent.crash()

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def high_watermarks_never_go_back(self) -> None:
        for index in range(PARTITIONS):
            topic = self.leader.topics.by_id.get(self.topic_id)
            partition = self.leader.log.partition(topic, index) if topic else None
            if partition is not None:
                assert partition.high_watermark >= self.marks[index]
                self.marks[index] = partition.high_watermark

    def check(self, stored: dict[int, list[tuple[int, bytes]]], *, is_final: bool) -> None:
        for index, log in stored.items():
            texts = [value for _, value in log]
            assert len(set(texts)) == len(texts), "a record is there twice"
            assert not {b"never", b"zombie"} & set(texts)
            assert len(log) >= self.marks[index]
            streams = [stream for (_, at), stream in self.streams.items() if at == index]
            for sent in [*self.plain[index], *(s for stream in streams for s in stream.batches)]:
                if sent.offset is not None:
                    end = sent.offset + len(sent.texts)
                    assert tuple(texts[sent.offset : end]) == sent.texts, f"{sent} is not where it was acknowledged"
            for stream in streams:
                order = [text for sent in stream.batches for text in sent.texts]
                mine = [text for text in texts if text in set(order)]
                assert mine == (order if is_final else order[: len(mine)])

    def teardown(self) -> None:
        async def finish() -> None:
            for _ in range(100):
                await self.settle()
                if all(sent.offset is not None for stream in self.streams.values() for sent in stream.batches):
                    return
                for (_, index), stream in self.streams.items():
                    waiting = [sent for sent in stream.batches if sent.offset is None][:WINDOW_BATCHES]
                    for sent in waiting:
                        sent.answer = await self.send(index, stream.wire(sent))
                await asyncio.sleep(0.02)
            raise AssertionError("batches were never acknowledged")

        async def finish_groups() -> None:
            await self.settle_groups()
            for index, group in enumerate(self.groups):
                before = group.stored
                for _ in range(100):
                    self.write_number(index)
                    await self.settle_groups()
                    if group.stored > before:
                        break
                    await asyncio.sleep(0.02)
                else:
                    raise AssertionError("a group was never written")
            await self.check_groups()
            assert not self.answered_twice

        try:
            self.run(finish())
            self.run(finish_groups())
            self.check(self.run(self.stored()), is_final=True)
            assert self.leader.log.backlog.bytes == 0
        finally:
            if self.silent is not None:
                self.silent.crash()
            self.run(self.leader.stop())
            self.run(asyncio.sleep(0.05))
            self.loop.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("giant_bytes", [staging.GIANT_BYTES, 60])
def test_any_order_of_appends_failures_and_take_overs(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch, giant_bytes: int
) -> None:
    """Also with batches of three records and more as giants, and always two transactions on the way."""
    monkeypatch.setattr(staging, "GIANT_BYTES", giant_bytes)
    if giant_bytes < staging.MAX_TRANSACTION_BYTES:
        monkeypatch.setattr(lane_module, "OVERLAP_BYTES", 1)
        monkeypatch.setattr(lane_module, "ALONE_BYTES", 1)
    monkeypatch.setattr(lane_recovery, "DOUBT_S", 0.1)
    monkeypatch.setattr(lane_recovery, "END_TIMEOUT_S", 0.2)

    class Machine(LaneMachine):
        dsn = pg_dsn

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
