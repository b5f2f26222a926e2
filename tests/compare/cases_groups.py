"""Requests about consumer groups and committed offsets. Each case in each version has groups of its own."""

from __future__ import annotations

import asyncio
import struct
from base64 import b64encode
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from tests.broker.rawclient import RawClient, SomeTopic
from tests.compare.scene import Scene, case

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import Message
from pg_kafka.wire.messages.consumer_group_describe import ConsumerGroupDescribeRequest
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, RequestTopicPartitions
from pg_kafka.wire.messages.delete_groups import DeleteGroupsRequest
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.describe_groups import DescribeGroupsRequest
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from pg_kafka.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from pg_kafka.wire.messages.list_groups import ListGroupsRequest
from pg_kafka.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
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
from pg_kafka.wire.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

OFFSET_COMMIT, OFFSET_FETCH, JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP = 8, 9, 11, 12, 13, 14
DESCRIBE_GROUPS, LIST_GROUPS, DESCRIBE_CONFIGS, DELETE_GROUPS, INCREMENTAL_ALTER_CONFIGS = 15, 16, 32, 42, 44
OFFSET_DELETE, CONSUMER_GROUP_HEARTBEAT, CONSUMER_GROUP_DESCRIBE = 47, 68, 69
UNKNOWN_ID = UUID("00000000-0000-4000-8000-000000000001")
GROUP, TOPIC, BROKER = 32, 2, 4
ODD_TEXTS = (
    b"noted\0",
    b"a\0\0b",
    "\N{SYMBOL FOR NULL}\N{SYMBOL FOR ESCAPE}\N{SYMBOL FOR NULL}".encode(),
    b"\\u0000\\\0",
    b"a\x80b",
    b"\xff\xfe",
    b"\xc0\x80",
    b"\xed\xa0\xbd\xed\xb8\x80",  # a pair of surrogates, as CESU-8 has it
    b"\xed\xa0",
    b"\xed\xa0a",
    b"\xe2\x82a",
    b"\xf0\x9f\x98",
    b"\xf4\x90\x80\x80",
    b"\xef\xbf\xbf",
)

# Versions in which the parts of a case are asked that are not its subject.
_COMMIT_VERSION, _FETCH_VERSION, _JOIN_VERSION, _SYNC_VERSION, _LEAVE_VERSION, _HEARTBEAT_VERSION = 7, 7, 5, 3, 3, 3
_MEMBER_ID_REQUIRED_SINCE = 4
_SETTLING = {
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.NOT_COORDINATOR,
}


def subscription(*topics: str) -> bytes:
    """What a classic consumer says that it wants: version 0, topics, no user data."""
    names = b"".join(struct.pack(">h", len(name)) + name.encode() for name in topics)
    return struct.pack(">hi", 0, len(topics)) + names + struct.pack(">i", -1)


def assignment(topic: str, *partitions: int) -> bytes:
    """What its leader gives it."""
    head = struct.pack(">hih", 0, 1, len(topic)) + topic.encode()
    return head + struct.pack(f">i{len(partitions)}i", len(partitions), *partitions) + struct.pack(">i", -1)


def named(scene: Scene, label: str = "g") -> str:
    """A group of this case and version."""
    return f"{scene.case}-v{scene.version}-{label}"


async def asked(scene: Scene, request: Message, **more: Any) -> Any:
    """The answer, once Kafka's coordinator is ready for the group."""

    def is_ready(answer: Any) -> bool:
        return isinstance(answer, str) or not _SETTLING & set(_codes(answer))

    return await scene.ask_until(is_ready, request, **more)


def _codes(answer: Any) -> list[int]:
    found = [answer.error_code] if hasattr(answer, "error_code") else []
    for name in getattr(answer, "FIELDS", ()):
        part = getattr(answer, name)
        if isinstance(part, Sequence) and not isinstance(part, str | bytes | memoryview):
            found += [code for one in part if isinstance(one, Message) for code in _codes(one)]
    return found


@dataclass
class Joined:
    """A classic member that has joined and been given its part."""

    group: str
    member: str
    generation: int
    instance: str | None = None


def joining(group: str, member: str = "", **fields: Any) -> JoinGroupRequest:
    topics = fields.pop("topics", ("wanted",))
    protocols = fields.pop("protocols", {"range": subscription(*topics)})
    return JoinGroupRequest(
        **{
            "group_id": group,
            "session_timeout_ms": 30_000,
            "rebalance_timeout_ms": 30_000,
            "member_id": member,
            "group_instance_id": None,
            "protocol_type": "consumer",
            "protocols": [JoinGroupRequestProtocol(name=name, metadata=data) for name, data in protocols.items()],
            "reason": "why not",
            **fields,
        }
    )


def syncing(member: Joined, given: dict[str, bytes] | None = None, **fields: Any) -> SyncGroupRequest:
    found = {member.member: assignment("wanted", 0)} if given is None else given
    return SyncGroupRequest(
        **{
            "group_id": member.group,
            "generation_id": member.generation,
            "member_id": member.member,
            "group_instance_id": member.instance,
            "protocol_type": "consumer",
            "protocol_name": "range",
            "assignments": [
                SyncGroupRequestAssignment(member_id=name, assignment=data) for name, data in found.items()
            ],
            **fields,
        }
    )


async def join(scene: Scene, group: str, **fields: Any) -> Joined:
    """A member that is to be the only one, of a generation that waits for its assignment."""
    first = await asked(scene, joining(group, **fields), version=_JOIN_VERSION, api_key=JOIN_GROUP)
    if first.error_code == ErrorCode.MEMBER_ID_REQUIRED:
        first = await asked(scene, joining(group, first.member_id, **fields), version=_JOIN_VERSION, api_key=JOIN_GROUP)
    assert first.error_code == 0, first
    return Joined(group, first.member_id, first.generation_id, fields.get("group_instance_id"))


async def stable(scene: Scene, group: str, **fields: Any) -> Joined:
    """The only member of a stable group."""
    member = await join(scene, group, **fields)
    answer = await scene.ask(syncing(member), _SYNC_VERSION, SYNC_GROUP)
    assert answer.error_code == 0, answer
    return member


async def leave(scene: Scene, member: Joined) -> None:
    request = LeaveGroupRequest(group_id=member.group, members=[MemberIdentity(member_id=member.member)])
    answer = await scene.ask(request, _LEAVE_VERSION, LEAVE_GROUP)
    assert answer.error_code == 0 and not answer.members[0].error_code, answer


def committing(group: str, topic: SomeTopic | None = None, *offsets: int, **fields: Any) -> OffsetCommitRequest:
    """Commits these offsets for the topic's partitions 0, 1, ..."""
    metadata = fields.pop("metadata", "said")
    partitions = [
        OffsetCommitRequestPartition(
            partition_index=index, committed_offset=offset, committed_leader_epoch=-1, committed_metadata=metadata
        )
        for index, offset in enumerate(offsets or (5,))
    ]
    topics = (
        [] if topic is None else [OffsetCommitRequestTopic(name=topic.name, topic_id=topic.id, partitions=partitions)]
    )
    return OffsetCommitRequest(
        **{
            "group_id": group,
            "generation_id_or_member_epoch": -1,
            "member_id": "",
            "group_instance_id": None,
            "retention_time_ms": -1,
            "topics": topics,
            **fields,
        }
    )


def committing_with(group: str, topic: SomeTopic, metadata: str) -> OffsetCommitRequest:
    return committing(group, topic, metadata=metadata)


async def commit(scene: Scene, group: str, topic: SomeTopic, *offsets: int, **fields: Any) -> None:
    answer = await asked(
        scene, committing(group, topic, *offsets, **fields), version=_COMMIT_VERSION, api_key=OFFSET_COMMIT
    )
    assert not any(_codes(answer)), answer


def fetching(
    scene: Scene, *groups: str, topics: Sequence[tuple[SomeTopic, Sequence[int]]] | None, **fields: Any
) -> Any:
    stable_only = fields.pop("require_stable", False)
    old = [OffsetFetchRequestTopic(name=topic.name, partition_indexes=list(parts)) for topic, parts in topics or ()]
    new = [
        OffsetFetchRequestTopics(name=topic.name, topic_id=topic.id, partition_indexes=list(parts))
        for topic, parts in topics or ()
    ]
    return OffsetFetchRequest(
        group_id=groups[0],
        topics=None if topics is None else old,
        groups=[
            OffsetFetchRequestGroup(group_id=group, topics=None if topics is None else new, **fields)
            for group in groups
        ],
        require_stable=stable_only,
    )


# JoinGroup


def _add_join(name: str, since: int = 0, **fields: Any) -> None:
    """A first request of a member, and a second one with what it was given."""

    @case(f"join-{name}", JOIN_GROUP, since=since)
    async def ask(scene: Scene) -> Any:
        group = fields.get("group_id", named(scene))
        first = await asked(scene, joining(group, **fields))
        found = {"first": first}
        if not isinstance(first, str) and first.error_code == ErrorCode.MEMBER_ID_REQUIRED:
            found["second"] = await scene.ask(joining(group, first.member_id, **fields))
        return found


_add_join("new")
_add_join("unnamed-group", group_id="")
_add_join("unknown-member", member_id="nobody")
_add_join("session-too-short", session_timeout_ms=100)
_add_join("session-too-long", session_timeout_ms=2_000_000)
_add_join("session-negative", session_timeout_ms=-1)
_add_join("rebalance-negative", rebalance_timeout_ms=-1)
_add_join("without-protocols", protocols={})
_add_join("without-protocol-type", protocol_type="")
_add_join("of-another-type", protocol_type="connect", protocols={"default": b"\x00\x01"})
_add_join("unreadable-metadata", protocols={"range": b"\x00"})
_add_join("empty-metadata", protocols={"range": b""})
_add_join("two-protocols", protocols={"range": subscription("wanted"), "roundrobin": subscription("wanted")})
_add_join("static", since=5, group_instance_id="one")
_add_join("static-unknown-member", since=5, group_instance_id="one", member_id="nobody")
_add_join("static-unnamed", since=5, group_instance_id="")
_add_join("without-reason", since=8, reason=None)
_add_join("long-reason", since=8, reason="x" * 300)
_add_join("nul-reason", since=8, reason="a\0b")
_add_join("nul-instance", since=5, group_instance_id="a\0b")
_add_join("nul-protocol", protocols={"ran\0ge": subscription("wanted")})
_add_join("nul-protocol-type", protocol_type="con\0sumer")
_add_join("nul-topic", protocols={"range": subscription("wan\0ted")})


def _add_second(name: str, since: int = 0, **fields: Any) -> None:
    """A member that comes to a stable group, with nobody's answer awaited."""

    @case(f"join-stable-{name}", JOIN_GROUP, since=since)
    async def ask(scene: Scene) -> Any:
        there = await stable(scene, named(scene))
        first = await scene.ask(joining(there.group, **fields))
        beat = HeartbeatRequest(group_id=there.group, generation_id=there.generation, member_id=there.member)
        return {"first": first, "heartbeat": await scene.ask(beat, _HEARTBEAT_VERSION, HEARTBEAT)}


_add_second("other-type", protocol_type="connect")
_add_second("other-protocols", protocols={"mine": b""})
_add_second("unknown-member", member_id="nobody")


@case("join-again-as-leader", JOIN_GROUP)
async def _(scene: Scene) -> Any:
    there = await stable(scene, named(scene))
    return {
        "same": await scene.ask(joining(there.group, there.member)),
        "changed": await scene.ask(joining(there.group, there.member, topics=("wanted", "more"))),
    }


@case("join-again-before-sync", JOIN_GROUP)
async def _(scene: Scene) -> Any:
    there = await join(scene, named(scene))
    return {
        "same": await scene.ask(joining(there.group, there.member)),
        "changed": await scene.ask(joining(there.group, there.member, topics=("wanted", "more"))),
    }


@case("join-static-replaces", JOIN_GROUP, since=5)
async def _(scene: Scene) -> Any:
    there = await stable(scene, named(scene), group_instance_id="one")
    beat = HeartbeatRequest(
        group_id=there.group, generation_id=there.generation, member_id=there.member, group_instance_id="one"
    )
    return {
        "join": await scene.ask(joining(there.group, group_instance_id="one")),
        "heartbeat of the old": await scene.ask(beat, _HEARTBEAT_VERSION, HEARTBEAT),
        "sync of the old": await scene.ask(syncing(there, group_instance_id="one"), _SYNC_VERSION, SYNC_GROUP),
        "join of the old": await scene.ask(joining(there.group, there.member, group_instance_id="one")),
        "described": await scene.ask(DescribeGroupsRequest(groups=[there.group]), 5, DESCRIBE_GROUPS),
    }


@case("join-odd-names", JOIN_GROUP, (5, 9))
async def _(scene: Scene) -> Any:
    """A static member with a NUL in its name: everything that names it finds it."""
    name = "a\0b\N{SYMBOL FOR NULL}"
    there = await stable(scene, named(scene), group_instance_id=name)
    beat = HeartbeatRequest(
        group_id=there.group, generation_id=there.generation, member_id=there.member, group_instance_id=name
    )
    gone = LeaveGroupRequest(group_id=there.group, members=[MemberIdentity(member_id="", group_instance_id=name)])
    topic = await scene.topic()
    mine = {"generation_id_or_member_epoch": there.generation, "member_id": there.member, "group_instance_id": name}
    return {
        "heartbeat": await scene.ask(beat, _HEARTBEAT_VERSION, HEARTBEAT),
        "commit": await scene.ask(committing(there.group, topic, 5, **mine), _COMMIT_VERSION, OFFSET_COMMIT),
        "described": await scene.ask(DescribeGroupsRequest(groups=[there.group]), 5, DESCRIBE_GROUPS),
        "left": await scene.ask(gone, _LEAVE_VERSION, LEAVE_GROUP),
    }


@case("join-static-replaces-with-change", JOIN_GROUP, since=5)
async def _(scene: Scene) -> Any:
    there = await stable(scene, named(scene), group_instance_id="one")
    more = {"range": subscription("wanted", "more")}
    return await scene.ask(joining(there.group, group_instance_id="one", protocols=more))


@asynccontextmanager
async def elsewhere(scene: Scene) -> Any:
    """Another connection to the same broker."""
    async with await RawClient.connect(scene.side.address) as client:
        yield Scene(scene.side, scene.case, scene.api_key, scene.version, client)


@case("join-two", JOIN_GROUP)
async def _(scene: Scene) -> Any:
    """The second waits for the first, which hears of it by its heartbeat; the leader assigns for both."""
    there = await stable(scene, named(scene))
    async with elsewhere(scene) as other:
        if scene.version < _MEMBER_ID_REQUIRED_SINCE:
            second = asyncio.create_task(other.ask(joining(there.group)))
        else:
            first = await other.ask(joining(there.group))
            second = asyncio.create_task(other.ask(joining(there.group, first.member_id)))
        beat = HeartbeatRequest(group_id=there.group, generation_id=there.generation, member_id=there.member)
        told = await scene.ask_until(
            lambda answer: answer.error_code, beat, version=_HEARTBEAT_VERSION, api_key=HEARTBEAT
        )
        leader = await scene.ask(joining(there.group, there.member))
        follower = await second
        found = {"told": told, "leader": leader, "follower": follower}
        if isinstance(leader, str) or leader.error_code or isinstance(follower, str) or follower.error_code:
            return found
        joined = Joined(there.group, leader.member_id, leader.generation_id)
        waiting = asyncio.create_task(
            other.ask(
                syncing(Joined(there.group, follower.member_id, leader.generation_id), {}), _SYNC_VERSION, SYNC_GROUP
            )
        )
        parts = {joined.member: assignment("wanted", 0), follower.member_id: assignment("wanted", 1)}
        return {
            **found,
            "leader's part": await scene.ask(syncing(joined, parts), _SYNC_VERSION, SYNC_GROUP),
            "follower's part": await waiting,
            "follower again": await other.ask(joining(there.group, follower.member_id)),
        }


# SyncGroup


def _add_sync(name: str, since: int = 0, given: dict[str, bytes] | None = None, **fields: Any) -> None:
    @case(f"sync-{name}", SYNC_GROUP, since=since)
    async def ask(scene: Scene) -> Any:
        there = await join(scene, named(scene))
        return {
            "first": await asked(scene, syncing(there, given, **fields)),
            "again": await asked(scene, syncing(there, {}, **fields)),
        }


_add_sync("leader")
_add_sync("nothing", given={})
_add_sync("for-somebody-else", given={"nobody": b"x"})
_add_sync("unnamed-group", group_id="")
_add_sync("unknown-group", group_id="nowhere")
_add_sync("unknown-member", member_id="nobody")
_add_sync("unnamed-member", member_id="")
_add_sync("old-generation", generation_id=0)
_add_sync("future-generation", generation_id=7)
_add_sync("no-generation", generation_id=-1)
_add_sync("instance-unknown", since=3, group_instance_id="one")
_add_sync("other-type", since=5, protocol_type="connect")
_add_sync("other-protocol", since=5, protocol_name="roundrobin")
_add_sync("null-protocol", since=5, protocol_type=None, protocol_name=None)

# Heartbeat


def _add_heartbeat(name: str, since: int = 0, *, synced: bool = True, **fields: Any) -> None:
    @case(f"heartbeat-{name}", HEARTBEAT, since=since)
    async def ask(scene: Scene) -> Any:
        there = await (stable if synced else join)(scene, named(scene))
        request = HeartbeatRequest(
            **{
                "group_id": there.group,
                "generation_id": there.generation,
                "member_id": there.member,
                "group_instance_id": None,
                **fields,
            }
        )
        return await asked(scene, request)


_add_heartbeat("stable")
_add_heartbeat("before-sync", synced=False)
_add_heartbeat("unnamed-group", group_id="")
_add_heartbeat("unknown-group", group_id="nowhere")
_add_heartbeat("unknown-member", member_id="nobody")
_add_heartbeat("unnamed-member", member_id="")
_add_heartbeat("old-generation", generation_id=0)
_add_heartbeat("future-generation", generation_id=7)
_add_heartbeat("no-generation", generation_id=-1)
_add_heartbeat("instance-unknown", since=3, group_instance_id="one")

# LeaveGroup


def _add_leave(name: str, since: int = 0, *, instance: str | None = None, members: Any = None, **fields: Any) -> None:
    """Twice the same, and what is left of the group."""

    @case(f"leave-{name}", LEAVE_GROUP, since=since)
    async def ask(scene: Scene) -> Any:
        there = await stable(scene, named(scene), group_instance_id=instance)
        chosen = [{}] if members is None else members
        identities = [
            MemberIdentity(**{"member_id": there.member, "group_instance_id": None, "reason": "enough", **one})
            for one in chosen
        ]
        request = LeaveGroupRequest(
            **{"group_id": there.group, "member_id": there.member, "members": identities, **fields}
        )
        return {
            "first": await asked(scene, request),
            "again": await scene.ask(request),
            "described": await scene.ask(DescribeGroupsRequest(groups=[there.group]), 5, DESCRIBE_GROUPS),
        }


_add_leave("one")
_add_leave("unnamed-group", group_id="")
_add_leave("unknown-group", group_id="nowhere")
_add_leave("unknown-member", member_id="nobody", members=[{"member_id": "nobody"}])
_add_leave("nobody", since=3, members=[])
_add_leave("twice-in-one", since=3, members=[{}, {}])
_add_leave("some-unknown", since=3, members=[{"member_id": "nobody"}, {}])
_add_leave("by-instance", since=3, instance="one", members=[{"member_id": "", "group_instance_id": "one"}])
_add_leave("by-both", since=3, instance="one", members=[{"group_instance_id": "one"}])
_add_leave("fenced", since=3, instance="one", members=[{"member_id": "nobody", "group_instance_id": "one"}])
_add_leave("unknown-instance", since=3, members=[{"member_id": "", "group_instance_id": "one"}])
_add_leave("without-reason", since=5, members=[{"reason": None}])

# OffsetCommit


def _add_commit(name: str, *offsets: int, since: int = 2, until: int = 99, **fields: Any) -> None:
    """Of a group without members, and what is committed then."""

    @case(f"commit-{name}", OFFSET_COMMIT, since=since, until=until)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic(partitions=2)
        answer = await asked(scene, committing(named(scene), topic, *offsets, **fields))
        fetched = fetching(scene, named(scene), topics=[(topic, (0, 1))])
        return {"answer": answer, "fetched": await scene.ask(fetched, _FETCH_VERSION, OFFSET_FETCH)}


@case("commit-odd-metadata", OFFSET_COMMIT, (2, 8, 9))
async def _(scene: Scene) -> Any:
    """Text with a NUL, as librdkafka's clients send it, and bytes that are no text."""
    topic = await scene.topic()
    shown = {}
    for number, text in enumerate(ODD_TEXTS):
        group = named(scene, f"g{number}")
        await commit(scene, group, topic, 1)  # Kafka's coordinator is ready then
        answer = await scene.tell_text(text, partial(committing_with, group, topic))
        fetched = fetching(scene, group, topics=[(topic, (0,))])
        shown[text.hex()] = {"answer": answer, "fetched": await scene.ask(fetched, _FETCH_VERSION, OFFSET_FETCH)}
    return shown


_add_commit("simple", 5, 7)
_add_commit("zero", 0)
_add_commit("beyond-the-end", 2**40)
_add_commit("negative", -1)
_add_commit("most-negative", -(2**63))
_add_commit("unknown-partition", 1, 2, 3)
_add_commit("no-metadata", 5, metadata=None)
_add_commit("empty-metadata", 5, metadata="")
_add_commit("longest-metadata", 5, metadata="x" * 4096)
_add_commit("too-long-metadata", 5, metadata="x" * 4097)
_add_commit("too-long-in-bytes", 5, metadata="ä" * 4000)
_add_commit("unnamed-group", 5, group_id="")
_add_commit("generation-of-nobody", 5, generation_id_or_member_epoch=3)
_add_commit("member-of-nothing", 5, member_id="nobody")
_add_commit("member-and-generation-of-nothing", 5, member_id="nobody", generation_id_or_member_epoch=3)
_add_commit("instance-of-nothing", 5, since=7, group_instance_id="one")
_add_commit("retention", 5, until=4, retention_time_ms=1000)


def _add_member_commit(name: str, since: int = 2, *, synced: bool = True, **fields: Any) -> None:
    """Of a group with a member."""

    @case(f"commit-by-{name}", OFFSET_COMMIT, since=since)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic()
        there = await (stable if synced else join)(scene, named(scene))
        who = {"generation_id_or_member_epoch": there.generation, "member_id": there.member, **fields}
        return await asked(scene, committing(there.group, topic, 5, **who))


_add_member_commit("member")
_add_member_commit("member-before-sync", synced=False)
_add_member_commit("nobody", generation_id_or_member_epoch=-1, member_id="")
_add_member_commit("unknown-member", member_id="nobody")
_add_member_commit("old-generation", generation_id_or_member_epoch=0)
_add_member_commit("future-generation", generation_id_or_member_epoch=9)
_add_member_commit("no-generation", generation_id_or_member_epoch=-1)
_add_member_commit("unknown-instance", since=7, group_instance_id="one")


@case("commit-unknown-topic", OFFSET_COMMIT)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    request = committing(named(scene), topic, 5)
    request.topics = [*request.topics, *committing("", SomeTopic("nowhere", UNKNOWN_ID), 5).topics]
    return await asked(scene, request)


@case("commit-nothing", OFFSET_COMMIT)
async def _(scene: Scene) -> Any:
    return await asked(scene, committing(named(scene)))


@case("commit-twice-in-one", OFFSET_COMMIT)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    request = committing(named(scene), topic, 5)
    request.topics = [*request.topics, *committing("", topic, 6).topics]
    fetched = fetching(scene, named(scene), topics=[(topic, (0,))])
    answer = await asked(scene, request)
    return {"answer": answer, "fetched": await scene.ask(fetched, _FETCH_VERSION, OFFSET_FETCH)}


@case("commit-goes-back", OFFSET_COMMIT)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    await commit(scene, named(scene), topic, 9)
    answer = await scene.ask(committing(named(scene), topic, 3))
    fetched = fetching(scene, named(scene), topics=[(topic, (0,))])
    return {"answer": answer, "fetched": await scene.ask(fetched, _FETCH_VERSION, OFFSET_FETCH)}


# OffsetFetch


def _add_fetch(name: str, partitions: Sequence[int] | None, since: int = 1, until: int = 99, **fields: Any) -> None:
    @case(f"offsets-{name}", OFFSET_FETCH, since=since, until=until)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic(partitions=3)
        await commit(scene, named(scene), topic, 5, 7)
        wanted = None if partitions is None else [(topic, partitions)]
        group = fields.get("group", named(scene))
        return await asked(
            scene, fetching(scene, group, topics=wanted, **{k: v for k, v in fields.items() if k != "group"})
        )


_add_fetch("some", (0, 1))
_add_fetch("not-committed", (2,))
_add_fetch("unknown-partition", (0, 77))
_add_fetch("negative-partition", (-1,))
_add_fetch("no-partitions", ())
_add_fetch("twice", (0, 0))
_add_fetch("all", None, since=2)
_add_fetch("unknown-group", (0,), group="nowhere")
_add_fetch("all-of-unknown-group", None, since=2, group="nowhere")
_add_fetch("unnamed-group", (0,), group="")
_add_fetch("stable", (0, 1), since=7, require_stable=True)
_add_fetch("member-of-nothing", (0,), since=9, member_id="nobody", member_epoch=3)
_add_fetch("no-member", (0,), since=9, member_id=None, member_epoch=-1)
_add_fetch("epoch-without-member", (0,), since=9, member_id=None, member_epoch=3)


@case("offsets-unknown-topic", OFFSET_FETCH)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    await commit(scene, named(scene), topic, 5)
    wanted = [(topic, (0,)), (SomeTopic("nowhere", UNKNOWN_ID), (0,))]
    return await asked(scene, fetching(scene, named(scene), topics=wanted))


@case("offsets-nothing", OFFSET_FETCH)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    await commit(scene, named(scene), topic, 5)
    return await asked(scene, fetching(scene, named(scene), topics=[]))


@case("offsets-groups", OFFSET_FETCH, since=8)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    for label in ("a", "b"):
        await commit(scene, named(scene, label), topic, 5)
    groups = [named(scene, label) for label in ("a", "b", "none")]
    return {
        "three": await asked(scene, fetching(scene, *groups, topics=[(topic, (0,))])),
        "twice": await asked(scene, fetching(scene, groups[0], groups[0], topics=[(topic, (0,))])),
    }


@case("offsets-no-groups", OFFSET_FETCH, since=8)
async def _(scene: Scene) -> Any:
    return await asked(scene, OffsetFetchRequest(groups=[]))


@case("offsets-of-a-stable-group", OFFSET_FETCH)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    there = await stable(scene, named(scene))
    await commit(scene, there.group, topic, 5, generation_id_or_member_epoch=there.generation, member_id=there.member)
    return await asked(scene, fetching(scene, there.group, topics=None if scene.version > 1 else [(topic, (0,))]))


# OffsetDelete


def _add_offset_delete(name: str, *partitions: int, subscribed: bool | None = None, **fields: Any) -> None:
    @case(f"offset-delete-{name}", OFFSET_DELETE)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic(partitions=2)
        if subscribed is None:
            await commit(scene, named(scene), topic, 5, 7)
        else:
            await stable(scene, named(scene), topics=(topic.name if subscribed else "wanted",))
        wanted = [OffsetDeleteRequestPartition(partition_index=index) for index in partitions]
        request = OffsetDeleteRequest(
            group_id=fields.get("group_id", named(scene)),
            topics=[OffsetDeleteRequestTopic(name=fields.get("topic", topic.name), partitions=wanted)],
        )
        answer = await asked(scene, request)
        left = await scene.ask(fetching(scene, named(scene), topics=[(topic, (0, 1))]), _FETCH_VERSION, OFFSET_FETCH)
        return {"answer": answer, "left": left}


_add_offset_delete("one", 0)
_add_offset_delete("both", 0, 1)
_add_offset_delete("twice", 0, 0)
_add_offset_delete("none")
_add_offset_delete("unknown-partition", 0, 7)
_add_offset_delete("unknown-topic", 0, topic="nowhere")
_add_offset_delete("unknown-group", 0, group_id="nowhere")
_add_offset_delete("unnamed-group", 0, group_id="")
_add_offset_delete("subscribed", 0, subscribed=True)
_add_offset_delete("not-subscribed", 0, subscribed=False)


@case("offset-delete-other-protocol", OFFSET_DELETE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    await stable(scene, named(scene), protocol_type="connect")
    wanted = [OffsetDeleteRequestTopic(name=topic.name, partitions=[OffsetDeleteRequestPartition(partition_index=0)])]
    return await asked(scene, OffsetDeleteRequest(group_id=named(scene), topics=wanted))


# ListGroups


def _add_list(name: str, since: int = 0, *, states: Sequence[str] = (), types: Sequence[str] = ()) -> None:
    """Of four groups: simple, stable, empty, and of the consumer protocol."""

    @case(f"list-groups-{name}", LIST_GROUPS, since=since)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic()
        await commit(scene, named(scene, "simple"), topic, 5)
        await stable(scene, named(scene, "stable"))
        await leave(scene, await stable(scene, named(scene, "empty")))
        await asked(scene, beating(named(scene, "consumer")), version=0, api_key=CONSUMER_GROUP_HEARTBEAT)
        answer = await asked(scene, ListGroupsRequest(states_filter=list(states), types_filter=list(types)))
        if not isinstance(answer, str):
            answer.groups = [one for one in answer.groups if one.group_id.startswith(named(scene, ""))]
        return answer


_add_list("all")
_add_list("stable", since=4, states=["Stable"])
_add_list("lower-case", since=4, states=["stable", "EMPTY"])
_add_list("unknown-state", since=4, states=["Nowhere"])
_add_list("consumers", since=5, types=["consumer"])
_add_list("classics", since=5, types=["Classic"])
_add_list("unknown-type", since=5, types=["nothing"])
_add_list("state-and-type", since=5, states=["Stable"], types=["classic"])

# DescribeGroups


@case("describe-groups", DESCRIBE_GROUPS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    await commit(scene, named(scene, "simple"), topic, 5)
    await stable(scene, named(scene, "stable"))
    await join(scene, named(scene, "completing"))
    await stable(scene, named(scene, "static"), group_instance_id="one")
    await stable(scene, named(scene, "connect"), protocol_type="connect", protocols={"range": b"\x01"})
    await leave(scene, await stable(scene, named(scene, "empty")))
    labels = ("simple", "stable", "completing", "static", "connect", "empty", "nowhere")
    groups = [*(named(scene, label) for label in labels), ""]
    return {
        "all": await asked(scene, DescribeGroupsRequest(groups=groups)),
        "twice": await asked(scene, DescribeGroupsRequest(groups=[groups[1], groups[1]])),
        "none": await asked(scene, DescribeGroupsRequest(groups=[])),
    }


@case("describe-groups-operations", DESCRIBE_GROUPS, since=3)
async def _(scene: Scene) -> Any:
    await stable(scene, named(scene))
    asking = DescribeGroupsRequest(groups=[named(scene), "nowhere"], include_authorized_operations=True)
    return await asked(scene, asking)


@case("describe-groups-of-the-consumer-protocol", DESCRIBE_GROUPS)
async def _(scene: Scene) -> Any:
    await asked(scene, beating(named(scene)), version=0, api_key=CONSUMER_GROUP_HEARTBEAT)
    return await asked(scene, DescribeGroupsRequest(groups=[named(scene)]))


# DeleteGroups


@case("delete-groups", DELETE_GROUPS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    await commit(scene, named(scene, "simple"), topic, 5)
    await stable(scene, named(scene, "stable"))
    await leave(scene, await stable(scene, named(scene, "empty")))
    await asked(scene, beating(named(scene, "consumer")), version=0, api_key=CONSUMER_GROUP_HEARTBEAT)
    groups = [*(named(scene, label) for label in ("simple", "stable", "empty", "consumer", "nowhere")), ""]
    first = await asked(scene, DeleteGroupsRequest(groups_names=groups))
    fetched = fetching(scene, groups[0], topics=[(topic, (0,))])
    return {
        "first": first,
        "again": await asked(scene, DeleteGroupsRequest(groups_names=groups)),
        "twice": await asked(scene, DeleteGroupsRequest(groups_names=["nowhere", "nowhere"])),
        "none": await asked(scene, DeleteGroupsRequest(groups_names=[])),
        "fetched": await scene.ask(fetched, _FETCH_VERSION, OFFSET_FETCH),
    }


# ConsumerGroupHeartbeat


def member_of(scene: Scene, label: str = "m") -> str:
    """A member id as clients make them: 16 bytes in base64, of this case and version."""
    return b64encode(f"{named(scene, label)}".encode()[-16:].rjust(16, b"-"), b"-_").decode().rstrip("=")


def beating(group: str, member: str = "", epoch: int = 0, **fields: Any) -> ConsumerGroupHeartbeatRequest:
    """A whole heartbeat, as a member sends when it joins."""
    return ConsumerGroupHeartbeatRequest(
        **{
            "group_id": group,
            "member_id": member or b64encode(group.encode()[-16:].rjust(16, b"-"), b"-_").decode(),
            "member_epoch": epoch,
            "instance_id": None,
            "rack_id": None,
            "rebalance_timeout_ms": 30_000,
            "subscribed_topic_names": ["wanted"],
            "subscribed_topic_regex": None,
            "server_assignor": None,
            "topic_partitions": [],
            **fields,
        }
    )


def short(group: str, member: str, epoch: int, **fields: Any) -> ConsumerGroupHeartbeatRequest:
    """A heartbeat that says nothing new."""
    nothing = {"rebalance_timeout_ms": -1, "subscribed_topic_names": None, "topic_partitions": None}
    return beating(group, member, epoch, **{**nothing, **fields})


def _add_beat(name: str, since: int = 0, **fields: Any) -> None:
    """A member that joins."""

    @case(f"beat-{name}", CONSUMER_GROUP_HEARTBEAT, since=since)
    async def ask(scene: Scene) -> Any:
        return await asked(scene, beating(named(scene), **{"member_id": member_of(scene), **fields}))


_add_beat("new")
_add_beat("unnamed-member", member_id="")
_add_beat("blank-member", member_id="  ")
_add_beat("unnamed-group", group_id="")
_add_beat("blank-group", group_id=" ")
_add_beat("epoch-of-nothing", member_epoch=3)
_add_beat("epoch-below", member_epoch=-3)
_add_beat("leaves-nothing", member_epoch=-1)
_add_beat("static-leaves-nothing", member_epoch=-2, instance_id="one")
_add_beat("static-leaves-without-instance", member_epoch=-2)
_add_beat("static", instance_id="one")
_add_beat("static-unnamed", instance_id="")
_add_beat("static-nul", instance_id="a\0b")
_add_beat("rack-nul", rack_id="a\0b")
_add_beat("member-nul", member_id="a\0b")
_add_beat("topic-nul", subscribed_topic_names=["wan\0ted"])
_add_beat("assignor-nul", server_assignor="uni\0form")
_add_beat("rack", rack_id="here")
_add_beat("rack-unnamed", rack_id="")
_add_beat("no-timeout", rebalance_timeout_ms=-1)
_add_beat("timeout-0", rebalance_timeout_ms=0)
_add_beat("no-topics", subscribed_topic_names=None)
_add_beat("empty-topics", subscribed_topic_names=[])
_add_beat("unowned-null", topic_partitions=None)
_add_beat("owns-already", topic_partitions=[RequestTopicPartitions(topic_id=UNKNOWN_ID, partitions=[0])])
_add_beat("assignor-range", server_assignor="range")
_add_beat("assignor-uniform", server_assignor="uniform")
_add_beat("assignor-unknown", server_assignor="nothing")
_add_beat("assignor-unnamed", server_assignor="")
_add_beat("regex", since=1, subscribed_topic_names=None, subscribed_topic_regex="nowhere-.*")
_add_beat("regex-and-names", since=1, subscribed_topic_regex="nowhere-.*")
_add_beat("regex-empty", since=1, subscribed_topic_names=None, subscribed_topic_regex="")
_add_beat("regex-invalid", since=1, subscribed_topic_names=None, subscribed_topic_regex="(")
_add_beat("regex-look-ahead", since=1, subscribed_topic_names=None, subscribed_topic_regex="(?=a)b")


async def member(scene: Scene, topic: SomeTopic, **fields: Any) -> tuple[str, str, int]:
    """The only member of a group, with all partitions of a topic: group, member id, epoch."""
    group, name = named(scene), member_of(scene)
    wanted = beating(group, name, subscribed_topic_names=[topic.name], **fields)
    first = await asked(scene, wanted, version=0, api_key=CONSUMER_GROUP_HEARTBEAT)
    assert first.error_code == 0, first
    # Apache Kafka assigns in another thread; on a busy machine the first answer comes before that.
    while first.assignment is None or not first.assignment.topic_partitions:
        await asyncio.sleep(0.05)
        again = beating(group, name, first.member_epoch, subscribed_topic_names=[topic.name], **fields)
        first = await asked(scene, again, version=0, api_key=CONSUMER_GROUP_HEARTBEAT)
        assert first.error_code == 0, first
    return group, name, first.member_epoch


@case("beat-life", CONSUMER_GROUP_HEARTBEAT)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=2)
    group, name = named(scene), member_of(scene)
    first = await asked(scene, beating(group, name, subscribed_topic_names=[topic.name]))
    epoch = first.member_epoch
    owned = [RequestTopicPartitions(topic_id=topic.id, partitions=[0, 1])]
    return {
        "first": first,
        "owns": await scene.ask(short(group, name, epoch, topic_partitions=owned)),
        "nothing new": await scene.ask(short(group, name, epoch)),
        "all again": await scene.ask(beating(group, name, epoch, subscribed_topic_names=[topic.name])),
        "same with joining epoch": await scene.ask(beating(group, name, 0, subscribed_topic_names=[topic.name])),
        "future": await scene.ask(short(group, name, epoch + 5)),
        "unknown": await scene.ask(short(group, "AAAAAAAAAAAAAAAAAAAAAA", epoch)),
        "more topics": await scene.ask(short(group, name, epoch, subscribed_topic_names=[topic.name, "more"])),
        "leaves": await scene.ask(short(group, name, -1)),
        "leaves again": await scene.ask(short(group, name, -1)),
        "after": await scene.ask(short(group, name, epoch)),
    }


@case("beat-static-life", CONSUMER_GROUP_HEARTBEAT)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=2)
    group, name, epoch = await member(scene, topic, instance_id="one")
    other = member_of(scene, "other")
    fields = {"instance_id": "one", "subscribed_topic_names": [topic.name]}
    return {
        "not released": await scene.ask(beating(group, other, **fields)),
        "leaves for a while": await scene.ask(short(group, name, -2, instance_id="one")),
        "described": await scene.ask(ConsumerGroupDescribeRequest(group_ids=[group]), 1, CONSUMER_GROUP_DESCRIBE),
        "replaced": await scene.ask(beating(group, other, **fields)),
        "old one": await scene.ask(short(group, name, epoch, instance_id="one")),
        "unknown instance": await scene.ask(short(group, other, epoch, instance_id="two")),
        "leaves": await scene.ask(short(group, other, -1, instance_id="one")),
    }


@case("beat-of-a-classic-group", CONSUMER_GROUP_HEARTBEAT)
async def _(scene: Scene) -> Any:
    await stable(scene, named(scene, "connect"), protocol_type="connect")
    await leave(scene, await stable(scene, named(scene, "empty")))
    return {
        "connect": await scene.ask(beating(named(scene, "connect"))),
        "empty": await scene.ask(beating(named(scene, "empty"))),
    }


@case("beat-commit-and-fetch", CONSUMER_GROUP_HEARTBEAT)
async def _(scene: Scene) -> Any:
    """Offsets of a member of the consumer protocol."""
    topic = await scene.topic()
    group, name, epoch = await member(scene, topic)

    async def answer(**fields: Any) -> Any:
        return await scene.ask(committing(group, topic, 5, **fields), 9, OFFSET_COMMIT)

    async def fetched(**fields: Any) -> Any:
        return await scene.ask(fetching(scene, group, topics=[(topic, (0,))], **fields), 9, OFFSET_FETCH)

    return {
        "member": await answer(member_id=name, generation_id_or_member_epoch=epoch),
        "stale": await answer(member_id=name, generation_id_or_member_epoch=epoch - 1),
        "future": await answer(member_id=name, generation_id_or_member_epoch=epoch + 1),
        "unknown": await answer(member_id="nobody", generation_id_or_member_epoch=epoch),
        "simple": await answer(),
        "old version": await scene.ask(
            committing(group, topic, 5, member_id=name, generation_id_or_member_epoch=epoch - 1), 8, OFFSET_COMMIT
        ),
        "fetched": await fetched(member_id=name, member_epoch=epoch),
        "fetched stale": await fetched(member_id=name, member_epoch=epoch - 1),
        "fetched unknown": await fetched(member_id="nobody", member_epoch=epoch),
        "fetched by nobody": await fetched(member_id=None, member_epoch=-1),
    }


@case("beat-classic-requests", CONSUMER_GROUP_HEARTBEAT)
async def _(scene: Scene) -> Any:
    """Requests of the classic protocol about a group of the other one."""
    group, name, epoch = await member(scene, await scene.topic())
    there = Joined(group, name, epoch)
    beat = HeartbeatRequest(group_id=group, generation_id=epoch, member_id=name)
    leaving = LeaveGroupRequest(group_id=group, members=[MemberIdentity(member_id="nobody")])
    return {
        "heartbeat": await scene.ask(beat, 4, HEARTBEAT),
        "sync": await scene.ask(syncing(there), 5, SYNC_GROUP),
        "leave of nobody": await scene.ask(leaving, 5, LEAVE_GROUP),
        "join of another type": await scene.ask(joining(group, protocol_type="connect"), 9, JOIN_GROUP),
        "join": await scene.ask(joining(group), 9, JOIN_GROUP),
    }


# ConsumerGroupDescribe


@case("consumer-groups", CONSUMER_GROUP_DESCRIBE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=2)
    group, name, epoch = await member(scene, topic, rack_id="here", server_assignor="range")
    owned = [RequestTopicPartitions(topic_id=topic.id, partitions=[0, 1])]
    await scene.ask(short(group, name, epoch, topic_partitions=owned), 0, CONSUMER_GROUP_HEARTBEAT)
    await asked(scene, beating(named(scene, "left")), version=0, api_key=CONSUMER_GROUP_HEARTBEAT)
    gone = beating(named(scene, "left")).member_id
    await scene.ask(short(named(scene, "left"), gone, -1), 0, CONSUMER_GROUP_HEARTBEAT)
    await stable(scene, named(scene, "classic"))
    groups = [group, named(scene, "left"), named(scene, "classic"), "nowhere", ""]
    return {
        "all": await asked(scene, ConsumerGroupDescribeRequest(group_ids=groups)),
        "operations": await asked(
            scene, ConsumerGroupDescribeRequest(group_ids=groups[:1], include_authorized_operations=True)
        ),
        "twice": await asked(scene, ConsumerGroupDescribeRequest(group_ids=[group, group])),
        "none": await asked(scene, ConsumerGroupDescribeRequest(group_ids=[])),
    }


# IncrementalAlterConfigs on groups

_SET, _DELETE, _APPEND, _SUBTRACT = 0, 1, 2, 3


def _add_alter(name: str, *entries: tuple[str, int, str | None], group: str | None = None) -> None:
    """For validation only, really, and what the group's configs are then."""

    @case(f"alter-group-{name}", INCREMENTAL_ALTER_CONFIGS)
    async def ask(scene: Scene) -> Any:
        resource = AlterConfigsResource(
            resource_type=GROUP,
            resource_name=named(scene) if group is None else group,
            configs=[AlterableConfig(name=key, config_operation=what, value=value) for key, what, value in entries],
        )
        request = IncrementalAlterConfigsRequest(resources=[resource], validate_only=True)
        checked = await scene.ask(request)
        request.validate_only = False
        altered = await scene.ask(request)
        keys = ["consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"]
        asking = DescribeConfigsResource(resource_type=GROUP, resource_name=named(scene), configuration_keys=keys)

        def is_settled(answer: Any) -> bool:
            """Kafka tells its brokers of a change after its answer."""
            found = {one.name: one.value for one in answer.results[0].configs}
            good = {key: value for key, what, value in entries if what == _SET and key in found}
            return bool(altered.responses[0].error_code) or all(found[key] == value for key, value in good.items())

        return {
            "checked": checked,
            "altered": altered,
            "described": await scene.ask_until(
                is_settled, DescribeConfigsRequest(resources=[asking]), version=4, api_key=DESCRIBE_CONFIGS
            ),
        }


_add_alter("session", ("consumer.session.timeout.ms", _SET, "50000"))
_add_alter("heartbeat", ("consumer.heartbeat.interval.ms", _SET, "6000"))
_add_alter("both", ("consumer.session.timeout.ms", _SET, "50000"), ("consumer.heartbeat.interval.ms", _SET, "6000"))
_add_alter("too-short", ("consumer.session.timeout.ms", _SET, "1000"))
_add_alter("too-long", ("consumer.session.timeout.ms", _SET, "999999"))
_add_alter("heartbeat-too-short", ("consumer.heartbeat.interval.ms", _SET, "10"))
_add_alter("no-number", ("consumer.session.timeout.ms", _SET, "soon"))
_add_alter("negative", ("consumer.session.timeout.ms", _SET, "-1"))
_add_alter("null", ("consumer.session.timeout.ms", _SET, None))
_add_alter("unknown-key", ("no.such.config", _SET, "1"))
_add_alter("delete", ("consumer.session.timeout.ms", _DELETE, None))
_add_alter("append", ("consumer.session.timeout.ms", _APPEND, "50000"))
_add_alter("subtract", ("consumer.session.timeout.ms", _SUBTRACT, "50000"))
_add_alter("unknown-operation", ("consumer.session.timeout.ms", 9, "50000"))
_add_alter("twice", ("consumer.session.timeout.ms", _SET, "50000"), ("consumer.session.timeout.ms", _SET, "51000"))
_add_alter("nothing")
_add_alter("unnamed", ("consumer.session.timeout.ms", _SET, "50000"), group="")


@case("alter-resources", INCREMENTAL_ALTER_CONFIGS)
async def _(scene: Scene) -> Any:
    def resource(kind: int, name: str) -> AlterConfigsResource:
        return AlterConfigsResource(resource_type=kind, resource_name=name, configs=[])

    group = named(scene)
    return {
        "none": await scene.ask(IncrementalAlterConfigsRequest(resources=[])),
        "twice": await scene.ask(IncrementalAlterConfigsRequest(resources=[resource(GROUP, group)] * 2)),
        "unknown type": await scene.ask(IncrementalAlterConfigsRequest(resources=[resource(99, "x")])),
        "type 0": await scene.ask(IncrementalAlterConfigsRequest(resources=[resource(0, "x")])),
    }
