"""Which transactional batches are refused before anything is known of their transaction, and which markers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.broker.rawclient import PRODUCE, RawClient, answered, batch, producing
from tests.broker.transactor import NEWER, OLDER, Transactor, write_marker

from pg_kafka.wire.error_codes import ErrorCode


@pytest.fixture
async def client(group_broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(group_broker) as client:
        yield client


def with_sequence(one: Transactor, sequence: int) -> bytes:
    return batch([b"x"], producer=(one.producer_id, one.epoch, sequence), is_transactional=True)


@pytest.mark.parametrize(
    "style, version, code",
    [(OLDER, 9, ErrorCode.NONE), (NEWER, 12, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER)],
)
async def test_unknown_producer_begins_in_the_middle(
    client: RawClient, style: int, version: int, code: ErrorCode
) -> None:
    topic, one = await client.create_topic(), Transactor(client, style=style)
    await one.init()
    assert await one.add(topic) == {0: 0}
    request = producing(topic, {0: with_sequence(one, 7)}, transactional_id=one.id)
    assert answered(await client.call(request, PRODUCE, version))[0].error_code == code
    request = producing(topic, {0: with_sequence(one, 8 if style == OLDER else 0)}, transactional_id=one.id)
    assert answered(await client.call(request, PRODUCE, version))[0].error_code == ErrorCode.NONE


async def test_empty_transactional_id(client: RawClient) -> None:
    topic, one = await client.create_topic(), Transactor(client)
    await one.init()
    for version in (9, 12):
        request = producing(topic, {0: with_sequence(one, 0)}, transactional_id="")
        assert answered(await client.call(request, PRODUCE, version))[0].error_code == ErrorCode.INVALID_REQUEST


async def test_marker_of_no_producer(client: RawClient) -> None:
    topic = await client.create_topic()
    assert await write_marker(client, topic, 0, (-1, 0)) == ErrorCode.INVALID_REQUEST
    assert await write_marker(client, topic, 0, (4_711, -1)) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert (await client.offset_at(topic, -1)).offset == 0
