"""Every setting of the broker, and where its value came from.

`Config` is the one table: a field is a setting, its metadata says how it is written, what it may be and what it does.
Flags, environment, file, database, documentation and DescribeConfigs are all made from it (`SETTINGS`).
Precedence: flag, environment (PG_KAFKA_NUM_PARTITIONS), file (TOML), database (kafka.settings, pg_kafka.*), default.
A setting exists only when something reads it. Broker settings have Kafka's names and defaults; those of pg_kafka begin
with `pg_kafka.`. Every error is a ConfigError of one sentence.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import logging
import os
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pg_kafka import database_url
from pg_kafka.errors import ConfigError

logger = logging.getLogger(__name__)

ENVIRONMENT_PREFIX = "PG_KAFKA_"
OWN_PREFIX = "pg_kafka."
DEFAULT_PORT = 9092
# What queued.max.request.bytes = -1 means here: Kafka's -1 is "no limit", which one client could use to exhaust memory.
UNSET_REQUEST_BUDGET_BYTES = 256 * 1024 * 1024
INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1


class Address(NamedTuple):
    """A host and a port; IPv6 hosts are kept without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """HOST:PORT or [IPV6]:PORT. Raises ValueError with what was wanted."""
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host or host.startswith("["):
            raise ValueError("an IPv6 address in brackets, as in [::1]:9092")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError("HOST:PORT, as in 127.0.0.1:9092")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Source:
    """Where a value came from, strongest first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DATABASE = "database"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of SETTINGS."""

    name: str  # as Kafka and DescribeConfigs write it
    attribute: str  # the field of Config
    type: str  # boolean, int, long, string, list, address, path or url (of a database)
    default: Any
    doc: str
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    start_only: bool = False  # needed before there is a database, so never read from one; not a broker config either
    dynamic: bool = False  # changes take effect without a restart

    @property
    def environment(self) -> str:
        """The environment variable that sets it."""
        return ENVIRONMENT_PREFIX + self.attribute.upper()

    @property
    def parameter(self) -> str:
        """The PostgreSQL parameter, and the row of kafka.settings, that sets it."""
        return OWN_PREFIX + self.attribute

    @property
    def range_text(self) -> str:
        """What it may be, for documentation and error messages."""
        if self.choices:
            return ", ".join(self.choices)
        if self.type == "boolean":
            return "true, false"
        if self.minimum is None:
            return ""
        if self.maximum in (INT_MAX, LONG_MAX):
            return f"{self.minimum} or more"
        return f"{self.minimum} to {self.maximum}"

    def text(self, value: Any) -> str | None:
        """The value as Kafka writes it in DescribeConfigs."""
        if value is None:
            return None
        if self.type == "list":
            return ",".join(value)
        return str(value).lower() if self.type == "boolean" else str(value)

    def parse(self, given: object, where: str) -> Any:
        """The typed value of what a flag, variable, file or row says. Raises ConfigError naming `where`."""
        text = str(given).strip()
        wanted = ""
        if self.type == "boolean":
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            wanted = "true or false"
        elif self.type in ("int", "long"):
            try:
                number = None if isinstance(given, (bool, float)) else int(text)
            except ValueError:
                number = None
            if number is not None and self._in_range(number):
                return number
            wanted = f"a whole number, {self.range_text}"
        elif self.type == "address":
            try:
                return Address.parse(text)
            except ValueError as error:
                wanted = str(error)
        elif self.type == "list":
            items = tuple(item.strip() for item in text.split(","))
            if isinstance(given, str) and set(items) <= set(self.choices) and len(set(items)) == len(items):
                return items
            wanted = "some, each once, with commas between them, of " + self.range_text
        elif not isinstance(given, str) or not text:
            wanted = "a text"
        elif self.type == "path":
            return Path(text).expanduser()
        elif self.type == "url":
            if not (instead := database_url.wanted_instead(text)):
                return text
            raise ConfigError(f"{where} wants {instead}")  # what was given may hold a password
        elif self.choices:
            if text in self.choices:
                return text
            wanted = "one of " + self.range_text
        else:
            return text
        # The address of a database may have been given in the wrong place.
        found = "the address of a database" if database_url.may_hold_password(text) else repr(text)
        raise ConfigError(f"{where} wants {wanted}, not {found}")

    def _in_range(self, number: int) -> bool:
        return (self.minimum is None or number >= self.minimum) and (self.maximum is None or number <= self.maximum)


def default_data_folder() -> Path:
    """Where the embedded PostgreSQL keeps its data unless told otherwise.

    Root's home is closed to the unprivileged user that runs the server for root, so root's data is with the system's.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/pg-kafka/data")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "pg-kafka"
    given = os.environ.get("XDG_DATA_HOME", "")
    return (Path(given) if given.startswith("/") else Path.home() / ".local" / "share") / "pg-kafka"


def _setting(
    name: str,
    type: str,
    default: Any,
    doc: str,
    *,
    low: int | None = None,
    high: int | None = None,
    choices: tuple[str, ...] = (),
    start_only: bool = False,
) -> Any:
    if type in ("int", "long"):
        low = 0 if low is None else low
        high = (INT_MAX if type == "int" else LONG_MAX) if high is None else high
    attribute = name.removeprefix(OWN_PREFIX).replace(".", "_")
    row = Setting(name, attribute, type, default, doc, low, high, choices, start_only)
    shown = name != "database"  # the URL may hold a password
    if callable(default):
        return dataclasses.field(default_factory=default, repr=shown, metadata={"setting": row})
    return dataclasses.field(default=default, repr=shown, metadata={"setting": row})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one broker. Fields are settings; `sources` tells where each value came from."""

    listen: Address = _setting(
        "listen",
        "address",
        Address("127.0.0.1", DEFAULT_PORT),
        "Where Kafka clients connect. Port 0 takes a free one.",
        start_only=True,
    )
    advertise: Address | None = _setting(
        "advertise",
        "address",
        None,
        "The address told to clients. Unset: the one each connected to, which is wrong behind NAT or a port forward.",
        start_only=True,
    )
    database: str | None = _setting(
        "database",
        "url",
        None,
        "PostgreSQL 14 or newer to keep everything in. Unset: an embedded server.",
        start_only=True,
    )
    data: Path = _setting("data", "path", default_data_folder, "Folder of the embedded server.", start_only=True)
    log_level: str = _setting(
        "log_level",
        "string",
        "warning",
        "The least severe log lines that are written.",
        choices=("debug", "info", "warning", "error"),
        start_only=True,
    )

    auto_create_topics_enable: bool = _setting(
        "auto.create.topics.enable",
        "boolean",
        True,
        "Create a topic when a client asks for metadata of one that does not exist.",
    )
    num_partitions: int = _setting(
        "num.partitions", "int", 1, "Partitions of a topic that is created without saying how many.", low=1
    )
    delete_topic_enable: bool = _setting("delete.topic.enable", "boolean", True, "Allow clients to delete topics.")
    message_max_bytes: int = _setting(
        "message.max.bytes",
        "int",
        1_048_588,
        "Largest record batch, as sent; topics override it with max.message.bytes.",
    )
    compression_type: str = _setting(
        "compression.type",
        "string",
        "producer",
        "Codec of what consumers get; producer keeps each batch's own. Topics override it.",
        choices=("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
    )
    log_message_timestamp_type: str = _setting(
        "log.message.timestamp.type",
        "string",
        "CreateTime",
        "Whose clock stamps records: the producer's or the broker's. Topics override it with message.timestamp.type.",
        choices=("CreateTime", "LogAppendTime"),
    )
    log_message_timestamp_before_max_ms: int = _setting(
        "log.message.timestamp.before.max.ms",
        "long",
        LONG_MAX,
        "How far a record's timestamp may lie in the past; topics override it with message.timestamp.before.max.ms.",
    )
    log_message_timestamp_after_max_ms: int = _setting(
        "log.message.timestamp.after.max.ms",
        "long",
        3_600_000,
        "How far a record's timestamp may lie in the future; topics override it with message.timestamp.after.max.ms.",
    )
    log_segment_bytes: int = _setting(
        "log.segment.bytes",
        "int",
        1_073_741_824,
        "A segment (one table) is sealed at this size; topics override it with segment.bytes.",
        low=1_048_576,
    )
    log_roll_ms: int = _setting(
        "log.roll.ms",
        "long",
        604_800_000,
        "A segment is sealed at this age; topics override it with segment.ms.",
        low=1,
    )
    fetch_max_bytes: int = _setting(
        "fetch.max.bytes", "int", 57_671_680, "Most bytes of records in one answer to a consumer.", low=1024
    )
    max_incremental_fetch_session_cache_slots: int = _setting(
        "max.incremental.fetch.session.cache.slots",
        "int",
        1000,
        "Fetch sessions kept; further consumers send whole requests.",
    )
    socket_request_max_bytes: int = _setting(
        "socket.request.max.bytes", "int", 104_857_600, "Largest request; a larger one closes its connection.", low=1
    )
    queued_max_request_bytes: int = _setting(
        "queued.max.request.bytes",
        "long",
        -1,
        "Bytes of requests held in memory over all connections before sockets are no longer read; -1 means 256 MiB.",
        low=-1,
    )
    connections_max_idle_ms: int = _setting(
        "connections.max.idle.ms",
        "long",
        600_000,
        "A connection without requests for this long is closed; -1 means never.",
        low=-1,
    )
    max_connections: int = _setting("max.connections", "int", INT_MAX, "Most connections at a time.")
    max_connections_per_ip: int = _setting(
        "max.connections.per.ip", "int", INT_MAX, "Most connections at a time from one address."
    )

    group_initial_rebalance_delay_ms: int = _setting(
        "group.initial.rebalance.delay.ms",
        "int",
        3_000,
        "How long a classic group that was empty waits for more members before its first generation.",
    )
    group_max_size: int = _setting("group.max.size", "int", INT_MAX, "Most members of a classic group.", low=1)
    group_min_session_timeout_ms: int = _setting(
        "group.min.session.timeout.ms", "int", 6_000, "Shortest session timeout that a classic member may ask for."
    )
    group_max_session_timeout_ms: int = _setting(
        "group.max.session.timeout.ms", "int", 1_800_000, "Longest session timeout that a classic member may ask for."
    )
    group_consumer_session_timeout_ms: int = _setting(
        "group.consumer.session.timeout.ms",
        "int",
        45_000,
        "After what silence a member of the consumer protocol is removed; groups override it.",
        low=1,
    )
    group_consumer_min_session_timeout_ms: int = _setting(
        "group.consumer.min.session.timeout.ms",
        "int",
        45_000,
        "Shortest session timeout that a group may set for its members.",
        low=1,
    )
    group_consumer_max_session_timeout_ms: int = _setting(
        "group.consumer.max.session.timeout.ms",
        "int",
        60_000,
        "Longest session timeout that a group may set for its members.",
        low=1,
    )
    group_consumer_heartbeat_interval_ms: int = _setting(
        "group.consumer.heartbeat.interval.ms",
        "int",
        5_000,
        "How often members of the consumer protocol are told to send heartbeats; groups override it.",
        low=1,
    )
    group_consumer_min_heartbeat_interval_ms: int = _setting(
        "group.consumer.min.heartbeat.interval.ms",
        "int",
        5_000,
        "Shortest heartbeat interval that a group may set.",
        low=1,
    )
    group_consumer_max_heartbeat_interval_ms: int = _setting(
        "group.consumer.max.heartbeat.interval.ms",
        "int",
        15_000,
        "Longest heartbeat interval that a group may set.",
        low=1,
    )
    group_consumer_assignment_interval_ms: int = _setting(
        "group.consumer.assignment.interval.ms",
        "int",
        1_000,
        "Least time between two target assignments of a group of the consumer protocol; groups override it.",
    )
    group_consumer_min_assignment_interval_ms: int = _setting(
        "group.consumer.min.assignment.interval.ms", "int", 0, "Shortest assignment interval that a group may set."
    )
    group_consumer_max_assignment_interval_ms: int = _setting(
        "group.consumer.max.assignment.interval.ms",
        "int",
        15_000,
        "Longest assignment interval that a group may set.",
    )
    group_consumer_max_size: int = _setting(
        "group.consumer.max.size", "int", INT_MAX, "Most members of a group of the consumer protocol.", low=1
    )
    group_consumer_assignors: tuple[str, ...] = _setting(
        "group.consumer.assignors",
        "list",
        ("uniform", "range", "roundrobin", "sticky"),
        "The broker's assignors for the consumer protocol; the first one serves members that name none.",
        choices=("uniform", "range", "roundrobin", "sticky"),
    )
    group_consumer_migration_policy: str = _setting(
        "group.consumer.migration.policy",
        "string",
        "bidirectional",
        "Which groups with members may change their protocol: from classic (upgrade), to classic (downgrade), both.",
        choices=("disabled", "upgrade", "downgrade", "bidirectional"),
    )
    offset_metadata_max_bytes: int = _setting(
        "offset.metadata.max.bytes", "int", 4_096, "Longest text that may be committed with an offset."
    )
    offsets_retention_minutes: int = _setting(
        "offsets.retention.minutes",
        "int",
        10_080,
        "How long offsets are kept after their group has lost its last member, or has unsubscribed from the topic.",
        low=1,
    )
    offsets_retention_check_interval_ms: int = _setting(
        "offsets.retention.check.interval.ms", "long", 600_000, "How often expired offsets are looked for.", low=1
    )
    transaction_max_timeout_ms: int = _setting(
        "transaction.max.timeout.ms",
        "int",
        900_000,
        "Longest transaction timeout that a producer may ask for.",
        low=1,
    )
    transactional_id_expiration_ms: int = _setting(
        "transactional.id.expiration.ms",
        "int",
        604_800_000,
        "A transactional id that is not used for this long, and has no open transaction, is forgotten.",
        low=1,
    )
    producer_id_expiration_ms: int = _setting(
        "producer.id.expiration.ms",
        "int",
        86_400_000,
        "A partition forgets a producer that is silent for this long, unless it has an open transaction there.",
        low=1,
    )
    connection_request_bytes: int = _setting(
        "pg_kafka.connection_request_bytes",
        "int",
        16 * 1024 * 1024,
        "Bytes of requests of one connection in progress before it is not read; the one that has begun is read to its end.",
        low=1,
    )
    connection_queued_requests: int = _setting(
        "pg_kafka.connection_queued_requests",
        "int",
        256,
        "Requests of one connection that wait for their turn before it is not read.",
        low=1,
    )
    connection_unanswered_requests: int = _setting(
        "pg_kafka.connection_unanswered_requests",
        "int",
        128,
        "Requests of one connection that are started and not yet answered.",
        low=1,
    )
    connection_unread_bytes: int = _setting(
        "pg_kafka.connection_unread_bytes",
        "int",
        1024 * 1024,
        "Bytes of answers that a client has not read before nothing more is started for it.",
        low=4096,
    )
    decompressed_batch_bytes: int = _setting(
        "pg_kafka.decompressed_batch_bytes",
        "int",
        128 * 1024 * 1024,
        "Largest record batch when decompressed.",
        low=1024 * 1024,
        high=512 * 1024 * 1024,
    )
    decoding_bytes: int = _setting(
        "pg_kafka.decoding_bytes",
        "long",
        256 * 1024 * 1024,
        "Bytes that large batches of all connections may become, decompressed, before further ones wait for their turn.",
        low=1024 * 1024,
    )

    lanes: int = _setting(
        "pg_kafka.lanes",
        "int",
        1,
        "Writers. Each has two database sessions and its share of the partitions.",
        low=1,
        high=64,
    )
    readers: int = _setting(
        "pg_kafka.readers", "int", 2, "Database sessions for reads that memory cannot answer.", low=1, high=64
    )
    tail_bytes: int = _setting(
        "pg_kafka.tail_bytes",
        "long",
        64 * 1024 * 1024,
        "Memory for the newest batches, from which consumers near the end are served.",
    )
    storage_compression: str = _setting(
        "pg_kafka.storage_compression",
        "string",
        "auto",
        "How PostgreSQL compresses records in new segments; auto decides from what producers send.",
        choices=("auto", "none", "pglz", "lz4"),
    )
    series_bytes: int = _setting(
        "pg_kafka.series_bytes",
        "long",
        64 * 1024 * 1024,
        "A topic with more bytes than this gets segments of its own.",
        low=1,
    )
    checkpoint_bytes: int = _setting(
        "pg_kafka.checkpoint_bytes",
        "long",
        64 * 1024 * 1024,
        "Appended bytes after which the state of changed partitions is saved, so that a restart reads little.",
        low=1,
    )
    checkpoint_ms: int = _setting(
        "pg_kafka.checkpoint_ms", "long", 60_000, "Time after which the state of changed partitions is saved.", low=1
    )
    backend_timeout_ms: int = _setting(
        "pg_kafka.backend_timeout_ms",
        "int",
        15_000,
        "A writing database session that does not answer for this long is ended and replaced; waits for a standby are not.",
        low=100,
    )
    disk_reserve_bytes: int = _setting(
        "pg_kafka.disk_reserve_bytes",
        "long",
        512 * 1024 * 1024,
        "Free space on the embedded server's volume that records must leave; 0 means do not look.",
    )
    heartbeat_ms: int = _setting(
        "pg_kafka.heartbeat_ms", "int", 1000, "How often the broker shows in kafka.brokers that it lives.", low=100
    )
    eviction_ms: int = _setting(
        "pg_kafka.eviction_ms", "int", 6000, "A broker not seen for this long may be replaced by another.", low=1000
    )

    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)

    def source(self, name: str) -> str:
        """Where the value of the setting with this name came from: one of Source."""
        return self.sources.get(name, Source.DEFAULT)

    @property
    def request_budget_bytes(self) -> int:
        """queued.max.request.bytes, with -1 resolved."""
        return UNSET_REQUEST_BUDGET_BYTES if self.queued_max_request_bytes < 0 else self.queued_max_request_bytes


SETTINGS: tuple[Setting, ...] = tuple(
    f.metadata["setting"] for f in dataclasses.fields(Config) if "setting" in f.metadata
)
_BY_ATTRIBUTE = {setting.attribute: setting for setting in SETTINGS}


def load(flags: Mapping[str, object], env: Mapping[str, str], file: Path | None) -> Config:
    """The configuration before any database is asked.

    `flags` maps attribute names to values, None meaning not given. Without `file`, PG_KAFKA_CONFIG may name one.
    Raises ConfigError.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if file is None and env.get(f"{ENVIRONMENT_PREFIX}CONFIG"):
        file = Path(env[f"{ENVIRONMENT_PREFIX}CONFIG"])
    if file is not None:
        for name, given in _read_file(file):
            setting = _known(name, file)
            values[setting.attribute] = setting.parse(given, f"{name} in {file}")
            sources[setting.name] = Source.FILE
    for setting in SETTINGS:
        text = env.get(setting.environment)
        if text:
            values[setting.attribute] = setting.parse(text, setting.environment)
            sources[setting.name] = Source.ENVIRONMENT
        given = flags.get(setting.attribute)
        if given is not None:
            values[setting.attribute] = setting.parse(given, "--" + setting.attribute.replace("_", "-"))
            sources[setting.name] = Source.FLAG
    return _checked(Config(**values, sources=sources))


def with_database_settings(config: Config, rows: Iterable[tuple[str, str | None]]) -> Config:
    """`config` with the settings that the database holds where nothing stronger has set them.

    Names are Kafka's or `pg_kafka.` ones with dots or underscores. A name that this version does not know is a warning:
    brokers of several versions may share one database. Raises ConfigError for a value that cannot be.
    """
    values: dict[str, Any] = {}
    sources = dict(config.sources)
    for name, text in rows:
        setting = _BY_ATTRIBUTE.get(_attribute(name))
        if setting is None or setting.start_only:
            logger.warning("a setting in the database has no effect", extra={"setting": name})
        elif text is not None and config.source(setting.name) in (Source.DEFAULT, Source.DATABASE):
            values[setting.attribute] = setting.parse(text, f"{name} in the database")
            sources[setting.name] = Source.DATABASE
    return _checked(dataclasses.replace(config, **values, sources=sources))


def _checked(config: Config) -> Config:
    if config.advertise is not None and config.advertise.port == 0:
        raise ConfigError("advertise wants a port from 1 to 65535, not 0")
    if config.eviction_ms < 3 * config.heartbeat_ms:
        raise ConfigError(
            f"pg_kafka.eviction_ms ({config.eviction_ms}) must be at least three times"
            f" pg_kafka.heartbeat_ms ({config.heartbeat_ms})"
        )
    _check_order(config, "group.min.session.timeout.ms", "group.max.session.timeout.ms")
    for what in ("session.timeout.ms", "heartbeat.interval.ms", "assignment.interval.ms"):
        _check_order(config, f"group.consumer.min.{what}", f"group.consumer.{what}", f"group.consumer.max.{what}")
    if config.group_consumer_heartbeat_interval_ms >= config.group_consumer_session_timeout_ms:
        raise ConfigError(
            f"group.consumer.heartbeat.interval.ms ({config.group_consumer_heartbeat_interval_ms}) must be less than"
            f" group.consumer.session.timeout.ms ({config.group_consumer_session_timeout_ms})"
        )
    return config


def _check_order(config: Config, *names: str) -> None:
    """Raise ConfigError unless each setting is at most the next one."""
    for smaller, larger in itertools.pairwise(names):
        low, high = getattr(config, _attribute(smaller)), getattr(config, _attribute(larger))
        if low > high:
            raise ConfigError(f"{smaller} ({low}) must not be larger than {larger} ({high})")


def _read_file(file: Path) -> Iterable[tuple[str, object]]:
    try:
        with file.open("rb") as stream:
            return list(_flatten("", tomllib.load(stream)))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {file} is not valid TOML: {error}") from error


def _flatten(prefix: str, table: Mapping[str, object]) -> Iterable[tuple[str, object]]:
    """num.partitions = 3 is a nested table in TOML, "num.partitions" = 3 is not: both give the same name."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _attribute(name: str) -> str:
    return name.removeprefix(OWN_PREFIX).replace(".", "_").replace("-", "_")


def _known(name: str, file: Path) -> Setting:
    setting = _BY_ATTRIBUTE.get(_attribute(name))
    if setting is None:
        near = difflib.get_close_matches(_attribute(name), _BY_ATTRIBUTE, n=1, cutoff=0.0)
        raise ConfigError(
            f"{file} sets {name!r}, which is no setting of pg-kafka; the nearest one is {_BY_ATTRIBUTE[near[0]].name!r}"
        )
    return setting
