"""The setting of kafka.lag_history.

`LagConfig` is a part of `BrokerConfig` (`broker.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pg_kafka.config.keys import ConfigType, broker_setting


@dataclass(frozen=True, kw_only=True)  # no slots: a class with several bases can have those of one only
class LagConfig:
    """See the module."""

    lag_history_groups: int = broker_setting(
        "pg_kafka.lag_history_groups",
        ConfigType.INT,
        1_000,
        "Consumer groups, each with each of its topics, whose lag is kept for each minute in kafka.lag_history: those"
        " furthest behind, and the rest added up. 0: nothing is written.",
        low=0,
        high=100_000,
        is_dynamic=True,
    )
