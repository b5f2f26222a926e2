"""Two hundred members of one group, of which some leave and others join all the time, through two restarts."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.broker.groupclient import Consumer, described_consumers, fresh_group
from tests.broker.rawclient import RawClient, SomeTopic

from pg_kafka.wire.error_codes import ErrorCode

pytestmark = pytest.mark.timeout(300)

MEMBERS, PARTITIONS = 200, 300
HEARTBEAT_S, CHANGE_S = 0.5, 0.2
CHANGES_BETWEEN = 12
QUIET_S = 120
AWAY = (OSError, EOFError, TimeoutError)
ASK_AGAIN = (
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_COORDINATOR,
    ErrorCode.REQUEST_TIMED_OUT,
)


class Crowd:
    """The members, each with a connection of its own to the broker that serves."""

    def __init__(self, topic: SomeTopic, group: str) -> None:
        self.topic, self.group = topic, group
        self.broker: Any = None
        self.faults: Counter[str] = Counter()
        self.members: dict[asyncio.Task[None], Consumer] = {}
        self._leaving: set[str] = set()

    def join(self) -> None:
        consumer = Consumer(None, self.group)  # type: ignore[arg-type]
        self.members[asyncio.create_task(self._live(consumer))] = consumer

    async def one_leaves(self) -> None:
        """The oldest; returns when it has gone."""
        task, consumer = next(iter(self.members.items()))
        self._leaving.add(consumer.member_id)
        await task
        del self.members[task]

    async def stop(self) -> None:
        for task in self.members:
            task.cancel()
        await asyncio.gather(*self.members, return_exceptions=True)

    def owned(self) -> list[int]:
        return [index for consumer in self.members.values() for indexes in consumer.owned.values() for index in indexes]

    async def _live(self, consumer: Consumer) -> None:
        has_joined = has_left = False
        client: RawClient | None = None
        try:
            while not has_left:
                try:
                    is_fresh = client is None
                    client = client or await RawClient.connect(self.broker)
                    consumer.client = client
                    is_leaving = consumer.member_id in self._leaving
                    if is_leaving:
                        answer = await consumer.leave()
                    else:
                        # As clients do, it says all there is to say when it does not know what was heard last.
                        answer = await consumer.heartbeat([self.topic.name] if is_fresh or not has_joined else None)
                    code = ErrorCode(answer.error_code)
                    if code is ErrorCode.NONE:
                        has_joined, has_left = True, is_leaving
                    elif is_leaving and code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.GROUP_ID_NOT_FOUND):
                        has_left = True  # it had not joined yet, or its goodbye was heard and the answer lost
                    elif code not in ASK_AGAIN:
                        self.faults[code.name] += 1
                except AWAY:
                    await _close(client)
                    client = None
                await asyncio.sleep(HEARTBEAT_S)
        finally:
            await _close(client)


async def _close(client: RawClient | None) -> None:
    if client is not None:
        with contextlib.suppress(*AWAY):
            await client.close()


async def test_members_come_and_go_through_restarts(start_broker: Callable[..., Any]) -> None:
    settings = {"GROUP_CONSUMER_SESSION_TIMEOUT_MS": "45000", "GROUP_CONSUMER_MAX_SIZE": "1000"}
    broker = start_broker(**settings)
    async with await RawClient.connect(broker) as client:
        crowd = Crowd(await client.create_topic(PARTITIONS), fresh_group())
    crowd.broker = broker
    try:
        for _ in range(MEMBERS):
            crowd.join()
        for _ in range(2):
            for _ in range(CHANGES_BETWEEN):
                crowd.join()
                await crowd.one_leaves()
                await asyncio.sleep(CHANGE_S)
            broker.process.kill()
            broker.process.wait()
            broker = crowd.broker = start_broker(**settings)
        async with asyncio.timeout(QUIET_S):
            while sorted(crowd.owned()) != list(range(PARTITIONS)):  # noqa: ASYNC110 - members tell each other nothing
                await asyncio.sleep(0.1)
        # Nobody was taken for dead or for a stranger, and those who are here are those whom the broker knows.
        assert not crowd.faults
        async with await RawClient.connect(broker) as client:
            group = await described_consumers(client, crowd.group)
        assert {member.member_id for member in group.members} == {one.member_id for one in crowd.members.values()}
    finally:
        await crowd.stop()
