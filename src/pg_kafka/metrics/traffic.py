"""What is written and read, by topic.

    traffic = TopicTraffic(lambda: 500)
    traffic.of("orders")            what a partition of it counts in, as long as it is loaded
    traffic.forget("orders")        it is deleted: its place is free

So many topics, in the order in which they are first used, have counters of their own; further ones count together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pg_kafka.metrics._requests import Traffic
from pg_kafka.metrics.counters import OTHER


class TopicTraffic:
    """See the module. It lives as long as the process."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._by_name: dict[str, Traffic] = {}
        self._others = Traffic()

    def of(self, topic: str) -> Traffic:
        found = self._by_name.get(topic)
        if found is not None:
            return found
        if len(self._by_name) >= self._most():
            return self._others
        found = self._by_name[topic] = Traffic()
        return found

    def forget(self, topic: str) -> None:
        self._by_name.pop(topic, None)

    @property
    def all(self) -> Mapping[str, Traffic]:
        """By topic; those without a place under `(other)`, once there is something."""
        others = self._others
        if others.in_bytes or others.out_bytes:
            return self._by_name | {OTHER: others}
        return self._by_name
