"""The coordinator of groups: it owns their machines and offsets, gives them requests and time, and does what they say.

A step of a machine changes memory at once; its records are queued for the database, and whoever waits for an answer of
this group gets it after the commit of everything that the group had queued by then. A step without records (a heartbeat)
is answered at once. When a write fails, or a machine does, all machines are thrown away and loaded from what is stored;
until then requests get COORDINATOR_LOAD_IN_PROGRESS. Handlers check and shape; no group is changed anywhere else.

    groups = GroupCoordinator(...)
    await groups.start()       loads; raises StorageError
    groups.release()           parked requests are answered, new ones refused
    await groups.stop()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast
from uuid import UUID

from pg_kafka.broker.answers import Asked, OrderedWrites
from pg_kafka.broker.catalogue import TopicCatalogue
from pg_kafka.broker.pending_offsets import PendingOffsets
from pg_kafka.broker.timers import Timers
from pg_kafka.clock import Clock
from pg_kafka.config import groups as group_configs
from pg_kafka.config.changes import Change
from pg_kafka.config.groups import GroupSettings
from pg_kafka.config.settings import Settings
from pg_kafka.coordinator.classic_group import ClassicGroup
from pg_kafka.coordinator.consumer_group import ConsumerGroup
from pg_kafka.coordinator.group_offsets import Committed, GroupOffsets, OffsetKey
from pg_kafka.coordinator.group_steps import Sender, Step
from pg_kafka.coordinator.group_upgrade import upgrade
from pg_kafka.coordinator.records import HistoryEntry, Record
from pg_kafka.coordinator.sql_group import SqlGroup
from pg_kafka.coordinator.timers import TimerName
from pg_kafka.errors import StorageError
from pg_kafka.storage import catalogue_changes
from pg_kafka.storage.group_configs import GroupConfigs
from pg_kafka.storage.groups import GroupStore, OffsetWrite
from pg_kafka.storage.journal import JournalWrite
from pg_kafka.storage.member_commits import MemberCommit
from pg_kafka.storage.sql_groups import SqlGroups
from pg_kafka.storage.topics import Topics
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest

logger = logging.getLogger("pg_kafka.groups")

# Delays between attempts to load, and the least time between one load and the next.
RELOAD_DELAYS_S = (0.0, 0.1, 0.5, 1.0, 2.0)
# Groups or offsets looked at before the event loop gets its turn.
GROUPS_PER_TURN = 200
OFFSETS_PER_TURN = 10_000

# The kinds of records that a classic group writes.
_CLASSIC_KINDS = frozenset({"classic"})
# Of no machine: up to which commit by SQL ({"id": ...}) a partition ("<topic id>-<partition>") of the group has been taken
# over, and with the key "" all of a group that was deleted. Written with the offsets, so that each is taken over once.
_TAKEN = "sql commits"

Machine = ClassicGroup | ConsumerGroup | SqlGroup

# So long a member that SQL has put out may go on before it asks for anything by which it learns that.
PUT_OUT_MS = 60_000

Committer = tuple[str, str | None, int, int, bool]
"""Member id, instance id, generation or epoch, version of the request, and whether it is a transaction's."""


class Group(OrderedWrites):
    """A group in memory."""

    __slots__ = ("before_sql", "id", "is_stored", "machine", "offsets", "put_out", "put_out_until_ms", "term")

    def __init__(self, group_id: str, machine: Machine, term: int, offsets: GroupOffsets | None = None) -> None:
        super().__init__()
        self.id = group_id
        self.machine = machine
        self.offsets = GroupOffsets() if offsets is None else offsets
        self.term = term  # of the load that it came with
        self.is_stored = False  # the database has something of it, or soon will
        # While SQL drives it: what Kafka's clients have committed, and who was a member (client id, host), by the steady clock.
        self.before_sql: GroupOffsets | None = None
        self.put_out: frozenset[tuple[str, str]] = frozenset()
        self.put_out_until_ms = 0

    def check_commit(self, who: Committer, partitions: Callable[[], Sequence[tuple[UUID, int]]]) -> int:
        """May this member commit? A consumer group looks at the partitions as well before it refuses one."""
        code = self.machine.check_commit(*who)
        if code and isinstance(self.machine, ConsumerGroup):
            code = self.machine.check_commit(*who, partitions=partitions())
        return int(code)


class GroupCoordinator:
    """See the module. Everything runs on one event loop."""

    def __init__(
        self,
        *,
        settings: Settings,
        topics: Topics,
        store: GroupStore,
        configs: GroupConfigs,
        clock: Clock,
        sql_groups: SqlGroups | None = None,
    ) -> None:
        """Without `sql_groups`, SQL drives none."""
        self.refusal = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        """What requests get instead of an answer; NONE while groups are served."""
        self.pending = PendingOffsets()
        self._settings = settings
        self._without_configs = group_configs.group_settings(settings.current)
        settings.watch(self._renew_settings)
        self._store = store
        self._sql_groups = sql_groups
        self._stored_configs = configs
        self._configs: dict[str, dict[str, str]] = {}
        self._configs_lock = asyncio.Lock()
        self._wall_ms = clock.wall_ms
        self.steady_ms = clock.steady_ms
        """The time of machines and of their timers."""
        self._groups: dict[str, Group] = {}
        self._taken: dict[str, dict[str, int]] = {}  # by group and key of the record, also of groups that are gone
        self._term = 0
        self._timers = Timers(self.steady_ms, self._on_timer)
        self._reload = asyncio.Event()
        self._served = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._catalogue = TopicCatalogue(topics, self._on_catalogue)
        self._catalogue_handle: asyncio.Handle | None = None

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load all groups and serve. Raises StorageError."""
        await self._load()
        self._tasks = [
            asyncio.create_task(self._keep_loaded(), name="load groups"),
            asyncio.create_task(self._expire_regularly(), name="expire offsets"),
        ]

    def release(self) -> None:
        """Answer what is parked in a way that makes members ask again, and take nothing new."""
        self.refusal = ErrorCode.NOT_COORDINATOR
        self._drop_machines(ErrorCode.NOT_COORDINATOR)

    async def stop(self) -> None:
        """End timers and tasks. What is queued is written by the log's own stop."""
        self.release()
        if self._catalogue_handle is not None:
            self._catalogue_handle.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _load(self) -> None:
        groups, offsets = await self._store.load()
        configs = await self._stored_configs.load()
        driven = set() if self._sql_groups is None else await self._sql_groups.names()
        self._configs = configs
        found: dict[str, Group] = {}
        taken: dict[str, dict[str, int]] = {}
        for stored in groups:
            of_machine = []
            for record in stored.records:
                if record.kind != _TAKEN:
                    of_machine.append(record)
                elif record.value is not None:
                    taken.setdefault(stored.group_id, {})[record.key] = record.value["id"]
            if of_machine:
                found[stored.group_id] = Group(stored.group_id, self._rebuilt(stored.group_id, of_machine), self._term)
            if len(found) % GROUPS_PER_TURN == 0:
                await asyncio.sleep(0)
        committed: dict[str, dict[OffsetKey, Committed]] = {}
        for number, o in enumerate(offsets):
            if number % OFFSETS_PER_TURN == 0:
                await asyncio.sleep(0)
            of_group = committed.setdefault(o.group_id, {})
            of_group[o.topic_id, o.partition] = Committed(o.offset, o.leader_epoch, o.metadata, o.committed_at_ms)
        for group_id, of_group in committed.items():
            group = found.get(group_id)
            if group is None:
                group = found[group_id] = Group(group_id, self._new_classic(group_id), self._term)
            group.offsets = GroupOffsets(of_group)
        for group in found.values():
            group.is_stored = True
        if self.refusal is ErrorCode.NOT_COORDINATOR:
            return
        self._groups = found
        self._taken = taken
        self.refusal = ErrorCode.NONE
        self._served.set()
        for group_id in driven:
            self.driven_by_sql(group_id)
        steady_ms = self.steady_ms()
        for group in list(found.values()):
            if self.refusal is ErrorCode.NONE:
                self._run(group, None, group.machine.restart, steady_ms)

    def _rebuilt(self, group_id: str, records: Sequence[Record]) -> Machine:
        kinds = {record.kind for record in records}
        is_classic = kinds <= _CLASSIC_KINDS
        machine = self._new_classic(group_id) if is_classic else self._new_consumer(group_id)
        for record in records:
            machine.apply(record)
        return machine

    async def _keep_loaded(self) -> None:
        """Load again whenever that is asked for, however often it takes."""
        attempt = 0
        while True:
            await self._reload.wait()
            await asyncio.sleep(RELOAD_DELAYS_S[min(attempt, len(RELOAD_DELAYS_S) - 1)])
            self._reload.clear()
            try:
                await self._load()
            except StorageError as error:
                logger.warning("groups cannot be loaded", extra={"error": str(error)})
            except Exception:
                logger.exception("groups cannot be loaded")
            else:
                logger.warning("groups are loaded again", extra={"groups": len(self._groups)})
                attempt = 1
                continue
            attempt += 1
            self._reload.set()

    def _fail(self, reason: str, group_id: str, error: BaseException | None = None) -> None:
        """Memory and database may differ: throw all machines away and load again."""
        if self.refusal is not ErrorCode.NONE:
            return
        extra = {"group": group_id, "reason": reason}
        logger.warning("groups have to be loaded again", extra=extra, exc_info=error)
        self.refusal = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        self._drop_machines(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        self._reload.set()

    def _drop_machines(self, code: ErrorCode) -> None:
        self._served.clear()
        self._term += 1
        self._timers.stop()
        groups, self._groups = self._groups, {}
        for group in groups.values():
            self._drop_parked(group, code)

    @staticmethod
    def _drop_parked(group: Group, code: ErrorCode) -> None:
        for token in group.machine.drop():
            asked = cast(Asked, token)
            asked.decide()
            asked.refuse(code)

    # -- what handlers ask -------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Group]:
        return iter(list(self._groups.values()))

    def __len__(self) -> int:
        return len(self._groups)

    def get(self, group_id: str) -> Group | None:
        return self._groups.get(group_id)

    def join_classic(self, group_id: str, *, is_new_member: bool) -> Group | None:
        """The group that a member may join by the classic protocol; None when the member can know no such group."""
        group = self._groups.get(group_id)
        if group is None:
            return self._add(group_id, self._new_classic(group_id)) if is_new_member else None
        return group

    def consumer_heartbeat(
        self, request: ConsumerGroupHeartbeatRequest, asked: Asked, sender: Sender, new_member_id: str
    ) -> None:
        """Let a member of the consumer protocol speak; a group that is not there is gone again if nobody joins it."""
        group = self._groups.get(request.group_id)
        if group is None:
            group = self._add(request.group_id, self._new_consumer(request.group_id))
        machine, steady_ms = group.machine, self.steady_ms()
        if isinstance(machine, ConsumerGroup | SqlGroup):
            self.step(group, asked, machine.consumer_heartbeat, request, asked, sender, new_member_id, steady_ms)
        else:
            self.step(group, asked, upgrade, machine, request, asked, sender, new_member_id, steady_ms, self._catalogue)

    def step(self, group: Group, asked: Asked, act: Callable[..., Step], *arguments: Any) -> None:
        """Let the group's machine take a step for a request, which is answered now or later."""
        self._run(group, asked, act, *arguments)
        asked.park()

    def commit(
        self, group_id: str, member_id: str, commits: Mapping[OffsetKey, Committed], asked: Asked, message: Any
    ) -> None:
        """Write offsets that have been checked, and answer with `message` when they, and all before, are committed."""
        group = self.commit_part(group_id, commits)
        group.after_writes(asked, message)
        if member_id:
            self._run(group, None, group.machine.committed, member_id, self.steady_ms())

    def commit_part(self, group_id: str, commits: Mapping[OffsetKey, Committed]) -> Group:
        """Write offsets that have been checked; more of the same request follow."""
        group = self._groups.get(group_id)
        if group is None:
            group = self._add(group_id, self._new_classic(group_id))
        if group_id in self.pending:
            commits = {key: self._after_pending(group_id, key, committed) for key, committed in commits.items()}
        self._write_offsets(group, commits)
        return group

    def _after_pending(self, group_id: str, key: OffsetKey, committed: Committed) -> Committed:
        """The commit with a time that is after those that wait for transactions, so that these give way to it."""
        pending_ms = self.pending.newest_ms(group_id, key)
        if pending_ms is None or pending_ms < committed.committed_at_ms:
            return committed
        return committed._replace(committed_at_ms=pending_ms + 1)

    def pending_commit_ms(self, group_id: str, key: OffsetKey, wall_ms: int) -> int:
        """When a commit counts as done that waits for its transaction from now on: after all that came before it.

        The order of commits is that of their times, which is why a clock that was set back must not stand above it.
        """
        group = self._groups.get(group_id)
        known = (None if group is None else group.offsets.newest_ms(key), self.pending.newest_ms(group_id, key))
        return max(wall_ms, *(each_ms + 1 for each_ms in known if each_ms is not None), 0)

    def expect(self, group_id: str) -> None:
        """Have a group, without members, for offsets that a transaction will commit."""
        if group_id not in self._groups:
            self._add(group_id, self._new_classic(group_id))

    async def loaded(self) -> None:
        """Wait until groups are served."""
        await self._served.wait()

    def commit_with_transaction(self, group_id: str, commits: Mapping[OffsetKey, Committed]) -> list[JournalWrite]:
        """Writes of offsets that a transaction commits; whoever ends it has them written, and calls their `done`.

        Where the group has committed something later meanwhile, that stays. Raises StorageError.
        """
        group = self._groups.get(group_id)
        if group is None:
            group = self._add(group_id, self._new_classic(group_id))
        changes = {key: committed for key, committed in commits.items() if group.offsets.is_news(key, committed)}
        if not changes:
            return []
        writes = [_offset_write(key, committed) for key, committed in changes.items()]
        write = self._store.prepared(group_id, writes, partial(self._on_written, group, changes))
        group.offsets.stage(changes)
        group.is_stored = True
        group.issued += 1
        return [write]

    # -- groups that SQL drives --------------------------------------------------------------------------------------

    async def _follow_sql_groups(self) -> None:
        if self._sql_groups is None:
            return
        driven = await self._sql_groups.names()
        if self.refusal is not ErrorCode.NONE:
            return  # they are loaded in a moment
        for group in [each for each in self if isinstance(each.machine, SqlGroup) and each.id not in driven]:
            self._not_driven_by_sql(group)
            self._remove_if_empty(group)
        for group_id in driven:
            self.driven_by_sql(group_id)

    def driven_by_sql(self, group_id: str) -> None:
        """SQL drives the group from now on, whose members, if any had come meanwhile, have not been told an offset."""
        group = self._groups.get(group_id)
        if group is None:
            group = self._add(group_id, SqlGroup(group_id))
        elif isinstance(group.machine, SqlGroup):
            return
        former = group.machine
        if former.members:
            logger.warning("SQL drives a group that clients were about to join", extra={"group": group_id})
            group.put_out = frozenset((each.client_id, each.client_host) for each in former.members.values())
            group.put_out_until_ms = self.steady_ms() + PUT_OUT_MS
        self._drop_parked(group, ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        self._timers.clear(group)
        group.machine, group.before_sql, group.offsets = SqlGroup(group_id), group.offsets, GroupOffsets()
        records = former.tombstones()
        if records and former.members:
            self._write(group, records, (), [HistoryEntry("driven by SQL", _generation(former))])

    def _not_driven_by_sql(self, group: Group) -> None:
        """The group belongs to Kafka's clients again."""
        group.machine = self._new_classic(group.id)
        group.offsets, group.before_sql = group.before_sql or GroupOffsets(), None
        group.put_out = frozenset()

    def _remove_if_empty(self, group: Group) -> None:
        if group.offsets.is_empty and group.settled == group.issued:
            self._remove(group)

    def was_member(self, group_id: str, client_id: str, client_host: str) -> bool:
        """Was there such a member until SQL came to drive the group, a moment ago?"""
        group = self._groups.get(group_id)
        if group is None or (client_id, client_host) not in group.put_out:
            return False
        return self.steady_ms() < group.put_out_until_ms

    async def read_sql_offsets(self, group_ids: Collection[str] | None = None) -> None:
        """Have the offsets of groups that SQL drives in memory as they are now, of all without ids. Raises StorageError."""
        if self._sql_groups is None:
            return
        wanted = [each.id for each in self if isinstance(each.machine, SqlGroup)] if group_ids is None else group_ids
        if not wanted:
            return
        found: dict[str, dict[OffsetKey, Committed]] = {group_id: {} for group_id in wanted}
        for number, o in enumerate(await self._sql_groups.offsets(wanted)):
            if number % OFFSETS_PER_TURN == OFFSETS_PER_TURN - 1:
                await asyncio.sleep(0)
            found[o.group_id][o.topic_id, o.partition] = Committed(o.offset, -1, "", o.committed_at_ms)
        for group_id, offsets in found.items():
            group = self._groups.get(group_id)
            if group is not None and isinstance(group.machine, SqlGroup):
                group.offsets = GroupOffsets(offsets)

    # -- commits by SQL ----------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """Which load the groups in memory are from, or will be."""
        return self._term

    def commits_by_sql(self, group_id: str) -> bool:
        """Has a member of the group, or of one of that name before, committed by SQL?"""
        return group_id in self._taken

    def take_commits(self, commits: Iterable[MemberCommit]) -> None:
        """Write what members have committed by SQL, one commit of a place; what was taken before is passed over."""
        by_group: dict[str, dict[OffsetKey, MemberCommit]] = {}
        for commit in commits:
            key, taken = (commit.topic_id, commit.partition), self._taken.get(commit.group_id, {})
            is_new = commit.id > max(taken.get("", 0), taken.get(_taken_key(key), 0))
            if is_new and self._catalogue.name_of(commit.topic_id) is not None:
                by_group.setdefault(commit.group_id, {})[key] = commit
        for group_id, of_group in by_group.items():
            group = self._groups.get(group_id)
            if group is None:
                group = self._add(group_id, self._new_classic(group_id))
            elif isinstance(group.machine, SqlGroup):
                continue  # what was committed before SQL drove the group
            offsets: dict[OffsetKey, Committed] = {}
            for key, c in of_group.items():
                # Its order is that of being taken in, whatever two clocks say.
                known_ms = (group.offsets.newest_ms(key), self.pending.newest_ms(group_id, key))
                committed_at_ms = max(c.committed_at_ms, *(ms for ms in known_ms if ms is not None), 0)
                offsets[key] = Committed(c.offset, c.leader_epoch, c.metadata, committed_at_ms)
            ids = {_taken_key(key): commit.id for key, commit in of_group.items()}
            self._taken.setdefault(group_id, {}).update(ids)
            records = [Record(_TAKEN, key, {"id": number}) for key, number in ids.items()]
            self._write(group, records, offsets, ())

    def forget_taken(self, groups_with_commits: Collection[str]) -> None:
        """Groups that are gone, and of which no commit by SQL is left, leave nothing behind."""
        for group_id in [each for each in self._taken if each not in self._groups and each not in groups_with_commits]:
            records = [Record(_TAKEN, key, None) for key in self._taken.pop(group_id)]
            self._store.write(group_id, records, (), (), partial(self._on_forgotten, group_id, self._term))

    def _on_forgotten(self, group_id: str, term: int, error: StorageError | None) -> None:
        if error is not None and term == self._term:
            self._fail(str(error), group_id)

    async def delete_offsets(self, group: Group, keys: Collection[OffsetKey]) -> int:
        """Forget offsets; the error code says whether that is committed."""
        self._write_offsets(group, dict.fromkeys(keys))
        return await group.written()

    async def delete(self, group: Group) -> int:
        """Delete a group and its offsets; the error code says whether that is committed, or why it must not be."""
        code = group.machine.check_delete()
        if code:
            return int(code)
        if isinstance(group.machine, SqlGroup):
            assert self._sql_groups is not None
            try:
                if not await self._sql_groups.delete(group.id):
                    return int(ErrorCode.NON_EMPTY_GROUP)
            except StorageError:
                return int(ErrorCode.COORDINATOR_NOT_AVAILABLE)
            if self._groups.get(group.id) is not group:
                return int(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
            self._not_driven_by_sql(group)
        self._delete(group, HistoryEntry("group deleted", _generation(group.machine)))
        return await group.written()

    def name_of(self, topic_id: int) -> str | None:
        """The name of the topic with this number; None when it is gone."""
        return self._catalogue.name_of(topic_id)

    def configs_of(self, group_id: str) -> Mapping[str, str]:
        """What has been set for the group."""
        return self._configs.get(group_id, {})

    async def alter_configs(
        self, group_id: str, operations: Sequence[Change], *, replaces: bool = False, validate_only: bool = False
    ) -> None:
        """Change a group's configs; with `replaces`, what is not named goes.

        Raises InvalidChange, InvalidConfig, StorageError.
        """
        async with self._configs_lock:
            before = {} if replaces else self.configs_of(group_id)
            changed = group_configs.altered(before, operations, self._settings.current)
            if validate_only or changed == self.configs_of(group_id):
                return
            await self._stored_configs.set(group_id, changed)
            self._take_configs(group_id, changed)

    async def follow(self, changes: Sequence[catalogue_changes.Change] | None) -> None:
        """Take over configs of groups that others have changed in the database; None: whatever it was.

        Raises StorageError.
        """
        if changes is None or any(change.kind == "sql group" for change in changes):
            await self._follow_sql_groups()
        asked = None if changes is None else {change.name for change in changes if change.kind == "group config"}
        if asked is not None and not asked:
            return
        async with self._configs_lock:
            stored = await self._stored_configs.load()
            for group_id in {*stored, *self._configs} if asked is None else asked:
                configs = stored.get(group_id, {})
                if configs != self.configs_of(group_id):
                    self._take_configs(group_id, configs)

    def listed_configs(self) -> list[str]:
        """The groups for which something has been set."""
        return list(self._configs)

    def _take_configs(self, group_id: str, configs: dict[str, str]) -> None:
        """This is what is set for a group."""
        if configs:
            self._configs[group_id] = configs
        else:
            self._configs.pop(group_id, None)
        group = self._groups.get(group_id)
        if group is not None and isinstance(group.machine, ConsumerGroup):
            group.machine.set_settings(self._settings_of(group_id))

    # -- steps -------------------------------------------------------------------------------------------------------

    def _add(self, group_id: str, machine: Machine) -> Group:
        group = self._groups[group_id] = Group(group_id, machine, self._term)
        return group

    def _new_classic(self, group_id: str) -> ClassicGroup:
        return ClassicGroup(group_id, self._settings_of(group_id))

    def _new_consumer(self, group_id: str) -> ConsumerGroup:
        return ConsumerGroup(group_id, self._settings_of(group_id), self._catalogue)

    def _settings_of(self, group_id: str) -> GroupSettings:
        configs = self._configs.get(group_id)
        return group_configs.effective(configs, self._settings.current) if configs else self._without_configs

    def _renew_settings(self) -> None:
        """The broker's settings have changed: groups of the consumer protocol follow, as after a change of their own."""
        self._without_configs = group_configs.group_settings(self._settings.current)
        for group in self._groups.values():
            if isinstance(group.machine, ConsumerGroup):
                group.machine.set_settings(self._settings_of(group.id))

    def _run(self, group: Group, asked: Asked | None, act: Callable[..., Step], *arguments: Any) -> None:
        try:
            step = act(*arguments)
            self._perform(group, step)
        except Exception as error:
            self._fail("a group's machine failed", group.id, error)
            if asked is not None and not asked.is_answered:
                asked.refuse(ErrorCode.UNKNOWN_SERVER_ERROR)

    def _perform(self, group: Group, step: Step) -> None:
        if step.becomes is not None:
            self._timers.clear(group)
            group.machine = step.becomes
            if isinstance(group.machine, ConsumerGroup):
                group.machine.set_settings(self._settings_of(group.id))
        if step.timers:
            self._timers.update(group, step.timers)
        if step.records or step.history:
            self._write(group, step.records, (), step.history)
        for token, message in step.replies:
            asked = cast(Asked, token)
            asked.decide()
            group.after_writes(asked, message)
        if step.is_dead or not (group.is_stored or group in self._timers):
            self._remove(group)

    def _on_timer(self, group: object, name: TimerName) -> None:
        assert isinstance(group, Group)
        self._run(group, None, group.machine.on_timer, name, self.steady_ms())

    def ask_permissions(self, see: Callable[[str, str, frozenset[str]], frozenset[str]]) -> None:
        """Leave out of what members' expressions match what they may not describe."""
        self._catalogue.see = see

    def permissions_changed(self) -> None:
        """Expressions are looked at again."""
        self._catalogue.permissions_changed()

    def _on_catalogue(self) -> None:
        """Topics have changed: tell the groups soon, once for all that changes in this turn of the loop."""
        if self._catalogue_handle is None:
            self._catalogue_handle = asyncio.get_running_loop().call_soon(self._tell_catalogue)

    def _tell_catalogue(self) -> None:
        self._catalogue_handle = None
        steady_ms = self.steady_ms()
        for group in self:
            if isinstance(group.machine, ConsumerGroup) and group.term == self._term:
                self._run(group, None, group.machine.on_catalogue, steady_ms)

    def _remove(self, group: Group) -> None:
        """Forget a group that has come to nothing; with offsets it lives on as one without members."""
        self._timers.clear(group)
        if self._groups.get(group.id) is not group or isinstance(group.machine, SqlGroup):
            return
        if group.offsets.is_empty:
            del self._groups[group.id]
        else:
            group.machine = self._new_classic(group.id)

    def _delete(self, group: Group, *history: HistoryEntry) -> None:
        """Delete an empty group and its offsets, in memory now and in the database soon."""
        self._drop_parked(group, ErrorCode.COORDINATOR_NOT_AVAILABLE)
        keys = group.offsets.keys()
        self._timers.clear(group)
        del self._groups[group.id]
        records = [*group.machine.tombstones(), *self._taken_of_gone(group.id)]
        if keys or records:
            self._write(group, records, dict.fromkeys(keys), history)

    def _taken_of_gone(self, group_id: str) -> list[Record]:
        """Records by which commits by SQL that are still in their tables are not taken over for a group that is deleted."""
        taken = self._taken.get(group_id)
        if not taken:
            return []
        newest = max(taken.values())
        self._taken[group_id] = {"": newest}
        gone = [Record(_TAKEN, key, None) for key in taken if key]
        return [*gone, Record(_TAKEN, "", {"id": newest})]

    # -- writes ------------------------------------------------------------------------------------------------------

    def _write_offsets(self, group: Group, changes: Mapping[OffsetKey, Committed | None]) -> None:
        self._write(group, (), changes, ())

    def _write(
        self,
        group: Group,
        records: Sequence[Record],
        offsets: Mapping[OffsetKey, Committed | None] | tuple[()],
        history: Sequence[HistoryEntry],
    ) -> None:
        writes = [_offset_write(key, committed) for key, committed in offsets.items()] if offsets else []
        changes = offsets or {}
        if changes:
            group.offsets.stage(changes)
        group.is_stored = True
        group.issued += 1
        self._store.write(group.id, records, writes, history, partial(self._on_written, group, changes))

    def _on_written(
        self, group: Group, changes: Mapping[OffsetKey, Committed | None], error: StorageError | None
    ) -> None:
        """A write of a group is committed, or has failed; they end in the order in which they began."""
        if error is not None:
            group.is_broken = True
            if group.term == self._term:
                self._fail(str(error), group.id)
        elif changes and not group.is_broken:
            group.offsets.confirm(changes)
        group.settle(failed=error is not None)

    # -- expiry ------------------------------------------------------------------------------------------------------

    async def _expire_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.current.offsets_retention_check_interval_ms / 1000)
            try:
                await self._expire()
            except Exception:
                logger.exception("offsets cannot be expired")

    async def _expire(self) -> None:
        """Delete offsets whose time is over, and groups that have neither members nor offsets left."""
        retention_ms = self._settings.current.offsets_retention_minutes * 60_000
        for number, group in enumerate(self):
            if number % GROUPS_PER_TURN == 0:
                await asyncio.sleep(0)
            if self.refusal is ErrorCode.NONE and self._groups.get(group.id) is group:
                self._expire_group(group, retention_ms)

    def _expire_group(self, group: Group, retention_ms: int) -> None:
        offsets, machine = group.offsets, group.machine
        if isinstance(machine, SqlGroup):
            return
        for topic_id in {key[0] for key, _ in offsets.items()}:
            if self._catalogue.name_of(topic_id) is None:
                offsets.forget_topic(topic_id)
        pending = self.pending.of(group.id)
        expired = [
            key
            for key in offsets.expired(machine, self._catalogue.name_of, self._wall_ms(), retention_ms)
            if key not in pending
        ]
        if not pending and len(expired) == len(offsets.keys()) and not machine.check_delete():
            lines = [HistoryEntry("offsets expired", _generation(machine), detail=f"{len(expired)} partitions")]
            self._delete(group, *lines if expired else ())
        elif expired:
            self._write_offsets(group, dict.fromkeys(expired))


def _taken_key(key: OffsetKey) -> str:
    return f"{key[0]}-{key[1]}"


def _generation(machine: Machine) -> int:
    return machine.epoch if isinstance(machine, ConsumerGroup) else machine.generation


def _offset_write(key: OffsetKey, committed: Committed | None) -> OffsetWrite:
    if committed is None:
        return OffsetWrite(key[0], key[1], None)
    return OffsetWrite(key[0], key[1], *committed)
