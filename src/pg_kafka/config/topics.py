"""The configuration of a topic: every key that Kafka 4.4 knows, its checks, and what it amounts to.

Names, types, defaults and ranges are facts of the protocol; a key that is not in the table is refused, as Kafka does.
Keys whose effect is not WORKS are checked, stored and reported, but change nothing (`docs/deviations.md`).

    validate({"retention.ms": "60000"})           raises InvalidConfig
    effective(topic_configs, config)              what the log works with
    describe(topic_configs, config)               what DescribeConfigs answers
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pg_kafka.config import changes
from pg_kafka.config.broker import BrokerConfig
from pg_kafka.config.changes import Change
from pg_kafka.config.keys import LONG_MAX, ConfigType, Effect, InvalidConfig, Key, table
from pg_kafka.config.layers import ConfigEntry, ConfigSource, Layer, entry, in_force
from pg_kafka.config.log import LARGEST_RECORD_BYTES

_BOOLEAN, _STRING, _INT, _LONG = ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT, ConfigType.LONG
_DOUBLE, _LIST = ConfigType.DOUBLE, ConfigType.LIST
# A list of partitions and brokers, or a star for all.
_THROTTLED = r"\*|([0-9]+:[0-9]+(,[0-9]+:[0-9]+)*)?"
_PLACES = "[partitionId]:[brokerId],[partitionId]:[brokerId],..."
_THROTTLED_FORM = f"the literal '*' or a list of replicas in the following format: {_PLACES}"
_COMPRESSION_TYPES = ("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer")
_TIMESTAMP_TYPES = ("CreateTime", "LogAppendTime")

TOPIC_KEYS: Mapping[str, Key] = table(
    Key(
        name="cleanup.policy",
        type=_LIST,
        default=("delete",),
        choices=("compact", "delete"),
        synonyms=("log.cleanup.policy",),
        doc="What happens to old records: 'delete' drops them by age and size, 'compact' keeps the latest of each key.",
    ),
    Key(
        name="compression.gzip.level",
        type=_INT,
        default=-1,
        minimum=1,
        maximum=9,
        also_allowed=-1,
        synonyms=("compression.gzip.level",),
        doc="How hard gzip tries when compression.type is gzip: 1 to 9, or -1 for its usual level.",
    ),
    Key(
        name="compression.lz4.level",
        type=_INT,
        default=9,
        minimum=1,
        maximum=17,
        synonyms=("compression.lz4.level",),
        doc="How hard lz4 tries when compression.type is lz4.",
    ),
    Key(
        name="compression.type",
        type=_STRING,
        default="producer",
        choices=_COMPRESSION_TYPES,
        synonyms=("compression.type",),
        doc="The codec of the batches that consumers get; 'producer' keeps what the producer chose.",
    ),
    Key(
        name="compression.zstd.level",
        type=_INT,
        default=3,
        minimum=-131072,
        maximum=22,
        synonyms=("compression.zstd.level",),
        doc="How hard zstd tries when compression.type is zstd.",
    ),
    Key(
        name="delete.retention.ms",
        type=_LONG,
        default=86_400_000,
        minimum=0,
        synonyms=("log.cleaner.delete.retention.ms",),
        doc="How long a deletion marker of a compacted topic stays readable.",
    ),
    Key(
        name="errors.deadletterqueue.group.enable",
        type=_BOOLEAN,
        default=False,
        effect=Effect.REFUSED,
        refused="There are no share groups here: no topic can be their dead-letter queue.",
        doc="Whether share groups may put what they cannot deliver here. There are no share groups: 'true' is refused.",
    ),
    Key(
        name="file.delete.delay.ms",
        type=_LONG,
        default=60_000,
        minimum=0,
        synonyms=("log.segment.delete.delay.ms",),
        effect=Effect.NONE,
        doc="How long a dropped segment's file is kept; there are no files here.",
    ),
    Key(
        name="flush.messages",
        type=_LONG,
        default=LONG_MAX,
        minimum=1,
        synonyms=("log.flush.interval.messages",),
        effect=Effect.NONE,
        doc="After how many records the log is flushed; here every acknowledged record is.",
    ),
    Key(
        name="flush.ms",
        type=_LONG,
        default=LONG_MAX,
        minimum=0,
        synonyms=("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
        effect=Effect.NONE,
        doc="After what time the log is flushed; here every acknowledged record is.",
    ),
    Key(
        name="follower.replication.throttled.replicas",
        type=_LIST,
        default=(),
        pattern=_THROTTLED,
        form=_THROTTLED_FORM,
        effect=Effect.NONE,
        doc="Replicas whose catching up is slowed down on the follower's side; replication is PostgreSQL's here.",
    ),
    Key(
        name="index.interval.bytes",
        type=_INT,
        default=4096,
        minimum=0,
        synonyms=("log.index.interval.bytes",),
        effect=Effect.NONE,
        doc="How densely Kafka indexes a segment's file; PostgreSQL indexes every row.",
    ),
    Key(
        name="leader.replication.throttled.replicas",
        type=_LIST,
        default=(),
        pattern=_THROTTLED,
        form=_THROTTLED_FORM,
        effect=Effect.NONE,
        doc="Replicas whose catching up is slowed down on the leader's side; replication is PostgreSQL's here.",
    ),
    Key(
        name="local.retention.bytes",
        type=_LONG,
        default=-2,
        minimum=-2,
        synonyms=("log.local.retention.bytes",),
        effect=Effect.NONE,
        doc="How much of a tiered topic stays local; there is no tiered storage here.",
    ),
    Key(
        name="local.retention.ms",
        type=_LONG,
        default=-2,
        minimum=-2,
        synonyms=("log.local.retention.ms",),
        effect=Effect.NONE,
        doc="How long records of a tiered topic stay local; there is no tiered storage here.",
    ),
    Key(
        name="max.compaction.lag.ms",
        type=_LONG,
        default=LONG_MAX,
        minimum=1,
        synonyms=("log.cleaner.max.compaction.lag.ms",),
        doc="The longest time that a record of a compacted topic may escape compaction.",
    ),
    Key(
        name="max.decompressed.message.bytes",
        type=_INT,
        default=LARGEST_RECORD_BYTES,
        minimum=1,
        maximum=LARGEST_RECORD_BYTES,
        synonyms=("max.decompressed.message.bytes",),
        doc="The largest single record of a compressed batch, decompressed.",
    ),
    Key(
        name="max.message.bytes",
        type=_INT,
        default=1_048_588,
        minimum=0,
        synonyms=("message.max.bytes",),
        doc="The largest record batch that producers may send, as it is on the wire.",
    ),
    Key(
        name="message.timestamp.after.max.ms",
        type=_LONG,
        default=3_600_000,
        minimum=0,
        synonyms=("log.message.timestamp.after.max.ms",),
        doc="How far a record's CreateTime may lie ahead of the broker's clock.",
    ),
    Key(
        name="message.timestamp.before.max.ms",
        type=_LONG,
        default=LONG_MAX,
        minimum=0,
        synonyms=("log.message.timestamp.before.max.ms",),
        doc="How far a record's CreateTime may lie behind the broker's clock.",
    ),
    Key(
        name="message.timestamp.type",
        type=_STRING,
        default="CreateTime",
        choices=_TIMESTAMP_TYPES,
        synonyms=("log.message.timestamp.type",),
        doc="Whether a record keeps its producer's time or gets the time of its append.",
    ),
    Key(
        name="min.cleanable.dirty.ratio",
        type=_DOUBLE,
        default=0.5,
        minimum=0,
        maximum=1,
        synonyms=("log.cleaner.min.cleanable.ratio",),
        doc="The share of a compacted log that must be unclean before it is compacted.",
    ),
    Key(
        name="min.compaction.lag.ms",
        type=_LONG,
        default=0,
        minimum=0,
        synonyms=("log.cleaner.min.compaction.lag.ms",),
        doc="How long a record of a compacted topic stays untouched at least.",
    ),
    Key(
        name="min.insync.replicas",
        type=_INT,
        default=1,
        minimum=1,
        synonyms=("min.insync.replicas",),
        effect=Effect.NONE,
        doc="How many replicas must have a record that is acknowledged to acks=all; replication is PostgreSQL's here.",
    ),
    Key(
        name="preallocate",
        type=_BOOLEAN,
        default=False,
        synonyms=("log.preallocate",),
        effect=Effect.NONE,
        doc="Whether a segment's file is made at its full size; there are no files here.",
    ),
    Key(
        name="remote.copy.lag.bytes",
        type=_LONG,
        default=-1,
        minimum=-1,
        synonyms=("log.remote.copy.lag.bytes",),
        effect=Effect.NONE,
        doc="After what size a tiered topic is copied away; there is no tiered storage here.",
    ),
    Key(
        name="remote.copy.lag.ms",
        type=_LONG,
        default=0,
        minimum=-1,
        synonyms=("log.remote.copy.lag.ms",),
        effect=Effect.NONE,
        doc="After what time a tiered topic is copied away; there is no tiered storage here.",
    ),
    Key(
        name="remote.log.copy.disable",
        type=_BOOLEAN,
        default=False,
        effect=Effect.NONE,
        doc="Whether a tiered topic stops copying segments away; there is no tiered storage here.",
    ),
    Key(
        name="remote.log.delete.on.disable",
        type=_BOOLEAN,
        default=False,
        effect=Effect.NONE,
        doc="Whether tiered data goes when tiering is switched off; there is no tiered storage here.",
    ),
    Key(
        name="remote.storage.enable",
        type=_BOOLEAN,
        default=False,
        effect=Effect.REFUSED,
        refused="Tiered Storage functionality is disabled in the broker. "
        "Topic cannot be configured with remote log storage.",
        doc="Whether a topic is tiered. There is no tiered storage here: 'true' is refused.",
    ),
    Key(
        name="retention.bytes",
        type=_LONG,
        default=-1,
        synonyms=("log.retention.bytes",),
        doc="The size that a partition may have before its oldest segments go; -1 is no limit.",
    ),
    Key(
        name="retention.ms",
        type=_LONG,
        default=604_800_000,
        minimum=-1,
        synonyms=("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
        doc="How long records are kept; -1 is for ever.",
    ),
    Key(
        name="segment.bytes",
        type=_INT,
        default=1_073_741_824,
        minimum=1048576,
        synonyms=("log.segment.bytes",),
        doc="The size at which a segment is sealed. The shared segments of small topics go by log.segment.bytes.",
    ),
    Key(
        name="segment.index.bytes",
        type=_INT,
        default=10_485_760,
        minimum=4,
        synonyms=("log.index.size.max.bytes",),
        effect=Effect.NONE,
        doc="The size of a segment's index file; PostgreSQL's indexes grow by themselves.",
    ),
    Key(
        name="segment.jitter.ms",
        type=_LONG,
        default=0,
        minimum=0,
        synonyms=("log.roll.jitter.ms", "log.roll.jitter.hours"),
        effect=Effect.NONE,
        doc="By how much the time at which a segment is sealed may vary.",
    ),
    Key(
        name="segment.ms",
        type=_LONG,
        default=604_800_000,
        minimum=1,
        synonyms=("log.roll.ms", "log.roll.hours"),
        doc="The age at which a segment is sealed. The shared segments of small topics go by log.roll.ms.",
    ),
    Key(
        name="storage.compression",
        type=_STRING,
        default="auto",
        choices=("auto", "none", "pglz", "lz4"),
        synonyms=("pg_kafka.storage_compression",),
        doc="pg_kafka's own. How PostgreSQL compresses records in new segments of the topic's own series; auto decides "
        "from what producers send.",
    ),
    Key(
        name="storage.layout",
        type=_STRING,
        default="auto",
        choices=("rows", "batches", "auto"),
        synonyms=("pg_kafka.storage_layout",),
        doc="pg_kafka's own. How compressed batches are stored: taken apart (rows), as they came while nobody reads the "
        "topic by SQL (batches), or until SQL first asks for it (auto).",
    ),
    Key(
        name="unclean.leader.election.enable",
        type=_BOOLEAN,
        default=False,
        synonyms=("unclean.leader.election.enable",),
        effect=Effect.NONE,
        doc="Whether a replica that lags may lead; replication is PostgreSQL's here.",
    ),
)


def validate(configs: Mapping[str, str | None]) -> None:
    """Check the keys and values given for one topic. Raises InvalidConfig for the first that is wrong."""
    values: dict[str, Any] = {}
    for name, text in configs.items():
        key = TOPIC_KEYS.get(name)
        if key is None:
            raise InvalidConfig(f"Unknown topic config name: {name}")
        if text is None:
            raise InvalidConfig(f"Null value not supported for topic configs: {name}")
        values[name] = key.parse(text)
    minimum_lag = values.get("min.compaction.lag.ms", 0)
    maximum_lag = values.get("max.compaction.lag.ms", LONG_MAX)
    if minimum_lag > maximum_lag:
        raise InvalidConfig(
            f"conflict topic config setting min.compaction.lag.ms ({minimum_lag}) > "
            f"max.compaction.lag.ms ({maximum_lag})"
        )
    for name, value in values.items():
        if TOPIC_KEYS[name].effect is Effect.REFUSED and value != TOPIC_KEYS[name].default:
            raise InvalidConfig(TOPIC_KEYS[name].refused)


def altered(configs: Mapping[str, str], operations: Iterable[Change], config: BrokerConfig) -> dict[str, str]:
    """The configs of a topic after these operations. Raises InvalidChange, InvalidConfig; then nothing is changed."""

    def now(key: Key) -> str | None:
        return key.text(in_force(key, config))

    result = changes.altered(configs, operations, TOPIC_KEYS, now)
    validate(result)
    return result


def without_effect(configs: Mapping[str, str]) -> list[str]:
    """Those of the given keys that are set to something else than Kafka's default and change nothing here."""
    return [
        name
        for name, text in configs.items()
        if TOPIC_KEYS[name].effect is not Effect.WORKS and TOPIC_KEYS[name].parse(text) != TOPIC_KEYS[name].default
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
    storage_layout: str
    storage_compression: str
    max_decompressed_message_bytes: int

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.cleanup_policy

    @property
    def allows_delete_records(self) -> bool:
        """Not where compaction alone decides what is kept (Kafka's rule; without any policy it is allowed)."""
        return "delete" in self.cleanup_policy or not self.is_compacted

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


def effective(configs: Mapping[str, str], config: BrokerConfig) -> TopicSettings:
    """What the log works with. A stored value that today's rules would refuse gives way to the default."""
    settings = _without_configs(config)
    given = {}
    for name, field in _FIELDS.items():
        if name in configs and (own := _own(TOPIC_KEYS[name], configs)) is not None:
            given[field] = own.value
    if "timestamp_type" in given:
        given["timestamp_type"] = _TIMESTAMP_TYPES.index(given["timestamp_type"])
    return _in_rows(replace(settings, **given)) if given else settings


def _in_rows(settings: TopicSettings) -> TopicSettings:
    """What is compacted is stored as rows: compaction looks at keys, and batches as they came hide these."""
    if settings.is_compacted and settings.storage_layout != "rows":
        return replace(settings, storage_layout="rows")
    return settings


@lru_cache(maxsize=8)
def _without_configs(config: BrokerConfig) -> TopicSettings:
    """The settings of all topics that set nothing: one object, however many they are."""
    values = {field: in_force(TOPIC_KEYS[name], config) for name, field in _FIELDS.items()}
    values["timestamp_type"] = _TIMESTAMP_TYPES.index(values["timestamp_type"])
    return _in_rows(TopicSettings(**values))


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
    "storage.layout": "storage_layout",
    "storage.compression": "storage_compression",
    "max.decompressed.message.bytes": "max_decompressed_message_bytes",
}


def describe(configs: Mapping[str, str], config: BrokerConfig, names: Iterable[str] | None = None) -> list[ConfigEntry]:
    """Every key (or the known ones of `names`) with its value, where that comes from, and what it overrides."""
    wanted = None if names is None else set(names)
    return [
        entry(key, config, _own(key, configs)) for key in TOPIC_KEYS.values() if wanted is None or key.name in wanted
    ]


def _own(key: Key, configs: Mapping[str, str]) -> Layer | None:
    """What the topic has set; a stored value that today's rules would refuse is none."""
    if (text := configs.get(key.name)) is None:
        return None
    try:
        return Layer(key.name, key.parse(text), ConfigSource.TOPIC)
    except InvalidConfig:
        return None
