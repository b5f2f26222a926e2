"""Quotas at work: what clients have taken, and how long they have to wait.

    quotas = Quotas(clock.steady_ms, windows)
    quotas.renew(table)                                  these hold from now on
    limits = quotas.limits("User:alice", "app-1")        what holds for a client
    quotas.produced(limits.produce, 4096)                milliseconds to wait

A connection asks only when `is_active`, that is when there are quotas of clients at all. What a client has taken is kept
by who shares the quota, for all connections together. It is forgotten after an hour without use; and of very many, as
clients choose their ids, the longest unused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from pg_kafka.broker.muted import Muted
from pg_kafka.config.broker import BrokerConfig
from pg_kafka.config.keys import INT_MAX
from pg_kafka.metrics.clients import QuotaCounters
from pg_kafka.security.quotas import (
    CONSUMER_BYTE_RATE,
    CONTROLLER_MUTATION_RATE,
    MAX_NAME_BYTES,
    PRODUCER_BYTE_RATE,
    REQUEST_PERCENTAGE,
    Applying,
    Table,
)
from pg_kafka.security.rates import Rate, TokenBucket, Window

MAX_KEPT: Final = 10_000
"""Clients whose use is remembered; of users and of client ids so many each."""

MAX_LOOKED_UP: Final = 1_000
"""Clients of which is remembered what holds for them."""

UNUSED_MS: Final = 3_600_000
"""As Kafka's sensors."""

_SWEEP_MS = 60_000
_PERCENT_OF_NS = 100 / 1e9

_Key = tuple[str, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for one client."""

    produce: Applying | None
    fetch: Applying | None
    request: Applying | None
    mutation: Applying | None
    is_any: bool


@dataclass(frozen=True, slots=True)
class Windows:
    """How use is measured."""

    clients: Window
    controller: Window

    @staticmethod
    def of(config: BrokerConfig) -> Windows:
        return Windows(
            Window(config.quota_window_num, config.quota_window_size_seconds * 1000),
            Window(config.controller_quota_window_num, config.controller_quota_window_size_seconds * 1000),
        )


class Limited(Protocol):
    """A connection of a client with quotas."""

    def reconsider(self) -> None:
        """Other quotas hold from now on."""


@dataclass(slots=True)
class _Use:
    """What one client has taken of one quota."""

    rate: Rate
    bucket: TokenBucket = field(default_factory=TokenBucket)
    last_ms: int = 0


class Quotas:
    """See the module. One for each broker, on the event loop's thread. Without a table there are no quotas."""

    def __init__(self, now_ms: Callable[[], int], windows: Windows, counters: QuotaCounters | None = None) -> None:
        self._counters = counters or QuotaCounters()
        self._now_ms = now_ms
        self._windows = windows
        self.table = Table({})
        self.is_active = False
        self._limits: dict[tuple[str, str], Limits] = {}
        self.muted = Muted()
        self.limited: set[Limited] = set()  # connections that have asked and found quotas of theirs
        # Client ids are made up by clients: whoever makes up very many must not have the use of users forgotten.
        self._of_users: OrderedDict[_Key, _Use] = OrderedDict()
        self._of_client_ids: OrderedDict[_Key, _Use] = OrderedDict()
        self._swept_ms = 0

    def renew(self, table: Table) -> None:
        """Other quotas hold from now on. Those who wait have to wait no longer than by these."""
        self.table = table
        self._limits.clear()
        self.is_active = table.has_clients
        for connection in list(self.limited):
            connection.reconsider()

    def limits(self, principal: str, client_id: str) -> Limits:
        # No quota is for a longer name, so that all of those may be one; each may have 32 kB.
        client_id = client_id[: MAX_NAME_BYTES + 1]
        found = self._limits.get((principal, client_id))
        if found is None:
            if len(self._limits) >= MAX_LOOKED_UP:
                self._limits.clear()
            found = self._limits[principal, client_id] = self._looked_up(principal, client_id)
        return found

    def _looked_up(self, principal: str, client_id: str) -> Limits:
        user = principal.partition(":")[2]
        applying = self.table.applying
        produce = applying(PRODUCER_BYTE_RATE, user, client_id)
        fetch = applying(CONSUMER_BYTE_RATE, user, client_id)
        request = applying(REQUEST_PERCENTAGE, user, client_id)
        mutation = applying(CONTROLLER_MUTATION_RATE, user, client_id)
        is_any = not (produce is None and fetch is None and request is None and mutation is None)
        return Limits(produce, fetch, request, mutation, is_any)

    # What is taken: each returns how long to wait, in milliseconds.

    def produced(self, applying: Applying, size: int) -> int:
        """A Produce request of so many bytes has begun."""
        return self._take(PRODUCER_BYTE_RATE, applying, size)

    def owed_for_production(self, applying: Applying) -> int:
        now = self._now_ms()
        return self._use(PRODUCER_BYTE_RATE, applying, now).rate.throttle_ms(applying.limit, now)

    def fetched(self, applying: Applying, size: int) -> tuple[int, bool]:
        """So many bytes are there for a Fetch: how long to wait, and whether they are sent all the same.

        What is more than a window allows is sent when nothing is owed, and waited for afterwards. In Kafka it never is.
        """
        now, limit = self._now_ms(), applying.limit
        rate = self._use(CONSUMER_BYTE_RATE, applying, now).rate
        if wait_ms := rate.throttle_ms(limit, now, size):
            self._counters.add(CONSUMER_BYTE_RATE, wait_ms)
            return wait_ms, False
        rate.record(size, limit, now)
        if wait_ms := rate.throttle_ms(limit, now):
            self._counters.add(CONSUMER_BYTE_RATE, wait_ms)
        return wait_ms, True

    def most_at_once(self, applying: Applying) -> int:
        """More bytes than this are more than a window allows."""
        return int(min(applying.limit * self._windows.clients.whole_ms / 1000, 2**31 - 1))

    def spent(self, applying: Applying, nanoseconds: int) -> int:
        """A request has cost so much of the processor. As in Kafka nobody waits longer than a sample for that."""
        return self._take(
            REQUEST_PERCENTAGE, applying, nanoseconds * _PERCENT_OF_NS, most_ms=self._windows.clients.size_ms
        )

    def mutations(self, principal: str, client_id: str, *, is_strict: bool) -> Mutations:
        """What one request may create and delete."""
        applying = None
        if self.is_active:
            applying = self.limits(principal, client_id).mutation
        return Mutations(self, applying, is_strict=is_strict)

    def mutated(self, applying: Applying, partitions: int, *, is_strict: bool) -> int:
        """So many partitions are to be created or deleted: how long to wait. If at all, a strict one takes nothing."""
        now = self._now_ms()
        burst_ms, limit = self._windows.controller.kept_ms, applying.limit
        bucket = self._use(CONTROLLER_MUTATION_RATE, applying, now).bucket
        if is_strict and (wait_ms := bucket.throttle_ms(limit, burst_ms, now)):
            self._counters.add(CONTROLLER_MUTATION_RATE, wait_ms)
            return wait_ms
        bucket.take(partitions, limit, burst_ms, now)
        if is_strict:
            return 0
        if wait_ms := bucket.throttle_ms(limit, burst_ms, now):
            self._counters.add(CONTROLLER_MUTATION_RATE, wait_ms)
        return wait_ms

    def owed_ms(self, limits: Limits) -> int:
        """How long a client would have to wait who asks for nothing."""
        now = self._now_ms()
        waits = [0]
        for name, applying in (
            (PRODUCER_BYTE_RATE, limits.produce),
            (CONSUMER_BYTE_RATE, limits.fetch),
            (REQUEST_PERCENTAGE, limits.request),
        ):
            if applying is not None:
                waits.append(self._use(name, applying, now).rate.throttle_ms(applying.limit, now))
        if limits.mutation is not None:
            bucket = self._use(CONTROLLER_MUTATION_RATE, limits.mutation, now).bucket
            waits.append(bucket.throttle_ms(limits.mutation.limit, self._windows.controller.kept_ms, now))
        return max(waits)

    @property
    def now_ms(self) -> int:
        return self._now_ms()

    @property
    def kept(self) -> int:
        """How many uses are remembered."""
        return len(self._of_users) + len(self._of_client_ids)

    def _take(self, name: str, applying: Applying, value: float, *, most_ms: int = INT_MAX) -> int:
        now = self._now_ms()
        rate = self._use(name, applying, now).rate
        rate.record(value, applying.limit, now)
        wait_ms = min(rate.throttle_ms(applying.limit, now), most_ms)
        if wait_ms:
            self._counters.add(name, wait_ms)
        return wait_ms

    def _use(self, name: str, applying: Applying, now: int) -> _Use:
        user, client_id = applying.shared_by
        uses = self._of_users if client_id is None else self._of_client_ids
        key = (name, user, client_id)
        use = uses.get(key)
        if use is None:
            use = uses[key] = _Use(Rate(self._windows.clients))
            if len(uses) > MAX_KEPT:
                uses.popitem(last=False)
        else:
            uses.move_to_end(key)
        use.last_ms = now
        if now - self._swept_ms > _SWEEP_MS:
            self._swept_ms = now
            for each in (self._of_users, self._of_client_ids):
                while each and now - next(iter(each.values())).last_ms > UNUSED_MS:
                    each.popitem(last=False)
        return use


class Mutations:
    """The partitions that one request creates or deletes (KIP-599)."""

    __slots__ = ("_applying", "_at_ms", "_is_strict", "_quotas", "_wait_ms")

    def __init__(self, quotas: Quotas, applying: Applying | None, *, is_strict: bool) -> None:
        self._quotas = quotas
        self._applying = applying
        self._is_strict = is_strict
        self._wait_ms = self._at_ms = 0

    def may(self, partitions: int) -> bool:
        """Take so many; False when the quota is used up and the request's version can be told so."""
        if self._applying is None:
            return True
        wait_ms = self._quotas.mutated(self._applying, partitions, is_strict=self._is_strict)
        if wait_ms:
            self._wait_ms, self._at_ms = wait_ms, self._quotas.now_ms
        return not (wait_ms and self._is_strict)

    @property
    def throttle_ms(self) -> int:
        """How long the client has to wait from this moment on."""
        return max(0, self._wait_ms - (self._quotas.now_ms - self._at_ms)) if self._wait_ms else 0
