"""Configs changed by Kafka's own tools and by the admin clients of Python, on topics, brokers, groups and loggers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import confluent_kafka.admin
import kafka.admin
import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from tests.clients.client import Client
from tests.clients.test_java_tools import run
from tests.kafka_reference import class_path


def tool(bootstrap: str, *arguments: str) -> str:
    # Up to Kafka 4.3 the tool is the broker's.
    package = "kafka.admin" if "kafka-tools-4.3" in class_path() else "org.apache.kafka.tools"
    return run(f"{package}.ConfigCommand", "--bootstrap-server", bootstrap, *arguments)


def test_kafka_configs_changes_topics(bootstrap: str, confluent: Client, unused_topic: Callable[[], str]) -> None:
    topic = unused_topic()
    confluent.create_topic(bootstrap, topic)
    of_topic = ("--entity-type", "topics", "--entity-name", topic)
    tool(bootstrap, *of_topic, "--alter", "--add-config", "retention.ms=77,cleanup.policy=[compact,delete]")
    output = tool(bootstrap, *of_topic, "--describe")
    assert "retention.ms=77 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=77}" in output
    assert (
        "cleanup.policy=compact,delete sensitive=false synonyms="
        "{DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete, DEFAULT_CONFIG:log.cleanup.policy=delete}" in output
    )
    tool(bootstrap, *of_topic, "--alter", "--delete-config", "retention.ms,cleanup.policy")
    assert "=" not in tool(bootstrap, *of_topic, "--describe").partition("are:")[2]


def test_kafka_configs_changes_brokers_and_loggers(bootstrap: str) -> None:
    default, node = ("--entity-type", "brokers", "--entity-default"), ("--entity-type", "brokers", "--entity-name", "1")
    tool(bootstrap, *default, "--alter", "--add-config", "log.roll.ms=700000")
    tool(bootstrap, *node, "--alter", "--add-config", "log.roll.ms=800000")
    try:
        assert "log.roll.ms=700000" in tool(bootstrap, *default, "--describe")
        output = tool(bootstrap, *node, "--describe", "--all")
        assert (
            "log.roll.ms=800000 sensitive=false synonyms={DYNAMIC_BROKER_CONFIG:log.roll.ms=800000,"
            " DYNAMIC_DEFAULT_BROKER_CONFIG:log.roll.ms=700000, DEFAULT_CONFIG:log.roll.hours=168}" in output
        )
    finally:
        tool(bootstrap, *node, "--alter", "--delete-config", "log.roll.ms")
        tool(bootstrap, *default, "--alter", "--delete-config", "log.roll.ms")
    assert "log.roll.ms=null" in tool(bootstrap, *node, "--describe", "--all")
    loggers = ("--entity-type", "broker-loggers", "--entity-name", "1")
    assert re.search(r"pg_kafka\.janitor=\w+ ", tool(bootstrap, *loggers, "--describe"))


def test_kafka_configs_changes_groups(bootstrap: str) -> None:
    group = ("--entity-type", "groups", "--entity-name", "a-group")
    tool(bootstrap, *group, "--alter", "--add-config", "consumer.session.timeout.ms=50000")
    assert "consumer.session.timeout.ms=50000" in tool(bootstrap, *group, "--describe")
    tool(bootstrap, *group, "--alter", "--delete-config", "consumer.session.timeout.ms")
    assert "consumer.session.timeout.ms=50000" not in tool(bootstrap, *group, "--describe")


def test_client_metrics_are_none(bootstrap: str) -> None:
    output = run("org.apache.kafka.tools.ClientMetricsCommand", "--bootstrap-server", bootstrap, "--list")
    assert output.strip() == ""


def test_confluent_changes_configs(bootstrap: str, confluent: Client, unused_topic: Callable[[], str]) -> None:
    topic = unused_topic()
    confluent.create_topic(bootstrap, topic)
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap})

    def entry(name: str, value: str | None, operation: AlterConfigOpType) -> ConfigEntry:
        return ConfigEntry(name, value, incremental_operation=operation)

    changed = ConfigResource(
        ResourceType.TOPIC,
        topic,
        incremental_configs=[
            entry("retention.ms", "55", AlterConfigOpType.SET),
            entry("cleanup.policy", "compact", AlterConfigOpType.APPEND),
        ],
    )
    for future in admin.incremental_alter_configs([changed]).values():
        future.result(20)
    found = confluent.configs(bootstrap, topic)
    assert (found["retention.ms"], found["cleanup.policy"]) == ("55", "delete,compact")
    # AlterConfigs, as Terraform's provider and AKHQ send it: what is not named goes.
    replace(admin, ConfigResource(ResourceType.TOPIC, topic, {"segment.ms": "99"}))
    found = confluent.configs(bootstrap, topic)
    assert (found["retention.ms"], found["cleanup.policy"], found["segment.ms"]) == ("604800000", "delete", "99")
    with pytest.raises(confluent_kafka.KafkaException, match="Cannot update these configs dynamically"):
        replace(admin, ConfigResource(ResourceType.BROKER, "1", {"num.partitions": "3"}))


def replace(admin: confluent_kafka.admin.AdminClient, resource: ConfigResource) -> None:
    with pytest.warns(DeprecationWarning):
        futures = admin.alter_configs([resource])
    for future in futures.values():
        future.result(20)


@pytest.fixture
def kafka_python(bootstrap: str) -> Iterator[kafka.admin.KafkaAdminClient]:
    admin = kafka.admin.KafkaAdminClient(bootstrap_servers=bootstrap)
    yield admin
    admin.close()


def test_kafka_python_changes_configs(
    bootstrap: str,
    confluent: Client,
    kafka_python: kafka.admin.KafkaAdminClient,
    unused_topic: Callable[[], str],
) -> None:
    topic = unused_topic()
    confluent.create_topic(bootstrap, topic)
    resource = kafka.admin.ConfigResource(kafka.admin.ConfigResourceType.TOPIC, topic, {"retention.ms": "66"})
    kafka_python.alter_configs([resource])
    assert confluent.configs(bootstrap, topic)["retention.ms"] == "66"
