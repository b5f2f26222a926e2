"""DescribeConfigs: the settings of topics and of this broker, with where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from pg_kafka.broker.context import Context
from pg_kafka.config import SETTINGS, Config
from pg_kafka.coordinator import topic_configs, topic_names
from pg_kafka.coordinator.topic_configs import ConfigEntry, ConfigSource, ConfigType
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.describe_configs_request import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.describe_configs_response import (
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)


class _Resource(IntEnum):
    TOPIC = 2
    BROKER = 4
    CLIENT_METRICS = 16
    GROUP = 32


_TYPES = {"boolean": ConfigType.BOOLEAN, "int": ConfigType.INT, "long": ConfigType.LONG}


class _Refused(Exception):
    """A resource that cannot be described: error code and message."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


async def describe_configs(ctx: Context, request: DescribeConfigsRequest) -> DescribeConfigsResponse:
    """Describe resources, each for itself.

    Versions  1-4. 4 is the first flexible one; types and documentation came with 3.
    Rules     - no keys, or null, means all keys; unknown keys are left out
              - an unknown topic is UNKNOWN_TOPIC_OR_PARTITION, an invalid name INVALID_TOPIC_EXCEPTION
              - a broker is named by its node id; the empty name means the settings of all brokers that are set in the
                database; another id is INVALID_REQUEST
              - groups and client metrics have no settings of their own: an empty list
              - an unknown type of resource is INVALID_REQUEST
    Not done  - BROKER_LOGGER: INVALID_REQUEST
              - settings of Kafka's broker that have no effect here are not listed
    """
    results = []
    for resource in request.resources:
        result = DescribeConfigsResult(
            error_message="", resource_type=resource.resource_type, resource_name=resource.resource_name
        )
        try:
            entries = _entries(ctx, resource)
        except _Refused as refused:
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
    keys = set(resource.configuration_keys) if resource.configuration_keys else None
    match resource.resource_type:
        case _Resource.TOPIC:
            if (fault := topic_names.fault_of(name)) is not None:
                raise _Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, fault)
            topic = ctx.broker.topics.by_name.get(name)
            if topic is None:
                raise _Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
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
                raise _Refused(ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty")
            return ()
        case _Resource.GROUP:
            if not name:
                raise _Refused(ErrorCode.INVALID_REQUEST, "Group name must not be empty")
            return ()
    raise _Refused(ErrorCode.INVALID_REQUEST, f"Resources of type {resource.resource_type} are not described here")


def _checked_node(name: str, node_id: int) -> bool:
    """True for the empty name, False for this node's id."""
    if not name:
        return True
    if not name.isascii() or not name.isdigit():
        raise _Refused(ErrorCode.INVALID_REQUEST, f"Broker id must be an integer, but it is: {name}")
    if name != str(node_id):
        raise _Refused(
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
