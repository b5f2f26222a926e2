"""What groups write is there once, in order, or its caller knows; whatever fails, and while journals are rotated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import asyncpg
import pytest
from tests.storage.janitors import janitor_of, job
from tests.storage.leader import Leader, leading
from tests.wire_batches import batch, values

from pg_kafka.coordinator.records import HistoryEntry, Record
from pg_kafka.errors import StorageError
from pg_kafka.storage import journal as journal_module
from pg_kafka.storage import lane as lane_module
from pg_kafka.storage.group_configs import GroupConfigs
from pg_kafka.storage.groups import GroupStore, OffsetWrite, StoredOffset
from pg_kafka.storage.upkeep.janitor import Janitor

Written = asyncio.Future[StorageError | None]


def record(number: int, key: str = "") -> Record:
    return Record("classic", key, {"generation": number})


def store_of(leader: Leader) -> GroupStore:
    return GroupStore(leader.log, leader.control)


answered_twice: list[str] = []


@pytest.fixture(autouse=True)
def every_answer_comes_once() -> Iterator[None]:
    yield
    twice, answered_twice[:] = list(answered_twice), []
    assert not twice


def write(
    store: GroupStore,
    group: str,
    records: Sequence[Record] = (),
    offsets: Sequence[OffsetWrite] = (),
    history: Sequence[HistoryEntry] = (),
) -> Written:
    answer: Written = asyncio.get_running_loop().create_future()

    def done(error: StorageError | None) -> None:
        if answer.done():
            answered_twice.append(group)
        else:
            answer.set_result(error)

    store.write(group, records, offsets, history, done)
    assert not answer.done()
    return answer


async def outcomes(answers: Iterable[Written]) -> list[StorageError | None]:
    return await asyncio.wait_for(asyncio.gather(*answers), 20)


async def written_at_last(store: GroupStore, group: str, wanted: Record) -> None:
    """Write as an edge does, again after a retriable error."""
    for _ in range(100):
        (error,) = await outcomes([write(store, group, [wanted])])
        if error is None:
            return
        assert error.retriable
        await asyncio.sleep(0.05)
    raise AssertionError("never written")


async def generations(store: GroupStore) -> dict[str, list[Any]]:
    groups, _ = await store.load()
    return {group.group_id: [r.value and r.value["generation"] for r in group.records] for group in groups}


async def query(dsn: str, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
        return rows
    finally:
        await connection.close()


async def test_what_was_written_last_is_loaded(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        topic = await leader.topic("t", 3)
        answers = [
            write(store, "g", [record(1), record(7, "m")], [OffsetWrite(topic.id, 0, 5, 3, "note", 1_700_000_000_123)]),
            write(
                store, "g", [record(2)], [OffsetWrite(topic.id, 0, 6), OffsetWrite(topic.id, 1, 1, committed_at_ms=9)]
            ),
            write(store, "g", [Record("classic", "m", None)], [OffsetWrite(topic.id, 1, None)]),
            write(store, "größe", [record(3)], history=[HistoryEntry("member joined", 3, "m", "c", "/host", "first")]),
            write(store, "g", (), [OffsetWrite(topic.id, 2, 8, 4, "é", 1_700_000_000_123)]),
        ]
        assert await outcomes(answers) == [None] * 5
        assert await generations(store) == {"g": [2], "größe": [3]}
        _, offsets = await store.load()
        assert sorted(offsets, key=lambda each: each.partition) == [
            StoredOffset("g", topic.id, 0, 6, -1, "", 0),
            StoredOffset("g", topic.id, 2, 8, 4, "é", 1_700_000_000_123),
        ]
        rows = await query(pg_dsn, "SELECT group_id, event, generation, detail FROM kafka.group_history")
        assert [tuple(row) for row in rows] == [("größe", "member joined", 3, "first")]


async def test_state_survives_a_restart(pg_dsn: str) -> None:
    leader = Leader(pg_dsn)
    await leader.start()
    assert (
        await outcomes([write(store_of(leader), "g", [record(1)]), write(store_of(leader), "g", [record(2)])])
        == [None] * 2
    )
    leader.crash()
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        assert await generations(store) == {"g": [2]}
        assert await outcomes([write(store, "g", [record(3)])]) == [None]
        assert await generations(store) == {"g": [3]}


async def test_writes_share_transactions_with_each_other_and_with_batches(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        before = (await query(pg_dsn, "SELECT pg_current_xact_id()::text::bigint"))[0][0]
        batches = []
        answers = []
        for number in range(200):
            answers.append(write(store, f"g{number % 20}", (), [OffsetWrite(topic.id, 0, number)]))
            batches.append(leader.send(partition, batch(values(b"%d" % number))))
        assert await outcomes(answers) == [None] * 200
        assert [(await answer).base_offset for answer in batches] == list(range(200))
        after = (await query(pg_dsn, "SELECT pg_current_xact_id()::text::bigint"))[0][0]
        assert after - before < 40
        _, offsets = await store.load()
        assert {each.group_id: each.offset for each in offsets} == {f"g{n}": 180 + n for n in range(20)}


@pytest.mark.parametrize(
    "bad",
    [
        ("g\x00", [record(1)], (), ()),
        ("\ud800", [record(1)], (), ()),
        ("g" * 2001, [record(1)], (), ()),
        ("g", [Record("classic", "", {"a": "\udfff"})], (), ()),
        ("g", [Record("classic", "k\udfff", {})], (), ()),
        ("g", (), [OffsetWrite(1, 0, 1, metadata="\udfff")], ()),
        ("g", (), [OffsetWrite(1, 1 << 31, 1)], ()),
        ("g", (), [OffsetWrite(1, 0, 1, committed_at_ms=1 << 62)], ()),
        ("g", (), (), [HistoryEntry("e", 1, detail="\udfff")]),
        ("g", (), (), [HistoryEntry("e", 1 << 31)]),
        ("g", [Record("classic", "", {"a": "x" * journal_module.MAX_WRITE_BYTES})], (), ()),
    ],
    ids=lambda bad: None,
)
async def test_what_postgresql_would_refuse_fails_alone(pg_dsn: str, bad: Any) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        answers = [write(store, "before", [record(1)]), write(store, *bad), write(store, "after", [record(1)])]
        first, refused, last = await outcomes(answers)
        assert first is None and last is None
        assert refused is not None and not refused.retriable
        assert await generations(store) == {"before": [1], "after": [1]}


async def test_backslashes_are_no_nul(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        assert await outcomes([write(store, "g", [Record("classic", "", {"a": "\\u0000 \\\\"})])]) == [None]
        (group,), _ = await store.load()
        assert group.records[0].value == {"a": "\\u0000 \\\\"}


ODD_TEXTS = ("noted\0", "\0a\0\0", "␀", "␛", "␛␀\0␛", "é\\000\\\0", "\\u0000\0", "\0␀", "␛\0", "\0\n\0")
SHOWN = ("noted", "␀a␀", "␀", "␛", "␛␀␀␛", "é\\000\\", "\\u0000", "␀␀", "␛", "␀\n")


async def test_any_text_of_a_client_comes_back_as_it_was(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        topic = await leader.topic("t", partitions=len(ODD_TEXTS))
        offsets = [OffsetWrite(topic.id, n, 1, metadata=text) for n, text in enumerate(ODD_TEXTS)]
        records = [Record("member", text, {text: [text, {"a": text}]}) for text in ODD_TEXTS]
        history = [HistoryEntry("e", 1, text, text, text, text) for text in ODD_TEXTS]
        assert await outcomes([write(store, "g", records, offsets, history)]) == [None]
        (group,), stored = await store.load()
        assert list(group.records) == records
        assert [one.metadata for one in sorted(stored, key=lambda one: one.partition)] == list(ODD_TEXTS)
    seen = await query(pg_dsn, "SELECT metadata, metadata_bytes FROM kafka.consumer_offsets ORDER BY partition_id")
    assert [tuple(row) for row in seen] == [
        (shown, text.encode()) for shown, text in zip(SHOWN, ODD_TEXTS, strict=True)
    ]
    (told, *_) = await query(pg_dsn, "SELECT member_id, client_id, detail FROM kafka.group_history ORDER BY entry")
    assert tuple(told) == ("noted␀", "noted␀", "noted␀")


async def test_group_that_the_database_refuses_fails_with_its_later_writes_only(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        await query(pg_dsn, "ALTER TABLE kafka.group_journal_0 ADD CHECK (value ->> 'generation' <> '13')")
        answers = {name: write(store, name, [record(1)]) for name in ("a", "b", "c")}
        culprit = write(store, "bad", [record(13)])
        appended = leader.send(partition, batch(values(b"x")))
        later = [write(store, "bad", [record(14)]), write(store, "d", [record(1)])]
        assert await outcomes(answers.values()) == [None] * 3
        error, after, other = await outcomes([culprit, *later])
        assert error is not None and not error.retriable
        assert after is not None and other is None
        assert (await asyncio.wait_for(appended, 10)).error == 0
        assert await generations(store) == {"a": [1], "b": [1], "c": [1], "d": [1]}
        assert await outcomes([write(store, "bad", [record(15)])]) == [None]


async def test_full_queue_refuses_until_the_caller_knows(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        monkeypatch.setattr(journal_module, "MAX_QUEUED_BYTES", 500)
        answers = [write(store, f"g{n}", [record(n)]) for n in range(10)]
        # The refused group's next write is refused as well, although there is room for it.
        monkeypatch.setattr(journal_module, "MAX_QUEUED_BYTES", 5000)
        late = write(store, "g9", [record(99)])
        *told, last = await outcomes([*answers, late])
        assert told[0] is None and told[-1] is not None and told[-1].retriable and last is not None
        written = {f"g{n}": [n] for n, error in enumerate(told) if error is None}
        assert await generations(store) == written
        assert await outcomes([write(store, "g9", [record(100)])]) == [None]


@pytest.mark.parametrize("moment", ["before", "between", "in the commit"])
@pytest.mark.parametrize("with_batch", [False, True])
async def test_connection_lost_around_the_commit(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch, moment: str, with_batch: bool
) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        assert (await leader.append(partition, batch(values(b"x")))).error == 0
        assert await outcomes([write(store, "g", [record(1)])]) == [None]
        original, commit = lane_module.copy, lane_module.commit

        async def cut(session: Any, transaction: Any, timeout_s: float | None, **how: Any) -> None:
            if transaction.journal_parts and moment == "before":
                session.drop()
            await original(session, transaction, timeout_s, **how)
            if transaction.journal_parts and moment == "between":
                session.drop()

        async def commit_and_lose_the_answer(session: Any, **how: Any) -> None:
            await commit(session, **how)
            session.drop()
            raise ConnectionResetError

        monkeypatch.setattr(lane_module, "copy", cut)
        monkeypatch.setattr(lane_module, "ALONE_BYTES", 0)  # so that there is a BEGIN and a COMMIT
        if moment == "in the commit":
            monkeypatch.setattr(lane_module, "commit", commit_and_lose_the_answer)
        answer = write(store, "g", [record(2)], [OffsetWrite(topic.id, 0, 4)])
        if with_batch:
            leader.send(partition, batch(values(b"y")))
        (error,) = await outcomes([answer])
        monkeypatch.undo()
        assert (error is None) == (moment == "in the commit")
        assert error is None or error.retriable
        _, offsets = await store.load()
        assert await generations(store) == {"g": [1 if error else 2]}
        assert len(offsets) == (error is None)
        await written_at_last(store, "g", record(3))
        assert await generations(store) == {"g": [3]}


async def test_lost_answer_of_a_commit_that_happened_is_a_success(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        original = lane_module.copy

        async def cut(session: Any, transaction: Any, timeout_s: float | None, **how: Any) -> None:
            await original(session, transaction, timeout_s, **how)
            session.drop()
            raise ConnectionResetError

        assert await outcomes([write(store, "g", [record(1)])]) == [None]
        monkeypatch.setattr(lane_module, "copy", cut)
        answer = write(store, "g", (), [OffsetWrite((await leader.topic("t")).id, 0, 4)])
        assert await outcomes([answer]) == [None]
        monkeypatch.undo()
        _, offsets = await store.load()
        assert [each.offset for each in offsets] == [4]


async def test_offsets_of_a_deleted_topic_vanish(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        kept, gone = await leader.topic("kept"), await leader.topic("gone")
        assert await outcomes([write(store, "g", (), [OffsetWrite(t.id, 0, 1) for t in (kept, gone)])]) == [None]
        await leader.topics.delete([gone])
        _, offsets = await store.load()
        assert [each.topic_id for each in offsets] == [kept.id]


async def test_configs_of_groups(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        configs = GroupConfigs(leader.control)
        await configs.set("g", {"consumer.session.timeout.ms": "50000"})
        await configs.set("g", {"consumer.session.timeout.ms": "46000", "consumer.heartbeat.interval.ms": "6000"})
        await configs.set("h", {"consumer.session.timeout.ms": "1"})
        await configs.set("h", {})
        assert await configs.load() == {
            "g": {"consumer.session.timeout.ms": "46000", "consumer.heartbeat.interval.ms": "6000"}
        }


class Rotating:
    """A janitor that rotates whatever is there, on the leader's lanes."""

    def __init__(self, leader: Leader, **settings: Any) -> None:
        options = {"segment_bytes": 1 << 40, "segment_ms": 1 << 40, "compression": "none", "interval_s": 0.05}
        self.janitor = janitor_of(
            leader.dsn,
            leader.log,
            owner=leader.log.node_id,
            **{**options, "journal_bytes": 0, **settings},
            open_session=leader.membership.open_writer,
        )

    async def __aenter__(self) -> Janitor:
        await self.janitor.start()
        return self.janitor

    async def __aexit__(self, *_: object) -> None:
        await self.janitor.stop()


async def rotations(dsn: str) -> dict[str, tuple[int, str]]:
    return {row[0]: (row[1], row[2]) for row in await query(dsn, "SELECT journal, active, state FROM kafka.journals")}


async def until(dsn: str, question: str) -> None:
    """Wait until a query says true."""
    deadline = time.monotonic() + 30
    while not (await query(dsn, question))[0][0]:
        assert time.monotonic() < deadline, question
        await asyncio.sleep(0.02)


async def test_rotation_keeps_what_counts(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        topic, gone = await leader.topic("t", 50), await leader.topic("gone")
        history = [HistoryEntry("member joined", n, "m") for n in range(150)]
        answers = [
            write(store, "g", [record(n)], [OffsetWrite(topic.id, n % 50, n)], history if n == 0 else ())
            for n in range(500)
        ]
        answers.append(write(store, "left", [record(1)], [OffsetWrite(gone.id, 0, 3)]))
        answers.append(write(store, "left", [Record("classic", "", None)], [OffsetWrite(topic.id, 0, 3)]))
        answers.append(write(store, "left", (), [OffsetWrite(topic.id, 0, None)]))
        assert not any(await outcomes(answers))
        await leader.topics.delete([gone])
        before = await store.load()
        async with Rotating(leader):
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.offset_journal_0")
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.group_journal_0")
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.history_journal_0")
        after = await store.load()
        assert before[0] == after[0]
        assert sorted(before[1], key=repr) == sorted(after[1], key=repr)
        counts = await query(
            pg_dsn,
            "SELECT (SELECT count(*) FROM kafka.offset_journal_1), (SELECT count(*) FROM kafka.group_journal_1), "
            "(SELECT count(*) FROM kafka.group_history), (SELECT min(generation) FROM kafka.group_history)",
        )
        assert tuple(counts[0]) == (50, 1, 100, 50)


async def test_rotation_waits_for_room_and_writers_do_not(pg_dsn: str) -> None:
    asked: list[float] = []
    has_room = False

    def room(disk_bytes: float, *, small: bool = False) -> bool:
        if small:
            asked.append(disk_bytes)
        return has_room

    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        assert not any(await outcomes([write(store, "g", [record(n)], ()) for n in range(50)]))
        async with Rotating(leader, has_room=room):
            await until(pg_dsn, "SELECT state = 'switched' FROM kafka.journals WHERE journal = 'groups'")
            assert not any(await outcomes([write(store, "g", [record(50)], ())]))
            async with asyncio.timeout(30):
                while len(asked) < 10:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.01)
            assert (await rotations(pg_dsn))["groups"] == (1, "switched")
            has_room = True
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.group_journal_0")
        assert max(asked) > 8192  # as much as the table that is copied
        groups, _ = await store.load()
        assert [group.records for group in groups] == [(record(50),)]


async def test_rotation_under_writes_loses_nothing(pg_dsn: str) -> None:
    async with leading(pg_dsn, lanes=2) as leader:
        store = store_of(leader)
        topic = await leader.topic("t", 4)
        async with Rotating(leader, interval_s=0.01) as janitor:
            for number in range(60):
                answers = [
                    write(store, f"g{g}", [record(number)], [OffsetWrite(topic.id, p, number) for p in range(4)])
                    for g in range(10)
                ]
                assert await outcomes(answers) == [None] * 10
                janitor.poke()
                if number % 10 == 0:
                    assert await generations(store) == {f"g{g}": [number] for g in range(10)}
                    _, offsets = await store.load()
                    assert {each.offset for each in offsets} == {number} and len(offsets) == 40
            await until(
                pg_dsn, "SELECT bool_and(live_bytes > 0) FROM kafka.journals WHERE journal IN ('offsets', 'groups')"
            )
            assert not janitor.failures
        # Readers see each key once, also between the copy and the truncation.
        rows = await query(pg_dsn, "SELECT count(*), min(committed_offset) FROM kafka.consumer_offsets")
        assert tuple(rows[0]) == (40, 59)


async def test_open_reader_stops_the_rotation_and_nobody_else(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        topic = await leader.topic("t")
        assert await outcomes([write(store, "g", [record(1)], [OffsetWrite(topic.id, 0, 1)])]) == [None]
        reader = await asyncpg.connect(pg_dsn)
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("SELECT * FROM kafka.consumer_offsets")
        async with Rotating(leader, snapshot_grace_s=0.0):
            await until(pg_dsn, "SELECT state = 'copied' FROM kafka.journals WHERE journal = 'offsets'")
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.group_journal_0")
            for number in range(2, 30):
                assert await outcomes([write(store, "g", (), [OffsetWrite(topic.id, 0, number)])]) == [None]
            assert (await rotations(pg_dsn))["offsets"] == (1, "copied")
            (row,) = await reader.fetch("SELECT committed_offset FROM kafka.consumer_offsets")
            assert row[0] == 29
            await transaction.rollback()
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.offset_journal_0")
        await reader.close()
        _, offsets = await store.load()
        assert [each.offset for each in offsets] == [29]


async def test_older_snapshot_is_waited_for_and_then_passed(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        topic = await leader.topic("t")
        assert await outcomes([write(store, "g", (), [OffsetWrite(topic.id, 0, 1)])]) == [None]
        reader = await asyncpg.connect(pg_dsn)
        transaction = reader.transaction(isolation="repeatable_read")
        await transaction.start()
        await reader.fetch("SELECT 1")
        async with Rotating(leader, snapshot_grace_s=3600.0):
            await until(pg_dsn, "SELECT state = 'copied' FROM kafka.journals WHERE journal = 'offsets'")
            await asyncio.sleep(0.3)
            assert (await rotations(pg_dsn))["offsets"] == (1, "copied")
        assert (await reader.fetch("SELECT committed_offset FROM kafka.consumer_offsets"))[0][0] == 1
        await transaction.rollback()
        transaction = reader.transaction(isolation="repeatable_read")
        await transaction.start()
        await reader.fetch("SELECT 1")
        async with Rotating(leader, snapshot_grace_s=0.2):
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.offset_journal_0")
        await transaction.rollback()
        await reader.close()


@pytest.mark.parametrize("state", ["switched", "copied"])
async def test_janitor_that_was_killed_goes_on(pg_dsn: str, state: str) -> None:
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        topic = await leader.topic("t")
        assert await outcomes([write(store, "g", [record(1)], [OffsetWrite(topic.id, 0, 1)])]) == [None]
        lost = Rotating(leader)
        step = "_copy" if state == "switched" else "_truncate"

        async def die(*_: object) -> None:
            raise RuntimeError

        setattr(job(lost.janitor, "rotate journals"), step, die)
        async with lost:
            await until(pg_dsn, f"SELECT bool_or(state = '{state}') FROM kafka.journals")
    async with leading(pg_dsn) as leader:
        store = store_of(leader)
        assert await outcomes([write(store, "h", [record(2)], [OffsetWrite(topic.id, 0, 2)])]) == [None]
        async with Rotating(leader):
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.group_journal_0")
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.offset_journal_0")
        assert await generations(store) == {"g": [1], "h": [2]}
        _, offsets = await store.load()
        assert {each.group_id: each.offset for each in offsets} == {"g": 1, "h": 2}
