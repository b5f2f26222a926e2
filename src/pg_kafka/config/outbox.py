"""The settings of producing by SQL. Functions in the database read them, so they hold also while no broker runs.

`OutboxConfig` is a part of `BrokerConfig` (`broker.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pg_kafka.config.keys import ConfigType, broker_setting


@dataclass(frozen=True, kw_only=True)  # no slots: a class with several bases can have those of one only
class OutboxConfig:
    """See the module."""

    outbox_max_bytes: int = broker_setting(
        "pg_kafka.outbox_max_bytes",
        ConfigType.LONG,
        1024**3,
        "Bytes on disk that records may take that SQL has produced and no broker has moved to the log yet. Then"
        " kafka.produce() fails with KF005.",
        low=16 * 1024**2,
        is_dynamic=True,
    )
    dedup_window_ms: int = broker_setting(
        "pg_kafka.dedup_window_ms",
        ConfigType.LONG,
        300_000,
        "How long kafka.produce() drops repeats of a dedup_id, counted from the first call.",
        low=1_000,
        high=7 * 24 * 3_600_000,
        is_dynamic=True,
    )
