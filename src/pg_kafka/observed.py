"""What is seen of the process from outside: its metrics and its health. The one place where sources are wired.

    observed = Observed(config)
    await observed.start()              before PostgreSQL is there
    ...
    await observed.stop()

It lives as long as the process. Counters do so as well, and are made here; what holds for one incarnation is added by
`leading`, or `waits_with`, and removed by `forget`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from pg_kafka.bridge.metrics import RelaySource
from pg_kafka.bridge.relay import Relay
from pg_kafka.broker.audit import AuditCounts, AuditLog
from pg_kafka.broker.context import Broker
from pg_kafka.broker.forwarding import ForwardingCounts
from pg_kafka.broker.groups import GroupCoordinator
from pg_kafka.broker.lag import GroupLag
from pg_kafka.broker.listening import bound
from pg_kafka.broker.metrics.audit import AuditQueueSource, AuditSource, ForwardingSource
from pg_kafka.broker.metrics.connections import ClientCountersSource, ConnectionsSource
from pg_kafka.broker.metrics.groups import GroupsSource
from pg_kafka.broker.metrics.health import Health, State
from pg_kafka.broker.metrics.http import HttpServer, Page
from pg_kafka.broker.metrics.lag import LagSource
from pg_kafka.broker.metrics.loop import LoopSource
from pg_kafka.broker.metrics.memory import LeaderMemorySource, MemorySource
from pg_kafka.broker.metrics.process import ProcessSource
from pg_kafka.broker.metrics.requests import Requests
from pg_kafka.broker.metrics.telemetry import TelemetrySource
from pg_kafka.broker.metrics.topics import TopicsSource
from pg_kafka.broker.metrics.transactions import OpenTransactionsSource, TransactionsSource
from pg_kafka.broker.server import Server
from pg_kafka.broker.telemetry import Telemetry
from pg_kafka.broker.transactions import TransactionCoordinator, TransactionCounts
from pg_kafka.clock import Clock
from pg_kafka.cluster.counts import ClusterCounts
from pg_kafka.cluster.membership import Membership
from pg_kafka.cluster.metrics import ClusterSource, LeaderSource
from pg_kafka.cluster.view import Peer
from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.config.settings import Settings
from pg_kafka.metrics import exposition
from pg_kafka.metrics.clients import ConnectionCounters, QuotaCounters
from pg_kafka.metrics.exposition import Form
from pg_kafka.metrics.registry import Registry, Source
from pg_kafka.metrics.series import Bounds
from pg_kafka.storage.counts import StorageCounts
from pg_kafka.storage.disk import DiskWatch
from pg_kafka.storage.log import Log
from pg_kafka.storage.metrics import LogSource, StorageSource
from pg_kafka.storage.survey import Survey
from pg_kafka.storage.topic_figures import TopicFigures
from pg_kafka.storage.topics import Topics
from pg_kafka.tasks import supervised

# A page is kept so many times as long as it took to make: however many ask, metrics take a tenth of the time at most.
KEPT_TIMES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an incarnation is made of, as far as it is looked at."""

    membership: Membership
    server: Server
    broker: Broker
    topics: Topics
    log: Log
    groups: GroupCoordinator
    lag: GroupLag
    transactions: TransactionCoordinator
    relay: Relay
    audit: AuditLog
    disk: DiskWatch
    survey: Survey


@dataclass(frozen=True, slots=True)
class Counts:
    """What all incarnations add to."""

    storage: StorageCounts = field(default_factory=StorageCounts)
    cluster: ClusterCounts = field(default_factory=ClusterCounts)
    transactions: TransactionCounts = field(default_factory=TransactionCounts)
    audit: AuditCounts = field(default_factory=AuditCounts)
    forwarding: ForwardingCounts = field(default_factory=ForwardingCounts)


def _doubt(membership: Membership) -> str | None:
    """Why a broker that leads may be of no use at this moment."""
    age_s, allowed_s = membership.heartbeat_age_s, membership.eviction_s
    if age_s <= allowed_s:
        return None
    return f"the last heartbeat reached PostgreSQL {age_s:.0f} s ago, and {allowed_s:.0f} s are allowed"


def _go_on(_reason: str) -> None:
    """Work of the present incarnation that is for metrics alone has failed: that is no reason to end more."""


class Observed:
    """See the module."""

    def __init__(self, config: Config) -> None:
        self._address = config.metrics
        self.address: Address | None = None  # with the port that it has
        self.health = Health()
        self.registry = Registry()
        self.bounds = Bounds(config.metrics_max_series, config.metrics_per_partition)
        self.connections = ConnectionCounters()
        self.quotas = QuotaCounters()
        self.counts = counts = Counts()
        self._process = ProcessSource(self.health)
        self.telemetry = Telemetry(Clock().steady_ms)
        self.requests = Requests(is_measured=self._address is not None, most=lambda: self.bounds.most)
        self._loop = LoopSource()
        self._present: list[Source] = []  # of the present incarnation
        self._tasks: list[asyncio.Task[None]] = []
        self.registry.add(
            self._process,
            self._loop,
            self.requests,
            ClientCountersSource(self.connections, self.quotas),
            StorageSource(counts.storage),
            ClusterSource(counts.cluster),
            TransactionsSource(counts.transactions),
            AuditSource(counts.audit),
            ForwardingSource(counts.forwarding),
            TelemetrySource(self.telemetry),
        )
        self._server = HttpServer({"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz})
        # Text of thousands of series takes tens of milliseconds to write, in which the broker goes on.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._pages: dict[Form, asyncio.Task[bytes]] = {}
        self._kept_until_s: dict[Form, float] = {}

    async def start(self) -> None:
        """Listen, if that is wanted. Raises FatalError."""
        if self._address is None:
            return
        sockets = bound(self._address)
        self.address = Address(self._address.host, sockets[0].getsockname()[1])
        await self._server.start(sockets)
        self._loop.start()

    async def stop(self) -> None:
        self.forget()
        self._loop.stop()
        await self._server.stop()
        self._writer.shutdown(wait=False, cancel_futures=True)

    def follow(self, settings: Settings) -> None:
        """Take over what the settings say, now and whenever they change."""

        def renew() -> None:
            self.bounds.most = settings.current.metrics_max_series
            self.bounds.by_partition = settings.current.metrics_per_partition

        settings.watch(renew)
        renew()

    @property
    def is_served(self) -> bool:
        """Can anybody ask for metrics?"""
        return self._address is not None

    def leading(self, parts: Parts) -> None:
        """An incarnation has begun to serve clients with these."""
        broker, log, groups = parts.broker, parts.log, parts.groups
        figures = TopicFigures(parts.topics, log, broker.clock)
        of_topics = TopicsSource(broker, parts.topics, log, figures, self.bounds)
        of_groups = GroupsSource(groups, self.bounds)
        self._add(
            ConnectionsSource(parts.server, broker.quotas, leads=True),
            MemorySource(parts.server, broker),
            LeaderMemorySource(broker, log),
            of_topics,
            of_groups,
            LagSource(parts.lag, self.bounds, broker.clock),
            LeaderSource(parts.membership),
            LogSource(log, parts.disk, broker.log_dir.room),
            OpenTransactionsSource(parts.transactions),
            RelaySource(parts.relay),
            AuditQueueSource(parts.audit),
            parts.survey,
        )
        if self._address is not None:
            self._tasks += (
                supervised(figures.run(), "figures of topics", _go_on),
                supervised(of_topics.walk.run(), "metrics of topics", _go_on),
                supervised(of_groups.walk.run(), "metrics of groups", _go_on),
                supervised(parts.survey.run(), "survey", _go_on),
            )
        self.health.leading("this broker serves clients", partial(_doubt, parts.membership))

    def _add(self, *sources: Source) -> None:
        """Of the present incarnation."""
        self._present += sources
        self.registry.add(*sources)

    def waiting(self, leader: Peer) -> None:
        """Another broker leads."""
        place = Address(leader.host, leader.port)
        if leader.is_reachable:
            self.health.waiting(f"{place} leads, and clients are told so", is_useful=True)
        else:
            self.health.waiting(f"{place} leads, and is no address to send clients to", is_useful=False)

    def taking_over(self) -> None:
        """Nobody else leads any more, and this broker loads what it needs to."""
        self.health.starting("this broker takes over")

    def waits_with(self, server: Server, broker: Broker) -> None:
        """While another broker leads, this answers."""
        self._add(ConnectionsSource(server, broker.quotas, leads=False), MemorySource(server, broker))

    def forget(self) -> None:
        """What belongs to an incarnation, or to waiting, is over."""
        self.registry.remove(*self._present)
        self._present.clear()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        if self.health.state in (State.LEADING, State.WAITING):
            self.health.starting("the broker has stopped leading, or waiting, and begins anew")

    async def _metrics(self, headers: Mapping[str, str]) -> Page:
        form = Form.wanted(headers.get("accept", ""), headers.get("accept-encoding", ""))
        body = await asyncio.shield(self._page(form))
        encoding = (("Content-Encoding", "gzip"),) if form.is_compressed else ()
        return Page(200, body, form.content_type, (*encoding, ("Vary", "Accept, Accept-Encoding")))

    def _page(self, form: Form) -> asyncio.Task[bytes]:
        """The page in this form, one that is being made or was made a moment ago."""
        page = self._pages.get(form)
        if page is None or (page.done() and asyncio.get_running_loop().time() >= self._kept_until_s.get(form, 0.0)):
            page = self._pages[form] = asyncio.create_task(self._write(form), name="metrics page")
        return page

    async def _write(self, form: Form) -> bytes:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        self._process.scrapes += 1
        families = self.registry.collect()
        page = await loop.run_in_executor(self._writer, exposition.text, families, form)
        took_s = self._process.scrape_s = loop.time() - begun_s
        self._kept_until_s[form] = loop.time() + KEPT_TIMES * took_s
        return page

    async def _healthz(self, _headers: Mapping[str, str]) -> Page:
        return Page.sentence(200, f"alive, and {self.health.state}")

    async def _readyz(self, _headers: Mapping[str, str]) -> Page:
        answer = self.health.answer()
        return Page.sentence(200 if answer.is_ready else 503, answer.sentence)
