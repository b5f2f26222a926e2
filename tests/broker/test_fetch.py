"""Fetch over the raw protocol: limits, errors, long polls and sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import asyncpg
import confluent_kafka
import pytest
from tests.broker.rawclient import (
    FETCH,
    OFFSET_FOR_LEADER_EPOCH,
    RawClient,
    SomeTopic,
    answered,
    batch,
    fetching,
    offsets_of,
    only,
    records_of,
)
from tests.broker.transactor import Transactor

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.fetch import ForgottenTopic
from pg_kafka.wire.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)

LATEST, EARLIEST = -1, -2
LONG_WAIT_MS = 8_000
# Much less than the wait, much more than a wake-up takes on a busy machine.
SOON_S = 4.0


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


@pytest.fixture
async def producer(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


async def filled(client: RawClient, *counts: int, partitions: int = 1, size: int = 10) -> SomeTopic:
    """A topic with one batch for each count, in every partition."""
    topic = await client.create_topic(partitions=partitions)
    for partition in range(partitions):
        for count in counts:
            assert (await client.produce(topic, batch([b"x" * size] * count), partition)).error_code == 0
    return topic


# -- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(4, 19))
async def test_every_version_reads(client: RawClient, version: int) -> None:
    topic = await filled(client, 2, 3)
    answer = await client.fetch(topic, 0, version=version)
    assert (answer.error_code, answer.high_watermark, answer.last_stable_offset) == (0, 5, 5)
    assert answer.log_start_offset == (0 if version >= 5 else -1)
    assert answer.preferred_read_replica == -1
    assert offsets_of(answer) == [0, 1, 2, 3, 4]


async def test_fetch_from_the_middle_of_a_batch_gives_the_record(client: RawClient) -> None:
    topic = await filled(client, 10, 10)
    for offset in range(20):
        found = offsets_of(await client.fetch(topic, offset))
        assert offset in found
        assert found[-1] == 19
        assert found[0] <= offset


async def test_the_end_of_the_log_has_no_records(client: RawClient) -> None:
    answer = await client.fetch(await filled(client, 3), 3)
    assert (answer.error_code, answer.high_watermark, answer.records) == (0, 3, b"")


@pytest.mark.parametrize("offset", [-1, 4, 2**62])
async def test_offset_out_of_range_says_where_the_log_is(client: RawClient, offset: int) -> None:
    answer = await client.fetch(await filled(client, 3), offset, max_wait_ms=LONG_WAIT_MS)
    assert answer.error_code == ErrorCode.OFFSET_OUT_OF_RANGE
    assert (answer.log_start_offset, answer.high_watermark, answer.records) == (0, 3, b"")


async def test_aborted_transactions_by_isolation_level(client: RawClient) -> None:
    topic = await filled(client, 1)
    assert (await client.fetch(topic, 0, isolation_level=0)).aborted_transactions is None
    assert (await client.fetch(topic, 0, isolation_level=1)).aborted_transactions == ()


async def test_unknown_names_and_ids(client: RawClient) -> None:
    nowhere = SomeTopic("nowhere", UUID(int=5))
    for version, code in ((12, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION), (13, ErrorCode.UNKNOWN_TOPIC_ID)):
        assert (await client.fetch(nowhere, 0, version=version)).error_code == code
    topic = await filled(client, 1, partitions=2)
    for partition in (2, -1, 2**31 - 1):
        answer = await client.fetch(topic, 0, partition, max_wait_ms=LONG_WAIT_MS)
        assert answer.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_one_wrong_partition_does_not_stop_the_others(client: RawClient) -> None:
    topic = await filled(client, 2)
    answers = answered(await client.call(fetching(topic, {5: 0, 0: 0}), FETCH, 12))
    assert answers[5].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert offsets_of(answers[0]) == [0, 1]


async def test_topic_made_again_has_another_id(client: RawClient) -> None:
    topic = await filled(client, 1)
    await client.delete_topic(topic)
    assert (await client.fetch(topic, 0, version=13)).error_code == ErrorCode.UNKNOWN_TOPIC_ID
    assert (await client.fetch(topic, 0, version=12)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_replicas_are_refused(client: RawClient) -> None:
    answer = await client.fetch(await filled(client, 1), 0, replica_id=1)
    assert answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_reads_behind_the_memory_tail(start_broker: Callable[..., Any]) -> None:
    broker = start_broker(TAIL_BYTES="20000")
    async with await RawClient.connect(broker) as client:
        topic = await filled(client, *[3] * 50, partitions=12, size=1000)
        # More partitions than one fetch may read from the database: a session gets to all of them.
        session, offsets = Session(client, topic), dict.fromkeys(range(12), 0)
        named = dict(offsets)
        while any(offset < 150 for offset in offsets.values()):
            answers = await session.fetch(named, max_wait_ms=2000, partition_max_bytes=60_000)
            read = {index: offsets_of(answer) for index, answer in answers.items() if answer.records}
            assert read
            for index, found in read.items():
                assert [one for one in found if one >= offsets[index]] == list(range(offsets[index], found[-1] + 1))
                offsets[index] = found[-1] + 1
            named = {index: offsets[index] for index in read}
        for offset in (0, 1, 75, 149):
            assert offset in offsets_of(await client.fetch(topic, offset, 5, partition_max_bytes=1))


async def test_below_the_log_start(start_broker: Callable[..., Any]) -> None:
    broker = start_broker()
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic()
        connection = await asyncpg.connect(broker.dsn)
        await connection.execute(
            "INSERT INTO kafka.log_starts SELECT id, 0, 5 FROM kafka.topics WHERE name = $1", topic.name
        )
        await connection.close()
        assert (await client.produce(topic, batch())).base_offset == 5
        below = await client.fetch(topic, 4)
        assert (below.error_code, below.log_start_offset, below.high_watermark) == (ErrorCode.OFFSET_OUT_OF_RANGE, 5, 6)
        assert offsets_of(await client.fetch(topic, 5)) == [5]
        assert (await client.offset_at(topic, EARLIEST)).offset == 5


# -- limits ----------------------------------------------------------------------------------------------------------


async def test_batch_larger_than_all_limits_is_still_given(client: RawClient) -> None:
    topic = await filled(client, 1, 1, size=5000)
    answer = await client.fetch(topic, 0, max_bytes=10, partition_max_bytes=10)
    assert offsets_of(answer) == [0]


@pytest.mark.parametrize("limits", [{"partition_max_bytes": 3500}, {"max_bytes": 3500}])
async def test_whole_batches_up_to_the_limit(client: RawClient, limits: dict[str, int]) -> None:
    topic = await filled(client, *[1] * 10, size=1000)
    assert offsets_of(await client.fetch(topic, 0, **limits)) == [0, 1, 2]


async def test_only_the_first_partition_may_exceed_the_limits(client: RawClient) -> None:
    topic = await filled(client, 1, partitions=3, size=1000)
    answers = answered(await client.call(fetching(topic, {2: 0, 0: 0, 1: 0}, max_bytes=10), FETCH, 12))
    assert {index: offsets_of(answer) for index, answer in answers.items()} == {2: [0], 0: [], 1: []}
    assert {answer.high_watermark for answer in answers.values()} == {1}


# -- leader epochs ---------------------------------------------------------------------------------------------------


async def test_leader_epochs_are_checked(client: RawClient) -> None:
    topic = await filled(client, 2)
    epoch = (await client.offset_at(topic, LATEST)).leader_epoch
    for asked, code in (
        (-1, ErrorCode.NONE),
        (epoch, ErrorCode.NONE),
        (epoch - 1, ErrorCode.FENCED_LEADER_EPOCH if epoch > 0 else ErrorCode.NONE),
        (epoch + 1, ErrorCode.UNKNOWN_LEADER_EPOCH),
    ):
        answer = await client.fetch(topic, 0, current_leader_epoch=asked, max_wait_ms=LONG_WAIT_MS)
        assert answer.error_code == code


async def test_fenced_consumer_is_told_the_leader(client: RawClient) -> None:
    topic = await filled(client, 2)
    epoch = (await client.offset_at(topic, LATEST)).leader_epoch
    if epoch == 0:
        pytest.skip("the first epoch cannot be fenced")
    response = await client.call(fetching(topic, {0: 0}, current_leader_epoch=epoch - 1), FETCH, 16)
    assert answered(response)[0].current_leader.leader_epoch == epoch
    assert only(response.node_endpoints).node_id == answered(response)[0].current_leader.leader_id


async def test_diverging_epoch(client: RawClient) -> None:
    topic = await filled(client, 2)
    epoch = (await client.offset_at(topic, LATEST)).leader_epoch
    same = await client.fetch(topic, 2, last_fetched_epoch=epoch)
    assert (same.error_code, same.diverging_epoch.end_offset) == (0, -1)
    beyond = await client.fetch(topic, 5, last_fetched_epoch=epoch, max_wait_ms=LONG_WAIT_MS)
    assert (beyond.error_code, beyond.diverging_epoch.epoch, beyond.diverging_epoch.end_offset) == (0, epoch, 2)
    newer = await client.fetch(topic, 2, last_fetched_epoch=epoch + 1)
    assert newer.error_code == ErrorCode.OFFSET_OUT_OF_RANGE


@pytest.mark.parametrize("version", [2, 3, 4])
async def test_offset_for_leader_epoch(client: RawClient, version: int) -> None:
    topic = await filled(client, 2)
    epoch = (await client.offset_at(topic, LATEST)).leader_epoch

    async def ask(partition: int, leader_epoch: int, current: int = -1) -> tuple[int, int, int]:
        one = OffsetForLeaderPartition(partition=partition, current_leader_epoch=current, leader_epoch=leader_epoch)
        request = OffsetForLeaderEpochRequest(topics=[OffsetForLeaderTopic(topic=topic.name, partitions=[one])])
        response = await client.call(request, OFFSET_FOR_LEADER_EPOCH, version)
        answer = only(only(response.topics).partitions)
        return answer.error_code, answer.leader_epoch, answer.end_offset

    assert await ask(0, epoch) == (0, epoch, 2)
    assert await ask(0, epoch + 1) == (0, -1, -1)
    assert await ask(1, epoch) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1, -1)
    assert await ask(0, epoch, epoch + 1) == (ErrorCode.UNKNOWN_LEADER_EPOCH, -1, -1)


# -- long polls ------------------------------------------------------------------------------------------------------


async def test_empty_fetch_waits_for_its_time(client: RawClient) -> None:
    topic = await filled(client, 1)
    begin = time.monotonic()
    answer = await client.fetch(topic, 1, max_wait_ms=300)
    assert 0.29 <= time.monotonic() - begin < SOON_S
    assert (answer.error_code, answer.high_watermark, answer.records) == (0, 1, b"")


async def test_parked_fetch_is_woken_by_a_commit(client: RawClient, producer: RawClient) -> None:
    topic = await filled(client, 1)
    begin = time.monotonic()
    waiting = asyncio.create_task(client.fetch(topic, 1, max_wait_ms=LONG_WAIT_MS))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await producer.produce(topic, batch([b"news"]))
    assert records_of(await waiting) == [(1, b"news")]
    assert time.monotonic() - begin < SOON_S


async def test_many_parked_on_one_partition_are_all_woken(broker: Any, producer: RawClient) -> None:
    topic = await filled(producer, 1)
    clients = [await RawClient.connect(broker) for _ in range(20)]
    waiting = [asyncio.create_task(one.fetch(topic, 1, max_wait_ms=LONG_WAIT_MS)) for one in clients]
    await asyncio.sleep(0.1)
    await producer.produce(topic, batch([b"news"]))
    assert [records_of(answer) for answer in await asyncio.gather(*waiting)] == [[(1, b"news")]] * 20
    for one in clients:
        await one.close()


async def test_min_bytes_are_waited_for(client: RawClient, producer: RawClient) -> None:
    topic = await filled(client, 1)
    waiting = asyncio.create_task(client.fetch(topic, 1, max_wait_ms=LONG_WAIT_MS, min_bytes=3000))
    for _ in range(2):
        await producer.produce(topic, batch([b"x" * 1000]))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    await producer.produce(topic, batch([b"x" * 1000]))
    assert offsets_of(await waiting) == [1, 2, 3]


async def test_bytes_of_several_partitions_add_up(client: RawClient, producer: RawClient) -> None:
    topic = await filled(client, 1, partitions=2)
    request = fetching(topic, {0: 1, 1: 1}, max_wait_ms=LONG_WAIT_MS, min_bytes=1500)
    waiting = asyncio.create_task(client.call(request, FETCH, 12))
    await producer.produce(topic, batch([b"x" * 1000]), 0)
    await producer.produce(topic, batch([b"x" * 1000]), 1)
    answers = answered(await waiting)
    assert [offsets_of(answers[index]) for index in (0, 1)] == [[1], [1]]


# A wait that no test sits out: what is given only at its end is not given within RawClient's deadline.
ENDLESS_WAIT_MS = 600_000
SHORTER_S = 60.0
MIB = 2**20
MIN_BYTES = 10_000


async def backlog(client: RawClient, partitions: int = 1) -> SomeTopic:
    """Six batches in each partition, of which three fit into MIN_BYTES and leave a part of it empty."""
    return await filled(client, *[1] * 6, partitions=partitions, size=3_000)


@pytest.mark.parametrize("limits", ["of the partition", "of the request"])
@pytest.mark.parametrize("version", [4, 12, 18])
async def test_bytes_that_the_limit_leaves_count_for_min_bytes(client: RawClient, limits: str, version: int) -> None:
    topic = await backlog(client)
    more = {"partition_max_bytes" if limits == "of the partition" else "max_bytes": MIN_BYTES}
    answer = await client.fetch(topic, 0, max_wait_ms=ENDLESS_WAIT_MS, min_bytes=MIN_BYTES, version=version, **more)
    assert offsets_of(answer) == [0, 1, 2]


async def test_bytes_that_the_limits_of_several_partitions_leave_count(client: RawClient) -> None:
    topic = await backlog(client, 2)
    request = fetching(
        topic,
        {0: 0, 1: 0},
        max_wait_ms=ENDLESS_WAIT_MS,
        min_bytes=2 * MIN_BYTES,
        partition_max_bytes=MIN_BYTES,
        max_bytes=2 * MIN_BYTES,
    )
    answers = answered(await client.call(request, FETCH, 12))
    assert [offsets_of(answers[index]) for index in (0, 1)] == [[0, 1, 2], [0, 1, 2]]


async def test_bytes_that_the_limit_leaves_count_in_a_session(client: RawClient) -> None:
    topic = await backlog(client)
    limits = {"max_wait_ms": ENDLESS_WAIT_MS, "min_bytes": MIN_BYTES, "partition_max_bytes": MIN_BYTES}
    first = await client.call(fetching(topic, {0: 0}, session=(0, 0), **limits), FETCH, 12)
    assert offsets_of(answered(first)[0]) == [0, 1, 2]
    # It names the next offset, then nothing: what is left is there all the same.
    second = await client.call(fetching(topic, {0: 2}, session=(first.session_id, 1), **limits), FETCH, 12)
    assert offsets_of(answered(second)[0]) == [2, 3, 4]
    third = await client.call(fetching(topic, {}, session=(first.session_id, 2), **limits), FETCH, 12)
    assert offsets_of(answered(third)[0]) == [2, 3, 4]


async def test_bytes_beyond_the_last_stable_offset_do_not_count(client: RawClient, producer: RawClient) -> None:
    topic = await backlog(client)
    transactor = Transactor(producer)
    assert await transactor.init() == ErrorCode.NONE
    assert await transactor.produce(topic, b"x" * 3_000) == ErrorCode.NONE
    limits = {"max_wait_ms": ENDLESS_WAIT_MS, "min_bytes": MIN_BYTES, "partition_max_bytes": MIN_BYTES}
    # Three batches lie between offset 3 and the last stable offset, and the open transaction's does not count.
    waiting = asyncio.create_task(client.fetch(topic, 3, isolation_level=1, **limits))
    assert offsets_of(await producer.fetch(topic, 3, **limits)) == [3, 4, 5]
    assert offsets_of(await producer.fetch(topic, 2, isolation_level=1, **limits)) == [2, 3, 4]
    assert not waiting.done()
    assert await transactor.commit() == ErrorCode.NONE
    assert offsets_of(await waiting) == [3, 4, 5]


async def test_bytes_that_the_limit_leaves_count_in_the_database(start_broker: Callable[..., Any]) -> None:
    async with await RawClient.connect(start_broker(TAIL_BYTES="0")) as client:
        topic = await backlog(client, 12)
        limits = {"max_wait_ms": ENDLESS_WAIT_MS, "min_bytes": MIN_BYTES}
        assert offsets_of(await client.fetch(topic, 0, partition_max_bytes=MIN_BYTES, **limits)) == [0, 1, 2]
        # Of partitions beyond those that one request reads from the database, all bytes are left.
        everywhere = fetching(topic, dict.fromkeys(range(12), 5), max_wait_ms=ENDLESS_WAIT_MS, min_bytes=12 * 3_000)
        answers = answered(await client.call(everywhere, FETCH, 12))
        assert [index for index, answer in answers.items() if answer.records] == list(range(8))
        # What is really not there is waited for.
        waiting = asyncio.create_task(client.fetch(topic, 5, max_wait_ms=300, min_bytes=MIN_BYTES))
        assert offsets_of(await waiting) == [5]


async def test_librdkafka_reads_a_backlog_with_min_bytes_of_a_whole_partition_limit(
    broker: Any, client: RawClient
) -> None:
    topic = await filled(client, *[3] * 60, size=30_000)
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": f"{broker.host}:{broker.port}",
            "group.id": "unused",
            "enable.auto.commit": False,
            "fetch.min.bytes": MIB,
            "max.partition.fetch.bytes": MIB,
            "fetch.wait.max.ms": 290_000,
            "socket.timeout.ms": 300_000,
        }
    )
    try:
        consumer.assign([confluent_kafka.TopicPartition(topic.name, 0, 0)])
        # Of 5.4 MB the last part, less than fetch.min.bytes, is waited for.
        messages = await asyncio.to_thread(consumer.consume, 132, SHORTER_S)
        assert [message.offset() for message in messages] == list(range(132))
        assert {message.value() for message in messages} == {b"x" * 30_000}
    finally:
        await asyncio.to_thread(consumer.close)


async def test_what_is_there_comes_at_the_deadline(client: RawClient) -> None:
    topic = await filled(client, 2)
    begin = time.monotonic()
    assert offsets_of(await client.fetch(topic, 0, max_wait_ms=300, min_bytes=100_000)) == [0, 1]
    assert time.monotonic() - begin >= 0.29


async def test_deleted_topic_wakes_its_readers(client: RawClient, producer: RawClient) -> None:
    topic = await filled(client, 1)
    waiting = asyncio.create_task(client.fetch(topic, 1, max_wait_ms=LONG_WAIT_MS, version=13))
    await asyncio.sleep(0.1)
    await producer.delete_topic(topic)
    async with asyncio.timeout(SOON_S):
        assert (await waiting).error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_reader_that_goes_away_harms_nobody(broker: Any, client: RawClient) -> None:
    topic = await filled(client, 1)
    for session in ((0, -1), (0, 0)):
        gone = await RawClient.connect(broker)
        gone.send(fetching(topic, {0: 1}, max_wait_ms=LONG_WAIT_MS, session=session), FETCH, 12)
        await asyncio.sleep(0.05)
        await gone.close()
    assert (await client.produce(topic, batch([b"news"]))).base_offset == 1
    assert offsets_of(await client.fetch(topic, 1)) == [1]


async def test_no_partitions_are_answered_at_once(client: RawClient) -> None:
    topic = await filled(client, 1)
    response = await client.call(fetching(topic, {}, max_wait_ms=LONG_WAIT_MS), FETCH, 12, timeout_s=SOON_S)
    assert (response.error_code, response.session_id, list(response.responses)) == (0, 0, [])


# -- sessions --------------------------------------------------------------------------------------------------------


class Session:
    """A fetch session as a client keeps it."""

    def __init__(self, client: RawClient, topic: SomeTopic, version: int = 12) -> None:
        self.client = client
        self.topic = topic
        self.version = version
        self.id = 0
        self.epoch = 0

    async def fetch(self, offsets: dict[int, int], forget: tuple[int, ...] = (), **more: Any) -> dict[int, Any]:
        """The partitions that were answered."""
        request = fetching(self.topic, offsets, session=(self.id, self.epoch), **more)
        if forget:
            request.forgotten_topics_data = [
                ForgottenTopic(topic=self.topic.name, topic_id=self.topic.id, partitions=forget)
            ]
        response = await self.client.call(request, FETCH, self.version)
        assert response.error_code == 0
        if self.epoch == 0:
            assert response.session_id > 0
            self.id = response.session_id
        assert response.session_id == self.id
        self.epoch += 1
        return answered(response)


@pytest.mark.parametrize("version", [7, 12, 13, 18])
async def test_session_answers_only_news(client: RawClient, producer: RawClient, version: int) -> None:
    topic = await filled(client, 1, partitions=3)
    session = Session(client, topic, version)
    full = await session.fetch({0: 1, 1: 1, 2: 0})
    assert {index: offsets_of(answer) for index, answer in full.items()} == {0: [], 1: [], 2: [0]}
    assert await session.fetch({2: 1}) == {}
    await producer.produce(topic, batch(), 1)
    news = await session.fetch({})
    assert {index: offsets_of(answer) for index, answer in news.items()} == {1: [1]}


async def test_session_repeats_what_the_client_has_not_moved_past(client: RawClient) -> None:
    session = Session(client, await filled(client, 2))
    for _ in range(3):
        assert offsets_of((await session.fetch({0: 0} if session.epoch == 0 else {}))[0]) == [0, 1]


async def test_session_adds_and_forgets_partitions(client: RawClient, producer: RawClient) -> None:
    topic = await filled(client, 1, partitions=3)
    session = Session(client, topic)
    await session.fetch({0: 1})
    assert set(await session.fetch({1: 1, 2: 1})) == {1, 2}  # new ones are answered once
    for partition in range(3):
        await producer.produce(topic, batch(), partition)
    assert set(await session.fetch({}, forget=(1,))) == {0, 2}


async def test_parked_session_is_woken_by_an_idle_partition(client: RawClient, producer: RawClient) -> None:
    topic = await filled(client, 1, partitions=50)
    session = Session(client, topic)
    await session.fetch(dict.fromkeys(range(50), 1))
    for partition in (7, 31):
        waiting = asyncio.create_task(session.fetch({}, max_wait_ms=LONG_WAIT_MS))
        await asyncio.sleep(0.05)
        await producer.produce(topic, batch([b"news"]), partition)
        answers = await waiting
        assert {index: records_of(answer) for index, answer in answers.items()} == {partition: [(1, b"news")]}
        assert await session.fetch({partition: 2}) == {}


async def test_partitions_take_turns_under_a_small_limit(client: RawClient) -> None:
    topic = await filled(client, *[1] * 6, partitions=3, size=1000)
    session, offsets, served = Session(client, topic), dict.fromkeys(range(3), 0), []
    named = dict(offsets)
    for _ in range(9):
        answers = await session.fetch(named, max_bytes=1000)
        (index, answer) = only([pair for pair in answers.items() if pair[1].records])
        served.append(index)
        offsets[index] = offsets_of(answer)[-1] + 1
        named = {index: offsets[index]}
    assert sorted(served) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


async def test_errors_are_repeated_until_they_end(client: RawClient) -> None:
    topic = await filled(client, 1, partitions=2)
    session = Session(client, topic)
    for _ in range(2):
        answers = await session.fetch({0: 9, 1: 1} if session.epoch == 0 else {}, max_wait_ms=LONG_WAIT_MS)
        assert answers[0].error_code == ErrorCode.OFFSET_OUT_OF_RANGE
    assert set(await session.fetch({0: 1})) == {0}
    assert await session.fetch({}) == {}


async def test_topic_deleted_under_a_session(client: RawClient, producer: RawClient) -> None:
    topic = await filled(client, 1)
    session = Session(client, topic, 13)
    await session.fetch({0: 1})
    await producer.delete_topic(topic)
    assert (await session.fetch({}, max_wait_ms=LONG_WAIT_MS))[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def session_error(client: RawClient, topic: SomeTopic, session: tuple[int, int], version: int = 12) -> ErrorCode:
    response = await client.call(fetching(topic, {}, session=session), FETCH, version)
    assert (response.session_id, list(response.responses)) == (0, [])
    return ErrorCode(response.error_code)


async def test_session_errors(client: RawClient) -> None:
    topic = await filled(client, 1)
    session = Session(client, topic)
    await session.fetch({0: 0})
    assert await session_error(client, topic, (session.id, 5)) is ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert await session_error(client, topic, (session.id, 1), 13) is ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
    unknown = session.id % (2**31 - 1) + 1
    assert await session_error(client, topic, (unknown, 1)) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    last = await client.call(fetching(topic, {0: 0}, session=(session.id, -1)), FETCH, 12)
    assert (last.session_id, offsets_of(answered(last)[0])) == (0, [0])
    assert await session_error(client, topic, (session.id, 1)) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND


async def test_full_session_cache_leaves_clients_without_one(start_broker: Callable[..., Any]) -> None:
    broker = start_broker(MAX_INCREMENTAL_FETCH_SESSION_CACHE_SLOTS="1")
    async with await RawClient.connect(broker) as client:
        topic = await filled(client, 1)
        ids = [(await client.call(fetching(topic, {0: 0}, session=(0, 0)), FETCH, 12)).session_id for _ in range(2)]
    assert ids[0] > 0
    assert ids[1] == 0


async def test_session_taken_up_on_another_connection(client: RawClient, producer: RawClient) -> None:
    topic = await filled(client, 1)
    session = Session(client, topic)
    await session.fetch({0: 1})
    parked = client.send(fetching(topic, {}, session=(session.id, 1), max_wait_ms=LONG_WAIT_MS), FETCH, 12)
    await asyncio.sleep(0.1)
    taken = await producer.call(fetching(topic, {}, session=(session.id, 2), max_wait_ms=100), FETCH, 12)
    assert taken.error_code == 0
    old = await client.receive(FETCH, 12, parked, timeout_s=SOON_S)
    assert old.error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH


async def test_records_are_read_whole_and_in_order_under_load(broker: Any, client: RawClient) -> None:
    topic = await client.create_topic(partitions=3)
    rounds = 60

    async def produce(partition: int) -> None:
        async with await RawClient.connect(broker) as own:
            for number in range(rounds):
                await own.produce(topic, batch([b"%d/%d" % (number, i) for i in range(number % 7 + 1)]), partition)

    expected = [b"%d/%d" % (number, i) for number in range(rounds) for i in range(number % 7 + 1)]
    writers = asyncio.gather(*(produce(partition) for partition in range(3)))
    session, seen, named = Session(client, topic), {0: [], 1: [], 2: []}, dict.fromkeys(range(3), 0)
    while any(len(values) < len(expected) for values in seen.values()):
        answers = await session.fetch(named, max_wait_ms=2000, partition_max_bytes=400)
        named = {}
        for index, answer in answers.items():
            assert answer.error_code == 0
            seen[index] += [value for offset, value in records_of(answer) if offset >= len(seen[index])]
            named[index] = len(seen[index])
    await writers
    assert seen == dict.fromkeys(range(3), expected)
