"""OffsetCommit, OffsetFetch and OffsetDelete over the raw protocol. The expectations are what Kafka 4.4.0 answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from tests.broker.conftest import RunningBroker
from tests.broker.groupclient import (
    OFFSET_COMMIT,
    OFFSET_DELETE,
    OFFSET_FETCH,
    Member,
    commit,
    committing,
    delete_group,
    described,
    fetch_group,
    fetched,
    fresh_group,
    listed,
)
from tests.broker.rawclient import RawClient, SomeTopic, only
from tests.broker.transactor import Transactor
from tests.kafka_reference import end

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.offset_commit import OffsetCommitRequest
from pg_kafka.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from pg_kafka.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)

StartBroker = Callable[..., RunningBroker]


@pytest.fixture
async def client(group_broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(group_broker) as client:
        yield client


@pytest.mark.parametrize("version", range(2, 11))
async def test_what_is_committed_is_fetched(client: RawClient, version: int) -> None:
    topic, group = await client.create_topic(partitions=3), fresh_group()
    assert await commit(client, group, topic, {0: 5, 2: 7}, version=version) == {0: 0, 2: 0}
    answer = await fetch_group(client, group, topic, [0, 1, 2])
    zero, one, two = only(answer.topics).partitions
    epoch = 3 if version >= 6 else -1
    assert (zero.committed_offset, zero.committed_leader_epoch, zero.metadata) == (5, epoch, "m")
    assert (one.committed_offset, one.committed_leader_epoch, one.metadata, one.error_code) == (-1, -1, "", 0)
    assert two.committed_offset == 7


@pytest.mark.parametrize("version", range(1, 8))
async def test_one_group_is_fetched_in_versions_before_8(client: RawClient, version: int) -> None:
    topic, group = await client.create_topic(partitions=2), fresh_group()
    await commit(client, group, topic, {1: 9})
    request = OffsetFetchRequest(
        group_id=group, topics=[OffsetFetchRequestTopic(name=topic.name, partition_indexes=[0, 1, 5])]
    )
    answer = await client.call(request, OFFSET_FETCH, version)
    offsets = [(one.partition_index, one.committed_offset, one.error_code) for one in only(answer.topics).partitions]
    assert offsets == [(0, -1, 0), (1, 9, 0), (5, -1, 0)]
    if version >= 2:
        everything = await client.call(OffsetFetchRequest(group_id=group, topics=None), OFFSET_FETCH, version)
        assert [one.partition_index for one in only(everything.topics).partitions] == [1]
    nothing = await client.call(OffsetFetchRequest(group_id=group, topics=[]), OFFSET_FETCH, version)
    assert (nothing.error_code, list(nothing.topics)) == (ErrorCode.NONE, [])


@pytest.mark.parametrize("version", [8, 9, 10])
async def test_many_groups_are_fetched_together(client: RawClient, version: int) -> None:
    topic, first, second = await client.create_topic(), fresh_group(), fresh_group()
    await commit(client, first, topic, {0: 1})
    await commit(client, second, topic, {0: 2})
    topics = [OffsetFetchRequestTopics(name=topic.name, topic_id=topic.id, partition_indexes=[0])]
    groups = [
        OffsetFetchRequestGroup(group_id=first, topics=topics),
        OffsetFetchRequestGroup(group_id=second, topics=None),
        OffsetFetchRequestGroup(group_id=fresh_group(), topics=topics),
        OffsetFetchRequestGroup(group_id=fresh_group(), topics=None),
    ]
    answer = await client.call(OffsetFetchRequest(groups=groups), OFFSET_FETCH, version)
    assert [group.group_id for group in answer.groups] == [group.group_id for group in groups]
    offsets = [[one.committed_offset for t in group.topics for one in t.partitions] for group in answer.groups]
    assert offsets == [[1], [2], [-1], []]
    named = only(answer.groups[1].topics)
    assert (named.topic_id if version == 10 else named.name) == (topic.id if version == 10 else topic.name)


async def test_topic_ids_in_version_10(client: RawClient) -> None:
    group, unknown = fresh_group(), SomeTopic("unknown", uuid4())
    assert await commit(client, group, unknown, {0: 1, 4: 1}, version=10) == {
        0: ErrorCode.UNKNOWN_TOPIC_ID,
        4: ErrorCode.UNKNOWN_TOPIC_ID,
    }
    answer = only(only((await fetch_group(client, group, unknown, [0], 10)).topics).partitions)
    assert (answer.committed_offset, answer.error_code) == (-1, ErrorCode.UNKNOWN_TOPIC_ID)
    assert group not in await listed(client)


async def test_each_partition_answers_for_itself(client: RawClient) -> None:
    topic, group = await client.create_topic(partitions=2), fresh_group()
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert await commit(client, group, topic, {0: 1, 2: 1, -1: 1, 1: 1}) == {0: 0, 2: unknown, -1: unknown, 1: 0}
    assert await commit(client, group, replace(topic, name="unknown"), {0: 1}) == {0: unknown}
    assert await fetched(client, group, None) == {0: 1, 1: 1}


async def test_metadata_has_a_limit_in_utf_16(client: RawClient) -> None:
    topic, group = await client.create_topic(), fresh_group()
    for metadata, code in (
        ("x" * 4096, ErrorCode.NONE),
        ("x" * 4097, ErrorCode.OFFSET_METADATA_TOO_LARGE),
        ("\U0001f600" * 2048, ErrorCode.NONE),
        ("\U0001f600" * 2049, ErrorCode.OFFSET_METADATA_TOO_LARGE),
        ("\0" * 4096, ErrorCode.NONE),
    ):
        assert await commit(client, group, topic, {0: 1}, metadata=metadata) == {0: code}
    assert await commit(client, group, topic, {0: 1}, metadata=None) == {0: 0}
    assert only(only((await fetch_group(client, group, topic)).topics).partitions).metadata == ""


async def test_metadata_comes_back_as_it_was(start_broker: StartBroker) -> None:
    """Librdkafka's clients end it with a NUL. So it does in a group, in a transaction, and after a restart."""
    texts = ["noted\0", '{"step": 1}\0', "a\0b", "␀␛\0", "é\\000\0"]
    first = start_broker()
    group = fresh_group()
    async with await RawClient.connect(first) as client:
        topic, other = (
            await client.create_topic(partitions=len(texts)),
            await client.create_topic(partitions=len(texts)),
        )
        one = Transactor(client)
        assert await one.init() == ErrorCode.NONE
        for index, text in enumerate(texts):
            assert await commit(client, group, topic, {index: 1}, metadata=text) == {index: 0}
            assert await one.commit_offsets(group, other, {index: 2}, metadata=text) == {index: 0}
        assert await metadata_of(client, group, topic, texts) == texts
    end(first.process)
    second = start_broker()
    connection = await asyncpg.connect(second.dsn)
    pending = await connection.fetch("SELECT metadata, metadata_bytes FROM kafka.pending_offsets ORDER BY partition_id")
    async with await RawClient.connect(second) as client:
        assert await metadata_of(client, group, topic, texts) == texts
        one.client = client
        assert await one.commit() == ErrorCode.NONE
        assert await metadata_of(client, group, other, texts) == texts
    committed = await connection.fetch(
        "SELECT metadata, metadata_bytes FROM kafka.consumer_offsets ORDER BY topic_id, partition_id"
    )
    await connection.close()
    assert [row["metadata_bytes"].decode() for row in pending] == texts
    assert [row["metadata_bytes"].decode() for row in committed] == texts * 2
    shown = ["noted", '{"step": 1}', "a␀b", "␀␛", "é\\000"]
    assert [row["metadata"] for row in pending] == shown
    assert [row["metadata"] for row in committed] == shown * 2


async def metadata_of(client: RawClient, group: str, topic: SomeTopic, texts: Sequence[str]) -> list[str]:
    answer = await fetch_group(client, group, topic, range(len(texts)))
    return [one.metadata for one in only(answer.topics).partitions]


async def test_the_latest_commit_counts_whatever_its_offset(client: RawClient) -> None:
    topic, group = await client.create_topic(), fresh_group()
    for offset in (100, 7, 0, -7, 2**63 - 1):
        await commit(client, group, topic, {0: offset})
        assert await fetched(client, group, topic) == {0: offset}


async def test_generation_without_a_group(client: RawClient) -> None:
    topic = await client.create_topic()
    for version, code in ((8, ErrorCode.ILLEGAL_GENERATION), (9, ErrorCode.GROUP_ID_NOT_FOUND)):
        answer = await commit(client, fresh_group(), topic, {0: 1}, version=version, member="m", generation=5)
        assert answer == {0: code}


async def test_a_simple_group_is_empty_and_takes_no_members_commits(client: RawClient) -> None:
    topic, group = await client.create_topic(), fresh_group()
    await commit(client, group, topic, {0: 1})
    found = (await listed(client))[group]
    assert (found.group_state, found.protocol_type, found.group_type) == ("Empty", "", "classic")
    assert await commit(client, group, topic, {0: 2}, member="m", generation=3) == {0: ErrorCode.UNKNOWN_MEMBER_ID}
    assert await commit(client, group, topic, {0: 3}, member="m") == {0: 0}


async def test_group_ids_that_cannot_be(client: RawClient) -> None:
    topic = await client.create_topic()
    for group in ("a\0b", "x" * 2001, "ä" * 1001):
        assert await commit(client, group, topic, {0: 1}) == {0: ErrorCode.INVALID_GROUP_ID}
    assert await commit(client, "x" * 2000, topic, {0: 1}) == {0: 0}
    assert await delete_group(client, "x" * 2000) == ErrorCode.NONE
    assert await commit(client, "", topic, {0: 4}) == {0: 0}
    assert await fetched(client, "", topic) == {0: 4}
    assert await delete_group(client, "") == ErrorCode.NONE


async def test_members_commit_in_their_generation_only(client: RawClient) -> None:
    topic, member = await client.create_topic(), Member(client, fresh_group())
    await member.join()
    assert await member.commit(topic, {0: 1}) == {0: ErrorCode.REBALANCE_IN_PROGRESS}
    await member.sync({member.member_id: b""})
    assert await member.commit(topic, {0: 1}) == {0: ErrorCode.NONE}
    for changes, code in (
        ({"generation": member.generation + 1}, ErrorCode.ILLEGAL_GENERATION),
        ({"member_id": "stranger"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_id": "", "generation": -1}, ErrorCode.UNKNOWN_MEMBER_ID),
    ):
        assert await replace(member, **changes).commit(topic, {0: 2}) == {0: code}
    assert await fetched(client, member.group, topic) == {0: 1}


async def test_nothing_named_nothing_done(client: RawClient) -> None:
    answer = await client.call(OffsetCommitRequest(group_id=fresh_group(), topics=[]), OFFSET_COMMIT, 8)
    assert list(answer.topics) == []


async def test_a_partition_twice_in_one_commit_has_the_last_value(client: RawClient) -> None:
    topic, group = await client.create_topic(), fresh_group()
    request = committing(group, topic, {0: 1})
    request.topics = [*request.topics, *committing(group, topic, {0: 2}).topics]
    answer = await client.call(request, OFFSET_COMMIT, 9)
    assert [one.error_code for t in answer.topics for one in t.partitions] == [0, 0]
    assert await fetched(client, group, topic) == {0: 2}


# -- deletion ------------------------------------------------------------------------------------------------------------


async def delete_offsets(client: RawClient, group: str, name: str, *partitions: int) -> Any:
    topics = [
        OffsetDeleteRequestTopic(
            name=name, partitions=[OffsetDeleteRequestPartition(partition_index=index) for index in partitions]
        )
    ]
    return await client.call(OffsetDeleteRequest(group_id=group, topics=topics), OFFSET_DELETE, 0)


async def test_offsets_are_deleted(client: RawClient) -> None:
    topic, group = await client.create_topic(partitions=3), fresh_group()
    await commit(client, group, topic, {0: 1, 1: 1})
    answer = await delete_offsets(client, group, topic.name, 1, 2, 8)
    codes = [one.error_code for one in only(answer.topics).partitions]
    assert codes == [0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert await fetched(client, group, None) == {0: 1}


async def test_deletion_says_what_is_wrong(client: RawClient) -> None:
    topic = await client.create_topic()
    for group, code in (("", ErrorCode.INVALID_GROUP_ID), (fresh_group(), ErrorCode.GROUP_ID_NOT_FOUND)):
        answer = await delete_offsets(client, group, topic.name, 0)
        assert (answer.error_code, list(answer.topics)) == (code, [])
    member = Member(client, fresh_group())
    await member.join(topics=[topic.name])
    await member.sync({member.member_id: b""})
    await member.commit(topic, {0: 1})
    answer = await delete_offsets(client, member.group, topic.name, 0)
    assert only(only(answer.topics).partitions).error_code == ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
    other = await client.create_topic()
    await member.commit(other, {0: 1})
    answer = await delete_offsets(client, member.group, other.name, 0)
    assert only(only(answer.topics).partitions).error_code == ErrorCode.NONE
    assert await fetched(client, member.group, other) == {0: -1}


async def test_a_deleted_topic_has_no_commits(client: RawClient) -> None:
    topic, group = await client.create_topic(), fresh_group()
    await commit(client, group, topic, {0: 1})
    await client.delete_topic(topic)
    assert await fetched(client, group, None) == {}
    assert await fetched(client, group, topic) == {0: -1}


async def test_a_deleted_group_is_gone_with_its_commits(client: RawClient, group_broker: Any) -> None:
    topic, group = await client.create_topic(partitions=20), fresh_group()
    await commit(client, group, topic, dict.fromkeys(range(20), 5))
    assert await delete_group(client, group) == ErrorCode.NONE
    assert await delete_group(client, group) == ErrorCode.GROUP_ID_NOT_FOUND
    assert (await described(client, group)).error_code == ErrorCode.GROUP_ID_NOT_FOUND
    assert await fetched(client, group, None) == {}
    assert await committed_in_sql(group_broker.dsn, group) == {}


async def committed_in_sql(dsn: str, group: str) -> dict[int, int]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT partition_id, committed_offset FROM kafka.consumer_offsets WHERE group_id = $1", group
        )
        return {row["partition_id"]: row["committed_offset"] for row in rows}
    finally:
        await connection.close()


# -- what survives, and what expires -------------------------------------------------------------------------------------


async def test_what_was_acknowledged_survives_a_killed_broker(start_broker: Callable[..., Any]) -> None:
    first = start_broker()
    async with await RawClient.connect(first) as client:
        topic, group = await client.create_topic(partitions=50), fresh_group()
        for offset in range(20):
            await commit(client, group, topic, dict.fromkeys(range(50), offset))
        assert await committed_in_sql(first.dsn, group) == dict.fromkeys(range(50), 19)
        first.process.kill()
        first.process.wait()
    async with await RawClient.connect(start_broker()) as client:
        assert await fetched(client, group, None) == dict.fromkeys(range(50), 19)
        assert (await listed(client))[group].group_state == "Empty"


async def test_offsets_of_a_group_without_members_expire(start_broker: Callable[..., Any]) -> None:
    broker = start_broker(OFFSETS_RETENTION_CHECK_INTERVAL_MS="50")
    connection = await asyncpg.connect(broker.dsn)
    async with await RawClient.connect(broker) as client:
        topic, group, young = await client.create_topic(), fresh_group(), fresh_group()
        await commit(client, group, topic, {0: 1})
        await commit(client, young, topic, {0: 1})
    broker.process.kill()
    broker.process.wait()
    moved = "UPDATE kafka.offset_journal SET committed_at = committed_at - interval '8 days' WHERE group_id = $1"
    await connection.execute(moved.replace("kafka.offset_journal", await journal_of(connection, group)), group)
    async with await RawClient.connect(start_broker(OFFSETS_RETENTION_CHECK_INTERVAL_MS="50")) as client:
        while group in await listed(client):
            pass
        assert await fetched(client, group, None) == {}
        assert await fetched(client, young, None) == {0: 1}
    await connection.close()


async def journal_of(connection: asyncpg.Connection, group: str) -> str:
    """The table that holds the group's commits now."""
    tables = await connection.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.relnamespace = 'kafka'::regnamespace"
        " AND c.relkind = 'r' AND c.relname LIKE 'offset_journal%'"
    )
    for table in tables:
        if await connection.fetchval(f"SELECT count(*) FROM {table['name']} WHERE group_id = $1", group):
            return str(table["name"])
    raise AssertionError("no journal has the group")
