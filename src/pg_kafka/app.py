"""The one place that builds the parts and hands them to each other: Config in, a running broker out.

`serve` starts PostgreSQL (or reaches the given one), brings the schema up to date, joins the cluster and serves until it
is told to stop. When an incarnation ends (fenced, or the server's history changed) its parts are torn down and a new one
joins, which waits while another broker leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import logging
import os
import random
import signal
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import uvloop

from pg_kafka import __version__, banner, checks
from pg_kafka.broker import dispatch, open_files, waiting
from pg_kafka.broker.context import Broker
from pg_kafka.broker.decoding import Decoding
from pg_kafka.broker.fetch_sessions import FetchSessions
from pg_kafka.broker.groups import GroupCoordinator
from pg_kafka.broker.listening import ListeningPlace
from pg_kafka.broker.server import Server
from pg_kafka.broker.transaction_requests import OperatorRequests
from pg_kafka.broker.transactions import TransactionCoordinator
from pg_kafka.cluster.incarnation import History, Incarnation
from pg_kafka.cluster.membership import Membership
from pg_kafka.cluster.view import ClusterView
from pg_kafka.config import SETTINGS, Address, Config, with_database_settings
from pg_kafka.embedded import Postgres
from pg_kafka.embedded.given import GivenPostgres
from pg_kafka.embedded.server import EmbeddedPostgres
from pg_kafka.errors import FatalError, StorageError
from pg_kafka.storage import queries, sessions
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.disk import DiskWatch
from pg_kafka.storage.group_configs import GroupConfigs
from pg_kafka.storage.groups import GroupStore
from pg_kafka.storage.janitor import Janitor
from pg_kafka.storage.log import Log
from pg_kafka.storage.migrate import migrate as migrate_schema
from pg_kafka.storage.sessions import Fenced, Identity
from pg_kafka.storage.topics import Topics
from pg_kafka.storage.transaction_requests import TransactionRequests
from pg_kafka.storage.transactions import TransactionStore
from pg_kafka.tasks import supervised

log = logging.getLogger("pg_kafka.app")

# Requests in progress when the broker is told to stop have so long to finish.
STOP_DEADLINE_S = 10.0
REJOIN_DELAY_S = 1.0
# For what consumers read from the database. Batches of producers have threads of their own.
ENCODE_THREADS = 2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

T = TypeVar("T")


def serve(config: Config) -> int:
    """Run a broker until SIGINT or SIGTERM; the exit code. Raises FatalError."""
    open_files.raise_limit()
    _keep_freed_memory()
    return _run(_serve(config))


def migrate(config: Config) -> None:
    """Create or upgrade the schema. Raises FatalError."""
    _run(_migrate_only(config))


def doctor(config: Config) -> list[tuple[str, str]]:
    """Findings about a setup, each ("ok" | "warning" | "error", sentence)."""
    return _run(checks.examine(config))


def _keep_freed_memory() -> None:
    """Have glibc keep what large batches free instead of giving it back and faulting it in again for the next one.

    Batches of 1 MB are decoded four times as fast (bench/codec.py). Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 64 * 1024 * 1024)


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(_on_loop_error)
        return runner.run(work)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, sessions.CONNECTION_ERRORS) and "future" in context and "task" not in context:
        # The driver forgets its own future when a connection breaks at the moment a COPY begins; the COPY itself has failed.
        log.debug("a lost connection left an answer behind", extra={"error": sessions.describe(error)})
        return
    loop.default_exception_handler(context)


def _postgres(config: Config) -> Postgres:
    if config.database is not None:
        return GivenPostgres(config.database, log)
    return EmbeddedPostgres(config.data, log)


class Stop:
    """SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self.postgres: Postgres | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if not self.wanted.is_set():
            self.wanted.set()
            return
        if isinstance(self.postgres, EmbeddedPostgres):
            self.postgres.kill()
        os._exit(1)

    async def unless(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, or None when the end was asked for first."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self.wanted.wait())
        try:
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


async def _serve(config: Config) -> int:
    stop = Stop()
    postgres = _postgres(config)
    stop.postgres = postgres
    keeper: asyncio.Task[None] | None = None
    try:
        advice = await stop.unless(_start(postgres, config)) or []
        if isinstance(postgres, EmbeddedPostgres) and not stop.wanted.is_set():
            keeper = asyncio.create_task(postgres.keep_running(), name="keep PostgreSQL running")
            keeper.add_done_callback(lambda _keeper: stop.wanted.set())
        shown = False
        history = History()
        while not stop.wanted.is_set():
            try:
                settled = await _database_settings(config, postgres.dsn)
                term = Term(settled, postgres, history)
                try:
                    await stop.unless(term.start())
                    if term.is_serving:
                        if not shown:
                            shown = True
                            banner.show(settled, postgres, term.address, advice)
                            # Port 0 was any port; from now on it is this one.
                            config = dataclasses.replace(config, listen=Address(config.listen.host, term.address[1]))
                        await stop.unless(term.ended.wait())
                finally:
                    await term.stop()
            except (StorageError, Fenced) as error:
                log.warning("cannot lead", extra={"reason": str(error)})
                await stop.unless(asyncio.sleep(REJOIN_DELAY_S))
        if keeper is not None and keeper.done():
            keeper.result()  # PostgreSQL does not come back: say why
        return 0
    finally:
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        await postgres.stop()


async def _start(postgres: Postgres, config: Config) -> list[str]:
    """Raises FatalError when the server cannot be used; returns what to know about it."""
    checks.refuse_taken_address(config.listen)
    await _prepare(postgres, config)
    try:
        settled = await _database_settings(config, postgres.dsn)
        advice = await checks.refuse_too_few_connections(postgres.dsn, settled)
        return advice + checks.file_advice(settled, open_files.limit())
    except StorageError as error:
        raise FatalError(error.message) from error


async def _migrate_only(config: Config) -> None:
    postgres = _postgres(config)
    try:
        await _prepare(postgres, config)
    finally:
        await postgres.stop()


async def _prepare(postgres: Postgres, config: Config) -> None:
    """Bring PostgreSQL up, and the schema up to date. Raises FatalError."""
    await postgres.start()
    if config.database is not None:
        await checks.refuse_pooling_proxy(postgres.dsn, config)
    try:
        # A migration takes the time it takes.
        async with sessions.opened(postgres.dsn, "migrate", timeout_s=None) as connection:
            await migrate_schema(
                connection,
                settings={s.parameter: s.doc for s in SETTINGS if not s.start_only},
                compression=config.storage_compression,
            )
    except StorageError as error:
        raise FatalError(error.message) from error


async def _database_settings(config: Config, dsn: str) -> Config:
    async with sessions.opened(dsn, "settings") as connection:
        rows = await connection.fetch(queries.load("settings")["stored"])
    return with_database_settings(config, [(row["name"], row["value"]) for row in rows])


class Term:
    """One incarnation and the parts that live and die with it."""

    def __init__(self, config: Config, postgres: Postgres, history: History) -> None:
        self._config = config
        self._postgres = postgres
        self._dsn = postgres.dsn
        self._history = history
        self.ended = asyncio.Event()
        self.is_serving = False
        self._has_waited = False
        self._membership: Membership | None = None
        self._control: ControlSession | None = None
        self._log: Log | None = None
        self._groups: GroupCoordinator | None = None
        self._transactions: TransactionCoordinator | None = None
        self._requests: OperatorRequests | None = None
        self._janitor: Janitor | None = None
        self._disk_watch: asyncio.Task[None] | None = None
        self._server: Server | None = None
        self._place: ListeningPlace | None = None
        self._waiting: tuple[Server, Broker] | None = None  # what answers while another broker leads
        self._encode_pool = ThreadPoolExecutor(ENCODE_THREADS, thread_name_prefix="encode")
        self._decoding = Decoding(config.decoding_bytes)

    @property
    def address(self) -> tuple[str, int]:
        assert self._server is not None
        return self._server.address

    def _end(self, _reason: str) -> None:
        self.ended.set()

    def _check_identity(self, identity: Identity) -> None:
        assert self._membership is not None
        try:
            self._membership.check_identity(identity)
        except Fenced as error:
            raise sessions.unavailable(str(error)) from error

    async def start(self) -> None:
        """Join, take over, and listen. Raises FatalError, StorageError, Fenced."""
        config = self._config
        place = self._place = ListeningPlace(config.listen)
        shown = config.advertise or Address(config.listen.host, place.port)
        membership = self._membership = Membership(
            self._dsn,
            host=shown.host,
            port=shown.port,
            version=__version__,
            heartbeat_ms=config.heartbeat_ms,
            eviction_ms=config.eviction_ms,
            on_end=self._end,
            history=self._history,
        )
        incarnation: Incarnation = await membership.join(self._on_wait)
        backends = Backends(self._dsn, config.backend_timeout_ms / 1000)
        control = self._control = ControlSession(membership.open_writer, backends)
        topics = Topics(config, control)
        await topics.load()
        janitor: Janitor | None = None

        def outgrown(topic_id: int) -> None:
            if janitor is not None:
                janitor.outgrown(topic_id)

        def grown() -> None:
            if janitor is not None:
                janitor.poke()

        disk = DiskWatch(self._postgres.free_disk_bytes, config.disk_reserve_bytes, on_room=grown)
        disk.look()
        self._log = Log(
            config=config,
            dsn=self._dsn,
            topics=topics,
            control=control,
            open_writer=membership.open_writer,
            incarnation=incarnation.id,
            node_id=incarnation.node_id,
            epoch=incarnation.epoch,
            cluster_id=incarnation.cluster_id,
            executor=self._encode_pool,
            on_fenced=membership.end,
            on_went_back=lambda reason: membership.end(reason, went_back=True),
            on_identity=self._check_identity,
            on_outgrown=outgrown,
            on_grown=grown,
            disk=disk,
        )
        await self._log.start()
        self._disk_watch = supervised(disk.run(), "disk watch", membership.end)
        janitor = self._janitor = Janitor(
            self._dsn,
            self._log,
            segment_bytes=config.log_segment_bytes,
            segment_ms=config.log_roll_ms,
            compression=config.storage_compression,
            has_room=disk.has_room,
            open_session=membership.open_writer,
            on_death=membership.end,
        )
        topics.on_views_wanted = janitor.poke
        await janitor.start()
        self._groups = GroupCoordinator(
            config=config,
            topics=topics,
            store=GroupStore(self._log, control),
            configs=GroupConfigs(control),
            wall_ms=_wall_ms,
        )
        await self._groups.start()
        self._transactions = TransactionCoordinator(
            config=config,
            topics=topics,
            log=self._log,
            store=TransactionStore(self._log, control),
            groups=self._groups,
            wall_ms=_wall_ms,
        )
        await self._transactions.start()
        self._requests = OperatorRequests(TransactionRequests(control), self._transactions)
        await self._requests.start()
        self._server = Server(
            Broker(
                config=config,
                topics=topics,
                log=self._log,
                fetch_sessions=FetchSessions(
                    config.max_incremental_fetch_session_cache_slots, lambda: random.getrandbits(31)
                ),
                groups=self._groups,
                transactions=self._transactions,
                apis=dispatch.APIS,
                now_ms=_wall_ms,
                decoding=self._decoding,
                files_kept_free=open_files.kept_free(checks.connections_needed(config)),
                waiting=lambda: membership.waiting,
            )
        )
        await self._stop_waiting()
        await self._server.start(place)
        self.is_serving = True
        log.info("serving", extra={"node": incarnation.node_id, "epoch": incarnation.epoch, "listen": config.listen})

    async def _on_wait(self, view: ClusterView) -> None:
        """Another broker leads: tell clients where, if it has an address that can be told."""
        if self._waiting is not None:
            waiting.show(self._waiting[1], self._config, view)
            return
        if not self._has_waited:
            self._has_waited = True
            banner.show_waiting(view.leader)
        if view.leader.is_reachable:
            broker = waiting.waiting_broker(self._config, dispatch.APIS, self._decoding, view)
            server = Server(broker)
            self._waiting = (server, broker)
            await server.start(self._place)

    async def _stop_waiting(self) -> None:
        """Those who are connected come again, and wait for the listener of the broker that leads."""
        if self._waiting is not None:
            server, _ = self._waiting
            self._waiting = None
            await server.stop(0.0)

    async def stop(self) -> None:
        """Stop in order: members that wait, no new requests, finish those under way, checkpoints, sessions."""
        if self._place is not None:
            self._place.close()
        await self._stop_waiting()
        if self._groups is not None:
            self._groups.release()
        if self._requests is not None:
            await self._requests.stop()
        if self._transactions is not None:
            self._transactions.release()
        if self._server is not None:
            if self.ended.is_set():
                await self._server.stop(0.0)
            else:
                await self._server.stop(STOP_DEADLINE_S)
        if self._transactions is not None:
            await self._transactions.stop()
        if self._groups is not None:
            await self._groups.stop()
        if self._disk_watch is not None:
            self._disk_watch.cancel()
        if self._janitor is not None:
            await self._janitor.stop()
        if self._log is not None:
            if self.ended.is_set():
                self._log.abandon()
            await self._log.stop(STOP_DEADLINE_S)
        if self._control is not None:
            await self._control.close()
        if self._membership is not None:
            await self._membership.leave()
        self._encode_pool.shutdown(wait=False, cancel_futures=True)
        self._decoding.stop()
