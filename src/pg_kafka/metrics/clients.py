"""What is counted of clients: their connections, their logins, and how long they were made to wait for quotas.

Made once for the process; the servers of all incarnations count in them.
"""

from __future__ import annotations

from collections import Counter

from pg_kafka.metrics.counters import Labels


class ConnectionCounters:
    """Of all connections. Labels come from settings and from this program, never from clients, so they are few."""

    __slots__ = ("closed", "delayed", "handshakes", "logins", "opened", "refused")

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()  # by listener, those that were refused included
        self.refused: Counter[str] = Counter()  # by the limit that it would have gone beyond
        self.delayed: Counter[str] = Counter()  # by the limit for which it had to wait
        self.closed: Counter[str] = Counter()  # by this side, by the reason
        self.handshakes: Counter[Labels] = Counter()  # of TLS, by listener and result
        self.logins: Counter[Labels] = Counter()  # by listener, mechanism and result


class QuotaCounters:
    """Of answers that told a client to wait, by the quota."""

    __slots__ = ("waited_ms", "waits")

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.waited_ms: Counter[str] = Counter()

    def add(self, quota: str, wait_ms: int) -> None:
        self.waits[quota] += 1
        self.waited_ms[quota] += wait_ms
