"""Settings of quotas (docs/security.md, "Quotas"). The quotas themselves are no settings: AlterClientQuotas sets them.

`QuotaConfig` is a part of `BrokerConfig` (`broker.py`). Names, defaults and what may be changed while the broker runs are
Kafka's.
"""

from __future__ import annotations

from dataclasses import dataclass

from pg_kafka.config.keys import INT_MAX, ConfigType, broker_setting

_INT = ConfigType.INT


# No slots: of the bases of a class only one may have any, and LogConfig does. BrokerConfig has slots for all fields.
@dataclass(frozen=True, kw_only=True)
class QuotaConfig:
    """See the module."""

    quota_window_num: int = broker_setting(
        "quota.window.num",
        _INT,
        11,
        "Samples by which it is measured how much a client takes; the last one is not complete.",
        low=1,
    )
    quota_window_size_seconds: int = broker_setting(
        "quota.window.size.seconds",
        _INT,
        1,
        "Seconds of each of these samples, and the longest that a request quota makes a client wait at a time.",
        low=1,
    )
    controller_quota_window_num: int = broker_setting(
        "controller.quota.window.num",
        _INT,
        11,
        "The same for partitions that are created and deleted: so many samples may be used up at once.",
        low=1,
    )
    controller_quota_window_size_seconds: int = broker_setting(
        "controller.quota.window.size.seconds", _INT, 1, "Seconds of each of these samples.", low=1
    )
    max_connection_creation_rate: int = broker_setting(
        "max.connection.creation.rate",
        _INT,
        INT_MAX,
        "New connections a second, of all listeners and of each; those beyond wait until it is their turn.",
        low=1,
        is_dynamic=True,
        by_listener=True,
    )
