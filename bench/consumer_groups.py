"""Members of a group of the consumer protocol (KIP-848), by raw connections in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from uuid import UUID

from bench.members import NOT_YET, REBALANCE_MS, Clock, end, find_coordinator, standing, until
from bench.raw import CONSUMER_GROUP_HEARTBEAT, RawConnection, check, connect_many
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, RequestTopicPartitions

CONSUMER_VERSION = 1


class ConsumerMember:
    """One member that takes and gives back what the coordinator says, at once."""

    def __init__(self, connection: RawConnection, group: str, topic: str, number: int) -> None:
        self._connection = connection
        self._group = group
        self._topic = topic
        # Version 1: the member chooses its own id.
        self.member_id = f"member-{number:06}-0000-0000"
        self.epoch = 0
        self.owned: dict[UUID, Sequence[int]] = {}
        self.heartbeats = 0

    @property
    def partitions(self) -> int:
        return sum(map(len, self.owned.values()))

    async def live(self) -> None:
        """Heartbeats for ever."""
        has_news = True
        while True:
            request = ConsumerGroupHeartbeatRequest(
                group_id=self._group, member_id=self.member_id, member_epoch=self.epoch
            )
            if self.epoch == 0:
                request.rebalance_timeout_ms = REBALANCE_MS
                request.subscribed_topic_names = [self._topic]
                request.topic_partitions = []
            elif has_news:
                request.topic_partitions = [
                    RequestTopicPartitions(topic_id=topic, partitions=partitions)
                    for topic, partitions in self.owned.items()
                ]
            answer = await self._connection.call(CONSUMER_GROUP_HEARTBEAT, CONSUMER_VERSION, request)
            self.heartbeats += 1
            if answer.error_code in NOT_YET:
                await asyncio.sleep(0.05)
                continue
            if answer.error_code in (ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID):
                self.epoch, self.owned = 0, {}
                continue
            check(answer.error_code, f"ConsumerGroupHeartbeat of {self._group}: {answer.error_message}")
            self.epoch = answer.member_epoch
            has_news = answer.assignment is not None
            if answer.assignment is not None:
                self.owned = {part.topic_id: part.partitions for part in answer.assignment.topic_partitions}
                continue  # what was given back or taken is said at once
            await asyncio.sleep(answer.heartbeat_interval_ms / 1000)


async def join_consumer_group(
    host: str, port: int, topic: str, partitions: int, count: int, roles: Mapping[str, int]
) -> dict[str, float]:
    """In the client's process: until the members are in one epoch and have all partitions between them."""
    await find_coordinator(host, port, "big-848")
    connections = await connect_many(host, port, count)
    members = [ConsumerMember(connection, "big-848", topic, number) for number, connection in enumerate(connections)]
    clock = Clock(roles)
    tasks = [asyncio.ensure_future(member.live()) for member in members]
    await until(
        tasks,
        lambda: (
            len({member.epoch for member in members}) == 1
            and sum(member.partitions for member in members) == partitions
            and all(member.partitions for member in members)
        ),
    )
    found = clock.figures()
    found["generations"] = members[0].epoch
    found["heartbeats_of_a_member"] = sum(member.heartbeats for member in members) / count
    found |= await standing(roles)
    await end(tasks, connections)
    return found
