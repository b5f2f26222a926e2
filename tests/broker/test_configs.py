"""Configs are changed by clients and by SQL. Sentences and sources are Apache Kafka 4.4's, unless a test says otherwise."""

from __future__ import annotations

import secrets
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
import pytest
from tests.broker.rawclient import RawClient, batch, only
from tests.broker.test_changes_by_sql import until
from tests.kafka_reference import StartFailed, end
from tests.wire_batches import batch as compressed_batch
from tests.wire_batches import values

from pg_kafka.config.changes import Operation
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import alter_configs, incremental_alter_configs
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.list_config_resources import ListConfigResourcesRequest

TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32
DESCRIBE, ALTER, INCREMENTAL, LIST = 32, 33, 44, 74
SET, DELETE, APPEND, SUBTRACT = Operation
NODE = "1"
# DescribeConfigs' sources.
OF_TOPIC, OF_NODE, OF_ALL_BROKERS, STATIC, DEFAULT, OF_CLIENT_METRICS = 1, 2, 3, 4, 5, 7


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


@pytest.fixture
async def db(broker: Any) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(broker.dsn)
    yield connection
    await connection.close()


async def alter(
    client: RawClient, kind: int, name: str, *changes: tuple[int, str, str | None], validate_only: bool = False
) -> tuple[int, str | None]:
    """Code and message."""
    resource = incremental_alter_configs.AlterConfigsResource(
        resource_type=kind,
        resource_name=name,
        configs=[
            incremental_alter_configs.AlterableConfig(name=key, config_operation=operation, value=value)
            for operation, key, value in changes
        ],
    )
    request = incremental_alter_configs.IncrementalAlterConfigsRequest(
        resources=[resource], validate_only=validate_only
    )
    answer = only((await client.call(request, INCREMENTAL, 1)).responses)
    assert (answer.resource_type, answer.resource_name) == (kind, name)
    return answer.error_code, answer.error_message


async def replace(
    client: RawClient, kind: int, name: str, version: int = 2, *, validate_only: bool = False, **configs: str | None
) -> tuple[int, str | None]:
    resource = alter_configs.AlterConfigsResource(
        resource_type=kind,
        resource_name=name,
        configs=[
            alter_configs.AlterableConfig(name=key.replace("_", "."), value=value) for key, value in configs.items()
        ],
    )
    request = alter_configs.AlterConfigsRequest(resources=[resource], validate_only=validate_only)
    answer = only((await client.call(request, ALTER, version)).responses)
    return answer.error_code, answer.error_message


async def described(client: RawClient, kind: int, name: str, keys: Sequence[str] | None = None) -> dict[str, Any]:
    resource = DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=keys)
    request = DescribeConfigsRequest(resources=[resource], include_synonyms=True)
    result = only((await client.call(request, DESCRIBE, 4)).results)
    assert result.error_code == 0, result
    return {entry.name: entry for entry in result.configs}


async def given(client: RawClient, kind: int, name: str, key: str) -> tuple[str | None, int, list[tuple[Any, ...]]]:
    """Value and source of a config, and all that gives it a value."""
    entry = (await described(client, kind, name, [key]))[key]
    return entry.value, entry.config_source, [(s.name, s.value, s.source) for s in entry.synonyms]


async def of_topic(client: RawClient, name: str) -> dict[str, str]:
    entries = (await described(client, TOPIC, name)).values()
    return {entry.name: entry.value for entry in entries if entry.config_source == OF_TOPIC}


async def until_sql(db: asyncpg.Connection, query: str, *arguments: Any) -> None:
    async def is_so() -> bool:
        return bool(await db.fetchval(query, *arguments))

    await until(is_so)


# -- topics --------------------------------------------------------------------------------------------------------------


async def test_configs_of_a_topic_are_set_and_deleted_in_place(client: RawClient) -> None:
    topic = await client.create_topic(retention_ms="5", max_message_bytes="900")
    name = topic.name
    assert await alter(client, TOPIC, name, (SET, "max.message.bytes", "300"), (DELETE, "retention.ms", None)) == (
        0,
        None,
    )
    assert await of_topic(client, name) == {"max.message.bytes": "300"}
    assert (await client.produce(topic, batch([b"x" * 500]))).error_code == ErrorCode.MESSAGE_TOO_LARGE
    assert await alter(client, TOPIC, name, (DELETE, "max.message.bytes", None), (DELETE, "foo", None)) == (0, None)
    assert (await client.produce(topic, batch([b"x" * 500]))).error_code == 0


async def test_lists_grow_and_shrink_from_what_is_in_force(client: RawClient) -> None:
    name = (await client.create_topic()).name
    policy = "cleanup.policy"
    assert await alter(client, TOPIC, name, (APPEND, policy, "compact")) == (0, None)
    assert await of_topic(client, name) == {policy: "delete,compact"}
    assert await alter(client, TOPIC, name, (APPEND, policy, "compact,delete")) == (0, None)
    assert await alter(client, TOPIC, name, (SUBTRACT, policy, "delete")) == (0, None)
    assert await of_topic(client, name) == {policy: "compact"}
    assert await alter(client, TOPIC, name, (SUBTRACT, policy, "compact")) == (0, None)
    assert await of_topic(client, name) == {policy: ""}


async def test_alter_configs_replaces(client: RawClient) -> None:
    name = (await client.create_topic(retention_ms="5", flush_ms="7")).name
    for version in range(3):
        assert await replace(client, TOPIC, name, version, retention_ms=f"{version}", segment_ms="9") == (0, None)
        assert await of_topic(client, name) == {"retention.ms": f"{version}", "segment.ms": "9"}
    assert await replace(client, TOPIC, name, validate_only=True) == (0, None)
    assert len(await of_topic(client, name)) == 2
    assert await replace(client, TOPIC, name, retention_ms=None) == (42, "Null value not supported for : retention.ms")
    assert await replace(client, TOPIC, name) == (0, None)
    assert await of_topic(client, name) == {}


INVALID_REQUEST, INVALID_CONFIG = ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_CONFIG


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ([(SET, "foo", "1")], INVALID_CONFIG, "Unknown topic config name: foo"),
        ([(SET, "retention.ms", None)], INVALID_REQUEST, "Null value not supported for : retention.ms"),
        (
            [(SET, "retention.ms", "")],
            INVALID_CONFIG,
            "Invalid value  for configuration retention.ms: Not a number of type LONG",
        ),
        (
            [(APPEND, "cleanup.policy", "foo")],
            INVALID_CONFIG,
            "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete",
        ),
        (
            [(APPEND, "retention.ms", "5")],
            INVALID_CONFIG,
            "Can't APPEND to key retention.ms because its type is not LIST.",
        ),
        ([(SUBTRACT, "foo", "5")], INVALID_CONFIG, "Can't SUBTRACT to key foo because its type is not LIST."),
        (
            [(SET, "retention.ms", "1"), (DELETE, "retention.ms", None)],
            INVALID_REQUEST,
            "Error due to duplicate config keys",
        ),
        (
            [(SET, "remote.storage.enable", "true")],
            INVALID_CONFIG,
            "Tiered Storage functionality is disabled in the broker. "
            "Topic cannot be configured with remote log storage.",
        ),
        (
            [(SET, "min.compaction.lag.ms", "9"), (SET, "max.compaction.lag.ms", "3")],
            INVALID_CONFIG,
            "conflict topic config setting min.compaction.lag.ms (9) > max.compaction.lag.ms (3)",
        ),
        ([(SET, "preallocate", "true"), (SET, "foo", "1")], INVALID_CONFIG, "Unknown topic config name: foo"),
    ],
)
async def test_refused_changes_of_a_topic_change_nothing(
    client: RawClient, changes: list[tuple[int, str, str | None]], code: ErrorCode, message: str
) -> None:
    name = (await client.create_topic(segment_ms="5")).name
    assert await alter(client, TOPIC, name, *changes) == (code, message)
    assert await of_topic(client, name) == {"segment.ms": "5"}


async def test_what_is_only_validated_is_not_changed(client: RawClient) -> None:
    name = (await client.create_topic()).name
    assert await alter(client, TOPIC, name, (SET, "retention.ms", "7"), validate_only=True) == (0, None)
    code, _ = await alter(client, TOPIC, name, (SET, "retention.ms", "x"), validate_only=True)
    assert code == INVALID_CONFIG
    assert await of_topic(client, name) == {}


async def test_topics_that_are_not_there(client: RawClient) -> None:
    change = (SET, "retention.ms", "1")
    assert await alter(client, TOPIC, "nope", change) == (
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        "The topic 'nope' does not exist.",
    )
    assert await alter(client, TOPIC, "", change) == (INVALID_REQUEST, "Default topic resources are not allowed.")
    assert (await alter(client, TOPIC, "a b", change))[0] == ErrorCode.INVALID_TOPIC_EXCEPTION


async def test_a_record_may_not_become_too_large(client: RawClient) -> None:
    topic = await client.create_topic(max_decompressed_message_bytes="1000")
    small, large = values(b"x" * 900), values(b"x" * 900, b"y" * 1100)
    assert (await client.produce(topic, compressed_batch(small, codec=1))).error_code == 0
    refused = await client.produce(topic, compressed_batch(large, codec=1))
    assert refused.error_code == ErrorCode.INVALID_RECORD
    assert [error.batch_index for error in refused.record_errors] == [1]
    assert "1000 are allowed (max.decompressed.message.bytes)" in (refused.error_message or "")
    assert (await client.produce(topic, compressed_batch(large))).error_code == 0  # it is not compressed


# -- brokers -------------------------------------------------------------------------------------------------------------


async def test_settings_of_brokers_apply_at_once_and_survive_a_restart(
    start_broker: Callable[..., Any], pg_dsn: str
) -> None:
    key = "message.max.bytes"
    first = start_broker(MESSAGE_MAX_BYTES="5000")
    async with await RawClient.connect(first) as client:
        topic = await client.create_topic()
        assert await given(client, BROKER, NODE, key) == (
            "5000",
            STATIC,
            [(key, "5000", STATIC), (key, "1048588", DEFAULT)],
        )
        assert await alter(client, BROKER, "", (SET, key, "300")) == (0, None)
        assert (await client.produce(topic, batch([b"x" * 500]))).error_code == ErrorCode.MESSAGE_TOO_LARGE
        assert await alter(client, BROKER, NODE, (SET, key, "800")) == (0, None)
        assert (await client.produce(topic, batch([b"x" * 500]))).error_code == 0
    end(first.process, signal.SIGTERM)

    async with await RawClient.connect(start_broker(MESSAGE_MAX_BYTES="5000")) as client:
        everything = [
            (key, "800", OF_NODE),
            (key, "300", OF_ALL_BROKERS),
            (key, "5000", STATIC),
            (key, "1048588", DEFAULT),
        ]
        assert await given(client, BROKER, NODE, key) == ("800", OF_NODE, everything)
        assert await given(client, TOPIC, topic.name, "max.message.bytes") == ("800", OF_NODE, everything)
        assert await given(client, BROKER, "", key) == ("300", OF_ALL_BROKERS, [(key, "300", OF_ALL_BROKERS)])
        assert await alter(client, BROKER, NODE, (DELETE, key, None)) == (0, None)
        assert (await client.produce(topic, batch([b"x" * 500]))).error_code == ErrorCode.MESSAGE_TOO_LARGE
        assert await replace(client, BROKER, "") == (0, None)
        assert (await client.produce(topic, batch([b"x" * 500]))).error_code == 0
        assert (await given(client, BROKER, NODE, key))[:2] == ("5000", STATIC)
        assert await described(client, BROKER, "") == {}


@pytest.mark.parametrize("name", [NODE, ""])
async def test_refused_changes_of_brokers_change_nothing(client: RawClient, name: str) -> None:
    assert await alter(client, BROKER, name, (SET, "num.partitions", "3"), (SET, "log.retention.hours", "1")) == (
        INVALID_REQUEST,
        "Cannot update these configs dynamically: [log.retention.hours, num.partitions]",
    )
    assert await alter(client, BROKER, name, (SET, "log.roll.ms", "9"), (SET, "log.segment.bytes", "5")) == (
        INVALID_REQUEST,
        "Invalid value 5 for configuration log.segment.bytes: Value must be at least 1048576",
    )
    # Kafka takes a name that it does not know, and does nothing with it.
    assert await alter(client, BROKER, name, (SET, "foo.bar", "5")) == (
        INVALID_REQUEST,
        "Unknown broker config name: foo.bar",
    )
    assert await alter(client, BROKER, name, (SET, "group.consumer.assignment.interval.ms", "99999999")) == (
        INVALID_REQUEST,
        "group.consumer.assignment.interval.ms (99999999) must not be larger than"
        " group.consumer.max.assignment.interval.ms (15000)",
    )
    assert await alter(client, BROKER, name, (SET, "log.roll.ms", "9"), validate_only=True) == (0, None)
    assert await alter(client, BROKER, name, (DELETE, "num.partitions", None)) == (0, None)
    assert await given(client, BROKER, NODE, "log.roll.ms") == (None, DEFAULT, [])


async def test_other_brokers_are_not_known(client: RawClient) -> None:
    change = (SET, "log.roll.ms", "9")
    assert await alter(client, BROKER, "77", change) == (
        INVALID_REQUEST,
        "Unexpected broker id, expected 1 or empty string, but received 77",
    )
    assert (await alter(client, BROKER, "x", change))[0] == INVALID_REQUEST


async def test_lists_of_brokers_grow(client: RawClient) -> None:
    key = "log.cleanup.policy"
    try:
        assert await alter(client, BROKER, "", (APPEND, key, "compact")) == (0, None)
        assert (await given(client, BROKER, "", key))[0] == "delete,compact"
        topic = await client.create_topic()
        assert (await client.produce(topic, batch([b"no key"], keys=[None]))).error_code == ErrorCode.INVALID_RECORD
    finally:
        assert await alter(client, BROKER, "", (DELETE, key, None)) == (0, None)


async def test_read_only_is_what_cannot_be_changed(client: RawClient, broker: Any) -> None:
    entries = await described(client, BROKER, NODE)
    assert {
        name: entries[name].read_only for name in ("log.retention.ms", "num.partitions", "log.retention.hours")
    } == {
        "log.retention.ms": False,
        "num.partitions": True,
        "log.retention.hours": True,
    }
    assert entries["log.cleaner.io.max.bytes.per.second"].value == "1.7976931348623157E308"
    assert entries["default.replication.factor"].value == "1"
    facts = {
        name: entries[name].value for name in ("node.id", "broker.id", "listeners", "advertised.listeners", "log.dirs")
    }
    place = f"PLAINTEXT://127.0.0.1:{broker.port}"
    assert facts.pop("log.dirs").startswith("postgresql://")
    assert facts == {"node.id": NODE, "broker.id": NODE, "listeners": place, "advertised.listeners": place}
    assert all(entries[name].read_only and entries[name].config_source == STATIC for name in facts)


async def test_brokers_follow_settings_that_sql_changes(client: RawClient, db: asyncpg.Connection) -> None:
    key = "message.max.bytes"
    topic = await client.create_topic()
    in_force = (
        "SELECT value = $1 AND source = $2 FROM kafka.broker_configs WHERE node_id = 1 AND name = 'message.max.bytes'"
    )
    assert await db.fetchval(in_force, "1048588", "default")
    await db.fetchval("SELECT kafka.set_config($1, '300')", key)
    await until_sql(db, in_force, "300", "database")
    assert (await client.produce(topic, batch([b"x" * 500]))).error_code == ErrorCode.MESSAGE_TOO_LARGE
    await db.fetchval("SELECT kafka.set_config($1, '800', 1)", key)
    await until_sql(db, in_force, "800", "database, this broker")
    assert (await given(client, BROKER, NODE, key))[1] == OF_NODE
    value = "SELECT (value, source) = ($2, $3) FROM kafka.topic_configs WHERE topic = $1 AND name = 'max.message.bytes'"
    assert await db.fetchval(value, topic.name, "800", "broker")
    # What cannot be is left out, and the rest is followed.
    await db.execute("INSERT INTO kafka.settings (name, value) VALUES ('pg_kafka.log_roll_ms', 'x')")
    await db.fetchval("SELECT kafka.set_config($1, NULL, 1), kafka.set_config($1, NULL)", key)
    await until_sql(db, in_force, "1048588", "default")
    await db.execute("DELETE FROM kafka.settings")
    assert await db.fetchval(value, topic.name, "1048588", "default")


# -- SQL -----------------------------------------------------------------------------------------------------------------


async def test_sql_sets_configs_of_topics_with_the_same_checks(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic(retention_ms="5")
    set_one = "SELECT kafka.set_topic_config($1, $2, $3)"
    assert await db.fetchval(set_one, topic.name, "max.message.bytes", "300") == "300"
    assert await db.fetchval(set_one, topic.name, "retention.ms", None) is None

    async def is_known() -> bool:
        return await of_topic(client, topic.name) == {"max.message.bytes": "300"}

    await until(is_known)
    for name, value, sentence in (
        ("foo", "1", 'unknown topic config "foo"'),
        ("retention.ms", "x", "'x' is not a number of type long"),
        ("retention.ms", "-2", "retention.ms must be at least -1, not -2"),
        ("retention.ms", "9" * 1_000_000, "is not a number of type long"),
        ("segment.bytes", "9999999999", "9999999999 is not a number of type int"),
        ("compression.gzip.level", "0", "compression.gzip.level must be at least 1, not 0"),
        ("cleanup.policy", "delete,foo", "cleanup.policy must be some of compact, delete, not 'delete,foo'"),
        ("cleanup.policy", ",", "cleanup.policy must not hold empty values"),
        ("compression.type", "zip", "compression.type must be one of"),
        ("preallocate", "yes", "preallocate must be true or false, not 'yes'"),
        ("min.cleanable.dirty.ratio", "2", "min.cleanable.dirty.ratio must be no more than 1"),
        ("leader.replication.throttled.replicas", "*,0:1", "must be the literal"),
        ("remote.storage.enable", "true", "Tiered Storage functionality is disabled"),
    ):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=sentence.replace("*", r"\*")) as caught:
            await db.fetchval(set_one, topic.name, name, value)
        assert caught.value.hint is not None and "kafka.config_keys" in caught.value.hint
    for name, value in (
        ("compression.gzip.level", "-1"),
        ("cleanup.policy", ""),
        ("leader.replication.throttled.replicas", "*"),
        ("leader.replication.throttled.replicas", "0:1, 1:2"),
        ("min.cleanable.dirty.ratio", "1e-1"),
        ("max.compaction.lag.ms", "5"),
    ):
        assert await db.fetchval(set_one, topic.name, name, value) == value
    with pytest.raises(asyncpg.InvalidParameterValueError, match="must not be larger"):
        await db.fetchval(set_one, topic.name, "min.compaction.lag.ms", "6")
    with pytest.raises(asyncpg.UndefinedObjectError, match='there is no topic "nope"'):
        await db.fetchval(set_one, "nope", "retention.ms", "6")


async def test_sql_sees_what_clients_see(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic(retention_ms="5", flush_ms="9")
    await db.execute('UPDATE kafka.topics SET configs = configs || \'{"segment.ms": "x"}\' WHERE name = $1', topic.name)
    rows = await db.fetch("SELECT * FROM kafka.topic_configs WHERE topic = $1", topic.name)
    entries = await described(client, TOPIC, topic.name)
    assert {row["name"]: row["value"] for row in rows} == {name: entry.value for name, entry in entries.items()}
    by_name = {row["name"]: (row["source"], row["default_value"], row["effect"]) for row in rows}
    assert by_name["retention.ms"] == ("topic", "604800000", "works")
    assert by_name["flush.ms"] == ("topic", "9223372036854775807", "no effect")
    assert by_name["segment.ms"] == ("default", "604800000", "works")
    assert by_name["remote.storage.enable"] == ("default", "false", "refused")


async def test_every_check_of_sql_is_the_wire_s(client: RawClient, db: asyncpg.Connection) -> None:
    """Each default is good for both, and of each key something that is not."""
    keys = await db.fetch("SELECT scope, name, default_value FROM kafka.config_keys WHERE default_value IS NOT NULL")
    assert {key["scope"] for key in keys} == {"topic", "broker", "group", "client metrics"}
    for scope, name, default in keys:
        assert await db.fetchval("SELECT kafka.config_fault($1, $2, $3)", scope, name, default) is None, name


async def test_settings_by_sql_are_checked(db: asyncpg.Connection) -> None:
    for name, value in (("log.segment.bytes", "5"), ("pg_kafka.lanes", "65"), ("group.consumer.assignors", "")):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await db.fetchval("SELECT kafka.set_config($1, $2)", name, value)
    with pytest.raises(asyncpg.CheckViolationError):
        await db.fetchval("SELECT kafka.set_config('log.roll.ms', '5', -3)")


# -- groups, loggers, client metrics -------------------------------------------------------------------------------------


async def test_configs_of_groups_are_followed_and_checked(client: RawClient, db: asyncpg.Connection) -> None:
    group, key = f"g-{secrets.token_hex(6)}", "consumer.session.timeout.ms"
    set_one = "SELECT kafka.set_group_config($1, $2, $3)"
    await db.fetchval(set_one, group, key, "50000")

    async def is_known() -> bool:
        return (await given(client, GROUP, group, key))[0] == "50000"

    await until(is_known)
    for name, value, sentence in (
        (key, "44999", "consumer.session.timeout.ms must be from 45000 to 60000, not 44999"),
        ("foo", "1", 'unknown group config "foo"'),
        (key, "x", "is not a number"),
    ):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=sentence):
            await db.fetchval(set_one, group, name, value)
    # Whatever somebody writes without the function, a group goes on.
    await db.execute(
        "UPDATE kafka.group_configs SET configs = '{\"consumer.session.timeout.ms\": [1]}' WHERE group_id = $1", group
    )
    await db.fetchval(set_one, group, "consumer.heartbeat.interval.ms", "6000")

    async def is_followed() -> bool:
        return (await given(client, GROUP, group, "consumer.heartbeat.interval.ms"))[0] == "6000"

    await until(is_followed)
    assert await replace(client, GROUP, group, consumer_session_timeout_ms="55000") == (0, None)
    assert (await given(client, GROUP, group, "consumer.heartbeat.interval.ms"))[0] == "5000"
    assert await db.fetchval(set_one, group, key, None) is None
    assert await db.fetchval("SELECT count(*) FROM kafka.group_configs WHERE group_id = $1", group) == 0


async def test_levels_of_loggers(client: RawClient) -> None:
    levels = await described(client, LOGGER, NODE)
    assert levels["root"].value == levels["pg_kafka.janitor"].value == "WARN"
    assert await alter(client, LOGGER, NODE, (SET, "pg_kafka.janitor", "DEBUG")) == (0, None)
    assert (await described(client, LOGGER, NODE, ["pg_kafka.janitor"]))["pg_kafka.janitor"].value == "DEBUG"
    assert await alter(client, LOGGER, NODE, (DELETE, "pg_kafka.janitor", None)) == (0, None)
    assert (await described(client, LOGGER, NODE))["pg_kafka.janitor"].value == "WARN"
    assert await alter(client, LOGGER, NODE, (SET, "root", "LOUD")) == (
        INVALID_CONFIG,
        "Cannot set the log level of root to LOUD as it is not a supported log level. "
        "Valid log levels are DEBUG, ERROR, FATAL, INFO, TRACE, WARN",
    )
    assert await alter(client, LOGGER, NODE, (SET, "foo", "INFO")) == (INVALID_CONFIG, "Logger foo does not exist!")
    assert await alter(client, LOGGER, NODE, (DELETE, "root", None)) == (
        INVALID_REQUEST,
        "Removing the log level of the root logger is not allowed",
    )
    assert await alter(client, LOGGER, NODE, (APPEND, "root", "INFO")) == (
        INVALID_REQUEST,
        "APPEND operation is not allowed for the BROKER_LOGGER resource",
    )
    assert (await alter(client, LOGGER, "", (SET, "root", "INFO")))[0] == INVALID_REQUEST
    assert (await replace(client, LOGGER, NODE, root="INFO"))[0] == INVALID_REQUEST
    assert (await described(client, LOGGER, NODE))["root"].value == "WARN"


async def test_subscriptions_to_metrics_of_clients(client: RawClient, db: asyncpg.Connection) -> None:
    name = f"m-{secrets.token_hex(6)}"
    assert await alter(client, METRICS, name, (SET, "interval.ms", "1000"), (SET, "match", "client_id=nobody")) == (
        0,
        None,
    )
    assert (await given(client, METRICS, name, "interval.ms"))[:2] == ("1000", OF_CLIENT_METRICS)
    assert (await given(client, METRICS, name, "metrics"))[:2] == ("", DEFAULT)
    for change, code, sentence in (
        ((SET, "interval.ms", "1"), INVALID_REQUEST, "Invalid value 1 for interval.ms, interval must be between 100 "),
        ((SET, "match", "client_id=["), INVALID_CONFIG, "Illegal client matching pattern: client_id=[: missing ]"),
        ((SET, "nope", "1"), INVALID_REQUEST, "Unknown client metrics configuration: nope"),
        ((APPEND, "metrics", "a"), INVALID_CONFIG, "Can't APPEND to key metrics because its type is not LIST."),
    ):
        refused = await alter(client, METRICS, name, change)
        assert refused[0] == code and refused[1] is not None and refused[1].startswith(sentence), refused
    assert (await alter(client, METRICS, "", (SET, "metrics", "a")))[0] == INVALID_REQUEST
    for unusable in ("n\0", "x" * 1001):
        assert (await alter(client, METRICS, unusable, (SET, "metrics", "a")))[0] == INVALID_REQUEST
    assert await replace(client, METRICS, name, metrics="a.,b.") == (0, None)
    assert await db.fetchval("SELECT configs::text FROM kafka.client_metrics WHERE name = $1", name) == (
        '{"metrics": "a.,b."}'
    )
    listed = await client.call(ListConfigResourcesRequest(), LIST, 0)
    assert name in [one.resource_name for one in listed.config_resources]
    assert await alter(client, METRICS, name, (DELETE, "metrics", None)) == (0, None)
    assert await db.fetchval("SELECT count(*) FROM kafka.client_metrics WHERE name = $1", name) == 0


async def test_subscriptions_by_sql_are_checked_and_followed(client: RawClient, db: asyncpg.Connection) -> None:
    name, set_one = f"m-{secrets.token_hex(6)}", "SELECT kafka.set_client_metrics($1, $2, $3)"
    await db.fetchval(set_one, name, "match", "client_id=nobody")
    await db.fetchval(set_one, name, "interval.ms", "2000")

    async def is_known() -> bool:
        return (await given(client, METRICS, name, "interval.ms"))[0] == "2000"

    await until(is_known)
    for key, value, sentence in (
        ("interval.ms", "99", "interval.ms must be at least 100, not 99"),
        ("interval.ms", "3600001", "interval.ms must be no more than 3600000"),
        ("match", "foo=x", "match must be property=expression"),
        ("match", "client_id=a=b", "match must be property=expression"),
        ("metrics", "a,,b", "metrics must not hold empty values"),
        ("nope", "1", 'unknown client metrics config "nope"'),
    ):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=sentence):
            await db.fetchval(set_one, name, key, value)
    for unusable in ("", None, "x" * 1001):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="a subscription needs a name"):
            await db.fetchval(set_one, unusable, "metrics", "a")
    for key in ("match", "interval.ms", "never"):
        await db.fetchval(set_one, name, key, None)
    assert await db.fetchval("SELECT count(*) FROM kafka.client_metrics WHERE name = $1", name) == 0
    told = await db.fetch(
        "SELECT event, detail FROM kafka.audit_log WHERE resource = $1 ORDER BY entry", f"client metrics {name}"
    )
    assert [row["event"] for row in told] == [
        f"client metrics {what}" for what in ("created", "changed", "changed", "deleted")
    ]


async def test_what_has_configs_is_listed(client: RawClient) -> None:
    topic = (await client.create_topic()).name
    group = f"g-{secrets.token_hex(6)}"
    assert await alter(client, GROUP, group, (SET, "consumer.session.timeout.ms", "46000")) == (0, None)

    async def listed(*types: int, version: int = 1) -> set[tuple[int, str]]:
        answer = await client.call(ListConfigResourcesRequest(resource_types=types), LIST, version)
        assert answer.error_code == 0
        return {(one.resource_type, one.resource_name) for one in answer.config_resources}

    assert {(TOPIC, topic), (BROKER, NODE), (LOGGER, NODE), (GROUP, group)} <= await listed()
    assert await listed(BROKER) == {(BROKER, NODE)}
    assert await listed(METRICS) == await listed(version=0) == set()
    answer = await client.call(ListConfigResourcesRequest(resource_types=[99]), LIST, 1)
    assert answer.error_code == ErrorCode.UNSUPPORTED_VERSION


async def test_who_may_not_see_standbys_cannot_ask_for_them(start_broker: Callable[..., Any]) -> None:
    with pytest.raises(StartFailed, match="GRANT pg_read_all_stats"):
        start_broker(MIN_SYNC_STANDBYS="1")
