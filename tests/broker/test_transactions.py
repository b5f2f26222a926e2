"""Transactions over the raw protocol. The expectations are what Kafka 4.4.0 answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.broker.groupclient import (
    OFFSET_COMMIT,
    OFFSET_FETCH,
    Member,
    commit,
    committing,
    delete_group,
    fetched,
    fresh_group,
)
from tests.broker.groupclient import listed as listed_groups
from tests.broker.rawclient import RawClient, SomeTopic, batch, only, producing
from tests.broker.test_offsets import delete_offsets
from tests.broker.transactor import (
    ADD_PARTITIONS,
    COMMIT_OFFSETS,
    NEWER,
    OLDER,
    READ_COMMITTED,
    Transactor,
    committed,
    described,
    everything,
    fresh_id,
    listed,
    producers_of,
    write_marker,
)

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages.add_partitions_to_txn import AddPartitionsToTxnRequest, AddPartitionsToTxnTopic
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from pg_kafka.wire.messages.list_transactions import ListTransactionsRequest
from pg_kafka.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
)

CONSUMER_GROUP_HEARTBEAT = 68

both_styles = pytest.mark.parametrize("style", [OLDER, NEWER], ids=["older", "newer"])


@pytest.fixture
async def client(group_broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(group_broker) as client:
        yield client


async def begun(client: RawClient, style: int = NEWER, **more: Any) -> Transactor:
    one = Transactor(client, style=style, **more)
    assert await one.init() == ErrorCode.NONE
    return one


# -- commit and abort ----------------------------------------------------------------------------------------------------


@both_styles
async def test_committed_is_seen_and_aborted_is_not(client: RawClient, style: int) -> None:
    topic = await client.create_topic(partitions=2)
    one = await begun(client, style)
    for number in range(6):
        for partition in (0, 1):
            assert await one.send(topic, b"%d" % number, partition=partition) == ErrorCode.NONE
        assert await one.end(commit=number % 2 == 0) == ErrorCode.NONE
        assert (await one.describe()).transaction_state == ("CompleteAbort" if number % 2 else "CompleteCommit")
    for partition in (0, 1):
        assert await committed(client, topic, partition) == [b"0", b"2", b"4"]
        assert await everything(client, topic, partition) == [b"0", b"1", b"2", b"3", b"4", b"5"]


@both_styles
async def test_open_transaction_holds_readers_back(client: RawClient, style: int) -> None:
    topic = await client.create_topic()
    one = await begun(client, style)
    await client.produce(topic, batch([b"before"]))
    await one.send(topic, b"open")
    await client.produce(topic, batch([b"after"]))
    answer = await client.fetch(topic, 0, isolation_level=READ_COMMITTED)
    assert (answer.last_stable_offset, answer.high_watermark) == (1, 3)
    assert await committed(client, topic) == [b"before"]
    assert (await client.offset_at(topic, -1)).offset == 3
    await one.abort()
    assert await committed(client, topic) == [b"before", b"after"]
    assert (await client.fetch(topic, 0)).last_stable_offset == 4


@both_styles
async def test_parked_reader_wakes_at_the_commit(group_broker: Any, client: RawClient, style: int) -> None:
    topic = await client.create_topic()
    one = await begun(client, style)
    await one.send(topic, b"open")
    async with await RawClient.connect(group_broker) as reader:
        waiting = asyncio.create_task(
            reader.fetch(topic, 0, isolation_level=READ_COMMITTED, max_wait_ms=8_000, min_bytes=1)
        )
        await one.send(topic, b"more")
        assert not waiting.done()
        await one.commit()
        assert (await waiting).last_stable_offset == 3


async def test_newer_ends_give_a_new_epoch_each(client: RawClient) -> None:
    topic = await client.create_topic()
    one = await begun(client)
    before = (one.producer_id, one.epoch)
    assert await one.abort() == ErrorCode.NONE  # nothing was begun: the epoch changes all the same
    await one.send(topic)
    assert await one.commit() == ErrorCode.NONE
    assert (one.producer_id, one.epoch) == (before[0], before[1] + 2)


async def test_older_ends_keep_the_epoch(client: RawClient) -> None:
    topic = await client.create_topic()
    one = await begun(client, OLDER)
    before = (one.producer_id, one.epoch)
    await one.send(topic)
    assert await one.commit() == ErrorCode.NONE
    assert await one.commit() == ErrorCode.NONE  # a retry
    assert await one.abort() == ErrorCode.INVALID_TXN_STATE
    assert (one.producer_id, one.epoch) == before


async def test_retry_of_a_newer_end(client: RawClient) -> None:
    topic = await client.create_topic()
    one = await begun(client)
    await one.send(topic)
    before = (one.producer_id, one.epoch)
    assert await one.commit() == ErrorCode.NONE
    after = (one.producer_id, one.epoch)
    one.producer_id, one.epoch = before
    assert await one.abort() == ErrorCode.INVALID_TXN_STATE
    assert await one.commit() == ErrorCode.NONE
    assert (one.producer_id, one.epoch) == after


async def test_many_partitions_of_several_topics_end_together(client: RawClient) -> None:
    topics = [await client.create_topic(partitions=30) for _ in range(2)]
    one = await begun(client)
    for topic in topics:
        codes = await one.produce_many(topic, {index: [b"x"] for index in range(30)})
        assert set(codes.values()) == {ErrorCode.NONE}
    assert {each.topic: len(each.partitions) for each in (await one.describe()).topics} == {
        topic.name: 30 for topic in topics
    }
    await one.commit()
    for topic in topics:
        for index in (0, 17, 29):
            assert await committed(client, topic, index) == [b"x"]


async def test_pipelined_batches_of_a_new_partition_keep_their_order(client: RawClient) -> None:
    topic = await client.create_topic()
    one = await begun(client)
    sent = []
    for number in range(20):
        records = batch([b"%d" % number], producer=(one.producer_id, one.epoch, number), is_transactional=True)
        sent.append(client.send(producing(topic, {0: records}, transactional_id=one.id), 0, 12))
    for each in sent:
        answer = await client.receive(0, 12, each)
        assert only(only(answer.responses).partition_responses).error_code == ErrorCode.NONE
    await one.commit()
    assert await committed(client, topic) == [b"%d" % number for number in range(20)]


# -- what a transaction does not take ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "code"),
    [(8, "INVALID_TXN_STATE"), (10, "INVALID_TXN_STATE"), (11, "TRANSACTION_ABORTABLE"), (12, "NONE")],
)
async def test_partition_that_was_not_added(client: RawClient, version: int, code: str) -> None:
    topic = await client.create_topic(partitions=2)
    one = await begun(client)
    await one.add(topic, [1])
    assert ErrorCode(await one.produce(topic, version=version)) == ErrorCode[code]
    assert await one.produce(topic, partition=1, version=version) == ErrorCode.NONE


async def test_producer_that_is_not_the_id_s(client: RawClient) -> None:
    topic = await client.create_topic()
    one = await begun(client)
    stranger = Transactor(client, one.id, producer_id=one.producer_id + 1_000_000, epoch=0)
    assert await stranger.produce(topic) == ErrorCode.INVALID_PRODUCER_ID_MAPPING
    assert await stranger.add(topic) == {0: ErrorCode.INVALID_PRODUCER_ID_MAPPING}
    assert await stranger.add_offsets("g") == ErrorCode.INVALID_PRODUCER_ID_MAPPING
    assert await stranger.commit_offsets("g", topic, {0: 1}) == {0: ErrorCode.INVALID_PRODUCER_ID_MAPPING}
    assert await stranger.commit() == ErrorCode.INVALID_PRODUCER_ID_MAPPING
    nobody = Transactor(client, producer_id=one.producer_id, epoch=one.epoch)
    assert await nobody.produce(topic) == ErrorCode.INVALID_PRODUCER_ID_MAPPING
    assert await nobody.add(topic) == {0: ErrorCode.INVALID_PRODUCER_ID_MAPPING}
    assert await nobody.commit() == ErrorCode.INVALID_PRODUCER_ID_MAPPING


@pytest.mark.parametrize("version", range(6))
async def test_empty_transactional_id(client: RawClient, version: int) -> None:
    topic = await client.create_topic()
    one = Transactor(client, "", producer_id=1, epoch=0)
    assert await one.add(topic, version=version) == {0: ErrorCode.INVALID_REQUEST}
    assert await one.end(commit=True, version=version) == ErrorCode.INVALID_REQUEST
    assert await one.add_offsets("g", version=min(version, 4)) == ErrorCode.INVALID_REQUEST
    assert await one.commit_offsets("g", topic, {0: 1}, version=version) == {0: ErrorCode.INVALID_REQUEST}


@pytest.mark.parametrize("version", range(6))
async def test_unknown_partition_fails_all(client: RawClient, version: int) -> None:
    topic = await client.create_topic(partitions=2)
    one = await begun(client)
    assert await one.add(topic, [0, 7], version=version) == {
        0: ErrorCode.OPERATION_NOT_ATTEMPTED,
        7: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    }
    assert (await one.describe()).transaction_state == "Empty"
    assert await one.add(topic, [0, 1], version=version) == {0: 0, 1: 0}
    assert (await one.describe()).transaction_state == "Ongoing"


async def test_several_transactions_in_one_request(client: RawClient) -> None:
    topic = await client.create_topic(partitions=2)
    first, second = await begun(client), await begun(client)
    second.epoch += 1
    topics = [AddPartitionsToTxnTopic(name=topic.name, partitions=[0, 1])]
    request = AddPartitionsToTxnRequest(transactions=[first.adding(topics), second.adding(topics)])
    answer = await client.call(request, ADD_PARTITIONS, 5)
    codes = {
        result.transactional_id: {one.partition_error_code for one in only(result.topic_results).results_by_partition}
        for result in answer.results_by_transaction
    }
    assert codes == {first.id: {ErrorCode.NONE}, second.id: {ErrorCode.PRODUCER_FENCED}}


async def test_partitions_are_verified_without_being_added(client: RawClient) -> None:
    topic = await client.create_topic(partitions=2)
    one = await begun(client)
    await one.add(topic, [0])
    assert await one.verify(topic, [0, 1]) == {0: ErrorCode.NONE, 1: ErrorCode.TRANSACTION_ABORTABLE}
    assert list(only((await one.describe()).topics).partitions) == [0]


async def test_plain_batch_of_a_producer_with_an_open_transaction(client: RawClient) -> None:
    topic = await client.create_topic()
    one = await begun(client)
    await one.send(topic, b"x")
    records = batch([b"y"], producer=(one.producer_id, one.epoch, 1))
    answer = await client.call(producing(topic, {0: records}, transactional_id=one.id), 0, 12)
    assert only(only(answer.responses).partition_responses).error_code == ErrorCode.INVALID_TXN_STATE


async def test_batches_of_two_producers_in_one_request(client: RawClient) -> None:
    topic = await client.create_topic(partitions=2)
    one, other = await begun(client), await begun(client)
    batches: dict[int, bytes | None] = {
        index: batch([b"x"], producer=(each.producer_id, each.epoch, 0), is_transactional=True)
        for index, each in enumerate((one, other))
    }
    answer = await client.call(producing(topic, batches, transactional_id=one.id), 0, 12)
    codes = {each.error_code for each in only(answer.responses).partition_responses}
    assert codes == {ErrorCode.INVALID_PRODUCER_ID_MAPPING}


# -- fencing -------------------------------------------------------------------------------------------------------------


async def test_new_producer_fences_the_old_one_and_ends_its_transaction(client: RawClient) -> None:
    topic = await client.create_topic()
    old = await begun(client)
    await old.send(topic, b"old")
    new = Transactor(client, old.id)
    assert await new.try_init() == ErrorCode.CONCURRENT_TRANSACTIONS
    assert await new.init() == ErrorCode.NONE
    assert (new.producer_id, new.epoch) == (old.producer_id, old.epoch + 2)
    assert await new.send(topic, b"new") == ErrorCode.NONE
    assert await new.commit() == ErrorCode.NONE
    assert await committed(client, topic) == [b"new"]
    for version in (9, 11, 12):
        assert await old.produce(topic, version=version) == ErrorCode.INVALID_PRODUCER_EPOCH
    for version in range(6):
        fenced = ErrorCode.PRODUCER_FENCED if version >= 2 else ErrorCode.INVALID_PRODUCER_EPOCH
        assert await old.add(topic, version=version) == {0: fenced}
        assert await old.end(commit=True, version=version) == fenced
        assert await old.add_offsets("g", version=min(version, 4)) == fenced
        codes = await old.commit_offsets("g", topic, {0: 1}, version=version)
        assert codes == {0: ErrorCode.INVALID_PRODUCER_EPOCH}


@pytest.mark.parametrize(("version", "code"), [(3, "INVALID_PRODUCER_EPOCH"), (4, "PRODUCER_FENCED")])
async def test_producer_that_names_an_old_epoch_is_fenced(client: RawClient, version: int, code: str) -> None:
    old = await begun(client)
    named = {"producer_id": old.producer_id, "producer_epoch": old.epoch}
    assert await old.try_init(version, **named) == ErrorCode.NONE  # it goes on with its next epoch
    assert old.epoch == named["producer_epoch"] + 1
    assert await old.try_init(version, **named) == ErrorCode.NONE  # a retry
    assert old.epoch == named["producer_epoch"] + 1
    await Transactor(client, old.id).init()
    assert await old.try_init(version, **named) == ErrorCode[code]


async def test_transaction_that_takes_too_long_is_aborted(client: RawClient) -> None:
    topic = await client.create_topic()
    one = await begun(client, timeout_ms=300)
    await one.send(topic, b"late")
    await one.until("CompleteAbort")
    assert await committed(client, topic) == []
    assert await one.produce(topic) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert await one.commit(version=3) == ErrorCode.PRODUCER_FENCED
    named = {"producer_id": one.producer_id, "producer_epoch": one.epoch}
    assert await one.init(**named) == ErrorCode.NONE  # KIP-588: it may go on
    assert await one.send(topic, b"again") == ErrorCode.NONE
    assert await one.commit() == ErrorCode.NONE
    assert await committed(client, topic) == [b"again"]


# -- offsets -------------------------------------------------------------------------------------------------------------


async def stable(client: RawClient, group: str, topic: SomeTopic | None, partitions: tuple[int, ...] = (0,)) -> Any:
    """Offset and error code by partition, as a consumer of transactions asks."""
    topics = None
    if topic is not None:
        topics = [OffsetFetchRequestTopics(name=topic.name, partition_indexes=partitions)]
    asked = OffsetFetchRequestGroup(group_id=group, topics=topics)
    answer = await client.call(OffsetFetchRequest(groups=[asked], require_stable=True), OFFSET_FETCH, 8)
    return {
        one.partition_index: (one.committed_offset, ErrorCode(one.error_code))
        for of_topic in only(answer.groups).topics
        for one in of_topic.partitions
    }


@both_styles
async def test_offsets_become_the_group_s_with_the_commit(client: RawClient, style: int) -> None:
    topic, group = await client.create_topic(partitions=2), fresh_group()
    await commit(client, group, topic, {0: 3})
    one = await begun(client, style)
    assert await one.commit_offsets(group, topic, {0: 7, 1: 8}) == {0: 0, 1: 0}
    assert await fetched(client, group, topic, (0, 1)) == {0: 3, 1: -1}
    unstable = (-1, ErrorCode.UNSTABLE_OFFSET_COMMIT)
    assert await stable(client, group, topic, (0, 1)) == {0: unstable, 1: unstable}
    assert await stable(client, group, None) == {0: unstable}
    assert await one.commit() == ErrorCode.NONE
    assert await stable(client, group, topic, (0, 1)) == {0: (7, ErrorCode.NONE), 1: (8, ErrorCode.NONE)}


@both_styles
async def test_offsets_of_an_aborted_transaction_are_dropped(client: RawClient, style: int) -> None:
    topic, group = await client.create_topic(), fresh_group()
    await commit(client, group, topic, {0: 3})
    one = await begun(client, style)
    await one.commit_offsets(group, topic, {0: 7})
    await one.abort()
    assert await stable(client, group, topic) == {0: (3, ErrorCode.NONE)}


async def test_later_commit_of_the_group_stays(client: RawClient) -> None:
    topic, group = await client.create_topic(), fresh_group()
    one = await begun(client)
    await one.commit_offsets(group, topic, {0: 7})
    await asyncio.sleep(0.01)  # what is later is told by the millisecond
    await commit(client, group, topic, {0: 9})
    await one.commit()
    assert await stable(client, group, topic) == {0: (9, ErrorCode.NONE)}


@pytest.mark.parametrize(
    ("version", "code"),
    [(2, "INVALID_TXN_STATE"), (3, "INVALID_TXN_STATE"), (4, "TRANSACTION_ABORTABLE"), (5, "NONE")],
)
async def test_group_that_was_not_added(client: RawClient, version: int, code: str) -> None:
    topic = await client.create_topic()
    one = await begun(client)
    assert await one.commit_offsets(fresh_group(), topic, {0: 1}, version=version) == {0: ErrorCode[code]}


@pytest.mark.parametrize("version", range(7))
async def test_offsets_in_every_version(client: RawClient, version: int) -> None:
    topic, group = await client.create_topic(), fresh_group()
    one = await begun(client)
    assert await one.add_offsets(group, version=min(version, 4)) == ErrorCode.NONE
    assert await one.commit_offsets(group, topic, {0: 5, 9: 1}, version=version) == {
        0: ErrorCode.NONE,
        9: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    }
    assert await one.end(commit=True, version=min(version, 5)) == ErrorCode.NONE
    assert await fetched(client, group, topic) == {0: 5}


async def test_member_is_checked(client: RawClient) -> None:
    topic, group = await client.create_topic(), fresh_group()
    member = Member(client, group)
    await member.become_stable()
    one = await begun(client)

    async def ask(**who: Any) -> ErrorCode:
        return ErrorCode((await one.commit_offsets(group, topic, {0: 1}, **who))[0])

    assert await ask(member_id=member.member_id, generation_id_or_member_epoch=member.generation) == ErrorCode.NONE
    assert (
        await ask(member_id=member.member_id, generation_id_or_member_epoch=member.generation - 1)
        == ErrorCode.ILLEGAL_GENERATION
    )
    assert await ask(member_id="other", generation_id_or_member_epoch=member.generation) == ErrorCode.UNKNOWN_MEMBER_ID
    assert await ask() == ErrorCode.NONE  # older producers do not say who they are
    assert await one.commit_offsets("", topic, {0: 1}) == {0: ErrorCode.INVALID_GROUP_ID}
    fresh = fresh_group()
    codes = await one.commit_offsets(fresh, topic, {0: 1}, member_id="m", generation_id_or_member_epoch=3)
    assert codes == {0: ErrorCode.ILLEGAL_GENERATION}


async def test_topics_are_named_by_id(client: RawClient) -> None:
    topic, gone, group = await client.create_topic(partitions=2), await client.create_topic(), fresh_group()
    await client.delete_topic(gone)
    one = await begun(client)
    request = one.committing(group, topic, {0: 5, 7: 1})
    (unknown,), (unnamed,) = one.committing(group, gone, {0: 5}).topics, one.committing(group, topic, {0: 9}).topics
    unnamed.topic_id = ZERO_UUID
    request.topics = [*request.topics, unknown, unnamed]
    answer = await client.call(request, COMMIT_OFFSETS, 6)
    assert [
        (each.topic_id, part.partition_index, part.error_code) for each in answer.topics for part in each.partitions
    ] == [
        (topic.id, 0, ErrorCode.NONE),
        (topic.id, 7, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (gone.id, 0, ErrorCode.UNKNOWN_TOPIC_ID),
        (ZERO_UUID, 0, ErrorCode.UNKNOWN_TOPIC_ID),
    ]
    assert await one.commit() == ErrorCode.NONE
    assert await fetched(client, group, topic) == {0: 5}


@pytest.mark.parametrize(
    ("version", "no_group", "stale"),
    [(5, "ILLEGAL_GENERATION", "ILLEGAL_GENERATION"), (6, "GROUP_ID_NOT_FOUND", "STALE_MEMBER_EPOCH")],
)
async def test_errors_of_groups_are_told_apart_by_newer_versions(
    client: RawClient, version: int, no_group: str, stale: str
) -> None:
    topic, group = await client.create_topic(), fresh_group()
    one = await begun(client)
    who = {"member_id": "somebody", "generation_id_or_member_epoch": 3}
    assert await one.commit_offsets(group, topic, {0: 1}, version, **who) == {0: ErrorCode[no_group]}
    beat = ConsumerGroupHeartbeatRequest(
        group_id=group,
        member_id="somebody",
        rebalance_timeout_ms=30_000,
        subscribed_topic_names=[topic.name],
        topic_partitions=[],
    )
    joined = await client.call(beat, CONSUMER_GROUP_HEARTBEAT, 1)
    assert joined.error_code == ErrorCode.NONE
    who["generation_id_or_member_epoch"] = joined.member_epoch + 1
    assert await one.commit_offsets(group, topic, {0: 1}, version, **who) == {0: ErrorCode[stale]}


async def test_deleted_offsets_do_not_come_back_with_the_commit(client: RawClient) -> None:
    topic, group = await client.create_topic(partitions=2), fresh_group()
    one = await begun(client)
    await one.commit_offsets(group, topic, {0: 1, 1: 2})
    assert group in await listed_groups(client)
    await delete_offsets(client, group, topic.name, 0)
    await one.commit()
    assert await fetched(client, group, topic, (0, 1)) == {0: -1, 1: 2}
    await one.commit_offsets(group, topic, {0: 3})
    assert await delete_group(client, group) == ErrorCode.NONE
    await one.commit()
    assert await fetched(client, group, topic, (0, 1)) == {0: -1, 1: -1}


async def test_the_later_of_two_commits_in_one_millisecond_stays(client: RawClient) -> None:
    """Mostly it is the same one: the second request goes out before the first is answered."""
    topic, group = await client.create_topic(), fresh_group()
    one = await begun(client)
    for offset in range(0, 40, 2):
        for is_plain_last in (True, False):
            pending = one.committing(group, topic, {0: offset}), COMMIT_OFFSETS, 5
            plain = committing(group, topic, {0: offset + 1}), OFFSET_COMMIT, 9
            asked = (pending, plain) if is_plain_last else (plain, pending)
            sent = [(key, version, client.send(request, key, version)) for request, key, version in asked]
            codes = [only(only((await client.receive(*each)).topics).partitions).error_code for each in sent]
            assert codes == [ErrorCode.NONE, ErrorCode.NONE]
            assert await one.commit() == ErrorCode.NONE
            assert await fetched(client, group, topic) == {0: offset + is_plain_last}


# -- administration ------------------------------------------------------------------------------------------------------


async def test_transactions_are_described(client: RawClient) -> None:
    topic = await client.create_topic(partitions=3)
    one = await begun(client, timeout_ms=12_345)
    found = await one.describe()
    assert (found.transaction_state, found.transaction_start_time_ms, list(found.topics)) == ("Empty", -1, [])
    await one.produce_many(topic, {0: [b"x"], 2: [b"y"]})
    found = await one.describe()
    assert (found.error_code, found.transaction_state, found.transaction_timeout_ms) == (0, "Ongoing", 12_345)
    assert (found.producer_id, found.producer_epoch) == (one.producer_id, one.epoch)
    assert found.transaction_start_time_ms > 1_700_000_000_000
    assert {each.topic: list(each.partitions) for each in found.topics} == {topic.name: [0, 2]}
    assert (await described(client, fresh_id())).error_code == ErrorCode.TRANSACTIONAL_ID_NOT_FOUND
    assert (await described(client, "")).error_code == ErrorCode.INVALID_REQUEST


async def test_transactions_are_listed_by_filters(client: RawClient) -> None:
    topic = await client.create_topic()
    idle, busy = await begun(client), await begun(client)
    await busy.send(topic)
    both = {idle.id: (idle.producer_id, "Empty"), busy.id: (busy.producer_id, "Ongoing")}
    for version in range(3):
        assert both.items() <= (await listed(client, version)).items()
    assert idle.id not in await listed(client, state_filters=["Ongoing"])
    assert set(await listed(client, producer_id_filters=[idle.producer_id])) == {idle.id}
    assert busy.id not in await listed(client, duration_filter=60_000)
    assert set(await listed(client, transactional_id_pattern=f"{idle.id[:-1]}.")) == {idle.id}
    assert await listed(client, transactional_id_pattern=idle.id[:-1]) == {}
    answer = await client.call(ListTransactionsRequest(state_filters=["Odd"]), 66, 0)
    assert (list(answer.unknown_state_filters), list(answer.transaction_states)) == (["Odd"], [])
    answer = await client.call(ListTransactionsRequest(transactional_id_pattern="("), 66, 2)
    assert answer.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION


async def test_producers_of_a_partition(client: RawClient) -> None:
    topic = await client.create_topic()
    one = await begun(client)
    await client.produce(topic, batch([b"a", b"b"]))
    await one.send(topic, b"x", b"y")
    found = (await producers_of(client, topic))[one.producer_id]
    assert (found.producer_epoch, found.last_sequence, found.current_txn_start_offset) == (one.epoch, 1, 2)
    await one.commit()
    assert (await producers_of(client, topic))[one.producer_id].current_txn_start_offset == -1


async def test_marker_of_an_administrator(client: RawClient) -> None:
    topic = await client.create_topic()
    one = await begun(client)
    await one.abort()
    await one.send(topic, b"x")
    await client.produce(topic, batch([b"after"]))
    producer = (one.producer_id, one.epoch)
    assert await write_marker(client, topic, 7, producer) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert await write_marker(client, topic, 0, (producer[0], producer[1] - 1)) == ErrorCode.INVALID_PRODUCER_EPOCH
    same = await write_marker(client, topic, 0, producer, version=2, transaction_version=2)
    assert same == ErrorCode.INVALID_PRODUCER_EPOCH
    assert await write_marker(client, topic, 0, producer) == ErrorCode.NONE
    assert await committed(client, topic) == [b"after"]


async def test_operator_aborts(group_broker: Any, client: RawClient) -> None:
    topic = await client.create_topic()
    one = await begun(client)
    await one.send(topic, b"x")
    connection = await asyncpg.connect(group_broker.dsn)
    try:
        request = await connection.fetchval("SELECT kafka.abort_transaction($1)", one.id)
        async with asyncio.timeout(5):
            while True:
                row = await connection.fetchrow(
                    "SELECT done_at, error FROM kafka.transaction_requests WHERE id = $1", request
                )
                if row["done_at"] is not None:
                    break
                await asyncio.sleep(0.01)
        assert row["error"] is None
        with pytest.raises(asyncpg.PostgresError, match="no open transaction"):
            await connection.fetchval("SELECT kafka.abort_transaction($1)", one.id)
    finally:
        await connection.close()
    assert await committed(client, topic) == []
    assert (await client.fetch(topic, 0)).last_stable_offset == 2
    assert await one.produce(topic) == ErrorCode.INVALID_PRODUCER_EPOCH


async def test_topic_that_is_deleted_in_the_midst(client: RawClient) -> None:
    gone, kept = await client.create_topic(), await client.create_topic()
    one = await begun(client)
    group = fresh_group()
    await one.send(gone, b"x")
    await one.send(kept, b"y")
    await one.commit_offsets(group, gone, {0: 1})
    await client.delete_topic(gone)
    assert [each.topic for each in (await one.describe()).topics] == [kept.name]
    assert await one.commit() == ErrorCode.NONE
    assert await committed(client, kept) == [b"y"]
