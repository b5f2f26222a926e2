"""The settings of the metrics: how many series there are, and of what.

`MetricsConfig` is a part of `BrokerConfig` (`broker.py`). Where they are served is a setting of a start (`settings.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pg_kafka.config.keys import ConfigType, broker_setting


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """See the module."""

    metrics_per_partition: bool = broker_setting(
        "pg_kafka.metrics_per_partition",
        ConfigType.BOOLEAN,
        False,
        "Metrics by partition instead of sums by topic and by group.",
        is_dynamic=True,
    )
    slow_request_ms: int = broker_setting(
        "pg_kafka.slow_request_ms",
        ConfigType.LONG,
        -1,
        "A request that takes longer, without what its client asked to wait for, is logged as `slow request`, with where its"
        " time went; -1 is never.",
        low=-1,
        is_dynamic=True,
    )
    metrics_max_series: int = broker_setting(
        "pg_kafka.metrics_max_series",
        ConfigType.INT,
        500,
        "Most series of one metric; what is beyond is summed up under the label `(other)`.",
        low=10,
        high=1_000_000,
        is_dynamic=True,
    )
