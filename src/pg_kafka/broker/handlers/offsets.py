"""OffsetCommit, OffsetFetch and OffsetDelete: how far groups have come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Collection, Mapping, Sequence
from itertools import islice
from uuid import UUID

from pg_kafka.broker.answers import Asked
from pg_kafka.broker.context import Context
from pg_kafka.broker.doors import Group, GroupRoom, Topic
from pg_kafka.broker.handlers.groups import retriable
from pg_kafka.broker.permission import Operation
from pg_kafka.broker.refusals import Refused
from pg_kafka.broker.reply import Reply
from pg_kafka.broker.turns import ITEMS_AT_ONCE, begun
from pg_kafka.coordinator.group_offsets import Committed, OffsetKey, check_metadata
from pg_kafka.errors import StorageError
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from pg_kafka.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from pg_kafka.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)

_READ = Operation.READ
_NONE = int(ErrorCode.NONE)
_NO_OFFSET = -1
_NO_EPOCH = -1
_SINCE_GROUP_NOT_FOUND = 9  # in OffsetCommit
_SINCE_GROUPS = 8  # in OffsetFetch
_SINCE_GROUP_ERRORS = 2
_SINCE_TOPIC_IDS = 10  # in both
_OFFSETS_NOTED = 20  # of one commit


# -- OffsetCommit --------------------------------------------------------------------------------------------------------


def offset_commit(ctx: Context, request: OffsetCommitRequest, reply: Reply) -> Awaitable[None] | None:
    """Write how far a group has come; the answer comes when PostgreSQL has committed it.

    Versions  2-10. 5 has no retention time any more, 6 has leader epochs, 7 static members, 8 is flexible, 9 is for the
              consumer protocol too, 10 names topics by id.
    Rules     - an unknown topic or partition is UNKNOWN_TOPIC_OR_PARTITION, an unknown id UNKNOWN_TOPIC_ID
              - the group checks member and generation or epoch; its error is that of all other partitions
              - a group that is not there: without a generation it is made, as one without members; else
                ILLEGAL_GENERATION, from version 9 on GROUP_ID_NOT_FOUND
              - metadata longer than offset.metadata.max.bytes is OFFSET_METADATA_TOO_LARGE
              - a commit counts as a heartbeat
    Not done  - retention times of versions 2 to 4: offsets.retention.minutes holds for all
    """
    room = ctx.doors.groups.enter(_READ, request.group_id)
    is_member = request.generation_id_or_member_epoch >= 0
    asked = Asked(reply, request, commit_failure) if is_member else _FromOutside(ctx, reply, request)
    return begun(_commit(ctx, room, request, asked))


class _FromOutside(Asked):
    """A commit of nobody that is a member: of an administrator who sets offsets, or a consumer without a group protocol."""

    __slots__ = ("_asked", "_ctx")

    def __init__(self, ctx: Context, reply: Reply, request: OffsetCommitRequest) -> None:
        super().__init__(reply, request, commit_failure)
        self._ctx = ctx
        self._asked = request

    def answer(self, message: OffsetCommitResponse) -> None:
        super().answer(message)
        offsets = (
            f"{answer.name or answer.topic_id}-{one.partition_index}={wanted.committed_offset}"
            for topic, answer in zip(self._asked.topics, message.topics, strict=True)
            for wanted, one in zip(topic.partitions, answer.partitions, strict=True)
            if not one.error_code
        )
        if detail := ", ".join(islice(offsets, _OFFSETS_NOTED)):
            resource = f"group {self._asked.group_id}"
            self._ctx.broker.audit.note("offsets set", who=self._ctx.connection, resource=resource, detail=detail)


async def _commit(ctx: Context, room: GroupRoom, request: OffsetCommitRequest, asked: Asked) -> None:
    broker, turns = ctx.broker, ctx.broker.turns
    by_id, turns_given = ctx.version >= _SINCE_TOPIC_IDS, turns.given
    found = [_find(ctx, _READ, topic.topic_id if by_id else topic.name) for topic in request.topics]
    if request.generation_id_or_member_epoch < 0 and room.commits_by_sql:
        # Nobody's later commit, of a former member by SQL, is to undo what somebody sets from outside.
        places = [
            (topic.id, one.partition_index)
            for asked_topic, topic in zip(request.topics, found, strict=True)
            if isinstance(topic, Topic)
            for one in asked_topic.partitions
        ]
        if (await _settled(room, places, waits=True)) != set():
            asked.refuse(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
            return
    code = room.refusal or _check_commit(ctx, room, request, found)
    limit, wall_ms = broker.config.offset_metadata_max_bytes, broker.clock.wall_ms()
    commits: dict[OffsetKey, Committed] = {}
    answers = []
    async for asked_topic, topic in turns.each(zip(request.topics, found, strict=True)):
        if isinstance(topic, Refused):
            unknown, topic_id, count = topic.code, -1, 0
        else:
            is_id = by_id and topic is None
            unknown = int(ErrorCode.UNKNOWN_TOPIC_ID if is_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            topic_id, count = (-1, 0) if topic is None else (topic.id, topic.partitions)
        partitions = []
        async for one in turns.each(asked_topic.partitions):
            index, metadata = one.partition_index, one.committed_metadata
            if not 0 <= index < count:
                error = unknown
            else:
                error = code or (int(check_metadata(metadata, limit)) if metadata else _NONE)
            if not error:
                commits[topic_id, index] = Committed(
                    one.committed_offset, one.committed_leader_epoch, metadata or "", wall_ms
                )
            partitions.append(OffsetCommitResponsePartition(partition_index=index, error_code=error))
        answers.append(_committed_topic(asked_topic, partitions))
    response = OffsetCommitResponse(topics=answers)
    if not commits:
        asked.answer(response)
        return
    portions = _portions(commits)
    is_late = False
    async for number, some in turns.each(enumerate(portions, 1)):
        if turns.given != turns_given:
            # Others had their turn since the group was looked at, and may have committed.
            turns_given, is_late = turns.given, True
            code = int(room.refusal or _check_commit(ctx, room, request, found))
            is_gone = any(isinstance(topic, Topic) and ctx.doors.topics.is_gone(topic) for topic in found)
            if code or is_gone:
                asked.refuse(code or ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
                return
            wall_ms = broker.clock.wall_ms()
        if is_late:
            some = {key: commit._replace(committed_at_ms=wall_ms) for key, commit in some.items()}
        if number < len(portions):
            room.commit_part(some)
        else:
            room.commit(request.member_id, some, asked, response)


async def _settled(room: GroupRoom, keys: Collection[OffsetKey], *, waits: bool) -> Collection[OffsetKey] | None:
    """Have what members have committed by SQL be the group's offsets; where that is not known yet, or None: nowhere."""
    try:
        busy = await room.settle_commits(keys, waits=waits)
    except StorageError:
        return None
    if room.commits_by_sql and (group := room.group) is not None and await group.written():
        return None
    return set(busy)


def _portions(commits: dict[OffsetKey, Committed]) -> Sequence[Mapping[OffsetKey, Committed]]:
    """As many as are written within a slice. Each partition answers for itself, so they need not be written as one."""
    if len(commits) <= ITEMS_AT_ONCE:
        return (commits,)
    left = iter(commits.items())
    return [dict(islice(left, ITEMS_AT_ONCE)) for _ in range(0, len(commits), ITEMS_AT_ONCE)]


def _check_commit(
    ctx: Context, room: GroupRoom, request: OffsetCommitRequest, topics: Sequence[Topic | Refused | None]
) -> int:
    """The group's error for all that is committed."""
    if not room.can_be:
        return int(ErrorCode.INVALID_GROUP_ID)
    group = room.group
    generation = request.generation_id_or_member_epoch
    if group is None:
        if generation < 0:
            return _NONE
        is_known = ctx.version >= _SINCE_GROUP_NOT_FOUND
        return int(ErrorCode.GROUP_ID_NOT_FOUND if is_known else ErrorCode.ILLEGAL_GENERATION)
    return group.check_commit(
        (request.member_id, request.group_instance_id, generation, ctx.version, False),
        lambda: [
            (topic.uuid, one.partition_index)
            for asked, topic in zip(request.topics, topics, strict=True)
            if isinstance(topic, Topic)
            for one in asked.partitions
        ],
    )


def _committed_topic(
    topic: OffsetCommitRequestTopic, partitions: Sequence[OffsetCommitResponsePartition]
) -> OffsetCommitResponseTopic:
    return OffsetCommitResponseTopic(name=topic.name, topic_id=topic.topic_id, partitions=partitions)


def commit_failure(request: OffsetCommitRequest, code: int) -> OffsetCommitResponse:
    code = retriable(code)
    return OffsetCommitResponse(
        topics=[
            _committed_topic(
                topic,
                [
                    OffsetCommitResponsePartition(partition_index=one.partition_index, error_code=code)
                    for one in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


# -- OffsetFetch ---------------------------------------------------------------------------------------------------------


def offset_fetch(ctx: Context, request: OffsetFetchRequest, reply: Reply) -> Awaitable[None] | None:
    """Tell how far groups have come, as far as it is committed.

    Versions  1-10. 2 has all topics (null) and the group's error, 5 leader epochs, 6 is flexible, 7 has require_stable,
              8 many groups, 9 members of the consumer protocol, 10 names topics by id.
    Rules     - a partition without a commit is offset -1 without an error, in a group that is not there too
              - each group answers for itself: UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH
              - an unknown topic id is UNKNOWN_TOPIC_ID; an unknown name has no commits
              - while groups are loaded, and when a storage fails, the group's answer is an error, never offset -1
              - with require_stable an offset that an open transaction is about to change is UNSTABLE_OFFSET_COMMIT; so is
                one that a transaction of SQL may change (kafka.commit_offsets), which is waited for a little. Without
                require_stable a member, known by client id and host, gets COORDINATOR_LOAD_IN_PROGRESS in that case,
                and others are told what is committed
              - a group that is named twice with all its topics is answered once
    """
    return begun(_fetch_groups(ctx, request, reply))


async def _fetch_groups(ctx: Context, request: OffsetFetchRequest, reply: Reply) -> None:
    if ctx.version >= _SINCE_GROUPS:
        answers = []
        complete: set[tuple[str, str | None, int]] = set()
        async for asked in ctx.broker.turns.each(request.groups):
            who = (asked.group_id, asked.member_id, asked.member_epoch)
            if asked.topics is None:
                if who in complete:
                    continue
                complete.add(who)
            answers.append(await _fetch(ctx, asked, request.require_stable))
        reply.send(OffsetFetchResponse(groups=answers))
        return
    topics = (
        None
        if request.topics is None
        else [
            OffsetFetchRequestTopics(name=topic.name, partition_indexes=topic.partition_indexes)
            for topic in request.topics
        ]
    )
    group = OffsetFetchRequestGroup(group_id=request.group_id, topics=topics)
    answer = await _fetch(ctx, group, request.require_stable)
    if answer.error_code:
        reply.send(_fetch_refused(request, answer.error_code, ctx.version))
        return
    turns = ctx.broker.turns
    old_form = [
        OffsetFetchResponseTopic(
            name=topic.name, partitions=[_old_form(one) async for one in turns.each(topic.partitions)]
        )
        async for topic in turns.each(answer.topics)
    ]
    reply.send(OffsetFetchResponse(topics=old_form))


def _old_form(one: OffsetFetchResponsePartitions) -> OffsetFetchResponsePartition:
    """An answer without groups has the same in a class of its own."""
    return OffsetFetchResponsePartition(
        partition_index=one.partition_index,
        committed_offset=one.committed_offset,
        committed_leader_epoch=one.committed_leader_epoch,
        metadata=one.metadata,
        error_code=one.error_code,
    )


def _fetch_refused(request: OffsetFetchRequest, code: int, version: int) -> OffsetFetchResponse:
    """The error in the form of all versions, of which the encoder takes what the version has."""
    topics = request.topics or () if version < _SINCE_GROUP_ERRORS else ()
    return OffsetFetchResponse(
        error_code=code,
        topics=[
            OffsetFetchResponseTopic(
                name=topic.name, partitions=[_old_form(_absent(p, code)) for p in topic.partition_indexes]
            )
            for topic in topics
        ],
        groups=[OffsetFetchResponseGroup(group_id=group.group_id, error_code=code) for group in request.groups],
    )


def fetch_failure(request: OffsetFetchRequest, code: int) -> OffsetFetchResponse:
    """In version 1 the error is that of each partition, in versions that have none of their own it is not sent."""
    code = ErrorCode.NOT_COORDINATOR if code == ErrorCode.KAFKA_STORAGE_ERROR else code
    return _fetch_refused(request, int(code), 1)


async def _fetch(ctx: Context, asked: OffsetFetchRequestGroup, require_stable: bool) -> OffsetFetchResponseGroup:
    answer = OffsetFetchResponseGroup(group_id=asked.group_id)
    try:
        room = ctx.doors.groups.enter(Operation.DESCRIBE, asked.group_id)
    except Refused as refused:
        answer.error_code = refused.code
        return answer
    turns = ctx.broker.turns
    found: list[tuple[OffsetFetchRequestTopics, Topic | Refused | None]] = []
    keys: list[OffsetKey] = []
    by_id = ctx.version >= _SINCE_TOPIC_IDS
    async for topic in turns.each(asked.topics or ()):
        found.append((topic, _find(ctx, Operation.DESCRIBE, topic.topic_id if by_id else topic.name)))
    group = room.group
    is_member = group is not None and _has_member_like(group, ctx)
    waits = require_stable or is_member
    if waits and asked.topics is None and group is not None:
        keys = group.offsets.keys()
    elif waits:
        async for topic, known in turns.each(found):
            if isinstance(known, Topic):
                keys.extend((known.id, index) for index in topic.partition_indexes)
    busy = await _settled(room, keys, waits=waits)
    is_put_out = room.is_driven_by_sql and (is_member or room.was_member(ctx.sender.client_id, ctx.sender.host))
    is_unknown = busy is None and (waits or room.is_driven_by_sql)
    if room.refusal or is_unknown or is_put_out or (busy and not require_stable):
        answer.error_code = int(room.refusal or ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        return answer
    group = room.group
    if group is not None:
        answer.error_code = int(group.machine.check_fetch(asked.member_id, asked.member_epoch))
    if not answer.error_code:
        unstable = _Unstable(busy or (), room) if require_stable else None
        if asked.topics is None:
            answer.topics = await _all_offsets(ctx, group, unstable)
        else:
            answer.topics = await _offsets(ctx, group, found, unstable)
    return answer


def _has_member_like(group: Group, ctx: Context) -> bool:
    """May the client be a member? Its connection may be another one than that by which it joined."""
    sender = ctx.sender
    return any(
        member.client_id == sender.client_id and member.client_host == sender.host
        for member in group.machine.members.values()
    )


class _Unstable:
    """Where an offset is about to change, and must not be told: by a transaction of Kafka, or of SQL."""

    __slots__ = ("_busy", "_room")

    def __init__(self, busy: Collection[OffsetKey], room: GroupRoom) -> None:
        self._busy = busy
        self._room = room

    def __contains__(self, key: OffsetKey) -> bool:
        return key in self._busy or key in self._room.pending()


async def _offsets(
    ctx: Context,
    group: Group | None,
    topics: Sequence[tuple[OffsetFetchRequestTopics, Topic | Refused | None]],
    unstable: _Unstable | None,
) -> list[OffsetFetchResponseTopics]:
    by_id, turns = ctx.version >= _SINCE_TOPIC_IDS, ctx.broker.turns
    answers = []
    async for asked, topic in turns.each(topics):
        if isinstance(topic, Refused):
            partitions = [_absent(index, topic.code) async for index in turns.each(asked.partition_indexes)]
        elif topic is None:
            code = int(ErrorCode.UNKNOWN_TOPIC_ID) if by_id else _NONE
            partitions = [_absent(index, code) async for index in turns.each(asked.partition_indexes)]
        else:
            partitions = [
                _partition(group, (topic.id, index), unstable) async for index in turns.each(asked.partition_indexes)
            ]
        answers.append(OffsetFetchResponseTopics(name=asked.name, topic_id=asked.topic_id, partitions=partitions))
    return answers


async def _all_offsets(
    ctx: Context, group: Group | None, unstable: _Unstable | None
) -> list[OffsetFetchResponseTopics]:
    answers = []
    turns = ctx.broker.turns
    with turns.long_work():
        by_topic: defaultdict[int, list[int]] = defaultdict(list)
        async for (topic_id, index), _ in turns.each([] if group is None else list(group.offsets.items())):
            by_topic[topic_id].append(index)
        async for topic_id, indexes in turns.each(sorted(by_topic.items())):
            topic = ctx.doors.topics.numbered(Operation.DESCRIBE, topic_id)
            if topic is not None:
                partitions = [
                    _partition(group, (topic_id, index), unstable) async for index in turns.each(sorted(indexes))
                ]
                answers.append(OffsetFetchResponseTopics(name=topic.name, topic_id=topic.uuid, partitions=partitions))
    return answers


def _partition(group: Group | None, key: OffsetKey, unstable: _Unstable | None) -> OffsetFetchResponsePartitions:
    """`unstable` is there when an offset that a transaction is about to change must not be told."""
    committed = None if group is None else group.offsets.get(*key)
    if unstable is not None and key in unstable:
        return _absent(key[1], int(ErrorCode.UNSTABLE_OFFSET_COMMIT))
    if committed is None:
        return _absent(key[1], _NONE)
    return OffsetFetchResponsePartitions(
        partition_index=key[1],
        committed_offset=committed.offset,
        committed_leader_epoch=committed.leader_epoch,
        metadata=committed.metadata,
    )


def _absent(index: int, code: int) -> OffsetFetchResponsePartitions:
    return OffsetFetchResponsePartitions(
        partition_index=index,
        committed_offset=_NO_OFFSET,
        committed_leader_epoch=_NO_EPOCH,
        metadata="",
        error_code=code,
    )


# -- OffsetDelete --------------------------------------------------------------------------------------------------------


async def offset_delete(ctx: Context, request: OffsetDeleteRequest) -> OffsetDeleteResponse:
    """Forget committed offsets of topics that the group does not read any more.

    Versions  0.
    Rules     - an empty group id is INVALID_GROUP_ID, an unknown group GROUP_ID_NOT_FOUND
              - a group with members that are no consumers is NON_EMPTY_GROUP
              - a topic that a member subscribes to is GROUP_SUBSCRIBED_TO_TOPIC, an unknown topic or partition
                UNKNOWN_TOPIC_OR_PARTITION; a partition without a commit is no error
              - what waits for the end of a transaction is forgotten with it
    """
    room = ctx.doors.groups.enter(Operation.DELETE, request.group_id)
    if not request.group_id:
        return delete_failure(request, ErrorCode.INVALID_GROUP_ID)
    if room.commits_by_sql and (await _settled(room, _partitions_of(room), waits=True)) != set():
        return delete_failure(request, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
    if room.refusal:
        return delete_failure(request, room.refusal)
    group = room.group
    if group is None:
        return delete_failure(request, ErrorCode.GROUP_ID_NOT_FOUND)
    machine = group.machine
    if refused := machine.check_offset_delete():
        return delete_failure(request, refused)
    doomed: list[OffsetKey] = []
    unwanted: list[OffsetKey] = []
    turns, turns_given = ctx.broker.turns, ctx.broker.turns.given
    answers = []
    async for asked in turns.each(request.topics):
        topic = _find(ctx, _READ, asked.name)
        is_subscribed = isinstance(topic, Topic) and machine.is_subscribed(asked.name)
        partitions = []
        async for one in turns.each(asked.partitions):
            index = one.partition_index
            code = ErrorCode.NONE
            if isinstance(topic, Refused):
                code = ErrorCode(topic.code)
            elif topic is None or not 0 <= index < topic.partitions:
                code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            elif is_subscribed:
                code = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
            else:
                if group.offsets.get(topic.id, index) is not None:
                    doomed.append((topic.id, index))
                if (topic.id, index) in room.pending():
                    unwanted.append((topic.id, index))
            partitions.append(OffsetDeleteResponsePartition(partition_index=index, error_code=int(code)))
        if partitions:
            answers.append(OffsetDeleteResponseTopic(name=asked.name, partitions=partitions))
    if turns.given != turns_given:
        # Others had their turn since the group was looked at.
        if room.group is not group:
            return delete_failure(request, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        if refused := group.machine.check_offset_delete():
            return delete_failure(request, refused)
        numbered = (ctx.doors.topics.numbered(_READ, topic_id) for topic_id in {each for each, _ in doomed})
        names = {topic.name for topic in numbered if topic is not None}
        if any(map(group.machine.is_subscribed, names)):
            return delete_failure(request, ErrorCode.NON_EMPTY_GROUP)
    if unwanted:
        failed = await room.forget_pending(unwanted)
        if not failed and room.group is not group:
            failed = int(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        if failed:
            return delete_failure(request, failed)
    if doomed:
        if failed := await room.delete_offsets(group, doomed):
            return delete_failure(request, failed)
        topics = sorted({answer.name for answer in answers})
        ctx.broker.audit.note(
            "offsets deleted",
            who=ctx.connection,
            resource=f"group {request.group_id}",
            detail=f"{len(doomed)} partitions of {', '.join(topics)}",
        )
    return OffsetDeleteResponse(topics=answers)


def _partitions_of(room: GroupRoom) -> Collection[OffsetKey]:
    return [] if room.group is None else room.group.offsets.keys()


def delete_failure(request: OffsetDeleteRequest, code: int) -> OffsetDeleteResponse:
    return OffsetDeleteResponse(error_code=retriable(code))


def _find(ctx: Context, operation: Operation, key: str | UUID) -> Topic | Refused | None:
    if key == ZERO_UUID:
        return None
    try:
        return ctx.doors.topics.find(operation, key)
    except Refused as refused:
        return refused
