"""Members of classic groups (JoinGroup, SyncGroup, Heartbeat) and their commits, by raw connections in one process."""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench.members import HEARTBEAT_S, NOT_YET, REBALANCE_MS, Clock, end, find_coordinator, standing, until
from bench.raw import HEARTBEAT, JOIN_GROUP, OFFSET_COMMIT, SYNC_GROUP, RawConnection, check, connect_many, decode
from pg_kafka.bench.latencies import Percentiles
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from pg_kafka.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from pg_kafka.wire.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

JOIN_VERSION, SYNC_VERSION, HEARTBEAT_VERSION, COMMIT_VERSION = 9, 5, 4, 9
OFFSETS_A_REQUEST = 50
SESSION_MS = 45_000
WARM_UP_S = 2.0
COMMITTED_WITHIN_S = 60.0
# What differs between two answers that say the same.
_CORRELATION_BYTES = 4

_REJOIN = (ErrorCode.REBALANCE_IN_PROGRESS, ErrorCode.ILLEGAL_GENERATION, ErrorCode.MEMBER_ID_REQUIRED)


class Member:
    """One member of a classic group: joins, syncs, and joins again whenever the coordinator wants it."""

    def __init__(self, connection: RawConnection, group: str, topic: str, partitions: int) -> None:
        self.connection = connection
        self.group = group
        self._topic = topic
        self._partitions = partitions
        self.member_id = ""
        self.generation = -1
        self.joins = 0
        self.is_assigned = False

    async def join(self) -> None:
        """Returns with an assignment."""
        subscription = struct.pack(">hih", 0, 1, len(self._topic)) + self._topic.encode() + struct.pack(">i", -1)
        self.is_assigned = False
        while True:
            request = JoinGroupRequest(
                group_id=self.group,
                session_timeout_ms=SESSION_MS,
                rebalance_timeout_ms=REBALANCE_MS,
                member_id=self.member_id,
                protocol_type="consumer",
                protocols=[JoinGroupRequestProtocol(name="range", metadata=subscription)],
            )
            joined = await self.connection.call(JOIN_GROUP, JOIN_VERSION, request)
            self.joins += 1
            if joined.error_code == ErrorCode.UNKNOWN_MEMBER_ID:
                self.member_id = ""
                continue
            self.member_id = joined.member_id or self.member_id
            if joined.error_code in _REJOIN:
                continue
            if joined.error_code in NOT_YET:
                await asyncio.sleep(0.05)  # the coordinator says when it is there to those who ask again
                continue
            check(joined.error_code, f"JoinGroup of {self.group}")
            if await self._sync(joined):
                return

    async def _sync(self, joined: Any) -> bool:
        assignments = []
        if joined.leader == self.member_id:
            members = [member.member_id for member in joined.members]
            assignments = [
                SyncGroupRequestAssignment(member_id=member, assignment=assignment(self._topic, partitions))
                for member, partitions in zip(members, shares(self._partitions, len(members)), strict=True)
            ]
        request = SyncGroupRequest(
            group_id=self.group,
            generation_id=joined.generation_id,
            member_id=self.member_id,
            protocol_type="consumer",
            protocol_name="range",
            assignments=assignments,
        )
        synced = await self.connection.call(SYNC_GROUP, SYNC_VERSION, request)
        if synced.error_code in _REJOIN or synced.error_code == ErrorCode.UNKNOWN_MEMBER_ID:
            return False
        check(synced.error_code, f"SyncGroup of {self.group}")
        self.generation = joined.generation_id
        self.is_assigned = True
        return True

    async def stay(self) -> None:
        """Heartbeats for ever, and joins when asked to."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            request = HeartbeatRequest(group_id=self.group, generation_id=self.generation, member_id=self.member_id)
            answer = await self.connection.call(HEARTBEAT, HEARTBEAT_VERSION, request)
            if answer.error_code in _REJOIN or answer.error_code == ErrorCode.UNKNOWN_MEMBER_ID:
                await self.join()
            elif answer.error_code not in NOT_YET:
                check(answer.error_code, f"Heartbeat of {self.group}")

    async def live(self) -> None:
        await self.join()
        await self.stay()


async def join_one_group(
    host: str, port: int, topic: str, partitions: int, count: int, roles: Mapping[str, int]
) -> dict[str, float]:
    """In the client's process: from the first JoinGroup until all have the same generation."""
    await find_coordinator(host, port, "big")
    connections = await connect_many(host, port, count)
    members = [Member(connection, "big", topic, partitions) for connection in connections]
    clock = Clock(roles)
    tasks = [asyncio.ensure_future(member.live()) for member in members]
    await until(
        tasks,
        lambda: len({member.generation for member in members}) == 1 and all(member.is_assigned for member in members),
    )
    found = clock.figures()
    await asyncio.sleep(2 * HEARTBEAT_S)  # a group that only passed through is none
    if len({member.generation for member in members}) != 1:
        raise RuntimeError("the group was not stable")
    found["generations"] = members[0].generation
    found["joins_of_a_member"] = sum(member.joins for member in members) / count
    found |= await standing(roles)
    await end(tasks, connections)
    return found


async def join_many_groups(
    host: str, port: int, topic: str, groups: int, offsets_per_s: int, seconds: float, roles: Mapping[str, int]
) -> tuple[dict[str, float], dict[str, float]]:
    """In the client's process: groups of one member, then their commits."""
    await find_coordinator(host, port, "single-0")
    connections = await connect_many(host, port, groups)
    members = [
        Member(connection, f"single-{number}", topic, OFFSETS_A_REQUEST)
        for number, connection in enumerate(connections)
    ]
    clock = Clock(roles)
    tasks = [asyncio.ensure_future(member.live()) for member in members]
    await until(tasks, lambda: all(member.is_assigned for member in members))
    joined = clock.figures()
    joined["generations"] = max(member.generation for member in members)
    joined |= await standing(roles)
    committed = await commit(members, topic, offsets_per_s, seconds, roles)
    await end(tasks, connections)
    return joined, committed


async def commit(
    members: Sequence[Member], topic: str, offsets_per_s: int, seconds: float, roles: Mapping[str, int]
) -> dict[str, float]:
    """Commits of all groups in turn at a fixed rate; those of the warm-up do not count.

    Requests are made before the clock starts, and an answer is decoded only when it is not like one that was good: else half
    a core goes into the client.
    """
    rate = offsets_per_s / OFFSETS_A_REQUEST
    warm_up, count = int(rate * WARM_UP_S), int(rate * (WARM_UP_S + seconds))
    frames = [_commit_frame(members[number % len(members)], topic, number) for number in range(count)]
    latencies: list[float] = []
    good: set[bytes] = set()
    failures: list[str] = []
    answered = 0
    all_answered = asyncio.Event()

    def arrived(number: int, due: float, frame: bytes | memoryview) -> None:
        nonlocal answered
        if number >= warm_up:
            latencies.append((time.monotonic() - due) * 1000)
        body = bytes(frame[_CORRELATION_BYTES:])
        if body not in good:
            answer = decode(OFFSET_COMMIT, COMMIT_VERSION, frame)
            codes = {partition.error_code for partition in answer.topics[0].partitions}
            if codes == {0}:
                good.add(body)
            else:
                failures.append(f"OffsetCommit: {sorted(codes)}")
        answered += 1
        if answered == count or failures:
            all_answered.set()

    clock = Clock(roles)
    start = time.monotonic()
    for number, frame in enumerate(frames):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        connection = members[number % len(members)].connection
        connection.send(frame, lambda answer, number=number, due=due: arrived(number, due, answer))  # type: ignore[misc]
    async with asyncio.timeout(COMMITTED_WITHIN_S):
        await all_answered.wait()
    if failures:
        raise RuntimeError(failures[0])
    spent = clock.figures()
    offsets = count * OFFSETS_A_REQUEST
    per_million = {
        name.replace("cpu_s_", "cpu_s_per_million_"): figure / offsets * 1e6
        for name, figure in spent.items()
        if name.startswith("cpu_s_")
    }
    return {"offsets_per_s": offsets / spent["seconds"], **per_million, **Percentiles.of(latencies).figures()}


def _commit_frame(member: Member, topic: str, offset: int) -> bytes:
    rows = [
        OffsetCommitRequestPartition(partition_index=partition, committed_offset=offset)
        for partition in range(OFFSETS_A_REQUEST)
    ]
    request = OffsetCommitRequest(
        group_id=member.group,
        generation_id_or_member_epoch=member.generation,
        member_id=member.member_id,
        topics=[OffsetCommitRequestTopic(name=topic, partitions=rows)],
    )
    return member.connection.frame(OFFSET_COMMIT, COMMIT_VERSION, request)


def shares(partitions: int, members: int) -> list[range]:
    """Partitions for each member, as Kafka's range assignor gives them."""
    each, more = divmod(partitions, members)
    starts = [number * each + min(number, more) for number in range(members + 1)]
    return [range(first, after) for first, after in itertools.pairwise(starts)]


def assignment(topic: str, partitions: Sequence[int]) -> bytes:
    """ConsumerProtocolAssignment, version 0: version 2 | topics: name, partitions | user data -1"""
    start = struct.pack(">hih", 0, 1, len(topic)) + topic.encode()
    return start + struct.pack(f">i{len(partitions)}ii", len(partitions), *partitions, -1)
