"""A word in the log about configs that are stored and reported, and change nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pg_kafka.broker.context import Broker
from pg_kafka.config import topics as topic_configs

logger = logging.getLogger("pg_kafka.topics")


def warn(broker: Broker, topic: str, configs: Mapping[str, str]) -> None:
    """Once for each key."""
    for name in topic_configs.without_effect(configs):
        if name not in broker.warned_configs:
            broker.warned_configs.add(name)
            logger.warning(
                "this topic config is stored and reported, but has no effect", extra={"config": name, "topic": topic}
            )
