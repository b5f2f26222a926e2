"""A broker's storage side on a database, without the edge."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pg_kafka.cluster.membership import Membership
from pg_kafka.cluster.view import ClusterView
from pg_kafka.config import Config
from pg_kafka.storage import sessions
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.disk import DiskWatch
from pg_kafka.storage.log import Log
from pg_kafka.storage.migrate import migrate
from pg_kafka.storage.partition import AppendResult, Partition
from pg_kafka.storage.topics import NewTopic, Topic, Topics
from pg_kafka.wire._records import decode_batch


class Leader:
    """What Term builds, for tests of storage."""

    def __init__(self, dsn: str, *, disk: DiskWatch | None = None, **settings: Any) -> None:
        self.dsn = dsn
        self.disk = disk
        self.config = Config(**settings)
        self.over = asyncio.Event()
        self.outgrown: list[int] = []

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
            on_end=lambda reason: self.over.set(),
        )
        incarnation = await self.membership.join(tell_nobody)
        self.control = ControlSession(
            self.membership.open_writer, Backends(self.dsn, self.config.backend_timeout_ms / 1000)
        )
        self.topics = Topics(self.config, self.control)
        await self.topics.load()
        self.pool = ThreadPoolExecutor(1)
        self.log = Log(
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
            on_fenced=self.membership.end,
            on_went_back=lambda reason: self.membership.end(reason, went_back=True),
            on_identity=lambda identity: None,
            on_outgrown=self.outgrown.append,
            on_grown=lambda: None,
            disk=self.disk,
        )
        await self.log.start()

    async def stop(self) -> None:
        await self.log.stop(10)
        await self.control.close()
        await self.membership.leave()
        self.pool.shutdown()

    def crash(self) -> None:
        """As kill -9: every session is cut."""
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
        self.log.append(partition, decode_batch(wire), answer.set_result, timestamp_type=0)
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
