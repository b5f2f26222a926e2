"""How the relay of one incarnation stands, as families for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from pg_kafka.bridge.relay import Relay
from pg_kafka.metrics.catalogue import relay as families
from pg_kafka.metrics.families import one


class RelaySource:
    """See the module."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def families(self) -> Iterable[Metric]:
        relay = self._relay
        yield one(families.WAITING_ROWS, relay.waiting_rows)
        yield one(families.WAITING_BYTES, relay.waiting_bytes)
        yield one(families.BEHIND_SECONDS, relay.behind_s)
        yield one(families.OUTBOX_BYTES, relay.outbox_bytes)
