"""The configuration of a topic: every key that Kafka 4.3 knows, its checks, and what it amounts to.

Names, types, defaults and ranges are facts of the protocol; a key that is not in the table is refused, as Kafka does.
Keys with `is_served` False are checked, stored and reported, but have no effect (`docs/deviations.md`).

    validate({"retention.ms": "60000"})           raises InvalidTopicConfig
    effective(topic_configs, config)              what the log works with
    describe(topic_configs, config)               what DescribeConfigs answers
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Any

from pg_kafka.config import INT_MAX, LONG_MAX, Config, Source


class InvalidTopicConfig(Exception):
    """A key is unknown or its value is not allowed; the message is Kafka's sentence for it."""


class ConfigType(IntEnum):
    """DescribeConfigs' numbers for the type of a value."""

    UNKNOWN = 0
    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class ConfigSource(IntEnum):
    """DescribeConfigs' numbers for where a value comes from."""

    UNKNOWN = 0
    TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5
    GROUP = 8


_NUMBER = re.compile(r"[+-]?[0-9]+")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_REPLICA = re.compile(r"[0-9]+:[0-9]+")
_THROTTLED = "[partitionId]:[brokerId],[partitionId]:[brokerId],..."


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """One key that a topic may set."""

    name: str
    type: ConfigType
    default: str
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    also_allowed: int | None = None  # one value outside the range
    choices: tuple[str, ...] = ()
    synonym: str | None = None  # the broker setting that gives the default for all topics
    is_served: bool = False
    is_replica_list: bool = False

    def parse(self, text: str) -> Any:
        """The value that `text` stands for: bool, str, int, float, or a tuple of str. Raises InvalidTopicConfig."""
        value = _PARSERS[self.type](self, text.strip())
        self._check(value)
        return value

    def _check(self, value: Any) -> None:
        if self.is_replica_list:
            if value and value != ("*",) and not all(_REPLICA.fullmatch(item) for item in value):
                raise self.refusal(
                    f"[{', '.join(value)}]",
                    f"{self.name} must be the literal '*' or a list of replicas in the following format: {_THROTTLED}",
                )
        elif self.choices:
            for item in value if self.type is ConfigType.LIST else (value,):
                if item not in self.choices:
                    raise self.refusal(item, f"String must be one of: {', '.join(self.choices)}")
        elif self.also_allowed is not None:
            if value != self.also_allowed and not (self.minimum or 0) <= value <= (self.maximum or 0):
                raise self.refusal(
                    value, f"Value must be between {self.minimum} and {self.maximum} or equal to {self.also_allowed}"
                )
        elif self.minimum is not None and value < self.minimum:
            raise self.refusal(value, f"Value must be at least {self.minimum}")
        elif self.maximum is not None and value > self.maximum:
            raise self.refusal(value, f"Value must be no more than {self.maximum}")

    def refusal(self, value: object, reason: str) -> InvalidTopicConfig:
        return InvalidTopicConfig(f"Invalid value {value} for configuration {self.name}: {reason}")


def _parse_boolean(key: TopicConfig, text: str) -> bool:
    lowered = text.lower()
    if lowered not in ("true", "false"):
        raise key.refusal(text, "Expected value to be either true or false")
    return lowered == "true"


def _parse_string(key: TopicConfig, text: str) -> str:
    return text


def _parse_integer(key: TopicConfig, text: str) -> int:
    limit = INT_MAX if key.type is ConfigType.INT else LONG_MAX
    # The length is checked first: turning a megabyte of digits into a number takes seconds.
    value = int(text) if len(text) <= 100 and _NUMBER.fullmatch(text) else None
    if value is None or not -limit - 1 <= value <= limit:
        raise key.refusal(text, f"Not a number of type {key.type.name}")
    return value


def _parse_double(key: TopicConfig, text: str) -> float:
    if len(text) > 100 or _REAL.fullmatch(text) is None:
        raise key.refusal(text, "Not a number of type DOUBLE")
    return float(text)


def _parse_list(key: TopicConfig, text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(",")) if text else ()
    if "" in items:
        raise InvalidTopicConfig(f"Configuration '{key.name}' values must not be empty.")
    return items


_PARSERS: Mapping[ConfigType, Callable[[TopicConfig, str], Any]] = {
    ConfigType.BOOLEAN: _parse_boolean,
    ConfigType.STRING: _parse_string,
    ConfigType.INT: _parse_integer,
    ConfigType.LONG: _parse_integer,
    ConfigType.DOUBLE: _parse_double,
    ConfigType.LIST: _parse_list,
}


def text_of(value: Any) -> str:
    """A parsed value as Kafka writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


_BOOLEAN, _STRING, _INT, _LONG = ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT, ConfigType.LONG
_DOUBLE, _LIST = ConfigType.DOUBLE, ConfigType.LIST
_COMPRESSION_TYPES = ("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer")
_TIMESTAMP_TYPES = ("CreateTime", "LogAppendTime")

_TABLE = (
    TopicConfig(
        name="cleanup.policy",
        type=_LIST,
        default="delete",
        choices=("compact", "delete"),
        synonym="log.cleanup.policy",
        doc="What happens to old records: 'delete' drops them by age and size, 'compact' keeps the latest of each key.",
    ),
    TopicConfig(
        name="compression.gzip.level",
        type=_INT,
        default="-1",
        minimum=1,
        maximum=9,
        also_allowed=-1,
        synonym="compression.gzip.level",
        is_served=True,
        doc="How hard gzip tries when compression.type is gzip: 1 to 9, or -1 for its usual level.",
    ),
    TopicConfig(
        name="compression.lz4.level",
        type=_INT,
        default="9",
        minimum=1,
        maximum=17,
        synonym="compression.lz4.level",
        is_served=True,
        doc="How hard lz4 tries when compression.type is lz4.",
    ),
    TopicConfig(
        name="compression.type",
        type=_STRING,
        default="producer",
        choices=_COMPRESSION_TYPES,
        synonym="compression.type",
        is_served=True,
        doc="The codec of the batches that consumers get; 'producer' keeps what the producer chose.",
    ),
    TopicConfig(
        name="compression.zstd.level",
        type=_INT,
        default="3",
        minimum=-131072,
        maximum=22,
        synonym="compression.zstd.level",
        is_served=True,
        doc="How hard zstd tries when compression.type is zstd.",
    ),
    TopicConfig(
        name="delete.retention.ms",
        type=_LONG,
        default="86400000",
        minimum=0,
        synonym="log.cleaner.delete.retention.ms",
        doc="How long a deletion marker of a compacted topic stays readable.",
    ),
    TopicConfig(
        name="file.delete.delay.ms",
        type=_LONG,
        default="60000",
        minimum=0,
        synonym="log.segment.delete.delay.ms",
        doc="How long a dropped segment's file is kept; there are no files here.",
    ),
    TopicConfig(
        name="flush.messages",
        type=_LONG,
        default=str(LONG_MAX),
        minimum=1,
        synonym="log.flush.interval.messages",
        doc="After how many records the log is flushed; here every acknowledged record is.",
    ),
    TopicConfig(
        name="flush.ms",
        type=_LONG,
        default=str(LONG_MAX),
        minimum=0,
        synonym="log.flush.interval.ms",
        doc="After what time the log is flushed; here every acknowledged record is.",
    ),
    TopicConfig(
        name="follower.replication.throttled.replicas",
        type=_LIST,
        default="",
        is_replica_list=True,
        doc="Replicas whose catching up is slowed down on the follower's side; replication is PostgreSQL's here.",
    ),
    TopicConfig(
        name="index.interval.bytes",
        type=_INT,
        default="4096",
        minimum=0,
        synonym="log.index.interval.bytes",
        doc="How densely Kafka indexes a segment's file; PostgreSQL indexes every row.",
    ),
    TopicConfig(
        name="leader.replication.throttled.replicas",
        type=_LIST,
        default="",
        is_replica_list=True,
        doc="Replicas whose catching up is slowed down on the leader's side; replication is PostgreSQL's here.",
    ),
    TopicConfig(
        name="local.retention.bytes",
        type=_LONG,
        default="-2",
        minimum=-2,
        synonym="log.local.retention.bytes",
        doc="How much of a tiered topic stays local; there is no tiered storage here.",
    ),
    TopicConfig(
        name="local.retention.ms",
        type=_LONG,
        default="-2",
        minimum=-2,
        synonym="log.local.retention.ms",
        doc="How long records of a tiered topic stay local; there is no tiered storage here.",
    ),
    TopicConfig(
        name="max.compaction.lag.ms",
        type=_LONG,
        default=str(LONG_MAX),
        minimum=1,
        synonym="log.cleaner.max.compaction.lag.ms",
        doc="The longest time that a record of a compacted topic may escape compaction.",
    ),
    TopicConfig(
        name="max.message.bytes",
        type=_INT,
        default="1048588",
        minimum=0,
        synonym="message.max.bytes",
        is_served=True,
        doc="The largest record batch that producers may send, as it is on the wire.",
    ),
    TopicConfig(
        name="message.timestamp.after.max.ms",
        type=_LONG,
        default="3600000",
        minimum=0,
        synonym="log.message.timestamp.after.max.ms",
        is_served=True,
        doc="How far a record's CreateTime may lie ahead of the broker's clock.",
    ),
    TopicConfig(
        name="message.timestamp.before.max.ms",
        type=_LONG,
        default=str(LONG_MAX),
        minimum=0,
        synonym="log.message.timestamp.before.max.ms",
        is_served=True,
        doc="How far a record's CreateTime may lie behind the broker's clock.",
    ),
    TopicConfig(
        name="message.timestamp.type",
        type=_STRING,
        default="CreateTime",
        choices=_TIMESTAMP_TYPES,
        synonym="log.message.timestamp.type",
        is_served=True,
        doc="Whether a record keeps its producer's time or gets the time of its append.",
    ),
    TopicConfig(
        name="min.cleanable.dirty.ratio",
        type=_DOUBLE,
        default="0.5",
        minimum=0,
        maximum=1,
        synonym="log.cleaner.min.cleanable.ratio",
        doc="The share of a compacted log that must be unclean before it is compacted.",
    ),
    TopicConfig(
        name="min.compaction.lag.ms",
        type=_LONG,
        default="0",
        minimum=0,
        synonym="log.cleaner.min.compaction.lag.ms",
        doc="How long a record of a compacted topic stays untouched at least.",
    ),
    TopicConfig(
        name="min.insync.replicas",
        type=_INT,
        default="1",
        minimum=1,
        synonym="min.insync.replicas",
        doc="How many replicas must have a record that is acknowledged to acks=all; replication is PostgreSQL's here.",
    ),
    TopicConfig(
        name="preallocate",
        type=_BOOLEAN,
        default="false",
        synonym="log.preallocate",
        doc="Whether a segment's file is made at its full size; there are no files here.",
    ),
    TopicConfig(
        name="remote.log.copy.disable",
        type=_BOOLEAN,
        default="false",
        doc="Whether a tiered topic stops copying segments away; there is no tiered storage here.",
    ),
    TopicConfig(
        name="remote.log.delete.on.disable",
        type=_BOOLEAN,
        default="false",
        doc="Whether tiered data goes when tiering is switched off; there is no tiered storage here.",
    ),
    TopicConfig(
        name="remote.storage.enable",
        type=_BOOLEAN,
        default="false",
        doc="Whether a topic is tiered. There is no tiered storage here: 'true' is refused.",
    ),
    TopicConfig(
        name="retention.bytes",
        type=_LONG,
        default="-1",
        synonym="log.retention.bytes",
        doc="The size that a partition may have before its oldest segments go; -1 is no limit.",
    ),
    TopicConfig(
        name="retention.ms",
        type=_LONG,
        default="604800000",
        minimum=-1,
        synonym="log.retention.ms",
        doc="How long records are kept; -1 is for ever.",
    ),
    TopicConfig(
        name="segment.bytes",
        type=_INT,
        default="1073741824",
        minimum=1048576,
        synonym="log.segment.bytes",
        doc="The size at which a segment is sealed; here log.segment.bytes holds for all topics.",
    ),
    TopicConfig(
        name="segment.index.bytes",
        type=_INT,
        default="10485760",
        minimum=4,
        synonym="log.index.size.max.bytes",
        doc="The size of a segment's index file; PostgreSQL's indexes grow by themselves.",
    ),
    TopicConfig(
        name="segment.jitter.ms",
        type=_LONG,
        default="0",
        minimum=0,
        synonym="log.roll.jitter.ms",
        doc="By how much the time at which a segment is sealed may vary.",
    ),
    TopicConfig(
        name="segment.ms",
        type=_LONG,
        default="604800000",
        minimum=1,
        synonym="log.roll.ms",
        doc="The age at which a segment is sealed; here log.roll.ms holds for all topics.",
    ),
    TopicConfig(
        name="unclean.leader.election.enable",
        type=_BOOLEAN,
        default="false",
        synonym="unclean.leader.election.enable",
        doc="Whether a replica that lags may lead; replication is PostgreSQL's here.",
    ),
)

TOPIC_CONFIGS: Mapping[str, TopicConfig] = {row.name: row for row in _TABLE}

_DEFAULTS: Mapping[str, Any] = {row.name: row.parse(row.default) for row in _TABLE}


def validate(configs: Mapping[str, str | None]) -> None:
    """Check the keys and values given for one topic. Raises InvalidTopicConfig for the first that is wrong."""
    values: dict[str, Any] = {}
    for name, text in configs.items():
        row = TOPIC_CONFIGS.get(name)
        if row is None:
            raise InvalidTopicConfig(f"Unknown topic config name: {name}")
        if text is None:
            raise InvalidTopicConfig(f"Null value not supported for topic configs: {name}")
        values[name] = row.parse(text)
    minimum_lag = values.get("min.compaction.lag.ms", 0)
    maximum_lag = values.get("max.compaction.lag.ms", LONG_MAX)
    if minimum_lag > maximum_lag:
        raise InvalidTopicConfig(
            f"conflict topic config setting min.compaction.lag.ms ({minimum_lag}) > "
            f"max.compaction.lag.ms ({maximum_lag})"
        )
    if values.get("remote.storage.enable"):
        raise InvalidTopicConfig(
            "Tiered Storage functionality is disabled in the broker. "
            "Topic cannot be configured with remote log storage."
        )


def without_effect(configs: Mapping[str, str]) -> list[str]:
    """Those of the given keys that are set to something else than Kafka's default and change nothing here."""
    return [
        name
        for name, text in configs.items()
        if not TOPIC_CONFIGS[name].is_served and TOPIC_CONFIGS[name].parse(text) != _DEFAULTS[name]
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """What a topic's configuration amounts to, over the broker's settings and the defaults."""

    max_message_bytes: int
    compression_type: str
    gzip_level: int
    lz4_level: int
    zstd_level: int
    timestamp_type: int  # as in a batch's attributes: 0 CreateTime, 1 LogAppendTime
    timestamp_before_max_ms: int
    timestamp_after_max_ms: int
    cleanup_policy: tuple[str, ...]
    segment_bytes: int
    segment_ms: int
    retention_ms: int
    retention_bytes: int
    delete_retention_ms: int
    min_compaction_lag_ms: int
    max_compaction_lag_ms: int
    min_cleanable_dirty_ratio: float

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.cleanup_policy

    @property
    def codec(self) -> int | None:
        """The codec of a batch's attributes that consumers get, or None for the producer's."""
        return _CODECS[self.compression_type]

    @property
    def compression_level(self) -> int | None:
        """The level for `codec`, or None where it has none."""
        match self.compression_type:
            case "gzip":
                return None if self.gzip_level == -1 else self.gzip_level
            case "lz4":
                return self.lz4_level
            case "zstd":
                return self.zstd_level
        return None


_CODECS: Mapping[str, int | None] = {
    "producer": None,
    "uncompressed": 0,
    "gzip": 1,
    "snappy": 2,
    "lz4": 3,
    "zstd": 4,
}


def effective(configs: Mapping[str, str], config: Config) -> TopicSettings:
    """What the log works with. A stored value that today's rules would refuse gives way to the default."""
    settings = _without_configs(config)
    given = {
        field: _layers(TOPIC_CONFIGS[name], configs, config)[0].value
        for name, field in _FIELDS.items()
        if name in configs
    }
    if "timestamp_type" in given:
        given["timestamp_type"] = _TIMESTAMP_TYPES.index(given["timestamp_type"])
    return replace(settings, **given) if given else settings


@lru_cache(maxsize=8)
def _without_configs(config: Config) -> TopicSettings:
    """The settings of all topics that set nothing: one object, however many they are."""
    values = {field: _layers(TOPIC_CONFIGS[name], {}, config)[0].value for name, field in _FIELDS.items()}
    values["timestamp_type"] = _TIMESTAMP_TYPES.index(values["timestamp_type"])
    return TopicSettings(**values)


_FIELDS: Mapping[str, str] = {
    "max.message.bytes": "max_message_bytes",
    "compression.type": "compression_type",
    "compression.gzip.level": "gzip_level",
    "compression.lz4.level": "lz4_level",
    "compression.zstd.level": "zstd_level",
    "message.timestamp.type": "timestamp_type",
    "message.timestamp.before.max.ms": "timestamp_before_max_ms",
    "message.timestamp.after.max.ms": "timestamp_after_max_ms",
    "cleanup.policy": "cleanup_policy",
    "segment.bytes": "segment_bytes",
    "segment.ms": "segment_ms",
    "retention.ms": "retention_ms",
    "retention.bytes": "retention_bytes",
    "delete.retention.ms": "delete_retention_ms",
    "min.compaction.lag.ms": "min_compaction_lag_ms",
    "max.compaction.lag.ms": "max_compaction_lag_ms",
    "min.cleanable.dirty.ratio": "min_cleanable_dirty_ratio",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One place that gives a value to a key; DescribeConfigs calls them synonyms."""

    name: str
    value: Any
    source: ConfigSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigEntry:
    """One line of DescribeConfigs' answer."""

    name: str
    value: str | None
    source: ConfigSource
    is_read_only: bool
    type: ConfigType
    synonyms: Sequence[tuple[str, str | None, ConfigSource]]
    doc: str


def describe(configs: Mapping[str, str], config: Config, keys: Iterable[str] | None = None) -> list[ConfigEntry]:
    """Every key (or the known ones of `keys`) with its value, where that comes from, and what it overrides."""
    wanted = TOPIC_CONFIGS if keys is None else [name for name in TOPIC_CONFIGS if name in set(keys)]
    return [_entry(TOPIC_CONFIGS[name], configs, config) for name in wanted]


def _entry(row: TopicConfig, configs: Mapping[str, str], config: Config) -> ConfigEntry:
    layers = _layers(row, configs, config)
    return ConfigEntry(
        name=row.name,
        value=text_of(layers[0].value),
        source=layers[0].source,
        is_read_only=False,
        type=row.type,
        synonyms=[(layer.name, text_of(layer.value), layer.source) for layer in layers],
        doc=row.doc,
    )


def source_of(config: Config, setting: str) -> ConfigSource:
    """Where the broker's value of a setting comes from, in DescribeConfigs' terms."""
    return _SOURCES.get(config.source(setting), ConfigSource.STATIC_BROKER)


_SOURCES: Mapping[str, ConfigSource] = {
    Source.DEFAULT: ConfigSource.DEFAULT,
    Source.DATABASE: ConfigSource.DYNAMIC_DEFAULT_BROKER,
}


def _layers(row: TopicConfig, configs: Mapping[str, str], config: Config) -> list[Layer]:
    """The values of a key, the effective one first."""
    layers = []
    if (text := configs.get(row.name)) is not None:
        try:
            layers.append(Layer(row.name, row.parse(text), ConfigSource.TOPIC))
        except InvalidTopicConfig:
            pass
    default = _DEFAULTS[row.name]
    if row.synonym is None:
        layers.append(Layer(row.name, default, ConfigSource.DEFAULT))
        return layers
    value = getattr(config, row.synonym.replace(".", "_"), None)
    if value is not None:  # else the broker has no such setting
        source = source_of(config, row.synonym)
        if source is not ConfigSource.DEFAULT:
            layers.append(Layer(row.synonym, value, source))
        else:
            default = value
    layers.append(Layer(row.synonym, default, ConfigSource.DEFAULT))
    return layers
