"""Quotas over the wire: who is throttled and how the answer says so, what is muted meanwhile, and who is not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest
from tests.broker.rawclient import CREATE_TOPICS, FETCH, PRODUCE, RawClient, batch, fetching, producing
from tests.broker.saslpeer import SaslPeer, sasl_broker
from tests.kafka_reference import HOST
from tests.postgres import PostgresServer

from pg_kafka.broker.entrance import Entrance
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import alter_client_quotas as altering
from pg_kafka.wire.messages import describe_client_quotas as describing
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.create_partitions import CreatePartitionsRequest, CreatePartitionsTopic
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic

API_VERSIONS, METADATA, CREATE_PARTITIONS, DESCRIBE, ALTER = 18, 3, 37, 48, 49
DAY_S = 86_400
Entity = Mapping[str, str | None]


async def set_quota(client: RawClient, entity: Entity, **values: float | None) -> None:
    """None removes it."""
    response = await client.call(
        altering.AlterClientQuotasRequest(
            entries=[
                altering.RequestEntryData(
                    entity=[
                        altering.RequestEntityData(entity_type=kind, entity_name=name) for kind, name in entity.items()
                    ],
                    ops=[
                        altering.OpData(key=key, value=value or 0.0, remove=value is None)
                        for key, value in values.items()
                    ],
                )
            ]
        ),
        ALTER,
        1,
    )
    assert [entry.error_code for entry in response.entries] == [0], response


@pytest.fixture
async def admin(broker: Any) -> AsyncIterator[RawClient]:
    """A client that has no quotas; those that it sets go with the test."""
    async with await RawClient.connect(broker) as client:
        client.client_id = "admin"
        yield client
        connection = await asyncpg.connect(broker.dsn)
        await connection.execute("DELETE FROM kafka.client_quotas")
        await connection.close()
        asking = describing.DescribeClientQuotasRequest()
        async with asyncio.timeout(20):
            while (await client.call(asking, DESCRIBE, 1)).entries:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.05)


def records(size: int = 1000) -> bytes:
    return batch([b"x" * size])


async def client_of(broker: Any, client_id: str) -> RawClient:
    client = await RawClient.connect(broker)
    client.client_id = client_id
    return client


@pytest.mark.parametrize("version", [3, 7, 8, 9, 12])
async def test_a_producer_is_told_and_muted(broker: Any, admin: RawClient, version: int) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": f"p{version}"}, producer_byte_rate=1)
    async with await client_of(broker, f"p{version}") as client:
        response = await client.call(producing(topic, {0: records()}), PRODUCE, version)
        assert response.throttle_time_ms > DAY_S  # a thousand bytes at one a second
        assert response.responses[0].partition_responses[0].base_offset == 0
        correlation_id = client.send(ApiVersionsRequest(), API_VERSIONS, 0)
        with pytest.raises(TimeoutError):
            await client.receive(API_VERSIONS, 0, correlation_id, timeout_s=0.2)
        # Somebody else is not held up.
        assert (await admin.produce(topic, records())).base_offset == 1


async def test_a_refused_batch_counts_as_well(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": "refused"}, producer_byte_rate=1)
    async with await client_of(broker, "refused") as client:
        response = await client.call(producing(topic, {5: records()}), PRODUCE, 9)
        assert response.responses[0].partition_responses[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert response.throttle_time_ms > 0


async def test_without_acks_the_connection_is_muted_all_the_same(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": "noacks"}, producer_byte_rate=1)
    async with await client_of(broker, "noacks") as client:
        client.send(producing(topic, {0: records()}, acks=0), PRODUCE, 9)
        assert (await admin.fetch(topic, 0, max_wait_ms=10_000)).records  # it is written, and the quota used up
        correlation_id = client.send(ApiVersionsRequest(), API_VERSIONS, 0)
        with pytest.raises(TimeoutError):
            await client.receive(API_VERSIONS, 0, correlation_id, timeout_s=0.2)


async def test_requests_that_were_sent_ahead_do_not_begin_before_the_wait_is_over(
    broker: Any, admin: RawClient
) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": "ahead"}, producer_byte_rate=150)
    async with await client_of(broker, "ahead") as client:
        ids = [client.send(producing(topic, {0: records(1000)}), PRODUCE, 9) for _ in range(20)]
        answers = [await client.receive(PRODUCE, 9, correlation_id) for correlation_id in ids[:2]]
        assert answers[1].throttle_time_ms > 0
        with pytest.raises(TimeoutError):
            await client.receive(PRODUCE, 9, ids[2], timeout_s=0.2)
        assert (await admin.offset_at(topic, -1)).offset == 2


async def test_whoever_is_muted_goes_on_when_the_quota_is_removed(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": "freed"}, producer_byte_rate=1)
    async with await client_of(broker, "freed") as client:
        assert (await client.call(producing(topic, {0: records()}), PRODUCE, 9)).throttle_time_ms > 0
        correlation_id = client.send(ApiVersionsRequest(), API_VERSIONS, 0)
        await set_quota(admin, {"client-id": "freed"}, producer_byte_rate=None)
        assert (await client.receive(API_VERSIONS, 0, correlation_id)).error_code == 0


async def test_sql_changes_quotas_of_a_running_broker(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": None}, producer_byte_rate=1)
    async with await client_of(broker, "by-sql") as client:
        assert (await client.call(producing(topic, {0: records()}), PRODUCE, 9)).throttle_time_ms > 0
        correlation_id = client.send(ApiVersionsRequest(), API_VERSIONS, 0)
        connection = await asyncpg.connect(broker.dsn)
        await connection.execute("SELECT kafka.set_client_quota('producer_byte_rate', 1e9, client_id => 'by-sql')")
        await connection.close()
        assert (await client.receive(API_VERSIONS, 0, correlation_id)).error_code == 0


async def test_connections_of_one_client_share_its_quota(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"user": "ANONYMOUS", "client-id": "shared"}, producer_byte_rate=200)
    one, other = await client_of(broker, "shared"), await client_of(broker, "shared")
    async with one, other:
        assert (await one.call(producing(topic, {0: records(1800)}), PRODUCE, 9)).throttle_time_ms == 0
        assert (await other.call(producing(topic, {0: records(1800)}), PRODUCE, 9)).throttle_time_ms > 0


async def test_a_consumer_gets_nothing_until_it_may(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    for _ in range(3):
        await admin.produce(topic, records(700))
    await set_quota(admin, {"client-id": "c"}, consumer_byte_rate=100)
    async with await client_of(broker, "c") as client:
        first = await client.call(fetching(topic, {0: 0}, partition_max_bytes=900), FETCH, 12)
        assert (first.throttle_time_ms, len(first.responses)) == (0, 1)
        second = await client.call(fetching(topic, {0: 1}, partition_max_bytes=900), FETCH, 12)
        assert second.throttle_time_ms > 0
        assert (second.error_code, second.session_id, list(second.responses)) == (0, 0, [])
        await set_quota(admin, {"client-id": "c"}, consumer_byte_rate=1_000_000)
        third = await client.call(fetching(topic, {0: 1}, partition_max_bytes=900), FETCH, 12)
        assert third.throttle_time_ms == 0
        assert len(third.responses[0].partitions[0].records) > 700


async def test_a_fetch_session_goes_on_after_an_answer_without_records(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    for _ in range(3):
        await admin.produce(topic, records(700))
    await set_quota(admin, {"client-id": "s"}, consumer_byte_rate=100)
    async with await client_of(broker, "s") as client:
        first = await client.call(fetching(topic, {0: 0}, partition_max_bytes=900, session=(0, 0)), FETCH, 12)
        assert first.session_id > 0
        session_id = first.session_id
        second = await client.call(fetching(topic, {0: 1}, session=(session_id, 1), partition_max_bytes=900), FETCH, 12)
        assert (second.error_code, second.session_id, list(second.responses)) == (0, first.session_id, [])
        assert second.throttle_time_ms > 0
        await set_quota(admin, {"client-id": "s"}, consumer_byte_rate=None)
        third = await client.call(fetching(topic, {}, session=(session_id, 2)), FETCH, 12)
        assert third.error_code == 0
        assert len(third.responses[0].partitions[0].records) > 700


async def test_a_batch_larger_than_the_quota_is_sent_and_paid_afterwards(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await admin.produce(topic, records(50_000))
    await set_quota(admin, {"client-id": "large"}, consumer_byte_rate=10)
    async with await client_of(broker, "large") as client:
        response = await client.call(fetching(topic, {0: 0}), FETCH, 12)
        assert len(response.responses[0].partitions[0].records) > 50_000
        assert response.throttle_time_ms > 1_000_000


async def test_request_time_is_limited(broker: Any, admin: RawClient) -> None:
    await set_quota(admin, {"client-id": "busy"}, request_percentage=1e-9)
    async with await client_of(broker, "busy") as client:
        answers = [await client.call(MetadataRequest(topics=None), METADATA, 9) for _ in range(2)]
        assert answers[1].throttle_time_ms > 0
        assert max(answer.throttle_time_ms for answer in answers) <= 1000


async def test_strict_mutations_are_refused_when_the_quota_is_used_up(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": "maker"}, controller_mutation_rate=1)

    def creating(*names: str) -> CreateTopicsRequest:
        return CreateTopicsRequest(
            topics=[CreatableTopic(name=topic.name + name, num_partitions=20, replication_factor=1) for name in names]
        )

    async with await client_of(broker, "maker") as client:
        response = await client.call(creating("-a", "-b"), CREATE_TOPICS, 7)
        refused, created = response.topics
        assert (created.name, created.error_code) == (f"{topic.name}-a", 0)
        assert (refused.name, refused.error_code) == (f"{topic.name}-b", ErrorCode.THROTTLING_QUOTA_EXCEEDED)
        assert refused.error_message == "The throttling quota has been exceeded."
        assert 8000 < response.throttle_time_ms <= 9000  # 20 of the 11 that are there
        await set_quota(admin, {"client-id": "maker"}, controller_mutation_rate=1000)
        grown = await client.call(
            CreatePartitionsRequest(topics=[CreatePartitionsTopic(name=topic.name, count=3, assignments=None)]),
            CREATE_PARTITIONS,
            3,
        )
        assert [one.error_code for one in grown.results] == [0]


async def test_permissive_mutations_are_made_and_waited_for(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": "old"}, controller_mutation_rate=1)
    async with await client_of(broker, "old") as client:
        wanted = [CreatableTopic(name=f"{topic.name}-{n}", num_partitions=20, replication_factor=1) for n in (1, 2)]
        response = await client.call(CreateTopicsRequest(topics=wanted), CREATE_TOPICS, 5)
        assert [one.error_code for one in response.topics] == [0, 0]
        assert 28_000 < response.throttle_time_ms <= 29_000


async def test_topics_are_not_auto_created_beyond_the_quota(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": "auto"}, controller_mutation_rate=0.1)
    async with await client_of(broker, "auto") as client:
        asking = MetadataRequest(topics=[MetadataRequestTopic(name=f"{topic.name}-{n}") for n in range(5)])
        response = await client.call(asking, METADATA, 9)
        codes = [one.error_code for one in response.topics]
        assert codes[0] == 0
        assert codes[-1] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_an_address_that_comes_too_often_is_closed_after_a_wait(start_broker: Any) -> None:
    broker = start_broker()
    async with await client_of(broker, "admin") as admin:
        await set_quota(admin, {"ip": HOST}, connection_creation_rate=1)
        clients = [await client_of(broker, "many") for _ in range(11)]
        assert await clients[-1].is_closed_by_peer()
        assert (await clients[0].call(ApiVersionsRequest(), API_VERSIONS, 0)).error_code == 0
        await set_quota(admin, {"ip": HOST}, connection_creation_rate=None)
        async with await client_of(broker, "many") as client:
            assert (await client.call(ApiVersionsRequest(), API_VERSIONS, 0)).error_code == 0
        for client in clients:
            await client.close()


async def test_connections_beyond_the_rate_wait_for_their_turn(start_broker: Any) -> None:
    broker = start_broker(MAX_CONNECTION_CREATION_RATE="5")
    clients = [await client_of(broker, "many") for _ in range(53)]
    ids = [client.send(ApiVersionsRequest(), API_VERSIONS, 0) for client in clients]
    for client, correlation_id in zip(clients, ids, strict=True):
        assert (await client.receive(API_VERSIONS, 0, correlation_id)).error_code == 0
        await client.close()


async def test_a_muted_connection_notices_that_its_peer_has_gone(start_broker: Any) -> None:
    broker = start_broker(MAX_CONNECTIONS_PER_IP="2")
    async with await client_of(broker, "admin") as admin:
        topic = await admin.create_topic()
        await set_quota(admin, {"client-id": "gone"}, producer_byte_rate=1)
        client = await client_of(broker, "gone")
        assert (await client.call(producing(topic, {0: records()}), PRODUCE, 9)).throttle_time_ms > 0
        await client.close()
        async with asyncio.timeout(20):
            while not await may_connect(broker):  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.1)


async def may_connect(broker: Any) -> bool:
    async with await client_of(broker, "next") as client:
        try:
            return bool((await client.call(ApiVersionsRequest(), API_VERSIONS, 0)).error_code == 0)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False


async def test_stopping_does_not_wait_for_the_muted(start_broker: Any) -> None:
    broker = start_broker()
    async with await client_of(broker, "admin") as admin:
        topic = await admin.create_topic()
        await set_quota(admin, {"client-id": "last"}, producer_byte_rate=1)
    async with await client_of(broker, "last") as client:
        assert (await client.call(producing(topic, {0: records()}), PRODUCE, 9)).throttle_time_ms > 0
        client.send(ApiVersionsRequest(), API_VERSIONS, 0)
        broker.process.terminate()
        with contextlib.suppress(ConnectionResetError):  # as the request has not been read
            assert await client.is_closed_by_peer()


async def test_many_client_ids_have_quotas_of_their_own(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": None}, producer_byte_rate=1_000)
    async with await client_of(broker, "") as client:
        for number in range(300):
            client.client_id = f"made-up-{number}"
            assert (await client.call(producing(topic, {0: records(1)}), PRODUCE, 9)).throttle_time_ms == 0


async def test_a_half_sent_request_of_a_muted_client_is_kept(broker: Any, admin: RawClient) -> None:
    topic = await admin.create_topic()
    await set_quota(admin, {"client-id": "half"}, producer_byte_rate=1)
    async with await client_of(broker, "half") as client:
        assert (await client.call(producing(topic, {0: records()}), PRODUCE, 9)).throttle_time_ms > 0
        sock: socket.socket = client.writer.get_extra_info("socket")
        assert sock is not None
        client.writer.write(b"\x00\x00\x00\x0c\x00\x12\x00\x00")
        await client.writer.drain()
        await set_quota(admin, {"client-id": "half"}, producer_byte_rate=None)
        client.writer.write(b"\x00\x00\x00\x07\x00\x02hi")
        assert (await client.receive(API_VERSIONS, 0, 7)).error_code == 0


async def test_users_have_quotas_once_they_have_logged_in(postgres15: PostgresServer) -> None:
    async with sasl_broker(postgres15) as running:
        for user in ("alice", "bob"):
            await running.create_user(user, "secret")
        for user in ("alice", "ANONYMOUS"):
            await running.sql("SELECT kafka.set_client_quota('request_percentage', 1e-9, $1)", user)
        stored: Any = running.inside.term._quotas
        async with asyncio.timeout(20):
            while len(stored.table.entries) < 2:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.01)
        async with await SaslPeer.connect(running) as alice, await SaslPeer.connect(running) as bob:
            # Before the login nobody's quota counts, also not that of ANONYMOUS.
            for _ in range(3):
                assert (await alice.versions()).throttle_time_ms == 0
            assert (await alice.scram("alice", "secret")).error_code == 0
            assert (await bob.plain("bob", "secret")).error_code == 0
            assert max([(await alice.metadata()).throttle_time_ms for _ in range(2)]) > 0
            assert max([(await bob.metadata()).throttle_time_ms for _ in range(3)]) == 0


async def test_the_time_to_log_in_begins_when_it_is_a_connection_s_turn(
    postgres15: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    begin = Entrance.begin

    def noted(entrance: Entrance) -> None:
        begun.append(entrance._guarded._is_muted)  # type: ignore[attr-defined]
        begin(entrance)

    monkeypatch.setattr(Entrance, "begin", noted)
    async with sasl_broker(postgres15, max_connection_creation_rate=5) as running:
        peers = [await SaslPeer.connect(running) for _ in range(53)]
        for peer in peers:
            assert (await peer.versions()).error_code == 0
            await peer.close()
        assert begun == [False] * 53


async def test_a_new_connection_is_refused_when_too_many_wait(start_broker: Any) -> None:
    broker = start_broker(MAX_CONNECTION_CREATION_RATE="1")
    clients = [await client_of(broker, "many") for _ in range(17)]
    assert await clients[-1].is_closed_by_peer()
    for client in clients:
        await client.close()
