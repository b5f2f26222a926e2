"""DescribeConfigs: the settings of topics, groups and this broker, with where they come from. IncrementalAlterConfigs:
those of groups are changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum

from pg_kafka.broker.context import Context
from pg_kafka.broker.handlers.refusals import Refused, shortened
from pg_kafka.config import SETTINGS, Config
from pg_kafka.coordinator import group_configs, topic_configs, topic_names
from pg_kafka.coordinator.group_configs import InvalidGroupConfig
from pg_kafka.coordinator.topic_configs import ConfigEntry, ConfigSource, ConfigType
from pg_kafka.errors import StorageError
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)
from pg_kafka.wire.messages.incremental_alter_configs import (
    AlterConfigsResource,
    AlterConfigsResourceResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)


class _Resource(IntEnum):
    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


_TYPES = {"boolean": ConfigType.BOOLEAN, "int": ConfigType.INT, "long": ConfigType.LONG, "list": ConfigType.LIST}


async def describe_configs(ctx: Context, request: DescribeConfigsRequest) -> DescribeConfigsResponse:
    """Describe resources, each for itself.

    Versions  1-4. 4 is the first flexible one; types and documentation came with 3.
    Rules     - no keys, or null, means all keys; unknown keys are left out
              - an unknown topic is UNKNOWN_TOPIC_OR_PARTITION, an invalid name INVALID_TOPIC_EXCEPTION
              - a broker is named by its node id; the empty name means the settings of all brokers that are set in the
                database; another id is INVALID_REQUEST
              - a group has settings before it exists; client metrics have none: an empty list
              - an unknown type of resource is INVALID_REQUEST
              - a resource that is named twice with the same keys is described once
    Not done  - BROKER_LOGGER: INVALID_REQUEST
              - settings of Kafka's broker and groups that have no effect here are not listed
    """
    results = []
    # With other keys it is another question.
    asked = {(one.resource_type, one.resource_name, _keys(one)): one for one in request.resources}
    async for resource in ctx.broker.turns.each(asked.values()):
        result = DescribeConfigsResult(
            error_message="", resource_type=resource.resource_type, resource_name=resource.resource_name
        )
        try:
            entries = _entries(ctx, resource)
        except Refused as refused:
            result.error_code, result.error_message = refused.code, refused.message
        else:
            result.configs = [_shaped(entry, request) for entry in entries]
        results.append(result)
    return DescribeConfigsResponse(results=results)


def failure(request: DescribeConfigsRequest, code: int) -> DescribeConfigsResponse:
    return DescribeConfigsResponse(
        results=[
            DescribeConfigsResult(
                error_code=code, resource_type=resource.resource_type, resource_name=resource.resource_name
            )
            for resource in request.resources
        ]
    )


def _entries(ctx: Context, resource: DescribeConfigsResource) -> Sequence[ConfigEntry]:
    name = resource.resource_name
    keys = _keys(resource)
    match resource.resource_type:
        case _Resource.TOPIC:
            if (fault := topic_names.fault_of(name)) is not None:
                raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, fault)
            topic = ctx.broker.topics.by_name.get(name)
            if topic is None:
                raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "")
            return topic_configs.describe(topic.configs, ctx.broker.config, keys)
        case _Resource.BROKER:
            is_cluster_wide = _checked_node(name, ctx.broker.log.node_id)
            return [
                entry
                for entry in _broker_entries(ctx.broker.config)
                if (keys is None or entry.name in keys)
                and (not is_cluster_wide or entry.source is ConfigSource.DYNAMIC_DEFAULT_BROKER)
            ]
        case _Resource.CLIENT_METRICS:
            if not name:
                raise Refused(ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty")
            return ()
        case _Resource.GROUP:
            if not name:
                raise Refused(ErrorCode.INVALID_REQUEST, "Group name must not be empty")
            return group_configs.describe(ctx.broker.groups.configs_of(name), ctx.broker.config, keys)
    raise Refused(ErrorCode.INVALID_REQUEST, f"Resources of type {resource.resource_type} are not described here")


def _keys(resource: DescribeConfigsResource) -> frozenset[str] | None:
    """Those that are asked for; None is all."""
    return frozenset(resource.configuration_keys) if resource.configuration_keys else None


def _checked_node(name: str, node_id: int) -> bool:
    """True for the empty name, False for this node's id."""
    if not name:
        return True
    if not name.isascii() or not name.isdigit():
        raise Refused(ErrorCode.INVALID_REQUEST, f"Broker id must be an integer, but it is: {name}")
    if name != str(node_id):
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            f"Unexpected broker id, expected {node_id} or empty string, but received {name}",
        )
    return False


def _broker_entries(config: Config) -> list[ConfigEntry]:
    entries = []
    for setting in SETTINGS:
        if setting.start_only:
            continue
        value = setting.text(getattr(config, setting.attribute))
        source = topic_configs.source_of(config, setting.name)
        synonyms = [(setting.name, value, source)]
        if source is not ConfigSource.DEFAULT:
            synonyms.append((setting.name, setting.text(setting.default), ConfigSource.DEFAULT))
        entries.append(
            ConfigEntry(
                name=setting.name,
                value=value,
                source=source,
                is_read_only=not setting.dynamic,
                type=_TYPES.get(setting.type, ConfigType.STRING),
                synonyms=synonyms,
                doc=setting.doc,
            )
        )
    return entries


def _shaped(entry: ConfigEntry, request: DescribeConfigsRequest) -> DescribeConfigsResourceResult:
    return DescribeConfigsResourceResult(
        name=entry.name,
        value=entry.value,
        read_only=entry.is_read_only,
        config_source=entry.source,
        synonyms=[
            DescribeConfigsSynonym(name=name, value=value, source=source) for name, value, source in entry.synonyms
        ]
        if request.include_synonyms
        else (),
        config_type=entry.type,
        documentation=entry.doc if request.include_documentation else None,
    )


async def incremental_alter_configs(
    ctx: Context, request: IncrementalAlterConfigsRequest
) -> IncrementalAlterConfigsResponse:
    """Change the settings of groups, each group for itself.

    Versions  0-1. 1 is the first flexible one.
    Rules     - a group may have settings before it exists; all changes of one group are made, or none
              - an unknown key or a value out of the broker's bounds is INVALID_CONFIG; a key twice or a null value
                INVALID_REQUEST
              - a resource that is named twice is INVALID_REQUEST and stays as it is
              - validate_only checks everything and changes nothing
    Not done  - topics, brokers, loggers and client metrics: INVALID_REQUEST (settings of the broker: `kafka.set_config`)
              - keys for share and streams groups: INVALID_CONFIG, as unknown ones
    """
    asked = Counter((resource.resource_type, resource.resource_name) for resource in request.resources)
    responses = []
    async for resource in ctx.broker.turns.each(request.resources):
        code, message = int(ErrorCode.NONE), None
        try:
            if asked[resource.resource_type, resource.resource_name] > 1:
                raise Refused(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
            await _alter(ctx, resource, request.validate_only)
        except Refused as refused:
            code, message = int(refused.code), refused.message
        except InvalidGroupConfig as invalid:
            code, message = invalid.code, shortened(invalid.message)
        except StorageError as error:
            code, message = int(error.code), error.message
        responses.append(
            AlterConfigsResourceResponse(
                error_code=code,
                error_message=message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
            )
        )
    return IncrementalAlterConfigsResponse(responses=responses)


def alter_failure(request: IncrementalAlterConfigsRequest, code: int) -> IncrementalAlterConfigsResponse:
    return IncrementalAlterConfigsResponse(
        responses=[
            AlterConfigsResourceResponse(
                error_code=code, resource_type=resource.resource_type, resource_name=resource.resource_name
            )
            for resource in request.resources
        ]
    )


async def _alter(ctx: Context, resource: AlterConfigsResource, validate_only: bool) -> None:
    if resource.resource_type != _Resource.GROUP:
        try:
            kind = _Resource(resource.resource_type).name.lower().replace("_", " ")
        except ValueError:
            raise Refused(ErrorCode.INVALID_REQUEST, f"Unknown resource type {resource.resource_type}") from None
        raise Refused(
            ErrorCode.INVALID_REQUEST, f"Configs of a {kind} cannot be changed this way yet, only those of groups."
        )
    if not resource.resource_name:
        raise Refused(ErrorCode.INVALID_REQUEST, "Default group resources are not allowed.")
    groups = ctx.broker.groups
    if groups.refusal:
        raise Refused(groups.refusal, "Groups are being loaded.")
    if not groups.can_be_id(resource.resource_name):
        raise Refused(ErrorCode.INVALID_REQUEST, "The group's name has a NUL or is too long.")
    operations = [(config.config_operation, config.name, config.value) for config in resource.configs]
    await groups.alter_configs(resource.resource_name, operations, validate_only=validate_only)
