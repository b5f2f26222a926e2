"""The settings of a broker that topics take over where they set nothing themselves, and those of the log's upkeep.

`LogConfig` is a part of `BrokerConfig` (`broker.py`). Names, defaults and what may be changed while the broker runs are
Kafka's.
"""

from __future__ import annotations

from dataclasses import dataclass

from pg_kafka.config.keys import INT_MAX, LONG_MAX, LONG_MIN, ConfigType, broker_setting
from pg_kafka.config.replication import ReplicationConfig

_BOOLEAN, _STRING, _INT, _LONG = ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT, ConfigType.LONG
_DOUBLE, _LIST = ConfigType.DOUBLE, ConfigType.LIST

_RETENTION = ("log.retention.ms", "log.retention.minutes", "log.retention.hours")
_ROLL = ("log.roll.ms", "log.roll.hours")

# The greatest array of a JVM: no record is larger in Kafka.
LARGEST_RECORD_BYTES = INT_MAX - 8
# The greatest double, Kafka's way to say that there is no limit.
DOUBLE_MAX = 1.7976931348623157e308

MINUTE_MS = 60_000
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig(ReplicationConfig):
    """See the module."""

    message_max_bytes: int = broker_setting(
        "message.max.bytes",
        _INT,
        1_048_588,
        "Largest record batch, as sent; topics override it with max.message.bytes.",
        is_dynamic=True,
    )
    max_decompressed_message_bytes: int = broker_setting(
        "max.decompressed.message.bytes",
        _INT,
        LARGEST_RECORD_BYTES,
        "Largest single record of a compressed batch, decompressed; topics override it.",
        low=1,
        high=LARGEST_RECORD_BYTES,
        is_dynamic=True,
    )
    compression_type: str = broker_setting(
        "compression.type",
        _STRING,
        "producer",
        "Codec of what consumers get; producer keeps each batch's own. Topics override it.",
        choices=("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
        is_dynamic=True,
    )
    compression_gzip_level: int = broker_setting(
        "compression.gzip.level",
        _INT,
        -1,
        "How hard gzip tries when compression.type is gzip; -1 is its usual level. Topics override it.",
        low=1,
        high=9,
        also_allowed=-1,
        is_dynamic=True,
    )
    compression_lz4_level: int = broker_setting(
        "compression.lz4.level",
        _INT,
        9,
        "How hard lz4 tries when compression.type is lz4. Topics override it.",
        low=1,
        high=17,
        is_dynamic=True,
    )
    compression_zstd_level: int = broker_setting(
        "compression.zstd.level",
        _INT,
        3,
        "How hard zstd tries when compression.type is zstd. Topics override it.",
        low=-131_072,
        high=22,
        is_dynamic=True,
    )
    log_message_timestamp_type: str = broker_setting(
        "log.message.timestamp.type",
        _STRING,
        "CreateTime",
        "Whose clock stamps records: the producer's or the broker's. Topics override it with message.timestamp.type.",
        choices=("CreateTime", "LogAppendTime"),
        is_dynamic=True,
    )
    log_message_timestamp_before_max_ms: int = broker_setting(
        "log.message.timestamp.before.max.ms",
        _LONG,
        LONG_MAX,
        "How far a record's timestamp may lie in the past; topics override it with message.timestamp.before.max.ms.",
        is_dynamic=True,
    )
    log_message_timestamp_after_max_ms: int = broker_setting(
        "log.message.timestamp.after.max.ms",
        _LONG,
        3_600_000,
        "How far a record's timestamp may lie in the future; topics override it with message.timestamp.after.max.ms.",
        is_dynamic=True,
    )
    log_cleanup_policy: tuple[str, ...] = broker_setting(
        "log.cleanup.policy",
        _LIST,
        ("delete",),
        "What happens to old records: delete, compact, both. Topics override it with cleanup.policy.",
        choices=("compact", "delete"),
        is_dynamic=True,
    )
    log_segment_bytes: int = broker_setting(
        "log.segment.bytes",
        _INT,
        1_073_741_824,
        "A segment (one table) is sealed at this size; topics override it with segment.bytes.",
        low=1_048_576,
        is_dynamic=True,
    )
    log_roll_ms: int | None = broker_setting(
        "log.roll.ms",
        _LONG,
        None,
        "A segment is sealed at this age; topics override it with segment.ms. Unset: log.roll.hours.",
        low=1,
        synonyms=_ROLL,
        is_dynamic=True,
    )
    log_roll_hours: int = broker_setting(
        "log.roll.hours",
        _INT,
        168,
        "As log.roll.ms, which is stronger, in hours.",
        low=1,
        synonyms=_ROLL,
        unit_ms=HOUR_MS,
    )
    log_retention_ms: int | None = broker_setting(
        "log.retention.ms",
        _LONG,
        None,
        "How long records are kept, -1 for ever; topics override it with retention.ms. Unset: log.retention.minutes.",
        low=-1,
        synonyms=_RETENTION,
        is_dynamic=True,
    )
    log_retention_minutes: int | None = broker_setting(
        "log.retention.minutes",
        _INT,
        None,
        "As log.retention.ms, which is stronger, in minutes. Unset: log.retention.hours.",
        low=-1,
        synonyms=_RETENTION,
        unit_ms=MINUTE_MS,
    )
    log_retention_hours: int = broker_setting(
        "log.retention.hours",
        _INT,
        168,
        "As log.retention.ms and log.retention.minutes, which are stronger, in hours.",
        low=-1,
        synonyms=_RETENTION,
        unit_ms=HOUR_MS,
    )
    log_retention_bytes: int = broker_setting(
        "log.retention.bytes",
        _LONG,
        -1,
        "Size that a partition keeps, -1 for no limit; topics override it with retention.bytes.",
        low=LONG_MIN,
        is_dynamic=True,
    )
    log_initial_task_delay_ms: int = broker_setting(
        "log.initial.task.delay.ms",
        _LONG,
        30_000,
        "How long after the start it is first looked for records that retention lets go, so that consumers can come back.",
        low=0,
    )
    log_retention_check_interval_ms: int = broker_setting(
        "log.retention.check.interval.ms",
        _LONG,
        300_000,
        "How often it is looked for records that retention lets go.",
        low=1,
    )
    log_cleaner_enable: bool = broker_setting(
        "log.cleaner.enable", _BOOLEAN, True, "Compact topics whose cleanup policy says so."
    )
    log_cleaner_backoff_ms: int = broker_setting(
        "log.cleaner.backoff.ms",
        _LONG,
        15_000,
        "How long the compaction rests when there is nothing to compact.",
        is_dynamic=True,
    )
    log_cleaner_io_max_bytes_per_second: float = broker_setting(
        "log.cleaner.io.max.bytes.per.second",
        _DOUBLE,
        DOUBLE_MAX,
        "How fast compaction and the moving of rows between segments may read and write.",
        low=0,
        is_dynamic=True,
    )
    log_cleaner_dedupe_buffer_size: int = broker_setting(
        "log.cleaner.dedupe.buffer.size",
        _LONG,
        134_217_728,
        "Bytes for the keys that one round of compaction remembers.",
        low=LONG_MIN,
        is_dynamic=True,
    )
    log_cleaner_min_cleanable_ratio: float = broker_setting(
        "log.cleaner.min.cleanable.ratio",
        _DOUBLE,
        0.5,
        "Share of a compacted log that must be unclean before it is compacted; topics override it with"
        " min.cleanable.dirty.ratio.",
        low=0,
        high=1,
        is_dynamic=True,
    )
    log_cleaner_min_compaction_lag_ms: int = broker_setting(
        "log.cleaner.min.compaction.lag.ms",
        _LONG,
        0,
        "How long a record is not compacted away; topics override it with min.compaction.lag.ms.",
        is_dynamic=True,
    )
    log_cleaner_max_compaction_lag_ms: int = broker_setting(
        "log.cleaner.max.compaction.lag.ms",
        _LONG,
        LONG_MAX,
        "How long a record may escape compaction; topics override it with max.compaction.lag.ms.",
        low=1,
        is_dynamic=True,
    )
    log_cleaner_delete_retention_ms: int = broker_setting(
        "log.cleaner.delete.retention.ms",
        _LONG,
        86_400_000,
        "How long the deletion marker of a key stays; topics override it with delete.retention.ms.",
        is_dynamic=True,
    )

    @property
    def roll_ms(self) -> int:
        """The age at which a segment is sealed whose topic says nothing else."""
        return self.log_roll_hours * HOUR_MS if self.log_roll_ms is None else self.log_roll_ms
