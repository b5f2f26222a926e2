"""CreateTopics, DeleteTopics and CreatePartitions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

from pg_kafka.broker import idle_configs
from pg_kafka.broker.context import Broker, Context
from pg_kafka.broker.doors import NewTopic, Topic
from pg_kafka.broker.permission import Operation
from pg_kafka.broker.refusals import Refused
from pg_kafka.config import topics as topic_configs
from pg_kafka.config.keys import InvalidConfig
from pg_kafka.coordinator import topic_names
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
)
from pg_kafka.wire.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from pg_kafka.wire.messages.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)

logger = logging.getLogger(__name__)

# Kafka's bound on what one request may create.
MAX_PARTITIONS_PER_REQUEST = 10_000
_TOO_MANY_PARTITIONS = "Excessively large number of partitions per request."
# Each partition has one replica here; replication is PostgreSQL's.
REPLICATION_FACTOR = 1

_SINCE_CONFIGS_IN_ANSWERS = 5
_SINCE_DELETION_DISABLED = 3
# From these versions on a client is told that its quota of changes is used up (KIP-599); below them it only has to wait.
_STRICT_CREATION, _STRICT_DELETION, _STRICT_GROWTH = 6, 5, 3
_QUOTA_EXCEEDED = "The throttling quota has been exceeded."
_DENIED = "Authorization failed."
_UNKNOWN_NAME = "This server does not host this topic-partition."
_NAMED_TWICE = "The provided topic name maps to an ID that was already supplied."
_UNKNOWN_ID = "This server does not host this topic ID."


async def create_topics(ctx: Context, request: CreateTopicsRequest) -> CreateTopicsResponse:
    """Create topics, each for itself.

    Versions  2-7. 5 is the first flexible one and answers with the configs, 7 with the topic's id.
    Rules     - a name twice in the request is INVALID_REQUEST for that name
              - names: TOPIC_ALREADY_EXISTS; invalid, or like another but for '.' and '_', INVALID_TOPIC_EXCEPTION
              - partitions: -1 is num.partitions, other numbers below 1 are INVALID_PARTITIONS
              - replication factor: -1 or 1 and above; INVALID_REPLICATION_FACTOR below
              - a manual assignment excludes both numbers (INVALID_REQUEST) and must name partitions from 0 on and
                this broker (INVALID_REPLICA_ASSIGNMENT)
              - configs are checked by `config/topics.py`: INVALID_CONFIG
              - more than 10,000 partitions in one request are POLICY_VIOLATION
              - validate_only checks everything and creates nothing
              - while the client's controller_mutation_rate is used up: THROTTLING_QUOTA_EXCEEDED, below version 6 a wait
    Not done  - replicas: any replication factor is accepted and one replica reported
              - the timeout: the answer comes when PostgreSQL has committed
    """
    broker = ctx.broker
    ctx.doors.check_controller()
    mutations = ctx.mutations(strict_since=_STRICT_CREATION)
    asked = Counter(topic.name for topic in request.topics)
    if sum(map(_partitions_asked, request.topics)) > MAX_PARTITIONS_PER_REQUEST:
        code, message = ErrorCode.POLICY_VIOLATION, _TOO_MANY_PARTITIONS
        return CreateTopicsResponse(
            topics=[_not_created(name, code, message) async for name in broker.turns.each(asked)]
        )
    results: list[CreatableTopicResult] = []
    specs: list[NewTopic] = []
    async for topic in broker.turns.each(request.topics):
        if (times := asked.pop(topic.name, 0)) == 0:  # named before, and answered once
            continue
        try:
            if times > 1:
                raise Refused(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
            spec = _checked(ctx, topic)
            if not mutations.may(spec.partitions):
                raise Refused(ErrorCode.THROTTLING_QUOTA_EXCEEDED, _QUOTA_EXCEEDED)
            specs.append(spec)
        except Refused as refused:
            results.append(_not_created(topic.name, refused.code, refused.message))
    created: Sequence[Topic | int] = () if request.validate_only or not specs else await ctx.doors.topics.create(specs)
    plain = _described_configs(broker, {}) if ctx.version >= _SINCE_CONFIGS_IN_ANSWERS else None
    async for index, spec in broker.turns.each(enumerate(specs)):
        outcome = created[index] if created else None
        if isinstance(outcome, int):
            results.append(_creation_failed(spec.name, outcome))
            continue
        result = CreatableTopicResult(name=spec.name, topic_id=ZERO_UUID if outcome is None else outcome.uuid)
        if ctx.doors.topics.may(Operation.DESCRIBE_CONFIGS, spec.name):
            result.num_partitions = spec.partitions
            result.replication_factor = REPLICATION_FACTOR
            result.configs = _described_configs(broker, spec.configs) if plain and spec.configs else plain
        else:
            result.topic_config_error_code = ErrorCode.TOPIC_AUTHORIZATION_FAILED
            result.configs = None
        results.append(result)
        if outcome is not None:
            note_created(ctx, spec)
            idle_configs.warn(broker, spec.name, spec.configs)
    return CreateTopicsResponse(topics=results, throttle_time_ms=mutations.throttle_ms)


def create_topics_failure(request: CreateTopicsRequest, code: int) -> CreateTopicsResponse:
    names = dict.fromkeys(topic.name for topic in request.topics)
    return CreateTopicsResponse(topics=[_not_created(name, code, None) for name in names])


def _partitions_asked(topic: CreatableTopic) -> int:
    return len(topic.assignments) or max(topic.num_partitions, 1)


def _checked(ctx: Context, topic: CreatableTopic) -> NewTopic:
    """What the topic will be. Raises Refused."""
    broker, topics = ctx.broker, ctx.doors.topics
    name = topic.name
    if name == topic_names.METADATA_TOPIC:
        raise Refused(ErrorCode.INVALID_REQUEST, f"Creation of internal topic {name} is prohibited.")
    if not topics.may_create(name):
        raise Refused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, _DENIED)
    if (fault := topic_names.fault_of(name)) is not None:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, fault)
    if topics.is_taken(name):
        raise Refused(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
    if (other := topics.collision(name)) is not None:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic '{name}' collides with existing topic: {other}")
    partitions = _assigned(broker, topic) if topic.assignments else _counted(broker, topic)
    given = {entry.name: entry.value for entry in topic.configs}
    try:
        topic_configs.validate(given)
    except InvalidConfig as error:
        raise Refused(ErrorCode.INVALID_CONFIG, str(error)) from None
    return NewTopic(name, partitions, {key: value for key, value in given.items() if value is not None})


def _counted(broker: Broker, topic: CreatableTopic) -> int:
    if topic.replication_factor < -1 or topic.replication_factor == 0:
        raise Refused(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        )
    if topic.num_partitions < -1 or topic.num_partitions == 0:
        raise Refused(ErrorCode.INVALID_PARTITIONS, "Number of partitions was set to an invalid non-positive value.")
    return broker.config.num_partitions if topic.num_partitions == -1 else topic.num_partitions


def _assigned(broker: Broker, topic: CreatableTopic) -> int:
    if topic.replication_factor != -1:
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        )
    if topic.num_partitions != -1:
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        )
    seen: set[int] = set()
    for assignment in topic.assignments:
        if assignment.partition_index in seen:
            raise Refused(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Found multiple manual partition assignments for partition {assignment.partition_index}",
            )
        seen.add(assignment.partition_index)
        _check_replicas(broker, assignment.broker_ids)
    if seen != set(range(len(seen))):
        raise Refused(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT, "partitions should be a consecutive 0-based integer sequence"
        )
    return len(seen)


def _check_replicas(broker: Broker, broker_ids: Sequence[int]) -> None:
    if not broker_ids:
        raise Refused(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT, "The manual partition assignment includes an empty replica list."
        )
    seen: set[int] = set()
    for broker_id in broker_ids:
        if broker_id != broker.node_id:
            raise Refused(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"The manual partition assignment includes broker {broker_id}, but no such broker is registered.",
            )
        if broker_id in seen:
            raise Refused(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"The manual partition assignment includes the broker {broker_id} more than once.",
            )
        seen.add(broker_id)


def _creation_failed(name: str, code: int) -> CreatableTopicResult:
    message = f"Topic '{name}' already exists." if code == ErrorCode.TOPIC_ALREADY_EXISTS else None
    return _not_created(name, code, message)


def _not_created(name: str, code: int, message: str | None) -> CreatableTopicResult:
    """An error has an empty list of configs; null would mean that the client may not see them."""
    return CreatableTopicResult(name=name, error_code=code, error_message=message, configs=())


def _described_configs(broker: Broker, configs: Mapping[str, str]) -> list[CreatableTopicConfigs]:
    return [
        CreatableTopicConfigs(
            name=entry.name, value=entry.value, read_only=entry.is_read_only, config_source=entry.source
        )
        for entry in topic_configs.describe(configs, broker.config)
    ]


def note_created(ctx: Context, topic: NewTopic) -> None:
    configs = "".join(f" {name}={value}" for name, value in topic.configs.items())
    detail = f"partitions={topic.partitions}{configs}"
    ctx.broker.audit.note("topic created", who=ctx.connection, resource=f"topic {topic.name}", detail=detail)


async def delete_topics(ctx: Context, request: DeleteTopicsRequest) -> DeleteTopicsResponse:
    """Delete topics by name or, from version 6 on, by id.

    Versions  1-6. 4 is the first flexible one; messages came with 5.
    Rules     - UNKNOWN_TOPIC_OR_PARTITION for a name, UNKNOWN_TOPIC_ID for an id that is not there
              - a topic named twice, by name and by id, by both or by neither, is INVALID_REQUEST and stays
              - delete.topic.enable=false: TOPIC_DELETION_DISABLED, below version 3 INVALID_REQUEST
              - appends that were accepted before are finished first
              - while the client's controller_mutation_rate is used up: THROTTLING_QUOTA_EXCEEDED, below version 5 a wait
    Not done  - the timeout: the answer comes when PostgreSQL has committed
    """
    ctx.doors.check_controller()
    mutations = ctx.mutations(strict_since=_STRICT_DELETION)
    wanted = _deletions(request)
    if not ctx.broker.config.delete_topic_enable:
        code = ErrorCode.TOPIC_DELETION_DISABLED
        return delete_topics_failure(
            request, code if ctx.version >= _SINCE_DELETION_DISABLED else ErrorCode.INVALID_REQUEST
        )
    asked = Counter(map(_key, wanted))
    results: list[DeletableTopicResult] = []
    found: list[Topic] = []
    async for state in ctx.broker.turns.each(wanted):
        if (times := asked.pop(_key(state), 0)) == 0:  # named before, and answered once
            continue
        try:
            found.append(_to_delete(ctx, state, times))
        except Refused as refused:
            results.append(_not_deleted(state, refused.code, refused.message))
            if state.name is None and refused.code == ErrorCode.TOPIC_AUTHORIZATION_FAILED:
                results[-1].name = _name_to_tell(ctx, state.topic_id)
    doomed = []
    times_found = Counter(topic.id for topic in found)
    for topic in {topic.id: topic for topic in found}.values():
        if times_found[topic.id] == 1:
            if mutations.may(topic.partitions):
                doomed.append(topic)
            else:
                state = DeleteTopicState(name=topic.name, topic_id=topic.uuid)
                results.append(_not_deleted(state, ErrorCode.THROTTLING_QUOTA_EXCEEDED, _QUOTA_EXCEEDED))
        else:
            both = DeleteTopicState(name=topic.name, topic_id=topic.uuid)
            results.append(_not_deleted(both, ErrorCode.INVALID_REQUEST, _NAMED_TWICE))
    if doomed:
        await ctx.doors.topics.delete(doomed)
        async for topic in ctx.broker.turns.each(doomed):
            ctx.broker.audit.note("topic deleted", who=ctx.connection, resource=f"topic {topic.name}")
    results += [DeletableTopicResult(name=topic.name, topic_id=topic.uuid) for topic in doomed]
    return DeleteTopicsResponse(responses=results, throttle_time_ms=mutations.throttle_ms)


def delete_topics_failure(request: DeleteTopicsRequest, code: int) -> DeleteTopicsResponse:
    return DeleteTopicsResponse(responses=[_not_deleted(state, code, None) for state in _deletions(request)])


def _deletions(request: DeleteTopicsRequest) -> list[DeleteTopicState]:
    """Both forms of the request as one."""
    return [*request.topics, *(DeleteTopicState(name=name) for name in request.topic_names)]


def _key(state: DeleteTopicState) -> str | UUID:
    return state.topic_id if state.name is None else state.name


def _to_delete(ctx: Context, state: DeleteTopicState, times: int) -> Topic:
    """The topic that is meant. Raises Refused."""
    topics = ctx.doors.topics
    if state.name is not None:
        if state.topic_id != ZERO_UUID:
            raise Refused(ErrorCode.INVALID_REQUEST, "You may not specify both topic name and topic id.")
        if times > 1:
            raise Refused(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
        if (topic := topics.to_delete(state.name)) is None:
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, _UNKNOWN_NAME)
        return topic
    if state.topic_id == ZERO_UUID:
        raise Refused(ErrorCode.INVALID_REQUEST, "Neither topic name nor id were specified.")
    if times > 1:
        raise Refused(ErrorCode.INVALID_REQUEST, "Duplicate topic id.")
    if (topic := topics.to_delete(state.topic_id)) is None:
        raise Refused(ErrorCode.UNKNOWN_TOPIC_ID, _UNKNOWN_ID)
    return topic


def _name_to_tell(ctx: Context, topic_id: UUID) -> str | None:
    """The name of a topic that the client may not delete: only for those who may describe it."""
    try:
        topic = ctx.doors.topics.find(Operation.DESCRIBE, topic_id)
    except Refused:
        return None
    return None if topic is None else topic.name


def _not_deleted(state: DeleteTopicState, code: int, message: str | None) -> DeletableTopicResult:
    return DeletableTopicResult(name=state.name, topic_id=state.topic_id, error_code=code, error_message=message)


async def create_partitions(ctx: Context, request: CreatePartitionsRequest) -> CreatePartitionsResponse:
    """Raise the number of partitions of topics, each for itself.

    Versions  0-3. 2 is the first flexible one.
    Rules     - a name twice is INVALID_REQUEST; an unknown one UNKNOWN_TOPIC_OR_PARTITION
              - a count that is not larger than today's is INVALID_PARTITIONS
              - assignments must be one for each new partition and name this broker: INVALID_REPLICA_ASSIGNMENT
              - more than 10,000 new partitions in one request are POLICY_VIOLATION
              - validate_only checks everything and changes nothing
              - while the client's controller_mutation_rate is used up: THROTTLING_QUOTA_EXCEEDED, below version 3 a wait
    Not done  - the timeout: the answer comes when PostgreSQL has committed
    """
    broker = ctx.broker
    ctx.doors.check_controller()
    asked = Counter(topic.name for topic in request.topics)
    mutations = ctx.mutations(strict_since=_STRICT_GROWTH)
    room = MAX_PARTITIONS_PER_REQUEST
    results: list[CreatePartitionsTopicResult] = []
    async for wanted in broker.turns.each(request.topics):
        if (times := asked.pop(wanted.name, 0)) == 0:
            continue
        result = CreatePartitionsTopicResult(name=wanted.name)
        results.append(result)
        try:
            if times > 1:
                raise Refused(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
            topic = ctx.doors.topics.find(Operation.ALTER, wanted.name)
            if topic is None:
                raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None)
            added = _checked_growth(broker, topic, wanted)
            room -= added
            if room < 0:
                raise Refused(ErrorCode.POLICY_VIOLATION, _TOO_MANY_PARTITIONS)
            if not mutations.may(added):
                raise Refused(ErrorCode.THROTTLING_QUOTA_EXCEEDED, _QUOTA_EXCEEDED)
            if not request.validate_only:
                await ctx.doors.topics.grow(topic, wanted.count)
                ctx.broker.audit.note(
                    "topic changed",
                    who=ctx.connection,
                    resource=f"topic {wanted.name}",
                    detail=f"partitions={wanted.count}",
                )
        except Refused as refused:
            result.error_code, result.error_message = refused.code, refused.message
    return CreatePartitionsResponse(results=results, throttle_time_ms=mutations.throttle_ms)


def create_partitions_failure(request: CreatePartitionsRequest, code: int) -> CreatePartitionsResponse:
    return CreatePartitionsResponse(
        results=[CreatePartitionsTopicResult(name=topic.name, error_code=code) for topic in request.topics]
    )


def _checked_growth(broker: Broker, topic: Topic, wanted: CreatePartitionsTopic) -> int:
    """How many partitions are added. Raises Refused."""
    if wanted.count == topic.partitions:
        raise Refused(ErrorCode.INVALID_PARTITIONS, f"Topic already has {topic.partitions} partition(s).")
    if wanted.count < topic.partitions:
        raise Refused(
            ErrorCode.INVALID_PARTITIONS,
            f"The topic {topic.name} currently has {topic.partitions} partition(s); {wanted.count} would not be an "
            "increase.",
        )
    added = wanted.count - topic.partitions
    if wanted.assignments is not None:
        if len(wanted.assignments) != added:
            raise Refused(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Attempted to add {added} additional partition(s), but only {len(wanted.assignments)} assignment(s) "
                "were specified.",
            )
        for assignment in wanted.assignments:
            _check_replicas(broker, assignment.broker_ids)
    return added
