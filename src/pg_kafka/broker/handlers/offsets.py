"""OffsetCommit, OffsetFetch and OffsetDelete: how far groups have come."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from uuid import UUID

from pg_kafka.broker.answers import Asked
from pg_kafka.broker.context import Context, Reply
from pg_kafka.broker.groups import Group
from pg_kafka.broker.handlers.groups import retriable
from pg_kafka.coordinator.consumer_group import ConsumerGroup
from pg_kafka.coordinator.group_offsets import Committed, OffsetKey, check_metadata
from pg_kafka.storage.topics import Topic, Topics
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages.offset_commit_request import OffsetCommitRequest, OffsetCommitRequestTopic
from pg_kafka.wire.messages.offset_commit_response import (
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from pg_kafka.wire.messages.offset_delete_request import OffsetDeleteRequest
from pg_kafka.wire.messages.offset_delete_response import (
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from pg_kafka.wire.messages.offset_fetch_request import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
)
from pg_kafka.wire.messages.offset_fetch_response import (
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)

_NONE = int(ErrorCode.NONE)
_NO_OFFSET = -1
_NO_EPOCH = -1
_SINCE_GROUP_NOT_FOUND = 9  # in OffsetCommit
_SINCE_GROUPS = 8  # in OffsetFetch
_SINCE_GROUP_ERRORS = 2
_SINCE_TOPIC_IDS = 10  # in both


# -- OffsetCommit --------------------------------------------------------------------------------------------------------


def offset_commit(ctx: Context, request: OffsetCommitRequest, reply: Reply) -> None:
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
    broker, groups = ctx.broker, ctx.broker.groups
    asked = Asked(reply, request, commit_failure)
    if groups.refusal:
        asked.refuse(groups.refusal)
        return
    by_id = ctx.version >= _SINCE_TOPIC_IDS
    found = [_find(broker.topics, topic.topic_id if by_id else topic.name) for topic in request.topics]
    code = _check_commit(ctx, request, found)
    limit, now_ms = broker.config.offset_metadata_max_bytes, broker.now_ms()
    commits: dict[OffsetKey, Committed] = {}
    answers = []
    for asked_topic, topic in zip(request.topics, found, strict=True):
        unknown = ErrorCode.UNKNOWN_TOPIC_ID if by_id and topic is None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        topic_id, count = (-1, 0) if topic is None else (topic.id, topic.partitions)
        partitions = []
        for one in asked_topic.partitions:
            index, metadata = one.partition_index, one.committed_metadata
            if not 0 <= index < count:
                error = int(unknown)
            else:
                error = code or (int(check_metadata(metadata, limit)) if metadata else _NONE)
            if not error:
                commits[topic_id, index] = Committed(
                    one.committed_offset, one.committed_leader_epoch, metadata or "", now_ms
                )
            partitions.append(OffsetCommitResponsePartition(partition_index=index, error_code=error))
        answers.append(_committed_topic(asked_topic, partitions))
    response = OffsetCommitResponse(topics=answers)
    if commits:
        groups.commit(request.group_id, request.member_id, commits, asked, response)
    else:
        asked.answer(response)


def _check_commit(ctx: Context, request: OffsetCommitRequest, topics: Sequence[Topic | None]) -> int:
    """The group's error for all that is committed."""
    groups = ctx.broker.groups
    if not groups.can_be_id(request.group_id):
        return int(ErrorCode.INVALID_GROUP_ID)
    group = groups.get(request.group_id)
    generation = request.generation_id_or_member_epoch
    if group is None:
        if generation < 0:
            return _NONE
        is_known = ctx.version >= _SINCE_GROUP_NOT_FOUND
        return int(ErrorCode.GROUP_ID_NOT_FOUND if is_known else ErrorCode.ILLEGAL_GENERATION)
    who = (request.member_id, request.group_instance_id, generation, ctx.version)
    code = group.machine.check_commit(*who)
    if code and isinstance(group.machine, ConsumerGroup):
        partitions = [
            (topic.uuid, one.partition_index)
            for asked, topic in zip(request.topics, topics, strict=True)
            if topic is not None
            for one in asked.partitions
        ]
        code = group.machine.check_commit(*who, partitions=partitions)
    return int(code)


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


def offset_fetch(ctx: Context, request: OffsetFetchRequest, reply: Reply) -> None:
    """Tell how far groups have come, as far as it is committed.

    Versions  1-10. 2 has all topics (null) and the group's error, 5 leader epochs, 6 is flexible, 7 has require_stable,
              8 many groups, 9 members of the consumer protocol, 10 names topics by id.
    Rules     - a partition without a commit is offset -1 without an error, in a group that is not there too
              - each group answers for itself: UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH
              - an unknown topic id is UNKNOWN_TOPIC_ID; an unknown name has no commits
              - while groups are loaded, and when a storage fails, the group's answer is an error, never offset -1
              - with require_stable an offset that an open transaction is about to change is UNSTABLE_OFFSET_COMMIT
    """
    groups = ctx.broker.groups
    if groups.refusal:
        reply.send(_fetch_answer(request, [], int(groups.refusal), ctx.version))
        return
    if ctx.version >= _SINCE_GROUPS:
        stable = request.require_stable
        reply.send(OffsetFetchResponse(groups=[_fetch(ctx, asked, stable) for asked in request.groups]))
        return
    topics = (
        None
        if request.topics is None
        else [
            OffsetFetchRequestTopics(name=topic.name, partition_indexes=topic.partition_indexes)
            for topic in request.topics
        ]
    )
    answer = _fetch(ctx, OffsetFetchRequestGroup(group_id=request.group_id, topics=topics), request.require_stable)
    reply.send(_fetch_answer(request, answer.topics, answer.error_code, ctx.version))


def _fetch_answer(
    request: OffsetFetchRequest, topics: Sequence[OffsetFetchResponseTopics], code: int, version: int
) -> OffsetFetchResponse:
    """The answer in the form of all versions, of which the encoder takes what the version has."""
    if code and not topics and version < _SINCE_GROUP_ERRORS:
        topics = [
            OffsetFetchResponseTopics(name=topic.name, partitions=[_absent(p, code) for p in topic.partition_indexes])
            for topic in request.topics or ()
        ]
    return OffsetFetchResponse(
        error_code=code,
        topics=[
            OffsetFetchResponseTopic(
                name=topic.name,
                partitions=[
                    OffsetFetchResponsePartition(
                        partition_index=one.partition_index,
                        committed_offset=one.committed_offset,
                        committed_leader_epoch=one.committed_leader_epoch,
                        metadata=one.metadata,
                        error_code=one.error_code,
                    )
                    for one in topic.partitions
                ],
            )
            for topic in topics
        ],
        groups=[OffsetFetchResponseGroup(group_id=group.group_id, error_code=code) for group in request.groups],
    )


def fetch_failure(request: OffsetFetchRequest, code: int) -> OffsetFetchResponse:
    """In version 1 the error is that of each partition, in versions that have none of their own it is not sent."""
    code = ErrorCode.NOT_COORDINATOR if code == ErrorCode.KAFKA_STORAGE_ERROR else code
    return _fetch_answer(request, [], int(code), 1)


def _fetch(ctx: Context, asked: OffsetFetchRequestGroup, require_stable: bool) -> OffsetFetchResponseGroup:
    groups = ctx.broker.groups
    group = groups.get(asked.group_id)
    answer = OffsetFetchResponseGroup(group_id=asked.group_id)
    if group is not None:
        answer.error_code = int(group.machine.check_fetch(asked.member_id, asked.member_epoch))
    if not answer.error_code:
        unstable = groups.pending.of(asked.group_id) if require_stable else ()
        if asked.topics is None:
            answer.topics = _all_offsets(ctx, group, unstable)
        else:
            answer.topics = _offsets(ctx, group, asked.topics, unstable)
    return answer


def _offsets(
    ctx: Context, group: Group | None, topics: Sequence[OffsetFetchRequestTopics], unstable: Collection[OffsetKey]
) -> list[OffsetFetchResponseTopics]:
    by_id = ctx.version >= _SINCE_TOPIC_IDS
    answers = []
    for asked in topics:
        topic = _find(ctx.broker.topics, asked.topic_id if by_id else asked.name)
        if topic is None:
            code = int(ErrorCode.UNKNOWN_TOPIC_ID) if by_id else _NONE
            partitions = [_absent(index, code) for index in asked.partition_indexes]
        else:
            partitions = [_partition(group, (topic.id, index), unstable) for index in asked.partition_indexes]
        answers.append(OffsetFetchResponseTopics(name=asked.name, topic_id=asked.topic_id, partitions=partitions))
    return answers


def _all_offsets(ctx: Context, group: Group | None, unstable: Collection[OffsetKey]) -> list[OffsetFetchResponseTopics]:
    answers = []
    keys = sorted(key for key, _ in group.offsets.items()) if group is not None else []
    for topic_id, of_topic in groupby(keys, key=lambda key: key[0]):
        topic = ctx.broker.topics.by_id.get(topic_id)
        if topic is not None:
            partitions = [_partition(group, key, unstable) for key in of_topic]
            answers.append(OffsetFetchResponseTopics(name=topic.name, topic_id=topic.uuid, partitions=partitions))
    return answers


def _partition(group: Group | None, key: OffsetKey, unstable: Collection[OffsetKey]) -> OffsetFetchResponsePartitions:
    committed = None if group is None else group.offsets.get(*key)
    if key in unstable:
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
    groups = ctx.broker.groups
    if groups.refusal:
        return delete_failure(request, groups.refusal)
    if not request.group_id:
        return delete_failure(request, ErrorCode.INVALID_GROUP_ID)
    group = groups.get(request.group_id)
    if group is None:
        return delete_failure(request, ErrorCode.GROUP_ID_NOT_FOUND)
    machine = group.machine
    if refused := machine.check_offset_delete():
        return delete_failure(request, refused)
    doomed: list[OffsetKey] = []
    unwanted: list[OffsetKey] = []
    pending = groups.pending.of(group.id)
    answers = []
    for asked in request.topics:
        topic = ctx.broker.topics.by_name.get(asked.name)
        is_subscribed = topic is not None and machine.is_subscribed(asked.name)
        partitions = []
        for one in asked.partitions:
            index = one.partition_index
            if topic is None or not 0 <= index < topic.partitions:
                code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            elif is_subscribed:
                code = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
            else:
                code = ErrorCode.NONE
                if group.offsets.get(topic.id, index) is not None:
                    doomed.append((topic.id, index))
                if (topic.id, index) in pending:
                    unwanted.append((topic.id, index))
            partitions.append(OffsetDeleteResponsePartition(partition_index=index, error_code=int(code)))
        if partitions:
            answers.append(OffsetDeleteResponseTopic(name=asked.name, partitions=partitions))
    if unwanted:
        failed = await ctx.broker.transactions.forget_offsets(group.id, unwanted)
        if not failed and groups.get(group.id) is not group:
            failed = int(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        if failed:
            return delete_failure(request, failed)
    if doomed and (failed := await groups.delete_offsets(group, doomed)):
        return delete_failure(request, failed)
    return OffsetDeleteResponse(topics=answers)


def delete_failure(request: OffsetDeleteRequest, code: int) -> OffsetDeleteResponse:
    return OffsetDeleteResponse(error_code=retriable(code))


def _find(topics: Topics, key: str | UUID) -> Topic | None:
    if isinstance(key, str):
        return topics.by_name.get(key)
    return None if key == ZERO_UUID else topics.by_uuid.get(key)
