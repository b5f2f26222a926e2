"""New connections: how fast they may come, together and to one listener (`max.connection.creation.rate`), and from
one address (KIP-612).

One that comes too early has to wait until it is its turn. One from an address that has used up its quota is closed after
a wait, so that its client does not come again at once.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from pg_kafka.broker.quotas import Quotas
from pg_kafka.config.broker import BrokerConfig
from pg_kafka.config.keys import INT_MAX
from pg_kafka.security.quotas import CONNECTION_CREATION_RATE
from pg_kafka.security.rates import TokenBucket, Window

MAX_WAIT_MS: Final = 5000
"""A connection whose turn would come later is closed at once: its client, and its TLS handshake, have a time of their own."""

MAX_ADDRESSES: Final = 10_000
"""Whose connections are counted; of more, those that have made none for longest are forgotten."""


class Arrival(NamedTuple):
    """How long a new connection waits, and why it is closed then."""

    wait_ms: int = 0
    refusal: str | None = None
    limit: str = ""  # the setting, or the quota, that is to blame


_AT_ONCE = Arrival()
_RATE = "max.connection.creation.rate"


class Arrivals:
    """See the module. One for each server."""

    def __init__(self, quotas: Quotas, window: Window) -> None:
        self._quotas = quotas
        self._window = window
        self._burst_ms = window.whole_ms
        self._together = TokenBucket()
        self._by_listener: dict[str, TokenBucket] = {}
        self._by_address: OrderedDict[str, TokenBucket] = OrderedDict()

    def came(self, host: str, listener: str, config: BrokerConfig) -> Arrival:
        """A connection from this address has come to this listener. One that is refused does not count."""
        limit = self._quotas.table.connection_rate(host)
        of_all, of_listener = config.max_connection_creation_rate, config.of_listener(listener, _RATE)
        if limit is None and of_all >= INT_MAX and of_listener >= INT_MAX:
            return _AT_ONCE
        now = self._quotas.now_ms
        bucket = None if limit is None else self._bucket_of(host)
        if bucket is not None and limit is not None and (wait_ms := bucket.throttle_ms(limit, self._burst_ms, now, 1)):
            return Arrival(
                min(wait_ms, self._window.size_ms),
                f"{CONNECTION_CREATION_RATE} of its address = {limit:.0f} a second",
                CONNECTION_CREATION_RATE,
            )
        counted = []
        if of_all < INT_MAX:
            counted.append((self._together, of_all))
        if of_listener < INT_MAX:
            counted.append((self._by_listener.setdefault(listener, TokenBucket()), of_listener))
        wait_ms = 0
        for each, most in counted:
            wait_ms = max(wait_ms, each.throttle_ms(most, self._burst_ms, now, 1))
            if wait_ms > MAX_WAIT_MS:
                return Arrival(0, f"{_RATE} = {most} a second, for which too many wait", _RATE)
        for each, most in counted:
            each.take(1, most, self._burst_ms, now)
        if bucket is not None and limit is not None:
            bucket.take(1, limit, self._burst_ms, now)
        return Arrival(wait_ms, limit=_RATE) if wait_ms else _AT_ONCE

    def _bucket_of(self, host: str) -> TokenBucket:
        bucket = self._by_address.get(host)
        if bucket is None:
            bucket = self._by_address[host] = TokenBucket()
            if len(self._by_address) > MAX_ADDRESSES:
                self._by_address.popitem(last=False)
        else:
            self._by_address.move_to_end(host)
        return bucket
