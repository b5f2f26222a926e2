"""Requests that change configs of topics, brokers and loggers, or name what has any. Those of groups: `cases_groups.py`."""

from __future__ import annotations

from typing import Any

from tests.compare.scene import Scene, case

from pg_kafka.wire.messages import alter_configs as plain
from pg_kafka.wire.messages import incremental_alter_configs as incremental
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.list_config_resources import ListConfigResourcesRequest

DESCRIBE_CONFIGS, ALTER_CONFIGS, INCREMENTAL_ALTER_CONFIGS, LIST_CONFIG_RESOURCES = 32, 33, 44, 74
TOPIC, BROKER, LOGGER, METRICS = 2, 4, 8, 16
SET, DELETE, APPEND, SUBTRACT = range(4)
OF_TOPIC = 1

Change = tuple[int, str, str | None]


def altering(kind: int, name: str, *changes: Change, validate_only: bool = False) -> Any:
    resource = incremental.AlterConfigsResource(
        resource_type=kind,
        resource_name=name,
        configs=[
            incremental.AlterableConfig(name=key, config_operation=operation, value=value)
            for operation, key, value in changes
        ],
    )
    return incremental.IncrementalAlterConfigsRequest(resources=[resource], validate_only=validate_only)


def replacing(kind: int, name: str, configs: dict[str, str | None], *, validate_only: bool = False) -> Any:
    resource = plain.AlterConfigsResource(
        resource_type=kind,
        resource_name=name,
        configs=[plain.AlterableConfig(name=key, value=value) for key, value in configs.items()],
    )
    return plain.AlterConfigsRequest(resources=[resource], validate_only=validate_only)


async def set_for(scene: Scene, name: str, wanted: dict[str, str]) -> Any:
    """What the topic has set, once that is as wanted: Kafka tells its brokers of a change after its answer."""
    asking = DescribeConfigsRequest(resources=[DescribeConfigsResource(resource_type=TOPIC, resource_name=name)])

    def found(answer: Any) -> dict[str, str]:
        configs = answer.results[0].configs
        return {one.name: one.value for one in configs if one.config_source == OF_TOPIC}

    answer = await scene.ask_until(lambda a: found(a) == wanted, asking, version=4, api_key=DESCRIBE_CONFIGS)
    return sorted(found(answer).items())


def _add_alter(name: str, *changes: Change, then: dict[str, str]) -> None:
    """On a topic with a config: for validation only, really, and what is set then."""

    @case(f"alter-topic-{name}", INCREMENTAL_ALTER_CONFIGS)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic(retention_ms="1000")
        return {
            "checked": (await scene.ask(altering(TOPIC, topic.name, *changes, validate_only=True)))
            .responses[0]
            .error_code,
            "altered": (await scene.ask(altering(TOPIC, topic.name, *changes))).responses[0].error_code,
            "set": await set_for(scene, topic.name, then),
        }


BEFORE = {"retention.ms": "1000"}
_add_alter("set", (SET, "segment.ms", "5000"), then={**BEFORE, "segment.ms": "5000"})
_add_alter("delete", (DELETE, "retention.ms", None), then={})
_add_alter("delete-unknown", (DELETE, "no.such.config", None), then=BEFORE)
_add_alter("append", (APPEND, "cleanup.policy", "compact"), then={**BEFORE, "cleanup.policy": "delete,compact"})
_add_alter("subtract", (SUBTRACT, "cleanup.policy", "delete"), then={**BEFORE, "cleanup.policy": ""})
_add_alter("append-no-list", (APPEND, "retention.ms", "5"), then=BEFORE)
_add_alter("unknown", (SET, "no.such.config", "1"), then=BEFORE)
_add_alter("no-number", (SET, "retention.ms", "soon"), then=BEFORE)
_add_alter("null", (SET, "retention.ms", None), then=BEFORE)
_add_alter("twice", (SET, "retention.ms", "1"), (SET, "retention.ms", "2"), then=BEFORE)
_add_alter("tiered", (SET, "remote.storage.enable", "true"), then=BEFORE)
_add_alter("record-size", (SET, "max.decompressed.message.bytes", "0"), then=BEFORE)


def _add_elsewhere(name: str, kind: int, resource: str, *changes: Change) -> None:
    """Changes that are refused, or change nothing."""

    @case(f"alter-{name}", INCREMENTAL_ALTER_CONFIGS)
    async def ask(scene: Scene) -> Any:
        return await scene.ask(altering(kind, resource, *changes))


_add_elsewhere("no-topic", TOPIC, "nowhere", (SET, "retention.ms", "1"))
_add_elsewhere("invalid-topic", TOPIC, "a b", (SET, "retention.ms", "1"))
_add_elsewhere("unnamed-topic", TOPIC, "", (SET, "retention.ms", "1"))
_add_elsewhere("broker-read-only", BROKER, "1", (SET, "num.partitions", "3"))
_add_elsewhere("brokers-read-only", BROKER, "", (SET, "log.retention.hours", "3"))
_add_elsewhere("broker-too-low", BROKER, "1", (SET, "log.segment.bytes", "5"))
_add_elsewhere("broker-no-number", BROKER, "", (SET, "log.retention.ms", "soon"))
_add_elsewhere("broker-delete", BROKER, "1", (DELETE, "log.retention.ms", None))
_add_elsewhere("broker-delete-read-only", BROKER, "1", (DELETE, "num.partitions", None))
_add_elsewhere("logger-unknown", LOGGER, "1", (SET, "no.such.logger", "INFO"))
_add_elsewhere("logger-no-level", LOGGER, "1", (SET, "root", "LOUD"))
_add_elsewhere("logger-append", LOGGER, "1", (APPEND, "root", "INFO"))
_add_elsewhere("logger-delete-root", LOGGER, "1", (DELETE, "root", None))
_add_elsewhere("metrics-unknown", METRICS, "some", (SET, "no.such.config", "1"))
_add_elsewhere("unknown-type", 99, "x", (SET, "a", "1"))


@case("replace-topic", ALTER_CONFIGS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(retention_ms="1000", flush_ms="2000")
    return {
        "checked": await scene.ask(replacing(TOPIC, topic.name, {"segment.ms": "3000"}, validate_only=True)),
        "altered": await scene.ask(replacing(TOPIC, topic.name, {"segment.ms": "3000"})),
        "set": await set_for(scene, topic.name, {"segment.ms": "3000"}),
        "null": await scene.ask(replacing(TOPIC, topic.name, {"segment.ms": None})),
        "unknown": await scene.ask(replacing(TOPIC, topic.name, {"no.such.config": "1"})),
        "nothing": await scene.ask(replacing(TOPIC, topic.name, {})),
        "then": await set_for(scene, topic.name, {}),
    }


@case("replace-nowhere", ALTER_CONFIGS)
async def _(scene: Scene) -> Any:
    return {
        "topic": await scene.ask(replacing(TOPIC, "nowhere", {"segment.ms": "3000"})),
        "read only": await scene.ask(replacing(BROKER, "1", {"num.partitions": "3"})),
        "none": await scene.ask(plain.AlterConfigsRequest()),
    }


@case("list-config-brokers", LIST_CONFIG_RESOURCES, since=1)
async def _(scene: Scene) -> Any:
    return await scene.ask(ListConfigResourcesRequest(resource_types=[BROKER, LOGGER]))


@case("list-config-metrics", LIST_CONFIG_RESOURCES)
async def _(scene: Scene) -> Any:
    return await scene.ask(ListConfigResourcesRequest(resource_types=[METRICS] if scene.version else []))


@case("list-config-unknown", LIST_CONFIG_RESOURCES, since=1)
async def _(scene: Scene) -> Any:
    return await scene.ask(ListConfigResourcesRequest(resource_types=[99]))
