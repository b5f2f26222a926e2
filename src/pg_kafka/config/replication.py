"""The settings of a broker that only matter to replication or to files, both of which are PostgreSQL's here.

They are known, checked, kept and reported, and change nothing: tools read some of them, and a configuration that was
written for Kafka holds others. `ReplicationConfig` is a part of `BrokerConfig` (`broker.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pg_kafka.config.keys import LONG_MAX, LONG_MIN, ConfigType, Effect, broker_setting

_BOOLEAN, _INT, _LONG, _SHORT = ConfigType.BOOLEAN, ConfigType.INT, ConfigType.LONG, ConfigType.SHORT

_FLUSH = ("log.flush.interval.ms", "log.flush.scheduler.interval.ms")
_JITTER = ("log.roll.jitter.ms", "log.roll.jitter.hours")


def _idle(
    name: str,
    type: ConfigType,
    default: Any,
    doc: str,
    *,
    low: int | None = None,
    synonyms: tuple[str, ...] = (),
    unit_ms: int = 1,
    is_dynamic: bool = False,
) -> Any:
    return broker_setting(
        name,
        type,
        default,
        doc,
        low=low,
        synonyms=synonyms,
        unit_ms=unit_ms,
        effect=Effect.NONE,
        is_dynamic=is_dynamic,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationConfig:
    """See the module."""

    min_insync_replicas: int = _idle(
        "min.insync.replicas",
        _INT,
        1,
        "How many replicas must have what acks=all acknowledges; topics override it. See pg_kafka.min_sync_standbys.",
        low=1,
        is_dynamic=True,
    )
    default_replication_factor: int = _idle(
        "default.replication.factor", _INT, 1, "Replicas of a topic that is created without saying how many.", low=1
    )
    unclean_leader_election_enable: bool = _idle(
        "unclean.leader.election.enable",
        _BOOLEAN,
        False,
        "Whether a replica that lags may lead; topics override it.",
        is_dynamic=True,
    )
    auto_leader_rebalance_enable: bool = _idle(
        "auto.leader.rebalance.enable", _BOOLEAN, True, "Whether the preferred replicas come to lead by themselves."
    )
    leader_imbalance_check_interval_seconds: int = _idle(
        "leader.imbalance.check.interval.seconds", _LONG, 300, "How often the preferred replicas are looked for.", low=1
    )
    num_replica_fetchers: int = _idle(
        "num.replica.fetchers", _INT, 1, "Threads that copy from each other broker.", low=1, is_dynamic=True
    )
    replica_lag_time_max_ms: int = _idle(
        "replica.lag.time.max.ms", _LONG, 30_000, "After what time a replica that lags is out of sync.", low=LONG_MIN
    )
    replica_fetch_max_bytes: int = _idle(
        "replica.fetch.max.bytes", _INT, 1_048_576, "Bytes that a replica asks for, of one partition."
    )
    replica_fetch_response_max_bytes: int = _idle(
        "replica.fetch.response.max.bytes", _INT, 10_485_760, "Bytes that a replica asks for at once."
    )
    offsets_topic_replication_factor: int = _idle(
        "offsets.topic.replication.factor", _SHORT, 3, "Replicas of Kafka's topic of committed offsets.", low=1
    )
    transaction_state_log_replication_factor: int = _idle(
        "transaction.state.log.replication.factor", _SHORT, 3, "Replicas of Kafka's topic of transactions.", low=1
    )
    transaction_state_log_min_isr: int = _idle(
        "transaction.state.log.min.isr", _INT, 2, "min.insync.replicas of Kafka's topic of transactions.", low=1
    )
    num_recovery_threads_per_data_dir: int = _idle(
        "num.recovery.threads.per.data.dir", _INT, 2, "Threads that read files after a crash.", low=1, is_dynamic=True
    )
    log_flush_interval_messages: int = _idle(
        "log.flush.interval.messages",
        _LONG,
        LONG_MAX,
        "After how many records a log is flushed; here every acknowledged record is.",
        low=1,
        is_dynamic=True,
    )
    log_flush_interval_ms: int | None = _idle(
        "log.flush.interval.ms",
        _LONG,
        None,
        "After what time a log is flushed; here every acknowledged record is.",
        low=LONG_MIN,
        synonyms=_FLUSH,
        is_dynamic=True,
    )
    log_flush_scheduler_interval_ms: int = _idle(
        "log.flush.scheduler.interval.ms",
        _LONG,
        LONG_MAX,
        "How often it is looked for logs to flush.",
        low=LONG_MIN,
        synonyms=_FLUSH,
    )
    log_index_interval_bytes: int = _idle(
        "log.index.interval.bytes",
        _INT,
        4096,
        "How densely a file is indexed; PostgreSQL indexes every row.",
        is_dynamic=True,
    )
    log_index_size_max_bytes: int = _idle(
        "log.index.size.max.bytes", _INT, 10_485_760, "Size of the index of a file.", low=4, is_dynamic=True
    )
    log_preallocate: bool = _idle(
        "log.preallocate", _BOOLEAN, False, "Whether a file is made at its full size.", is_dynamic=True
    )
    log_segment_delete_delay_ms: int = _idle(
        "log.segment.delete.delay.ms", _LONG, 60_000, "How long the file of a segment outlives it.", is_dynamic=True
    )
    log_roll_jitter_ms: int | None = _idle(
        "log.roll.jitter.ms",
        _LONG,
        None,
        "By how much the age at which a segment is sealed may vary.",
        synonyms=_JITTER,
        is_dynamic=True,
    )
    log_roll_jitter_hours: int = _idle(
        "log.roll.jitter.hours", _INT, 0, "As log.roll.jitter.ms, in hours.", synonyms=_JITTER, unit_ms=3_600_000
    )
    log_local_retention_ms: int = _idle(
        "log.local.retention.ms",
        _LONG,
        -2,
        "How long a tiered topic's records stay here; there is no tiered storage.",
        low=-2,
        is_dynamic=True,
    )
    log_local_retention_bytes: int = _idle(
        "log.local.retention.bytes",
        _LONG,
        -2,
        "How much of a tiered topic stays here; there is no tiered storage.",
        low=-2,
        is_dynamic=True,
    )
    log_remote_copy_lag_ms: int = _idle(
        "log.remote.copy.lag.ms",
        _LONG,
        0,
        "After what time a tiered topic is copied away; there is no tiered storage.",
        low=-1,
        is_dynamic=True,
    )
    log_remote_copy_lag_bytes: int = _idle(
        "log.remote.copy.lag.bytes",
        _LONG,
        -1,
        "After what size a tiered topic is copied away; there is no tiered storage.",
        low=-1,
        is_dynamic=True,
    )
    leader_replication_throttled_rate: int = _idle(
        "leader.replication.throttled.rate",
        _LONG,
        LONG_MAX,
        "Bytes a second that a leader gives to replicas that are slowed down.",
        is_dynamic=True,
    )
    follower_replication_throttled_rate: int = _idle(
        "follower.replication.throttled.rate",
        _LONG,
        LONG_MAX,
        "Bytes a second that a replica that is slowed down takes.",
        is_dynamic=True,
    )
    replica_alter_log_dirs_io_max_bytes_per_second: int = _idle(
        "replica.alter.log.dirs.io.max.bytes.per.second",
        _LONG,
        LONG_MAX,
        "Bytes a second that move from one folder to another.",
        is_dynamic=True,
    )
