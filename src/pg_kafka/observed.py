"""What is seen of the process from outside: its metrics and its health. The one place where sources are wired.

    observed = Observed(config)
    await observed.start()              before PostgreSQL is there
    ...
    await observed.stop()

It lives as long as the process. Counters do so as well, and are made here; what holds for one incarnation is added by
`leading`, and removed when that ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from pg_kafka.broker.listening import bound
from pg_kafka.broker.metrics.health import Health, State
from pg_kafka.broker.metrics.http import HttpServer, Page
from pg_kafka.broker.metrics.process import ProcessSource
from pg_kafka.cluster.membership import Membership
from pg_kafka.cluster.view import Peer
from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.config.settings import Settings
from pg_kafka.metrics import exposition
from pg_kafka.metrics.exposition import Form
from pg_kafka.metrics.registry import Registry
from pg_kafka.metrics.series import Bounds

# Clients that ask again within this time get the same page: many of them cost no more than one.
KEEP_PAGE_S = 1.0


class Observed:
    """See the module."""

    def __init__(self, config: Config) -> None:
        self._address = config.metrics
        self.address: Address | None = None  # with the port that it has
        self.health = Health()
        self.registry = Registry()
        self.bounds = Bounds(config.metrics_max_series, config.metrics_per_partition)
        self._process = ProcessSource(self.health)
        self.registry.add(self._process)
        self._server = HttpServer({"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz})
        # Text of thousands of series takes tens of milliseconds to write, in which the broker goes on.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._pages: dict[Form, tuple[float, asyncio.Task[bytes]]] = {}

    async def start(self) -> None:
        """Listen, if that is wanted. Raises FatalError."""
        if self._address is None:
            return
        sockets = bound(self._address)
        self.address = Address(self._address.host, sockets[0].getsockname()[1])
        await self._server.start(sockets)

    async def stop(self) -> None:
        await self._server.stop()
        self._writer.shutdown(wait=False, cancel_futures=True)

    def follow(self, settings: Settings) -> None:
        """Take over what the settings say, now and whenever they change."""

        def renew() -> None:
            self.bounds.most = settings.current.metrics_max_series
            self.bounds.by_partition = settings.current.metrics_per_partition

        settings.watch(renew)
        renew()

    def leading(self, membership: Membership) -> None:
        """An incarnation has begun to serve clients."""

        def doubt() -> str | None:
            age_s, allowed_s = membership.heartbeat_age_s, membership.eviction_s
            if age_s <= allowed_s:
                return None
            return f"the last heartbeat reached PostgreSQL {age_s:.0f} s ago, and {allowed_s:.0f} s are allowed"

        self.health.leading("this broker serves clients", doubt)

    def waiting(self, leader: Peer) -> None:
        """Another broker leads."""
        place = Address(leader.host, leader.port)
        if leader.is_reachable:
            self.health.waiting(f"{place} leads, and clients are told so", is_useful=True)
        else:
            self.health.waiting(f"{place} leads, and is no address to send clients to", is_useful=False)

    def stopped_leading(self) -> None:
        """The incarnation is over, or there was none."""
        if self.health.state in (State.LEADING, State.WAITING):
            self.health.starting("the broker has stopped leading, or waiting, and begins anew")

    async def _metrics(self, headers: Mapping[str, str]) -> Page:
        form = Form.wanted(headers.get("accept", ""), headers.get("accept-encoding", ""))
        body = await asyncio.shield(self._page(form))
        encoding = (("Content-Encoding", "gzip"),) if form.is_compressed else ()
        return Page(200, body, form.content_type, (*encoding, ("Vary", "Accept, Accept-Encoding")))

    def _page(self, form: Form) -> asyncio.Task[bytes]:
        """The page in this form, one that is being made or was made a moment ago."""
        now_s = asyncio.get_running_loop().time()
        made = self._pages.get(form)
        if made is None or (made[1].done() and now_s - made[0] >= KEEP_PAGE_S):
            made = self._pages[form] = now_s, asyncio.create_task(self._write(form))
        return made[1]

    async def _write(self, form: Form) -> bytes:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        families = self.registry.collect()
        page = await loop.run_in_executor(self._writer, exposition.text, families, form)
        self._process.scrapes += 1
        self._process.scrape_s = loop.time() - begun_s
        return page

    async def _healthz(self, _headers: Mapping[str, str]) -> Page:
        return Page.sentence(200, f"alive, and {self.health.state}")

    async def _readyz(self, _headers: Mapping[str, str]) -> Page:
        answer = self.health.answer()
        return Page.sentence(200 if answer.is_ready else 503, answer.sentence)
