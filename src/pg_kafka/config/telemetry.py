"""The settings of metrics that clients push (KIP-714).

`TelemetryConfig` is a part of `BrokerConfig` (`broker.py`). Which metrics clients push is no setting: subscriptions say so
(`client_metrics.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pg_kafka.config.keys import ConfigType, broker_setting


# No slots: of the bases of a class only one may have any, and LogConfig does. BrokerConfig has slots for all fields.
@dataclass(frozen=True, kw_only=True)
class TelemetryConfig:
    """See the module."""

    telemetry_max_bytes: int = broker_setting(
        "telemetry.max.bytes",
        ConfigType.INT,
        1024 * 1024,
        "Bytes of metrics that a client may push at once, as they are sent and decompressed.",
        low=1,
    )
    client_metrics_by_instance: bool = broker_setting(
        "pg_kafka.client_metrics_by_instance",
        ConfigType.BOOLEAN,
        False,
        "Pushed metrics by client instance instead of sums by client id.",
        is_dynamic=True,
    )
