"""The one place that builds the parts and hands them to each other: Config in, a running broker out.

`serve` starts PostgreSQL (or reaches the given one), brings the schema up to date, joins the cluster and serves until it
is told to stop. When an incarnation ends (fenced, or the server's history changed) its parts are torn down and a new one
joins, which waits while another broker leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import signal
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

from pg_kafka import __version__, banner, checks
from pg_kafka.bridge.relay import Relay
from pg_kafka.broker import certificates, dispatch, open_files, waiting
from pg_kafka.broker.audit import AuditLog
from pg_kafka.broker.context import Broker, LogDir
from pg_kafka.broker.decoding import Decoding
from pg_kafka.broker.doors import House
from pg_kafka.broker.fetch_sessions import FetchSessions
from pg_kafka.broker.forwarding import ForwardedServing, Forwarder
from pg_kafka.broker.groups import GroupCoordinator
from pg_kafka.broker.lag import GroupLag
from pg_kafka.broker.listening import ListeningPlace
from pg_kafka.broker.logins import Logins
from pg_kafka.broker.member_commits import MemberCommitsWatch
from pg_kafka.broker.notifications import Notifications
from pg_kafka.broker.observer import Observer
from pg_kafka.broker.permission import Authorizer
from pg_kafka.broker.placement import AllHere, Placement
from pg_kafka.broker.quotas import Quotas, Windows
from pg_kafka.broker.rights import Rights
from pg_kafka.broker.server import Server
from pg_kafka.broker.telemetry import keep_looking
from pg_kafka.broker.transaction_requests import OperatorRequests
from pg_kafka.broker.transactions import TransactionalId, TransactionCoordinator
from pg_kafka.broker.waiters import Deadlines
from pg_kafka.clock import Clock
from pg_kafka.cluster.counts import Cause
from pg_kafka.cluster.incarnation import History, Incarnation
from pg_kafka.cluster.membership import Membership
from pg_kafka.cluster.view import ClusterView
from pg_kafka.config import Config
from pg_kafka.config.authorization import Deciding, deciding
from pg_kafka.config.broker import BROKER_KEYS
from pg_kafka.config.listeners import Listener, url
from pg_kafka.config.listening import listeners_of, with_addresses
from pg_kafka.config.load import with_database_settings
from pg_kafka.config.settings import Settings
from pg_kafka.coordinator.open_transactions import OpenTransactions
from pg_kafka.embedded import Postgres, dsn_of_running
from pg_kafka.embedded.given import GivenPostgres
from pg_kafka.embedded.server import EmbeddedPostgres
from pg_kafka.errors import FatalError, StorageError
from pg_kafka.observed import Observed, Parts
from pg_kafka.secure import Secured
from pg_kafka.storage import examination, sessions
from pg_kafka.storage.audit import AuditStore
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.catalogue_changes import Change, to_each
from pg_kafka.storage.client_metrics import StoredClientMetrics
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.disk import DiskWatch
from pg_kafka.storage.doorbell import Doorbell
from pg_kafka.storage.forwarding import ForwardedRequests
from pg_kafka.storage.group_configs import GroupConfigs
from pg_kafka.storage.groups import GroupStore
from pg_kafka.storage.growth import Growth
from pg_kafka.storage.lag import LagStore
from pg_kafka.storage.layouts import Layouts
from pg_kafka.storage.log import Log
from pg_kafka.storage.log_starts import FollowStarts
from pg_kafka.storage.member_commits import MemberCommits
from pg_kafka.storage.migrate import grant_broker as grant_rights_of_broker
from pg_kafka.storage.migrate import migrate as migrate_schema
from pg_kafka.storage.notifications import TopicNotifications
from pg_kafka.storage.outbox import Outbox
from pg_kafka.storage.outbox_tables import OutboxTables
from pg_kafka.storage.quotas import StoredQuotas
from pg_kafka.storage.sessions import Fenced, Identity
from pg_kafka.storage.sql_groups import SqlGroups
from pg_kafka.storage.stored_settings import StoredSettings
from pg_kafka.storage.survey import Survey
from pg_kafka.storage.sync_standbys import SyncStandbys
from pg_kafka.storage.topics import Topic, Topics
from pg_kafka.storage.transaction_requests import TransactionRequests
from pg_kafka.storage.transactions import TransactionStore
from pg_kafka.storage.upkeep.carry_over import CarryOver
from pg_kafka.storage.upkeep.cleaner import Cleaner
from pg_kafka.storage.upkeep.compaction import CompactTopics
from pg_kafka.storage.upkeep.janitor import Janitor
from pg_kafka.storage.upkeep.job import Options
from pg_kafka.storage.upkeep.retention import Retention
from pg_kafka.storage.users import StoredUsers
from pg_kafka.tasks import supervised

logger = logging.getLogger("pg_kafka.app")

# Requests in progress when the broker is told to stop have so long to finish.
STOP_DEADLINE_S = 10.0
REJOIN_DELAY_S = 1.0
# The relay writes the chunk that it is at.
RELAY_STOP_S = 5.0
# For what consumers read from the database. Batches of producers have threads of their own.
ENCODE_THREADS = 2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

T = TypeVar("T")


def serve(config: Config) -> int:
    """Run a broker until SIGINT or SIGTERM; the exit code. Raises FatalError."""
    open_files.raise_limit()
    _keep_freed_memory()
    return _run(_serve(config))


def migrate(config: Config, *, grant_broker: str | None = None) -> None:
    """Create or upgrade the schema, and give a role the rights of a broker. Raises FatalError."""
    _run(_migrate_only(config, grant_broker))


def doctor(config: Config) -> list[tuple[str, str]]:
    """Findings about a setup, each ("ok" | "warning" | "error", sentence)."""
    return _run(checks.examine(config))


def with_database(config: Config, work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """What `work` makes of the DSN of the database, whether a broker runs on it or not. Raises FatalError."""
    return _run(_with_database(config, work))


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


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, sessions.CONNECTION_ERRORS) and "future" in context and "task" not in context:
        # The driver forgets its own future when a connection breaks at the moment a COPY begins; the COPY itself has failed.
        logger.debug("a lost connection left an answer behind", extra={"error": sessions.describe(error)})
        return
    loop.default_exception_handler(context)


def _postgres(config: Config) -> Postgres:
    if config.database is not None:
        return GivenPostgres(config.database, logger)
    return EmbeddedPostgres(config.data, logger)


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
    observed = Observed(config)
    keeper: asyncio.Task[None] | None = None
    try:
        await observed.start()
        advice = await stop.unless(_start(postgres, config)) or []
        if isinstance(postgres, EmbeddedPostgres) and not stop.wanted.is_set():
            keeper = asyncio.create_task(postgres.keep_running(), name="keep PostgreSQL running")
            keeper.add_done_callback(lambda _keeper: stop.wanted.set())
        shown = False
        history = History()
        while not stop.wanted.is_set():
            try:
                settled = await _database_settings(config, postgres.dsn)
                term = Term(settled, postgres, history, Seams(), observed)
                try:
                    await stop.unless(term.start())
                    if term.is_serving:
                        if not shown:
                            shown = True
                            banner.show(settled, postgres, term.listeners, observed.address, advice)
                            # Port 0 was any port; from now on it is this one.
                            config = with_addresses(config, term.listeners)
                        await stop.unless(term.ended.wait())
                finally:
                    await term.stop()
            except (StorageError, Fenced) as error:
                logger.warning("cannot lead", extra={"reason": str(error)})
                observed.counts.cluster.failed_joins += 1
                observed.health.starting(f"cannot lead: {error}")
                await stop.unless(asyncio.sleep(REJOIN_DELAY_S))
        if keeper is not None and keeper.done():
            keeper.result()  # PostgreSQL does not come back: say why
        return 0
    finally:
        observed.health.stopping()
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        await postgres.stop()
        await observed.stop()


async def _start(postgres: Postgres, config: Config) -> list[str]:
    """Raises FatalError when the server cannot be used; returns what to know about it."""
    checks.refuse_open_listeners(config)
    for listener in listeners_of(config):
        checks.refuse_taken_address(listener.address)
    secured = Secured.prepare(config) if config.secure else None
    await _prepare(postgres, config)
    try:
        if secured is not None:
            await secured.make_admin(postgres.dsn)
        settled = await _database_settings(config, postgres.dsn)
        advice = await checks.refuse_too_few_connections(postgres.dsn, settled)
        return advice + checks.file_advice(settled, open_files.limit())
    except StorageError as error:
        raise FatalError(error.message) from error


async def _migrate_only(config: Config, broker: str | None) -> None:
    postgres = _postgres(config)
    try:
        await _prepare(postgres, config)
        if broker is not None:
            try:
                async with sessions.opened(postgres.dsn, "migrate", timeout_s=None) as connection:
                    await grant_rights_of_broker(connection, broker)
            except StorageError as error:
                raise FatalError(error.message) from error
    finally:
        await postgres.stop()


async def _with_database(config: Config, work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    dsn = config.database or dsn_of_running(config.data)
    try:
        if dsn is not None:
            return await work(dsn)
        postgres = _postgres(config)
        try:
            await _prepare(postgres, config)
            return await work(postgres.dsn)
        finally:
            await postgres.stop()
    except StorageError as error:
        raise FatalError(error.message) from error


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
                settings={key.parameter: key.doc for key in BROKER_KEYS.values()},
                compression=config.storage_compression,
            )
    except StorageError as error:
        raise FatalError(error.message) from error


def _segment_bytes(topics: Topics, settings: Settings, series: int) -> int:
    """How large a segment of a series becomes."""
    topic = topics.by_id.get(series)
    return settings.current.log_segment_bytes if topic is None else topic.settings.segment_bytes


async def _database_settings(config: Config, dsn: str) -> Config:
    return with_database_settings(config, await examination.stored_settings(dsn))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """Who decides and who looks on; by default the settings say who decides, all is here, and nobody looks."""

    authorizer: Authorizer | None = None
    placement: Placement = field(default_factory=AllHere)
    observer: Observer | None = None


@dataclass(frozen=True, slots=True)
class _LogOwner:
    """What the log tells goes to the membership and the layouts."""

    membership: Membership
    layouts: Layouts

    def end(self, reason: str, *, went_back: bool = False, is_fenced: bool = False) -> None:
        self.membership.end(reason, went_back=went_back, cause=Cause.FENCED if is_fenced else None)

    def check_identity(self, identity: Identity) -> None:
        try:
            self.membership.check_identity(identity)
        except Fenced as error:
            raise sessions.unavailable(str(error)) from error

    def compressed(self, topic: Topic) -> None:
        self.layouts.compressed(topic)


def _upkeep(config: Config) -> Options:
    return Options(
        segment_bytes=config.log_segment_bytes,
        segment_ms=config.roll_ms,
        compression=config.storage_compression,
        compacts="compact" in config.log_cleanup_policy,
        max_compaction_lag_ms=config.log_cleaner_max_compaction_lag_ms,
    )


class Term:
    """One incarnation and the parts that live and die with it."""

    def __init__(
        self, config: Config, postgres: Postgres, history: History, seams: Seams, observed: Observed | None = None
    ) -> None:
        self._config = config
        self._observed = observed or Observed(config)
        self._seams = seams
        self._telemetry = self._observed.telemetry
        self._client_metrics: StoredClientMetrics | None = None
        self._waiting_client_metrics: asyncio.Task[None] | None = None
        self.house: House | None = None
        self._postgres = postgres
        self._dsn = postgres.dsn
        self._history = history
        self.ended = asyncio.Event()
        self.is_serving = False
        self._has_waited = False
        self._membership: Membership | None = None
        self._control: ControlSession | None = None
        self._stored: StoredSettings | None = None
        self._rights: Rights | None = None
        self._rights_watch: asyncio.Task[None] | None = None
        self._waiting_rights: asyncio.Task[None] | None = None
        self._waiting_control: ControlSession | None = None
        self._topics: Topics | None = None
        self._log: Log | None = None
        self._groups: GroupCoordinator | None = None
        self._transactions: TransactionCoordinator | None = None
        self._requests: OperatorRequests | None = None
        self._quotas: StoredQuotas | None = None
        self._janitor: Janitor | None = None
        self._cleaner: Cleaner | None = None
        self._layouts: Layouts | None = None
        self._audit: AuditLog | None = None
        self._audit_task: asyncio.Task[None] | None = None
        self._disk_watch: asyncio.Task[None] | None = None
        self._relay: Relay | None = None
        self._relaying: asyncio.Task[None] | None = None
        self._member_commits_task: asyncio.Task[None] | None = None
        self._notifications: Notifications | None = None
        self._notifications_task: asyncio.Task[None] | None = None
        self._standby_watch: asyncio.Task[None] | None = None
        self.lag: GroupLag | None = None
        self._lag_watch: asyncio.Task[None] | None = None
        self._server: Server | None = None
        self._place: ListeningPlace | None = None
        self._logins: Logins | None = None
        self._forwarder: Forwarder | None = None  # while another broker leads
        self._forwarded: ForwardedServing | None = None
        self._waiting: tuple[Server, Broker, House] | None = None  # what answers while another broker leads
        self._encode_pool = ThreadPoolExecutor(ENCODE_THREADS, thread_name_prefix="encode")
        self._decoding = Decoding(config.decoding_bytes)
        self._log_dir = LogDir(postgres.log_dir, postgres.disk_bytes)

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """With the ports that they have."""
        assert self._place is not None
        return self._place.listeners

    def _end(self, _reason: str) -> None:
        self.ended.set()

    async def start(self) -> None:
        """Join, take over, and listen. Raises FatalError, StorageError, Fenced."""
        config, counts = self._config, self._observed.counts
        place = self._place = ListeningPlace(listeners_of(config))
        # Also a broker that waits asks its clients who they are.
        logins = self._logins = Logins(config, place.listeners, self._dsn, self._end)
        await logins.start()
        told = [(listener.name, listener.advertised or listener.address) for listener in place.listeners]
        membership = self._membership = Membership(
            self._dsn,
            host=told[0][1].host,
            port=told[0][1].port,
            version=__version__,
            endpoints=[url(name, address) for name, address in told],
            heartbeat_ms=config.heartbeat_ms,
            eviction_ms=config.eviction_ms,
            clock=Clock(),
            on_end=self._end,
            history=self._history,
            counts=counts.cluster,
            storage_counts=counts.storage,
        )
        incarnation: Incarnation = await membership.join(self._on_wait)
        self._observed.taking_over()
        clock = Clock()  # its steady time begins at the time of day of the take-over
        backends = Backends(self._dsn, config.backend_timeout_ms / 1000, counts.storage)
        control = self._control = ControlSession(membership.open_writer, backends)
        stored = self._stored = StoredSettings(control, incarnation.node_id, certificates.check)
        settings = await stored.start(config)
        config = settings.current  # with what is set for this node
        self._observed.follow(settings)
        topics = self._topics = Topics(settings, control)
        await topics.load()
        growth = Growth(config.series_bytes)
        opened: OpenTransactions[TransactionalId] = OpenTransactions()
        disk = DiskWatch(
            self._postgres.free_disk_bytes,
            config.disk_reserve_bytes,
            clock=clock,
            on_room=growth.look,
            counts=counts.storage.disk,
        )
        disk.look()
        self._layouts = Layouts(
            topics,
            membership.open_writer,
            executor=self._encode_pool,
            has_room=disk.has_room,
            on_unfrozen=growth.look,
            on_death=membership.end,
        )
        requests = self._observed.requests
        self._log = Log(
            _LogOwner(membership, self._layouts),
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
            growth=growth,
            transactions=opened,
            clock=clock,
            commit=requests.figures.commit,
            traffic=requests.traffic,
            disk=disk,
            producer_expiration_ms=lambda: settings.current.producer_id_expiration_ms,
            counts=counts.storage,
        )
        await self._log.start()
        self._disk_watch = supervised(disk.run(), "disk watch", membership.end)
        compact = CompactTopics(topics, settings, self._log, clock, counts.storage.upkeep)
        self._cleaner = Cleaner(
            membership.open_writer,
            [CarryOver(lambda series: _segment_bytes(topics, settings, series), self._log.write_checkpoints), compact],
            has_room=disk.has_room,
            bytes_per_second=lambda: settings.current.log_cleaner_io_max_bytes_per_second,
            on_moved=self._log.rows_moved,
            on_replaced=growth.look_for_free,
            on_death=membership.end,
            counts=counts.storage.upkeep,
        )
        self._janitor = Janitor(
            self._dsn,
            self._log,
            _upkeep(config),
            owner=incarnation.node_id,
            has_room=disk.has_room,
            growth=growth,
            on_changes=to_each(self._follow, FollowStarts(control, self._log.follow_starts).follow),
            open_session=membership.open_writer,
            on_death=membership.end,
            retention=Retention(
                topics=topics.by_id.values,
                take_starts=self._log.take_starts,
                wall_ms=clock.wall_ms,
                interval_ms=lambda: settings.current.log_retention_check_interval_ms,
                first_look_ms=config.log_initial_task_delay_ms,
            ),
            on_less=self._cleaner.poke,
            counts=counts.storage.upkeep,
        )
        compact.on_wanted = self._cleaner.poke
        topics.watch(compact)
        topics.watch(self._janitor)
        janitor = self._janitor
        settings.watch(lambda: janitor.renew(_upkeep(settings.current)))
        await self._janitor.start()
        await self._cleaner.start()
        await self._layouts.start(self._log)
        self._groups = GroupCoordinator(
            settings=settings,
            topics=topics,
            store=GroupStore(self._log, control),
            configs=GroupConfigs(control),
            clock=clock,
            sql_groups=SqlGroups(control),
        )
        await self._groups.start()
        self._transactions = TransactionCoordinator(
            config=config,
            topics=topics,
            log=self._log,
            opened=opened,
            store=TransactionStore(self._log, control),
            groups=self._groups,
            clock=clock,
            counts=counts.transactions,
        )
        await self._transactions.start()
        outbox = Outbox(membership.open_writer)
        doorbell = Doorbell(membership.open_writer, lambda: outbox.session)
        tables = OutboxTables(lambda: outbox.session, clock.steady_s, counts=counts.storage.relay)
        self._relay = Relay(outbox, doorbell, tables, self._log, topics, clock, counts.storage.relay)
        self._relaying = supervised(self._relay.run(), "relay", membership.end)
        member_commits = MemberCommitsWatch(MemberCommits(control), self._groups)
        self._member_commits_task = supervised(member_commits.run(), "commits by SQL", membership.end)
        self._notifications = Notifications(TopicNotifications(control), topics.by_id, self._log)
        await self._notifications.load()
        self._notifications_task = supervised(self._notifications.run(), "notifications", membership.end)
        self._requests = OperatorRequests(TransactionRequests(control), self._transactions)
        await self._requests.start()
        self._audit = AuditLog(AuditStore(control), settings, clock, counts.audit)
        self._audit_task = supervised(self._audit.run(), "audit", membership.end)
        lag = self.lag = GroupLag(
            groups=self._groups,
            topics=topics.by_id,
            log=self._log,
            store=LagStore(control),
            clock=clock,
            history_groups=lambda: settings.current.lag_history_groups,
            is_looked_at=self._observed.is_served,
            has_room=lambda disk_bytes: disk.has_room(disk_bytes, small=True),
            refresh=self._groups.read_sql_offsets,
        )
        # Nobody but who looks at lag needs it, and the age of the figures says when it has ended.
        self._lag_watch = supervised(lag.run(), "group lag", lambda _reason: None)
        standbys = SyncStandbys(self._dsn, settings)
        await standbys.start()
        self._standby_watch = supervised(standbys.run(), "standby watch", membership.end)
        written = self._log
        deadlines = Deadlines()
        if deciding(config) is not Deciding.NONE and self._seams.authorizer is None:
            rights = self._rights = Rights(config, control)
            if logins.following is not None:
                logins.following.add(rights.follow)
            await rights.start()
            self._rights_watch = supervised(rights.run(), "rights", membership.end)
        quotas = Quotas(clock.steady_ms, Windows.of(config), self._observed.quotas)
        self._quotas = StoredQuotas(control, quotas.renew)
        await self._quotas.load()
        self._client_metrics = StoredClientMetrics(control, self._telemetry.renew)
        await self._client_metrics.load()
        groups = self._groups

        def on_change() -> None:
            deadlines.wake_all()
            groups.permissions_changed()

        house = self.house = House(
            topics=topics,
            log=self._log,
            groups=self._groups,
            transactions=self._transactions,
            on_change=on_change,
            stored=stored,
            users=StoredUsers(control, logins.look_soon),
            authorizer=self._seams.authorizer if self._rights is None else self._rights.authorizer,
            placement=self._seams.placement,
            acls=None if self._rights is None else self._rights.acls,
            quotas=self._quotas,
            client_metrics=self._client_metrics,
            member_commits=member_commits,
        )
        if self._rights is not None:
            self._rights.authorizer.watch(house.changed)
        if not house.allows_everything:
            self._groups.ask_permissions(house.describable)
        broker = Broker(
            settings=settings,
            node_id=incarnation.node_id,
            epoch=incarnation.epoch,
            cluster_id=incarnation.cluster_id,
            records=self._log,
            fetch_sessions=FetchSessions(
                config.max_incremental_fetch_session_cache_slots, lambda: random.getrandbits(31)
            ),
            versions=dispatch.VERSIONS,
            clock=clock,
            log_dir=self._log_dir,
            decoding=self._decoding,
            deadlines=deadlines,
            listeners=place.listeners,
            files_kept_free=open_files.kept_free(checks.files_needed(config)),
            waiting=lambda: membership.waiting,
            standbys=standbys,
            audit=self._audit,
            quotas=quotas,
            telemetry=self._telemetry,
        )
        self._server = Server(
            broker,
            dispatch.APIS,
            house,
            lambda: written.backlog.bytes,
            requests.observer(settings.current.slow_request_ms, self._seams.observer),
            logins.rules,
            self._observed.connections,
            requests.figures,
        )
        requests.follow(settings, self._server.observe, self._seams.observer, topics.name_of)
        self._forwarded = ForwardedServing(ForwardedRequests(control), broker, house, dispatch.APIS, counts.forwarding)
        await self._forwarded.start()
        await self._stop_waiting()
        self._observed.forget()
        logins.watched = [self._server]
        await self._server.start(place)
        self.is_serving = True
        membership.served()
        self._observed.leading(
            Parts(
                membership=membership,
                server=self._server,
                broker=broker,
                topics=topics,
                log=self._log,
                groups=self._groups,
                lag=lag,
                transactions=self._transactions,
                relay=self._relay,
                audit=self._audit,
                disk=disk,
                survey=Survey(self._dsn, topics, clock, counts.storage.survey),
            )
        )
        logger.info(
            "serving",
            extra={
                "node": incarnation.node_id,
                "epoch": incarnation.epoch,
                "listeners": [url(one.name, one.address) for one in place.listeners],
            },
        )

    async def _follow(self, changes: Sequence[Change] | None) -> None:
        """Take over what others have changed in the database. Raises StorageError."""
        assert self._stored is not None and self._topics is not None
        await self._stored.follow(changes)
        await self._topics.follow(changes)
        if self._groups is not None:
            await self._groups.follow(changes)
        if self._notifications is not None:
            await self._notifications.follow(changes)
        if self._rights is not None and self._logins is not None and self._logins.following is None:
            await self._rights.follow(changes)
        if self._quotas is not None:
            await self._quotas.follow(changes)
        if self._client_metrics is not None:
            await self._client_metrics.follow(changes)

    async def _on_wait(self, view: ClusterView) -> None:
        """Another broker leads: tell clients where, if it has an address that can be told."""
        self._observed.waiting(view.leader)
        if self._waiting is not None:
            waiting.show(*self._waiting[1:], self._config, view)
            return
        if not self._has_waited:
            self._has_waited = True
            banner.show_waiting(view.leader)
        if view.leader.is_reachable:
            control = self._waiting_control = ControlSession(lambda kind: sessions.connect(self._dsn, kind))
            self._forwarder = Forwarder(ForwardedRequests(control), self._observed.counts.forwarding)
            await self._forwarder.start()
            rights = await self._rights_while_waiting(control)
            stored = StoredClientMetrics(control, self._telemetry.renew)
            looking = keep_looking(stored)
            self._waiting_client_metrics = supervised(looking, "client metrics while waiting", self._end)
            broker, house = waiting.waiting_broker(
                self._config,
                self.listeners,
                dispatch.VERSIONS,
                self._decoding,
                self._log_dir,
                view,
                self._telemetry,
                self._seams.authorizer if rights is None else rights.authorizer,
                None if rights is None else rights.acls,
                self._forwarder,
                self._observed.counts.audit,
            )
            if rights is not None:
                rights.authorizer.watch(house.changed)
            assert self._logins is not None
            requests = self._observed.requests
            server = Server(
                broker,
                waiting.rows(dispatch.APIS),
                house,
                lambda: 0,
                requests.observer(self._config.slow_request_ms, self._seams.observer),
                self._logins.rules,
                self._observed.connections,
                requests.figures,
            )
            self._logins.watched = [server]
            self._waiting = (server, broker, house)
            await server.start(self._place)
            self._observed.waits_with(server, broker)

    async def _rights_while_waiting(self, control: ControlSession) -> Rights | None:
        """What the authorizer stands on before there is a session that may write for this broker."""
        if deciding(self._config) is Deciding.NONE or self._seams.authorizer is not None:
            return None
        rights = Rights(self._config, control, follows_changes=False)
        await rights.start()
        self._waiting_rights = supervised(rights.run(), "rights while waiting", self._end)
        return rights

    async def _stop_waiting(self) -> None:
        """Those who are connected come again, and wait for the listener of the broker that leads."""
        if self._waiting_rights is not None:
            self._waiting_rights.cancel()
            self._waiting_rights = None
        if self._waiting_client_metrics is not None:
            self._waiting_client_metrics.cancel()
            self._waiting_client_metrics = None
        if self._forwarder is not None:
            await self._forwarder.stop()
            self._forwarder = None
        if self._waiting_control is not None:
            await self._waiting_control.close()
            self._waiting_control = None
        if self._waiting is not None:
            server = self._waiting[0]
            self._waiting = None
            await server.stop(0.0)

    async def stop(self) -> None:
        """Stop in order: members that wait, no new requests, finish those under way, checkpoints, sessions."""
        self._observed.forget()
        if self._place is not None:
            self._place.close()
        await self._stop_waiting()
        if self._groups is not None:
            self._groups.release()
        if self._requests is not None:
            await self._requests.stop()
        if self._forwarded is not None:
            await self._forwarded.stop()
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
        for watch in (
            self._disk_watch,
            self._standby_watch,
            self._rights_watch,
            self._lag_watch,
            self._member_commits_task,
            self._notifications_task,
        ):
            if watch is not None:
                watch.cancel()
        if self._relay is not None and self._relaying is not None:
            self._relay.stop()
            await asyncio.wait([self._relaying], timeout=RELAY_STOP_S)
            self._relaying.cancel()
        if self._cleaner is not None:
            await self._cleaner.stop()
        if self._layouts is not None:
            await self._layouts.stop()
        if self._janitor is not None:
            await self._janitor.stop()
        if self._log is not None:
            if self.ended.is_set():
                self._log.abandon()
            await self._log.stop(STOP_DEADLINE_S)
        if self._audit is not None and self._audit_task is not None:
            await self._audit.stop(self._audit_task)
        if self._control is not None:
            await self._control.close()
        if self._membership is not None:
            await self._membership.leave(Cause.STOPPED if self.is_serving else Cause.FAILED)
        if self._logins is not None:
            await self._logins.stop()
        self._encode_pool.shutdown(wait=False, cancel_futures=True)
        self._decoding.stop()
