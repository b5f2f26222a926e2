"""AlterConfigs and IncrementalAlterConfigs change the configs of topics, brokers, loggers, groups and subscriptions to
metrics of clients; ListConfigResources names what has any.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pg_kafka.broker import idle_configs, loggers
from pg_kafka.broker.config_resources import Resource, checked_node, checked_own_node
from pg_kafka.broker.context import Context
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused, shortened
from pg_kafka.config import client_metrics
from pg_kafka.config import topics as topic_configs
from pg_kafka.config.changes import Change, replacement
from pg_kafka.config.keys import InvalidChange, InvalidConfig
from pg_kafka.config.load import ALL_NODES
from pg_kafka.coordinator import topic_names
from pg_kafka.coordinator.client_metrics import MAX_NAME_BYTES, Subscription
from pg_kafka.errors import StorageError
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import alter_configs as plain
from pg_kafka.wire.messages import incremental_alter_configs as incremental
from pg_kafka.wire.messages.list_config_resources import (
    ConfigResource,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
)

_ONE_VERSION_KNOWS = (Resource.CLIENT_METRICS,)
# In the order of Kafka's answers.
_ALL = (Resource.GROUP, Resource.CLIENT_METRICS, Resource.BROKER_LOGGER, Resource.BROKER, Resource.TOPIC)


async def incremental_alter_configs(
    ctx: Context, request: incremental.IncrementalAlterConfigsRequest
) -> incremental.IncrementalAlterConfigsResponse:
    """Change configs, each resource for itself.

    Versions  0-1. 1 is the first flexible one.
    Rules     - SET, DELETE, and for lists APPEND and SUBTRACT: these begin with what is in force when nothing is set
              - all changes of one resource are made, or none; an answer without error is stored, and in force here
              - an unknown key of a topic or a group, or a value that it cannot have, is INVALID_CONFIG; one of a broker,
                a key twice or a null value INVALID_REQUEST
              - a broker's setting that is read at the start alone is INVALID_REQUEST; the empty name means all brokers
              - a group may have configs before it exists; a logger's level holds until the broker ends
              - a subscription to metrics of clients is there while anything is set for it; its lists can be set alone
              - a resource that is named twice is INVALID_REQUEST and stays as it is
              - validate_only checks everything and changes nothing
    Not done  - keys for share and streams groups: INVALID_CONFIG, as unknown ones
              - settings of Kafka's brokers that have nothing here to act on: INVALID_REQUEST
    """
    asked = [
        (one.resource_type, one.resource_name, [(c.config_operation, c.name, c.value) for c in one.configs])
        for one in request.resources
    ]
    answers = await _altered(ctx, asked, request.validate_only, replaces=False)
    return incremental.IncrementalAlterConfigsResponse(
        responses=[
            incremental.AlterConfigsResourceResponse(
                error_code=code, error_message=message, resource_type=kind, resource_name=name
            )
            for kind, name, code, message in answers
        ]
    )


async def alter_configs(ctx: Context, request: plain.AlterConfigsRequest) -> plain.AlterConfigsResponse:
    """Replace configs: what is not named is set no more. Each resource for itself.

    Versions  0-2. 2 is the first flexible one.
    Rules     - as IncrementalAlterConfigs, each key being set
              - of a broker, what is read at the start alone stays as it is
    Not done  - loggers: INVALID_REQUEST, as in Kafka
    """
    asked: list[tuple[int, str, Sequence[Change]]] = [
        (one.resource_type, one.resource_name, replacement((c.name, c.value) for c in one.configs))
        for one in request.resources
    ]
    answers = await _altered(ctx, asked, request.validate_only, replaces=True)
    return plain.AlterConfigsResponse(
        responses=[
            plain.AlterConfigsResourceResponse(
                error_code=code, error_message=message, resource_type=kind, resource_name=name
            )
            for kind, name, code, message in answers
        ]
    )


async def list_config_resources(ctx: Context, request: ListConfigResourcesRequest) -> ListConfigResourcesResponse:
    """Name the resources that have configs, of the types that are asked for.

    Versions  0-1. 0 knows client metrics alone.
    Rules     - no types means all; a type that is none is UNSUPPORTED_VERSION
              - topics and brokers are all named, groups and client metrics when something is set for them; who may
                describe the cluster's configs sees all of them
    """
    ctx.doors.check(Operation.DESCRIBE_CONFIGS, ResourceType.CLUSTER)
    types = request.resource_types or (_ALL if ctx.version > 0 else _ONE_VERSION_KNOWS)
    if any(type not in _ALL for type in types):
        return ListConfigResourcesResponse(error_code=ErrorCode.UNSUPPORTED_VERSION)
    nodes = [str(ctx.broker.node_id), *(str(peer.node_id) for peer in ctx.broker.waiting())]
    found: Mapping[int, Sequence[str]] = {
        Resource.TOPIC: ctx.doors.topics.names(),
        Resource.BROKER: nodes,
        Resource.BROKER_LOGGER: nodes,
        Resource.GROUP: ctx.doors.groups.with_configs(),
        Resource.CLIENT_METRICS: list(ctx.doors.client_metrics.configs),
    }
    return ListConfigResourcesResponse(
        config_resources=[
            ConfigResource(resource_name=name, resource_type=type)
            for type in _ALL
            if type in types
            for name in found.get(type, ())
        ]
    )


def list_failure(_request: ListConfigResourcesRequest, code: int) -> ListConfigResourcesResponse:
    return ListConfigResourcesResponse(error_code=code)


def alter_failure(request: plain.AlterConfigsRequest, code: int) -> plain.AlterConfigsResponse:
    return plain.AlterConfigsResponse(
        responses=[
            plain.AlterConfigsResourceResponse(
                error_code=code, resource_type=one.resource_type, resource_name=one.resource_name
            )
            for one in request.resources
        ]
    )


def incremental_failure(
    request: incremental.IncrementalAlterConfigsRequest, code: int
) -> incremental.IncrementalAlterConfigsResponse:
    return incremental.IncrementalAlterConfigsResponse(
        responses=[
            incremental.AlterConfigsResourceResponse(
                error_code=code, resource_type=one.resource_type, resource_name=one.resource_name
            )
            for one in request.resources
        ]
    )


_Answer = tuple[int, str, int, str | None]
"""Type and name of a resource, error code and message."""


async def _altered(
    ctx: Context, asked: Sequence[tuple[int, str, Sequence[Change]]], validate_only: bool, *, replaces: bool
) -> list[_Answer]:
    times = Counter((kind, name) for kind, name, _ in asked)
    answers: list[_Answer] = []
    async for kind, name, changes in ctx.broker.turns.each(asked):
        code, message = int(ErrorCode.NONE), None
        try:
            _check(ctx, kind, name)
            if times[kind, name] > 1:
                raise Refused(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
            await _ways(kind)(ctx, name, changes, validate_only, replaces)
            if not validate_only:
                _note(ctx, Resource(kind), name, changes, replaces)
        except Refused as refused:
            code, message = int(refused.code), refused.message
        except InvalidChange as invalid:
            code, message = int(ErrorCode.INVALID_REQUEST), shortened(str(invalid))
        except InvalidConfig as invalid:
            code, message = int(ErrorCode.INVALID_CONFIG), shortened(str(invalid))
        except StorageError as error:
            code, message = int(error.code), error.message
        answers.append((kind, name, code, message))
    return answers


_EVENTS = {
    Resource.TOPIC: ("topic changed", "topic"),
    Resource.BROKER: ("setting changed", "broker"),
    Resource.BROKER_LOGGER: ("logger changed", "broker"),
    Resource.GROUP: ("group config changed", "group"),
    Resource.CLIENT_METRICS: ("client metrics changed", "client metrics"),
}


_VERBS = {0: "set", 1: "delete", 2: "append", 3: "subtract"}
_SECRET = re.compile(r"password|secret|jaas|\.key$", re.IGNORECASE)


def _value(key: str, value: str | None) -> str:
    if value is None:
        return ""
    return "=***" if _SECRET.search(key) else f"={value}"


def _note(ctx: Context, kind: Resource, name: str, changes: Sequence[Change], replaces: bool) -> None:
    event, what = _EVENTS[kind]
    said = [f"{_VERBS[operation]} {key}" + _value(key, value) for operation, key, value in changes]
    detail = ("all set anew: " if replaces else "") + ", ".join(said)
    ctx.broker.audit.note(event, who=ctx.connection, resource=f"{what} {name or 'all'}", detail=detail)


def _check(ctx: Context, kind: int, name: str) -> None:
    """Raises Refused without permission, before it is said what can be changed at all."""
    match kind:
        case Resource.TOPIC:
            ctx.doors.topics.check(Operation.ALTER_CONFIGS, name)
        case Resource.GROUP:
            ctx.doors.check(Operation.ALTER_CONFIGS, ResourceType.GROUP, name)
        case Resource.BROKER | Resource.BROKER_LOGGER | Resource.CLIENT_METRICS:
            ctx.doors.check(Operation.ALTER_CONFIGS, ResourceType.CLUSTER)


_Way = Callable[[Context, str, Sequence[Change], bool, bool], Awaitable[None]]


def _ways(kind: int) -> _Way:
    try:
        return _WAYS[Resource(kind)]
    except ValueError:
        raise Refused(ErrorCode.INVALID_REQUEST, f"Unknown resource type {kind}") from None


async def _topic(ctx: Context, name: str, changes: Sequence[Change], validate_only: bool, replaces: bool) -> None:
    if not name:
        raise Refused(ErrorCode.INVALID_REQUEST, "Default topic resources are not allowed.")
    if (fault := topic_names.fault_of(name)) is not None:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, fault)
    ctx.doors.check_controller()

    def change(configs: Mapping[str, str]) -> dict[str, str]:
        return topic_configs.altered({} if replaces else configs, changes, ctx.broker.config)

    topic = ctx.doors.topics.find(Operation.ALTER_CONFIGS, name)
    changed = None if topic is None else await ctx.doors.topics.alter(topic, change, validate_only=validate_only)
    if changed is None:
        raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")
    if not validate_only:
        idle_configs.warn(ctx.broker, name, changed.configs)


async def _broker(ctx: Context, name: str, changes: Sequence[Change], validate_only: bool, replaces: bool) -> None:
    node_id = checked_node(name, [ctx.broker.node_id, *(peer.node_id for peer in ctx.broker.waiting())])
    await ctx.doors.settings.alter(
        ALL_NODES if node_id is None else node_id, changes, replaces=replaces, validate_only=validate_only
    )


async def _logger(ctx: Context, name: str, changes: Sequence[Change], validate_only: bool, replaces: bool) -> None:
    if replaces:
        raise Refused(ErrorCode.INVALID_REQUEST, "AlterConfigs does not change loggers; IncrementalAlterConfigs does.")
    checked_own_node(name, ctx.broker.node_id)
    loggers.alter(changes, validate_only=validate_only)


async def _group(ctx: Context, name: str, changes: Sequence[Change], validate_only: bool, replaces: bool) -> None:
    if not name:
        raise Refused(ErrorCode.INVALID_REQUEST, "Default group resources are not allowed.")
    room = ctx.doors.groups.enter(Operation.ALTER_CONFIGS, name)
    if not room.can_be:
        raise Refused(ErrorCode.INVALID_REQUEST, "The group's name has a NUL or is too long.")
    await room.alter_configs(changes, replaces=replaces, validate_only=validate_only)


async def _client_metrics(
    ctx: Context, name: str, changes: Sequence[Change], validate_only: bool, replaces: bool
) -> None:
    if not name:
        raise Refused(ErrorCode.INVALID_REQUEST, "Subscription name can't be empty")
    if "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise Refused(ErrorCode.INVALID_REQUEST, "The subscription's name has a NUL or is too long.")

    def change(configs: Mapping[str, str]) -> Mapping[str, str]:
        changed = client_metrics.altered({} if replaces else configs, changes)
        Subscription.of(name, changed)  # its expressions are some
        return changed

    await ctx.doors.client_metrics.alter(name, change, validate_only=validate_only)


_WAYS: Mapping[Resource, _Way] = {
    Resource.TOPIC: _topic,
    Resource.BROKER: _broker,
    Resource.BROKER_LOGGER: _logger,
    Resource.GROUP: _group,
    Resource.CLIENT_METRICS: _client_metrics,
}
