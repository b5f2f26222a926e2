"""Settings of the broker that groups follow while they are served."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from tests.storage.leader import leading

from pg_kafka.broker.answers import Asked
from pg_kafka.broker.groups import GroupCoordinator
from pg_kafka.clock import Clock
from pg_kafka.config.groups import Operation
from pg_kafka.coordinator.consumer_group import ConsumerGroup
from pg_kafka.coordinator.group_steps import Sender
from pg_kafka.storage.group_configs import GroupConfigs
from pg_kafka.storage.groups import GroupStore
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest

KEY = "consumer.assignment.interval.ms"


async def join(groups: GroupCoordinator, group_id: str) -> ConsumerGroup:
    """Have one member join; the group's machine."""
    answered = asyncio.get_running_loop().create_future()
    request = ConsumerGroupHeartbeatRequest(
        group_id=group_id, member_id="m", rebalance_timeout_ms=1000, subscribed_topic_names=["t"], topic_partitions=[]
    )
    asked = Asked(
        cast(Any, SimpleNamespace(send=answered.set_result, timing=None)), request, lambda _request, code: code
    )
    groups.consumer_heartbeat(request, asked, Sender("c", "/h", 1), "m")
    async with asyncio.timeout(20):
        assert (await answered).error_code == 0
    group = groups.get(group_id)
    assert group is not None and isinstance(group.machine, ConsumerGroup)
    return group.machine


async def test_groups_follow_the_settings_of_the_broker(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        groups = GroupCoordinator(
            settings=leader.settings,
            topics=leader.topics,
            store=GroupStore(leader.log, leader.control),
            configs=GroupConfigs(leader.control),
            clock=Clock(),
        )
        await groups.start()
        try:
            await groups.alter_configs("own", [(Operation.SET, KEY, "700")], validate_only=False)
            plain, own = await join(groups, "plain"), await join(groups, "own")
            leader.settings.renew(replace(leader.config, group_consumer_assignment_interval_ms=300))
            later = await join(groups, "later")
            assert [each.settings.group_consumer_assignment_interval_ms for each in (plain, own, later)] == [
                300,
                700,
                300,
            ]
        finally:
            await groups.stop()
