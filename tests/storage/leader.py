"""A broker's storage side on a database, without the edge."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pg_kafka.clock import Clock
from pg_kafka.cluster.counts import Cause, ClusterCounts
from pg_kafka.cluster.membership import Membership
from pg_kafka.cluster.view import ClusterView
from pg_kafka.config import Config
from pg_kafka.config.settings import Settings
from pg_kafka.storage import sessions
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.counts import StorageCounts
from pg_kafka.storage.disk import DiskWatch
from pg_kafka.storage.growth import Growth
from pg_kafka.storage.layouts import Layouts
from pg_kafka.storage.log import Log
from pg_kafka.storage.migrate import migrate
from pg_kafka.storage.partition import AppendResult, Partition
from pg_kafka.storage.sessions import Identity
from pg_kafka.storage.topics import NewTopic, Topic, Topics
from pg_kafka.wire._records import decode_batch, peek


class Leader:
    """What Term builds, for tests of storage."""

    def __init__(
        self,
        dsn: str,
        *,
        disk: DiskWatch | None = None,
        counts: StorageCounts | None = None,
        cluster_counts: ClusterCounts | None = None,
        **settings: Any,
    ) -> None:
        self.dsn = dsn
        self.counts = counts or StorageCounts()
        self.cluster_counts = cluster_counts or ClusterCounts()
        self.disk = disk
        self.config = Config(**settings)
        self.over = asyncio.Event()
        self.clock = Clock()
        self.growth = Growth(self.config.series_bytes)
        self.layouts: Layouts | None = None

    def admits(self, _place: tuple[int, int], _producer_id: int, _epoch: int) -> int:
        """Every transaction is open everywhere."""
        return 0

    def end(self, reason: str, *, went_back: bool = False, is_fenced: bool = False) -> None:
        self.membership.end(reason, went_back=went_back, cause=Cause.FENCED if is_fenced else None)

    def check_identity(self, identity: Identity) -> None:
        """Any server will do."""

    def compressed(self, topic: Topic) -> None:
        if self.layouts is not None:
            self.layouts.compressed(topic)

    async def start(self) -> None:
        async with sessions.opened(self.dsn, "migrate", timeout_s=None) as connection:
            await migrate(connection)
        self.membership = Membership(
            self.dsn,
            host="test",
            port=1,
            version="t",
            heartbeat_ms=self.config.heartbeat_ms,
            eviction_ms=self.config.eviction_ms,
            clock=Clock(),
            on_end=lambda reason: self.over.set(),
            counts=self.cluster_counts,
            storage_counts=self.counts,
        )
        incarnation = await self.membership.join(tell_nobody)
        self.control = ControlSession(
            self.membership.open_writer, Backends(self.dsn, self.config.backend_timeout_ms / 1000, self.counts)
        )
        self.settings = Settings(self.config)
        self.topics = Topics(self.settings, self.control)
        await self.topics.load()
        self.pool = ThreadPoolExecutor(1)
        self.log = Log(
            self,
            config=self.config,
            dsn=self.dsn,
            topics=self.topics,
            control=self.control,
            open_writer=self.membership.open_writer,
            incarnation=incarnation.id,
            node_id=incarnation.node_id,
            epoch=incarnation.epoch,
            cluster_id=incarnation.cluster_id,
            executor=self.pool,
            growth=self.growth,
            transactions=self,
            clock=self.clock,
            disk=self.disk,
            counts=self.counts,
        )
        await self.log.start()

    async def keep_layouts(self, **options: Any) -> Layouts:
        """Begin to keep batches, and to unpack them for SQL."""
        self.layouts = Layouts(self.topics, self.membership.open_writer, executor=self.pool, look_s=0.05, **options)
        await self.layouts.start(self.log)
        return self.layouts

    async def stop(self) -> None:
        if self.layouts is not None:
            await self.layouts.stop()
        await self.log.stop(10)
        await self.control.close()
        await self.membership.leave()
        self.pool.shutdown()

    def crash(self) -> None:
        """As kill -9: every session is cut."""
        if self.layouts is not None and self.layouts._task is not None:
            self.layouts._task.cancel()
            self.layouts._drop()
        self.log.abandon()
        self.membership.abandon()
        if self.control._session is not None:
            self.control._session.drop()
        self.pool.shutdown()

    async def topic(self, name: str, partitions: int = 1, **configs: str) -> Topic:
        (topic,) = await self.topics.create([NewTopic(name, partitions, configs)])
        assert isinstance(topic, Topic)
        return topic

    async def partition(self, topic: Topic, index: int = 0) -> Partition:
        return (await self.log.load([(topic, index)]))[0]

    def send(self, partition: Partition, wire: bytes) -> asyncio.Future[AppendResult]:
        answer: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        topic = partition.topic
        batch = decode_batch(wire, keeps_packed=topic.keeps_packed(peek(wire).attributes & 7))
        self.log.append(partition, batch, answer.set_result, timestamp_type=topic.settings.timestamp_type)
        return answer

    async def append(self, partition: Partition, wire: bytes) -> AppendResult:
        return await asyncio.wait_for(self.send(partition, wire), 20)


async def tell_nobody(_view: ClusterView) -> None:
    """What a broker that waits does with what it sees."""


async def stop_beating(membership: Membership) -> None:
    """As if the event loop hung: the broker has its sessions and shows no life."""
    heartbeat = membership._heartbeat
    assert heartbeat is not None
    heartbeat._turned_at = float("-inf")
    heartbeat._turned = lambda: None  # type: ignore[method-assign]
    async with asyncio.timeout(20):
        # A heartbeat may be under way, or the next one far away.
        while not heartbeat.is_silent and heartbeat._heartbeat_s < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def leading(dsn: str, **settings: Any) -> AsyncIterator[Leader]:
    leader = Leader(dsn, **settings)
    await leader.start()
    try:
        yield leader
    finally:
        await leader.stop()


@contextlib.contextmanager
def frozen(pids: Sequence[int]) -> Iterator[None]:
    """Processes stand still, here backends: they neither answer nor hear that they shall end."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
