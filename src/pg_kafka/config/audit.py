"""The settings of the audit log: how much of it is kept.

`AuditConfig` is a part of `BrokerConfig` (`broker.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pg_kafka.config.keys import ConfigType, broker_setting
from pg_kafka.config.log import LogConfig

DAY_MS = 24 * 3_600_000
# So that nobody who has a broker's rights can make all traces vanish by one setting.
LEAST_ROWS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig(LogConfig):
    """See the module."""

    audit_rows: int = broker_setting(
        "pg_kafka.audit_rows",
        ConfigType.LONG,
        100_000,
        "Rows that are kept in kafka.audit_log, the latest.",
        low=LEAST_ROWS,
        is_dynamic=True,
    )
    audit_retention_ms: int = broker_setting(
        "pg_kafka.audit_retention_ms",
        ConfigType.LONG,
        90 * DAY_MS,
        "How long a row of kafka.audit_log is kept at most; the latest 1,000 rows are kept however old. -1: without end.",
        low=-1,
        is_dynamic=True,
    )
