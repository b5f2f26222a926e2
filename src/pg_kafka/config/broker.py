"""Every setting of the broker that may be kept in the database, which is what Kafka calls the configs of a broker.

`BrokerConfig` is the one table: a field is a setting, and its key says how it is written, what it may be and what it
does. Flags, environment, file, database, documentation and DescribeConfigs are all made from it (`BROKER_KEYS`).
A setting exists only when something reads it. Settings have Kafka's names and defaults; those of pg_kafka begin with
`pg_kafka.`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pg_kafka.config import changes
from pg_kafka.config.audit import AuditConfig
from pg_kafka.config.authorization import AuthorizationConfig
from pg_kafka.config.changes import Change, Operation
from pg_kafka.config.keys import (
    INT_MAX,
    OWN_PREFIX,
    ConfigType,
    InvalidChange,
    InvalidConfig,
    Key,
    Source,
    attribute_of,
    broker_setting,
    keys_of,
)
from pg_kafka.config.lag import LagConfig
from pg_kafka.config.listeners import LISTENER_PREFIX, MECHANISMS, ListenerConfig, in_keys
from pg_kafka.config.log import LogConfig
from pg_kafka.config.metrics import MetricsConfig
from pg_kafka.config.oauth import OauthConfig
from pg_kafka.config.outbox import OutboxConfig
from pg_kafka.config.quotas import QuotaConfig
from pg_kafka.config.sasl import SaslConfig
from pg_kafka.config.telemetry import TelemetryConfig
from pg_kafka.config.users import UsersConfig

# What queued.max.request.bytes = -1 means here: Kafka's -1 is "no limit", which one client could use to exhaust memory.
UNSET_REQUEST_BUDGET_BYTES = 256 * 1024 * 1024

BOOLEAN, STRING, INT, LONG = ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT, ConfigType.LONG


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig(
    AuthorizationConfig,
    AuditConfig,
    ListenerConfig,
    QuotaConfig,
    TelemetryConfig,
    SaslConfig,
    OauthConfig,
    UsersConfig,
    MetricsConfig,
    LagConfig,
    OutboxConfig,
    LogConfig,
):
    """The settings of one broker. Fields are settings; `sources` tells where each value came from."""

    auto_create_topics_enable: bool = broker_setting(
        "auto.create.topics.enable",
        BOOLEAN,
        True,
        "Create a topic when a client asks for metadata of one that does not exist.",
    )
    num_partitions: int = broker_setting(
        "num.partitions", INT, 1, "Partitions of a topic that is created without saying how many.", low=1
    )
    delete_topic_enable: bool = broker_setting("delete.topic.enable", BOOLEAN, True, "Allow clients to delete topics.")
    fetch_max_bytes: int = broker_setting(
        "fetch.max.bytes", INT, 57_671_680, "Most bytes of records in one answer to a consumer.", low=1024
    )
    max_incremental_fetch_session_cache_slots: int = broker_setting(
        "max.incremental.fetch.session.cache.slots",
        INT,
        1000,
        "Fetch sessions kept; further consumers send whole requests.",
    )
    socket_request_max_bytes: int = broker_setting(
        "socket.request.max.bytes", INT, 104_857_600, "Largest request; a larger one closes its connection.", low=1
    )
    queued_max_request_bytes: int = broker_setting(
        "queued.max.request.bytes",
        LONG,
        -1,
        "Bytes of requests held in memory over all connections before sockets are no longer read; -1 means 256 MiB.",
        low=-1,
    )
    connections_max_idle_ms: int = broker_setting(
        "connections.max.idle.ms",
        LONG,
        600_000,
        "A connection without requests for this long is closed; -1 means never.",
        low=-1,
    )

    group_initial_rebalance_delay_ms: int = broker_setting(
        "group.initial.rebalance.delay.ms",
        INT,
        3_000,
        "How long a classic group that was empty waits for more members before its first generation.",
    )
    group_max_size: int = broker_setting("group.max.size", INT, INT_MAX, "Most members of a classic group.", low=1)
    group_min_session_timeout_ms: int = broker_setting(
        "group.min.session.timeout.ms", INT, 6_000, "Shortest session timeout that a classic member may ask for."
    )
    group_max_session_timeout_ms: int = broker_setting(
        "group.max.session.timeout.ms", INT, 1_800_000, "Longest session timeout that a classic member may ask for."
    )
    group_consumer_session_timeout_ms: int = broker_setting(
        "group.consumer.session.timeout.ms",
        INT,
        45_000,
        "After what silence a member of the consumer protocol is removed; groups override it.",
        low=1,
    )
    group_consumer_min_session_timeout_ms: int = broker_setting(
        "group.consumer.min.session.timeout.ms",
        INT,
        45_000,
        "Shortest session timeout that a group may set for its members.",
        low=1,
    )
    group_consumer_max_session_timeout_ms: int = broker_setting(
        "group.consumer.max.session.timeout.ms",
        INT,
        60_000,
        "Longest session timeout that a group may set for its members.",
        low=1,
    )
    group_consumer_heartbeat_interval_ms: int = broker_setting(
        "group.consumer.heartbeat.interval.ms",
        INT,
        5_000,
        "How often members of the consumer protocol are told to send heartbeats; groups override it.",
        low=1,
    )
    group_consumer_min_heartbeat_interval_ms: int = broker_setting(
        "group.consumer.min.heartbeat.interval.ms",
        INT,
        5_000,
        "Shortest heartbeat interval that a group may set.",
        low=1,
    )
    group_consumer_max_heartbeat_interval_ms: int = broker_setting(
        "group.consumer.max.heartbeat.interval.ms",
        INT,
        15_000,
        "Longest heartbeat interval that a group may set.",
        low=1,
    )
    group_consumer_assignment_interval_ms: int = broker_setting(
        "group.consumer.assignment.interval.ms",
        INT,
        1_000,
        "Least time between two target assignments of a group of the consumer protocol; groups override it.",
        is_dynamic=True,
    )
    group_consumer_min_assignment_interval_ms: int = broker_setting(
        "group.consumer.min.assignment.interval.ms", INT, 0, "Shortest assignment interval that a group may set."
    )
    group_consumer_max_assignment_interval_ms: int = broker_setting(
        "group.consumer.max.assignment.interval.ms",
        INT,
        15_000,
        "Longest assignment interval that a group may set.",
    )
    group_consumer_max_size: int = broker_setting(
        "group.consumer.max.size", INT, INT_MAX, "Most members of a group of the consumer protocol.", low=1
    )
    group_consumer_assignors: tuple[str, ...] = broker_setting(
        "group.consumer.assignors",
        ConfigType.LIST,
        ("uniform", "range", "roundrobin", "sticky"),
        "The broker's assignors for the consumer protocol; the first one serves members that name none.",
        choices=("uniform", "range", "roundrobin", "sticky"),
        must_be_set=True,
    )
    group_consumer_migration_policy: str = broker_setting(
        "group.consumer.migration.policy",
        STRING,
        "bidirectional",
        "Which groups with members may change their protocol: from classic (upgrade), to classic (downgrade), both.",
        choices=("disabled", "upgrade", "downgrade", "bidirectional"),
    )
    offset_metadata_max_bytes: int = broker_setting(
        "offset.metadata.max.bytes", INT, 4_096, "Longest text that may be committed with an offset."
    )
    offsets_retention_minutes: int = broker_setting(
        "offsets.retention.minutes",
        INT,
        10_080,
        "How long offsets are kept after their group has lost its last member, or has unsubscribed from the topic.",
        low=1,
    )
    offsets_retention_check_interval_ms: int = broker_setting(
        "offsets.retention.check.interval.ms", LONG, 600_000, "How often expired offsets are looked for.", low=1
    )
    transaction_max_timeout_ms: int = broker_setting(
        "transaction.max.timeout.ms",
        INT,
        900_000,
        "Longest transaction timeout that a producer may ask for.",
        low=1,
    )
    transactional_id_expiration_ms: int = broker_setting(
        "transactional.id.expiration.ms",
        INT,
        604_800_000,
        "A transactional id that is not used for this long, and has no open transaction, is forgotten.",
        low=1,
    )
    producer_id_expiration_ms: int = broker_setting(
        "producer.id.expiration.ms",
        INT,
        86_400_000,
        "A partition forgets a producer that is silent for this long, unless it has an open transaction there.",
        low=1,
        is_dynamic=True,
    )
    connection_request_bytes: int = broker_setting(
        "pg_kafka.connection_request_bytes",
        INT,
        16 * 1024 * 1024,
        "Bytes of requests of one connection in progress before it is not read; the one that has begun is read to its end.",
        low=1,
    )
    connection_queued_requests: int = broker_setting(
        "pg_kafka.connection_queued_requests",
        INT,
        256,
        "Requests of one connection that wait for their turn before it is not read.",
        low=1,
    )
    connection_unanswered_requests: int = broker_setting(
        "pg_kafka.connection_unanswered_requests",
        INT,
        128,
        "Requests of one connection that are started and not yet answered.",
        low=1,
    )
    connection_unread_bytes: int = broker_setting(
        "pg_kafka.connection_unread_bytes",
        INT,
        1024 * 1024,
        "Bytes of answers that a client has not read before nothing more is started for it.",
        low=4096,
    )
    decompressed_batch_bytes: int = broker_setting(
        "pg_kafka.decompressed_batch_bytes",
        INT,
        128 * 1024 * 1024,
        "Largest record batch when decompressed.",
        low=1024 * 1024,
        high=512 * 1024 * 1024,
    )
    decoding_bytes: int = broker_setting(
        "pg_kafka.decoding_bytes",
        LONG,
        256 * 1024 * 1024,
        "Bytes that large batches of all connections may become, decompressed, before further ones wait for their turn.",
        low=1024 * 1024,
    )

    lanes: int = broker_setting(
        "pg_kafka.lanes",
        INT,
        1,
        "Writers. Each has two database sessions and its share of the partitions.",
        low=1,
        high=64,
    )
    readers: int = broker_setting(
        "pg_kafka.readers", INT, 2, "Database sessions for reads that memory cannot answer.", low=1, high=64
    )
    tail_bytes: int = broker_setting(
        "pg_kafka.tail_bytes",
        LONG,
        64 * 1024 * 1024,
        "Memory for the newest batches, from which consumers near the end are served.",
    )
    storage_compression: str = broker_setting(
        "pg_kafka.storage_compression",
        STRING,
        "auto",
        "How PostgreSQL compresses records in new segments; auto decides from what producers send. Topics override it with"
        " storage.compression.",
        choices=("auto", "none", "pglz", "lz4"),
        is_dynamic=True,
    )
    storage_layout: str = broker_setting(
        "pg_kafka.storage_layout",
        STRING,
        "auto",
        "How compressed batches are stored: taken apart into rows; kept as batches while nobody reads their topic by SQL;"
        " auto keeps them until SQL first asks for the topic.",
        choices=("rows", "batches", "auto"),
        is_dynamic=True,
    )
    series_bytes: int = broker_setting(
        "pg_kafka.series_bytes",
        LONG,
        64 * 1024 * 1024,
        "A topic with more bytes than this gets segments of its own.",
        low=1,
    )
    checkpoint_bytes: int = broker_setting(
        "pg_kafka.checkpoint_bytes",
        LONG,
        64 * 1024 * 1024,
        "Appended bytes after which the state of changed partitions is saved, so that a restart reads little.",
        low=1,
    )
    checkpoint_ms: int = broker_setting(
        "pg_kafka.checkpoint_ms", LONG, 60_000, "Time after which the state of changed partitions is saved.", low=1
    )
    backend_timeout_ms: int = broker_setting(
        "pg_kafka.backend_timeout_ms",
        INT,
        15_000,
        "A writing database session that does not answer for this long is ended and replaced; waits for a standby are not.",
        low=100,
    )
    min_sync_standbys: int = broker_setting(
        "pg_kafka.min_sync_standbys",
        INT,
        0,
        "With fewer synchronous standbys connected, acks=all is refused with NOT_ENOUGH_REPLICAS. The broker's role needs"
        " pg_read_all_stats.",
        is_dynamic=True,
    )
    disk_reserve_bytes: int = broker_setting(
        "pg_kafka.disk_reserve_bytes",
        LONG,
        512 * 1024 * 1024,
        "Free space on the embedded server's volume that records must leave; 0 means do not look.",
    )
    heartbeat_ms: int = broker_setting(
        "pg_kafka.heartbeat_ms", INT, 1000, "How often the broker shows in kafka.brokers that it lives.", low=100
    )
    eviction_ms: int = broker_setting(
        "pg_kafka.eviction_ms", INT, 6000, "A broker not seen for this long may be replaced by another.", low=1000
    )

    sources: Mapping[str, Source] = dataclasses.field(default_factory=dict, compare=False)
    # What weaker sources say of the same settings.
    beneath: Mapping[str, Mapping[Source, Any]] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    # What single listeners have: listener.name.<name>.<key>, or listener.name.<name>.<mechanism>.<key>, and its value.
    by_listener: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False, repr=False)

    def source(self, name: str) -> Source:
        """Where the value of the setting with this name came from."""
        return self.sources.get(name, Source.DEFAULT)

    def given(self, key: Key) -> dict[Source, Any]:
        """What each source says of a setting, the strongest first; empty for one that nobody has set."""
        source = self.source(key.name)
        if source is Source.DEFAULT:
            return {}
        return {source: self.value(key), **self.beneath.get(key.name, {})}

    def value(self, key: Key) -> Any:
        """The value in force of a key, which may be one of a single listener."""
        if key.name.startswith(LISTENER_PREFIX):
            return self.by_listener.get(key.name, key.default)
        return getattr(self, key.attribute)

    def of_listener(self, listener: str, name: str, mechanism: str = "") -> Any:
        """The value of a setting for a listener, and a mechanism of it: its own, else that of all listeners."""
        own = in_keys(listener)
        for place in (f"{own}.{mechanism.lower()}", own):
            full_name = f"{LISTENER_PREFIX}{place}.{name}"
            if full_name in self.by_listener:
                return self.by_listener[full_name]
        return getattr(self, attribute_of(name))

    @property
    def request_budget_bytes(self) -> int:
        """queued.max.request.bytes, with -1 resolved."""
        return UNSET_REQUEST_BUDGET_BYTES if self.queued_max_request_bytes < 0 else self.queued_max_request_bytes


BROKER_KEYS: Mapping[str, Key] = keys_of(BrokerConfig)
_BY_ATTRIBUTE = {key.attribute: key for key in BROKER_KEYS.values()}
_MECHANISMS = tuple(mechanism.lower() for mechanism in MECHANISMS)


def key_named(name: str) -> Key | None:
    """The key of a broker's setting, by any of its names: Kafka's, with underscores, with `pg_kafka.` in front.

    One of a single listener is the key of all listeners under its full name, in which dashes of the listener's name are
    underscores.
    """
    attribute = attribute_of(name)
    if attribute in _BY_ATTRIBUTE:
        return _BY_ATTRIBUTE[attribute]
    lowered = name.removeprefix(OWN_PREFIX).lower()
    if lowered.startswith(LISTENER_PREFIX):
        parts = lowered.removeprefix(LISTENER_PREFIX).split(".")
        # Names of listeners have no dots.
        listener, rest = in_keys(parts[0]), parts[1:]
        mechanism = [rest.pop(0)] if rest and rest[0] in _MECHANISMS else []
        key = BROKER_KEYS.get(".".join(rest))
        front = ".".join((listener, *mechanism))
    elif attribute.startswith(attribute_of(LISTENER_PREFIX)):
        front = attribute.removeprefix(attribute_of(LISTENER_PREFIX))
        ends = [known for known in _BY_ATTRIBUTE if _BY_ATTRIBUTE[known].by_listener and front.endswith("_" + known)]
        if not ends:
            return None
        key = _BY_ATTRIBUTE[max(ends, key=len)]
        front = front.removesuffix("_" + key.attribute)
        if key.name.startswith(OWN_PREFIX):
            front = front.removesuffix("_" + OWN_PREFIX.rstrip("."))
        for mechanism_name in _MECHANISMS:
            if front.endswith("_" + attribute_of(mechanism_name)):
                front = f"{front.removesuffix('_' + attribute_of(mechanism_name))}.{mechanism_name}"
                break
    else:
        return None
    if key is None or not key.by_listener or not front.strip("."):
        return None
    return dataclasses.replace(key, name=f"{LISTENER_PREFIX}{front}.{key.name}")


def altered(configs: Mapping[str, str], operations: Iterable[Change], config: BrokerConfig) -> dict[str, str]:
    """What is set for one broker, or for all, after these operations. Raises InvalidChange; then nothing is changed.

    Kafka takes names that no broker knows; here a setting that would do nothing is refused.
    """
    keys: dict[str, Key] = {}
    asked: list[Change] = []
    for operation, name, value in operations:
        # Of a listener, names are written in several ways.
        key = BROKER_KEYS.get(name) or (key_named(name) if name.startswith(LISTENER_PREFIX) else None)
        asked.append((operation, name if key is None else key.name, value))
        if key is not None:
            keys[key.name] = key
    kept = [name for operation, name, _ in asked if operation != Operation.DELETE]
    if fixed := sorted(name for name in kept if name in keys and not keys[name].is_dynamic):
        raise InvalidChange(f"Cannot update these configs dynamically: [{', '.join(fixed)}]")
    for name in kept:
        if name not in keys:
            raise InvalidChange(f"Unknown broker config name: {name}")

    def now(key: Key) -> str | None:
        return key.text(config.value(key))

    try:
        result = changes.altered(configs, asked, keys, now)
        for name in kept:
            keys[name].parse(result[name])
    except InvalidConfig as error:
        raise InvalidChange(str(error)) from None
    return result
