"""DescribeConfigs: the settings of topics, groups and this broker, with where they come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pg_kafka.broker import loggers
from pg_kafka.broker.config_resources import Resource, checked_node, checked_own_node
from pg_kafka.broker.context import Context
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.config import Config, client_metrics
from pg_kafka.config import groups as group_configs
from pg_kafka.config import topics as topic_configs
from pg_kafka.config.address import Address
from pg_kafka.config.broker import BROKER_KEYS, key_named
from pg_kafka.config.facts import facts
from pg_kafka.config.keys import Source
from pg_kafka.config.layers import ConfigEntry, ConfigSource, entry
from pg_kafka.coordinator import topic_names
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)


async def describe_configs(ctx: Context, request: DescribeConfigsRequest) -> DescribeConfigsResponse:
    """Describe resources, each for itself.

    Versions  1-4. 4 is the first flexible one; types and documentation came with 3.
    Rules     - no keys, or null, means all keys; unknown keys are left out
              - an unknown topic is UNKNOWN_TOPIC_OR_PARTITION, an invalid name INVALID_TOPIC_EXCEPTION
              - a broker is named by its node id; the empty name means the settings of all brokers that are set in the
                database; another id is INVALID_REQUEST
              - a group, and a subscription to metrics of clients, has settings before it exists
              - an unknown type of resource is INVALID_REQUEST
              - a resource that is named twice with the same keys is described once
              - a logger has its level; what Kafka calls the root logger is all of the broker's
    Not done  - settings of Kafka's brokers and groups that have nothing here to act on are not listed
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
            result.configs = [_shaped(one, request) for one in entries]
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
        case Resource.TOPIC:
            ctx.doors.topics.check(Operation.DESCRIBE_CONFIGS, name)
            if (fault := topic_names.fault_of(name)) is not None:
                raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, fault)
            topic = ctx.doors.topics.find(Operation.DESCRIBE_CONFIGS, name)
            if topic is None:
                raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "")
            return topic_configs.describe(topic.configs, ctx.broker.config, keys)
        case Resource.BROKER:
            ctx.doors.check(Operation.DESCRIBE_CONFIGS, ResourceType.CLUSTER)
            if checked_node(name, [ctx.broker.node_id]) is None:
                return _of_all_brokers(ctx.broker.config, keys)
            config = ctx.broker.config
            entries = [
                entry(key, config, is_read_only=not key.is_dynamic)
                for key in (*BROKER_KEYS.values(), *filter(None, map(key_named, config.by_listener)))
                if keys is None or key.name in keys
            ]
            own = Address(*ctx.broker.advertised(ctx.connection))
            listeners = [
                dataclasses.replace(one, advertised=own) if one.name == ctx.connection.listener.name else one
                for one in ctx.broker.listeners
            ]
            return entries + facts(ctx.broker.node_id, listeners, ctx.broker.log_dir.name, keys)
        case Resource.BROKER_LOGGER:
            ctx.doors.check(Operation.DESCRIBE_CONFIGS, ResourceType.CLUSTER)
            checked_own_node(name, ctx.broker.node_id)
            return loggers.describe(keys)
        case Resource.CLIENT_METRICS:
            ctx.doors.check(Operation.DESCRIBE_CONFIGS, ResourceType.CLUSTER)
            if not name:
                raise Refused(ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty")
            return client_metrics.describe(ctx.doors.client_metrics.configs.get(name, {}), keys)
        case Resource.GROUP:
            configs = ctx.doors.groups.configs_of(name)
            if not name:
                raise Refused(ErrorCode.INVALID_REQUEST, "Group name must not be empty")
            return group_configs.describe(configs, ctx.broker.config, keys)
    raise Refused(ErrorCode.INVALID_REQUEST, f"Resources of type {resource.resource_type} are not described here")


def _of_all_brokers(config: Config, keys: frozenset[str] | None) -> list[ConfigEntry]:
    """What is set for all brokers, and nothing else."""
    entries = []
    for key in (*BROKER_KEYS.values(), *filter(None, map(key_named, config.by_listener))):
        value = config.given(key).get(Source.DATABASE) if key.is_dynamic else None
        if value is not None and (keys is None or key.name in keys):
            layer = (key.name, None if key.is_sensitive else key.text(value), ConfigSource.DYNAMIC_DEFAULT_BROKER)
            entries.append(
                ConfigEntry(
                    name=key.name,
                    value=layer[1],
                    source=layer[2],
                    is_read_only=False,
                    is_sensitive=key.is_sensitive,
                    type=key.type,
                    synonyms=[layer],
                    doc=key.doc,
                )
            )
    return entries


def _keys(resource: DescribeConfigsResource) -> frozenset[str] | None:
    """Those that are asked for; None is all."""
    return frozenset(resource.configuration_keys) if resource.configuration_keys else None


def _shaped(one: ConfigEntry, request: DescribeConfigsRequest) -> DescribeConfigsResourceResult:
    return DescribeConfigsResourceResult(
        name=one.name,
        value=one.value,
        read_only=one.is_read_only,
        config_source=one.source,
        is_sensitive=one.is_sensitive,
        synonyms=[DescribeConfigsSynonym(name=name, value=value, source=source) for name, value, source in one.synonyms]
        if request.include_synonyms
        else (),
        config_type=one.type,
        documentation=one.doc if request.include_documentation else None,
    )
