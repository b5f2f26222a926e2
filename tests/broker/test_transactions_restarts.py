"""Transactions under brokers that end, lanes that lose their sessions, and time that passes; with one lane and with three."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from tests.broker.conftest import RunningBroker
from tests.broker.groupclient import OFFSET_DELETE, OFFSET_FETCH, commit, fetched, fresh_group
from tests.broker.rawclient import RawClient, SomeTopic, only
from tests.broker.transactor import NEWER, OLDER, Transactor, committed, listed, producers_of
from tests.kafka_reference import end

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from pg_kafka.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
)

StartBroker = Callable[..., RunningBroker]

both_lanes = pytest.mark.parametrize("lanes", ["1", "3"], ids=["one lane", "three lanes"])
# On which producers ask again.
RETRIABLE = {
    ErrorCode.CONCURRENT_TRANSACTIONS,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS,
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.KAFKA_STORAGE_ERROR,
}


async def insist(ask: Callable[[], Any]) -> ErrorCode:
    """Ask until the answer is final, as producers do."""
    async with asyncio.timeout(30):
        while True:
            code = ErrorCode(await ask())
            if code not in RETRIABLE:
                return code
            await asyncio.sleep(0.02)


async def change_state(dsn: str, transactional_id: str, changes: str) -> None:
    """Write into what is stored of a transactional id, as JSON."""
    connection = await asyncpg.connect(dsn)
    try:
        for number in (0, 1):
            await connection.execute(
                f"UPDATE kafka.transaction_journal_{number} SET value = value || $2::jsonb"
                " WHERE transactional_id = $1 AND kind = 'transaction'",
                transactional_id,
                changes,
            )
    finally:
        await connection.close()


@both_lanes
@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
async def test_open_transaction_goes_on_after_a_restart(start_broker: StartBroker, lanes: str, is_killed: bool) -> None:
    first = start_broker(LANES=lanes)
    group = fresh_group()
    async with await RawClient.connect(first) as client:
        topic = await client.create_topic(partitions=5)
        one = Transactor(client)
        await one.init()
        assert set((await one.produce_many(topic, {index: [b"a"] for index in range(4)})).values()) == {0}
        assert await one.commit_offsets(group, topic, {0: 5, 3: 6}) == {0: 0, 3: 0}
    if is_killed:
        first.process.kill()
    end(first.process)
    second = start_broker(LANES=lanes)
    async with await RawClient.connect(second) as client:
        one.client = client
        assert (await one.describe()).transaction_state == "Ongoing"
        assert await committed(client, topic) == []
        assert set((await one.produce_many(topic, {index: [b"b"] for index in (0, 4)})).values()) == {0}
        assert await one.commit() == ErrorCode.NONE
        assert await fetched(client, group, topic, (0, 3)) == {0: 5, 3: 6}
        seen = [await committed(client, topic, index) for index in range(5)]
        assert seen == [[b"a", b"b"], [b"a"], [b"a"], [b"a"], [b"b"]]


@both_lanes
@pytest.mark.parametrize("is_commit", [True, False], ids=["commit", "abort"])
async def test_what_was_decided_is_carried_out_after_a_restart(
    start_broker: StartBroker, lanes: str, is_commit: bool
) -> None:
    first = start_broker(LANES=lanes)
    group = fresh_group()
    async with await RawClient.connect(first) as client:
        topic = await client.create_topic(partitions=3)
        one = Transactor(client, style=OLDER)
        await one.init()
        for index in range(3):
            await one.send(topic, b"a", partition=index)
        await one.commit_offsets(group, topic, {0: 5})
    first.process.kill()
    end(first.process)
    await change_state(first.dsn, one.id, '{"state": "%s"}' % ("PrepareCommit" if is_commit else "PrepareAbort"))
    second = start_broker(LANES=lanes)
    async with await RawClient.connect(second) as client:
        one.client = client
        await one.until("CompleteCommit" if is_commit else "CompleteAbort")
        assert await fetched(client, group, topic) == {0: 5 if is_commit else -1}
        for index in range(3):
            assert await committed(client, topic, index) == ([b"a"] if is_commit else [])
            assert (await client.fetch(topic, 0, index)).last_stable_offset == 2
        assert await one.send(topic, b"b") == ErrorCode.NONE
        assert await insist(one.commit) == ErrorCode.NONE


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
async def test_producers_are_described_with_their_coordinator_s_epoch(
    start_broker: StartBroker, is_killed: bool
) -> None:
    """It is that of the broker which wrote their last marker, also when another broker tells it."""
    first = start_broker()
    async with await RawClient.connect(first) as client:
        topic = await client.create_topic()
        one = Transactor(client)
        await one.init()
        assert await one.send(topic, b"a") == ErrorCode.NONE
        assert (await producers_of(client, topic))[one.producer_id].coordinator_epoch == -1
        assert await one.commit() == ErrorCode.NONE
        written = await epoch_of(first.dsn)
        assert (await producers_of(client, topic))[one.producer_id].coordinator_epoch == written
    if is_killed:
        first.process.kill()
    end(first.process)
    second = start_broker()
    async with await RawClient.connect(second) as client:
        one.client = client
        assert (await producers_of(client, topic))[one.producer_id].coordinator_epoch == written
        assert await one.send(topic, b"b") == ErrorCode.NONE
        assert (await producers_of(client, topic))[one.producer_id].coordinator_epoch == written
        assert await one.commit() == ErrorCode.NONE
        assert (
            (await producers_of(client, topic))[one.producer_id].coordinator_epoch
            == await epoch_of(second.dsn)
            > written
        )


async def epoch_of(dsn: str) -> int:
    """The epoch of the broker that leads."""
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT max(epoch) FROM kafka.brokers"))
    finally:
        await connection.close()


async def test_transaction_that_ran_out_meanwhile_is_aborted_at_the_start(start_broker: StartBroker) -> None:
    first = start_broker()
    async with await RawClient.connect(first) as client:
        topic = await client.create_topic()
        one = Transactor(client, timeout_ms=600_000)
        await one.init()
        await one.send(topic, b"a")
    end(first.process)
    await change_state(first.dsn, one.id, '{"timeout_ms": 1}')
    second = start_broker()
    async with await RawClient.connect(second) as client:
        one.client = client
        await one.until("CompleteAbort")
        assert await one.produce(topic) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert "a transaction timed out" in second.log.read_text()


async def test_clock_that_is_ahead_after_a_restart_aborts_nothing(start_broker: StartBroker) -> None:
    first = start_broker()
    async with await RawClient.connect(first) as client:
        topic = await client.create_topic()
        one = Transactor(client, timeout_ms=60_000)
        await one.init()
        await one.send(topic, b"a")
    end(first.process)
    await move_transaction(first.dsn, one.id, -3_600_000)
    second = start_broker()
    async with await RawClient.connect(second) as client:
        one.client = client
        assert (await one.describe()).transaction_state == "Ongoing"
        assert await one.send(topic, b"b") == ErrorCode.NONE
        assert await one.commit() == ErrorCode.NONE
        assert await committed(client, topic) == [b"a", b"b"]


async def test_clock_that_was_set_back_holds_readers_up_for_the_timeout_only(start_broker: StartBroker) -> None:
    first = start_broker()
    async with await RawClient.connect(first) as client:
        topic = await client.create_topic()
        one = Transactor(client, timeout_ms=1_000)
        await one.init()
        await one.send(topic, b"a")
        end(first.process)
    await move_transaction(first.dsn, one.id, 3_600_000)
    second = start_broker()
    async with await RawClient.connect(second) as client:
        one.client = client
        await one.until("CompleteAbort")
        assert (await client.fetch(topic, 0)).last_stable_offset == 2
    assert "a transaction timed out" in second.log.read_text()


async def move_transaction(dsn: str, transactional_id: str, ms: int) -> None:
    """Have what is stored of a transaction come from another time, as if the clock had been set meanwhile."""
    connection = await asyncpg.connect(dsn)
    try:
        for number in (0, 1):
            await connection.execute(
                f"UPDATE kafka.transaction_journal_{number} SET value = value || jsonb_build_object("
                "'started_ms', (value ->> 'started_ms')::bigint + $2::bigint,"
                " 'updated_ms', (value ->> 'updated_ms')::bigint + $2::bigint)"
                " WHERE transactional_id = $1 AND kind = 'transaction'",
                transactional_id,
                ms,
            )
    finally:
        await connection.close()


@pytest.mark.parametrize("style", [OLDER, NEWER], ids=["older", "newer"])
async def test_epochs_that_are_used_up_make_a_new_producer(start_broker: StartBroker, style: int) -> None:
    first = start_broker()
    async with await RawClient.connect(first) as client:
        topic = await client.create_topic()
        one = Transactor(client, style=style)
        await one.init()
    end(first.process)
    await change_state(first.dsn, one.id, '{"producer_epoch": 32765}')
    second = start_broker()
    async with await RawClient.connect(second) as client:
        one.client = client
        assert await one.init() == ErrorCode.NONE
        assert one.epoch == 32_766
        before = one.producer_id
        assert await one.send(topic, b"a") == ErrorCode.NONE
        if style == NEWER:
            last = (one.producer_id, one.epoch)
            assert await one.commit() == ErrorCode.NONE
            new = (one.producer_id, one.epoch)
            one.producer_id, one.epoch = last
            assert await one.commit() == ErrorCode.NONE  # a retry
            assert (one.producer_id, one.epoch) == new
        else:
            fencer = Transactor(client, one.id)
            assert await fencer.init() == ErrorCode.NONE
            one = fencer
        # The fencer's first request has ended the transaction, with the last epoch, and its second got one more.
        assert (one.producer_id == before, one.epoch) == (False, 0 if style == NEWER else 1)
        assert await one.send(topic, b"b") == ErrorCode.NONE
        assert await one.commit() == ErrorCode.NONE
        assert await committed(client, topic) == ([b"a", b"b"] if style == NEWER else [b"b"])


async def test_ids_that_are_not_used_are_forgotten(start_broker: StartBroker) -> None:
    broker = start_broker(TRANSACTIONAL_ID_EXPIRATION_MS="300")
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic()
        idle, busy = Transactor(client), Transactor(client)
        await idle.init()
        await busy.init()
        await busy.send(topic, b"a")
        async with asyncio.timeout(10):
            while True:
                if set(await listed(client)) == {busy.id}:
                    break
                await asyncio.sleep(0.05)
        assert await idle.produce(topic) == ErrorCode.INVALID_PRODUCER_ID_MAPPING
        before = idle.producer_id
        assert await idle.init() == ErrorCode.NONE
        assert (idle.producer_id == before, idle.epoch) == (False, 0)
        assert await busy.commit() == ErrorCode.NONE


@both_lanes
async def test_lost_sessions_lose_no_transaction(start_broker: StartBroker, lanes: str) -> None:
    """Sessions are ended again and again under transactions of several producers: all that was answered holds."""
    broker = start_broker(LANES=lanes, LOG_LEVEL="error")
    group = fresh_group()
    rounds = 12
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic(partitions=4)

    async def transact(number: int) -> list[bytes]:
        """Transactions of one producer, which begins anew when it is told to; what it has committed."""
        done: list[bytes] = []
        async with await RawClient.connect(broker) as client:
            one = Transactor(client, timeout_ms=20_000)
            await insist(one.init)
            for round_ in range(rounds):
                value = b"%d-%d" % (number, round_)
                while True:
                    codes = [await insist(lambda p=p, v=value: one.produce(topic, v, partition=p)) for p in range(4)]
                    if not any(codes):
                        offsets = await one.commit_offsets(group, topic, {number: round_ + 1})
                        codes = [ErrorCode(offsets[number])]
                    if not any(codes):
                        codes = [await insist(one.commit)]
                    if not any(codes):
                        break
                    await insist(one.init)  # aborts what is open; what is committed stays
                done.append(value)
        return done

    async def disturb() -> None:
        connection = await asyncpg.connect(broker.dsn)
        try:
            for _ in range(6):
                await asyncio.sleep(0.4)
                await connection.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name LIKE '%lane%'"
                )
        finally:
            await connection.close()

    *all_done, _ = await asyncio.gather(*(transact(number) for number in range(4)), disturb())
    async with await RawClient.connect(broker) as client:
        for index in range(4):
            seen = await committed(client, topic, index)
            for done in all_done:
                prefix = done[0].split(b"-")[0] + b"-"
                assert [value for value in seen if value is not None and value.startswith(prefix)] == done
        assert await fetched(client, group, topic, range(4)) == dict.fromkeys(range(4), rounds)


@both_lanes
async def test_commits_count_in_their_order_when_the_clock_was_set_back(start_broker: StartBroker, lanes: str) -> None:
    first = start_broker(LANES=lanes)
    group = fresh_group()
    async with await RawClient.connect(first) as client:
        topic = await client.create_topic(partitions=3)
        one, other = Transactor(client), Transactor(client)
        assert await commit(client, group, topic, {0: 1}) == {0: 0}
        assert (await one.init(), await other.init()) == (0, 0)
        assert await one.commit_offsets(group, topic, {1: 10, 2: 20}) == {1: 0, 2: 0}
    end(first.process)
    await move_commits(first.dsn, 3_600_000)
    second = start_broker(LANES=lanes)
    async with await RawClient.connect(second) as client:
        one.client = other.client = client
        assert await commit(client, group, topic, {1: 11}) == {1: 0}
        assert await other.commit_offsets(group, topic, {0: 2, 2: 21}) == {0: 0, 2: 0}
        assert (await other.commit(), await one.commit()) == (0, 0)
        assert await fetched(client, group, topic, (0, 1, 2)) == {0: 2, 1: 11, 2: 21}


@both_lanes
@pytest.mark.parametrize("style", [OLDER, NEWER], ids=["older", "newer"])
async def test_offsets_of_the_next_transaction_wait_for_it(start_broker: StartBroker, lanes: str, style: int) -> None:
    """They come while the end of the transaction before is still being written."""
    broker = start_broker(LANES=lanes)
    group = fresh_group()
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic(partitions=4)
        one = Transactor(client, style=style)
        assert await one.init() == ErrorCode.NONE
        for number in range(1, 21):
            places = dict.fromkeys(range(4), number)
            assert set((await one.commit_offsets(group, topic, places)).values()) == {ErrorCode.NONE}
            assert set((await stable_codes(client, group, topic)).values()) == {ErrorCode.UNSTABLE_OFFSET_COMMIT}
            assert await one.commit() == ErrorCode.NONE
            assert await fetched(client, group, topic, range(4)) == places


async def stable_codes(client: RawClient, group: str, topic: SomeTopic) -> dict[int, int]:
    """What somebody is told who wants no offset that an open transaction may change."""
    topics = [OffsetFetchRequestTopics(name=topic.name, partition_indexes=range(4))]
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=group, topics=topics)], require_stable=True)
    answer = only((await client.call(request, OFFSET_FETCH, 8)).groups)
    return {one.partition_index: one.error_code for one in only(answer.topics).partitions}


async def test_deleted_offsets_do_not_come_back_with_an_ending_that_is_carried_out_again(
    start_broker: StartBroker,
) -> None:
    """They are deleted while it is under way. With several lanes that all is done is written last, and alone."""
    first = start_broker(LANES="3")
    groups = groups_in_all_lanes()
    connection = await asyncpg.connect(first.dsn)
    await connection.execute(HOLD_UP)
    async with await RawClient.connect(first) as client, await RawClient.connect(first) as other:
        topic = await client.create_topic()
        one = Transactor(client)
        assert await one.init() == ErrorCode.NONE
        for group in groups:
            assert await commit(client, group, topic, {0: 3}) == {0: ErrorCode.NONE}
            assert await one.commit_offsets(group, topic, {0: 5}) == {0: ErrorCode.NONE}
        await connection.execute("SELECT pg_advisory_lock(1), pg_advisory_lock(2)")
        ending = asyncio.create_task(one.commit())
        async with asyncio.timeout(20):
            while await connection.fetchval("SELECT state FROM kafka.transactions") != "PrepareCommit":  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.02)
        deletions = {asyncio.create_task(delete_offset(first, group, topic)): group for group in groups}
        await asyncio.sleep(0)
        assert one.id in await listed(other)  # so the broker has had time to take the deletions
        await connection.execute("SELECT pg_advisory_unlock(1)")
        assert await ending == ErrorCode.NONE
        deleted, waiting = await asyncio.wait(deletions, timeout=0.5)
        if not deleted:
            await connection.execute("SELECT pg_advisory_unlock(2)")
            deleted, waiting = await asyncio.wait(deletions, timeout=20)
        assert {task.result() for task in deleted} == {ErrorCode.NONE}
        for task in waiting:
            task.cancel()
    first.process.kill()
    end(first.process)
    second = start_broker(LANES="3")  # ends the sessions of the first, which would else write when they can
    await connection.close()
    async with await RawClient.connect(second) as client:
        one.client = client
        await one.until("CompleteCommit")
        for task in deleted:
            assert await fetched(client, deletions[task], topic) == {0: -1}


async def test_ending_that_is_carried_out_again_leaves_newer_commits_alone(start_broker: StartBroker) -> None:
    """Also where the clock was set back, so that newer ones are of an earlier time."""
    first = start_broker(LANES="3")
    groups = groups_in_all_lanes()
    async with await RawClient.connect(first) as client:
        topic = await client.create_topic(partitions=2)
        one = Transactor(client)
        assert await one.init() == ErrorCode.NONE
        for group in groups:
            assert await one.commit_offsets(group, topic, {0: 5, 1: 6}) == {0: 0, 1: 0}
    end(first.process)
    await move_commits(first.dsn, 3_600_000)
    second = start_broker(LANES="3")
    connection = await asyncpg.connect(first.dsn)
    await connection.execute(HOLD_UP)
    await connection.execute("SELECT pg_advisory_lock(2)")
    async with await RawClient.connect(second) as client:
        one.client = client
        assert await one.commit() == ErrorCode.NONE
    commits = {asyncio.create_task(commit_alone(second, group, topic)): group for group in groups}
    committed_anew, waiting = await asyncio.wait(commits, timeout=0.5)
    if not committed_anew:
        await connection.execute("SELECT pg_advisory_unlock(2)")
        committed_anew, waiting = await asyncio.wait(commits, timeout=20)
    assert {task.result() for task in committed_anew} == {ErrorCode.NONE}
    for task in waiting:
        task.cancel()
    second.process.kill()
    end(second.process)
    third = start_broker(LANES="3")
    await connection.close()
    async with await RawClient.connect(third) as client:
        one.client = client
        await one.until("CompleteCommit")
        for task in committed_anew:
            assert await fetched(client, commits[task], topic, (0, 1)) == {0: 4, 1: 6}


def groups_in_all_lanes() -> list[str]:
    """So many that an ending with their offsets has to do with several of three lanes."""
    return [fresh_group() for _ in range(12)]


async def commit_alone(broker: RunningBroker, group: str, topic: SomeTopic) -> int:
    """Of partition 0, in no transaction, on a connection of its own."""
    async with await RawClient.connect(broker) as client:
        return (await commit(client, group, topic, {0: 4}))[0]


async def delete_offset(broker: RunningBroker, group: str, topic: SomeTopic) -> int:
    """That of partition 0, on a connection of its own."""
    topics = [OffsetDeleteRequestTopic(name=topic.name, partitions=[OffsetDeleteRequestPartition(partition_index=0)])]
    async with await RawClient.connect(broker) as client:
        answer = await client.call(OffsetDeleteRequest(group_id=group, topics=topics), OFFSET_DELETE, 0)
    return int(answer.error_code or only(only(answer.topics).partitions).error_code)


# The offsets of an ending, and that it is over, wait for an advisory lock each.
HOLD_UP = """
    CREATE FUNCTION public.hold_up() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::integer); RETURN NEW; END $$;
    CREATE TRIGGER hold_up BEFORE INSERT ON kafka.offset_journal_0 FOR EACH ROW
        WHEN (NEW.committed_offset = 5) EXECUTE FUNCTION public.hold_up(1);
    CREATE TRIGGER hold_up BEFORE INSERT ON kafka.transaction_journal_0 FOR EACH ROW
        WHEN (NEW.value ->> 'state' = 'CompleteCommit') EXECUTE FUNCTION public.hold_up(2)"""


async def move_commits(dsn: str, ms: int) -> None:
    """Have all commits of offsets, also those that wait for a transaction, come from another time."""
    connection = await asyncpg.connect(dsn)
    try:
        for number in (0, 1):
            await connection.execute(
                f"UPDATE kafka.offset_journal_{number} SET committed_at = committed_at + $1 * interval '1 millisecond'",
                ms,
            )
            await connection.execute(
                f"UPDATE kafka.transaction_journal_{number} SET value = value || jsonb_build_object('committed_at_ms',"
                " (value ->> 'committed_at_ms')::bigint + $1::bigint) WHERE kind = 'offset'",
                ms,
            )
    finally:
        await connection.close()
