"""The door to groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from pg_kafka.broker.answers import Asked
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.doors.house import House
from pg_kafka.broker.doors.ids import can_be_id
from pg_kafka.broker.groups import Group as Group
from pg_kafka.broker.permission import CLUSTER_NAME, Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.config.changes import Change
from pg_kafka.coordinator.group_offsets import Committed, OffsetKey
from pg_kafka.coordinator.group_steps import Sender, Step
from pg_kafka.coordinator.sql_group import SqlGroup
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest

_GROUP = ResourceType.GROUP


class GroupDoor:
    """See the package."""

    __slots__ = (
        "_decided",
        "_groups",
        "_has_everything",
        "_house",
        "_is_open",
        "_operation",
        "_principal",
        "_room",
        "_who",
    )

    def __init__(self, house: House, who: ConnectionInfo) -> None:
        self._house = house
        self._groups = house.groups
        self._who = who
        self._is_open = house.is_open
        self._has_everything = house.placement.has_everything
        # Of the last operation that was asked about, by this principal; most connections have but one.
        self._decided: Mapping[str, bool] = {}
        self._operation: Operation | None = None
        self._principal = ""
        self._room = GroupRoom(house, "")  # the last one: most connections ask for one group all the time

    def enter(self, operation: Operation, group_id: str) -> GroupRoom:
        """What may be done with a group, whether it is there or not. Raises Refused, also while groups are loaded."""
        if not (
            self._is_open
            or (
                self._decided.get(group_id)
                and operation is self._operation
                and self._who.principal is self._principal
                and self._has_everything
            )
        ):
            self.check(operation, group_id)
        refusal = self._groups.refusal
        if refusal:
            raise Refused(refusal, None)
        if self._room.id != group_id:
            self._room = GroupRoom(self._house, group_id)
        return self._room

    def check(self, operation: Operation, group_id: str) -> None:
        """Permission and place alone. Raises Refused."""
        if self._is_open:
            return
        house, who = self._house, self._who
        house.check(who, operation, _GROUP, group_id)
        self._decided = house.authorizer.decided(who, operation, _GROUP)
        self._operation, self._principal = operation, who.principal
        if not self._has_everything and not house.placement.coordinates_group(group_id):
            raise Refused(ErrorCode.NOT_COORDINATOR, None)

    def listed(self) -> Iterator[Group]:
        """All groups that are to be seen: every one by who may describe the cluster. Raises Refused."""
        house, who = self._house, self._who
        if house.groups.refusal:
            raise Refused(house.groups.refusal, None)
        if house.may(who, Operation.DESCRIBE, ResourceType.CLUSTER, CLUSTER_NAME):
            return iter(house.groups)
        return (group for group in house.groups if house.may(who, Operation.DESCRIBE, _GROUP, group.id))

    def with_configs(self) -> list[str]:
        """The groups for which something is set, for who may see the whole cluster."""
        return self._house.groups.listed_configs()

    def configs_of(self, group_id: str) -> Mapping[str, str]:
        """What has been set for a group, for who may know it. Raises Refused."""
        self._house.check(self._who, Operation.DESCRIBE_CONFIGS, _GROUP, group_id)
        return self._house.groups.configs_of(group_id)


class GroupRoom:
    """One group id, whose group may not be there. It keeps nothing of what it was asked."""

    __slots__ = ("_groups", "_member_commits", "_transactions", "id")

    def __init__(self, house: House, group_id: str) -> None:
        self._groups = house.groups
        self._member_commits = house.member_commits
        self._transactions = house.transactions
        self.id = group_id

    @property
    def can_be(self) -> bool:
        """Can there be a group with this id?"""
        return can_be_id(self.id)

    @property
    def group(self) -> Group | None:
        """The group, as it is at this moment."""
        return self._groups.get(self.id)

    @property
    def refusal(self) -> ErrorCode:
        """Whether groups are served no longer than until the event loop last turned; NONE while they are."""
        return self._groups.refusal

    # -- members -----------------------------------------------------------------------------------------------------

    def steady_ms(self) -> int:
        """The time of groups' machines."""
        return self._groups.steady_ms()

    def joined(self, *, is_new_member: bool) -> Group | None:
        """The group that a member may join by the classic protocol; None when the member can know no such group."""
        return self._groups.join_classic(self.id, is_new_member=is_new_member)

    def step(self, group: Group, asked: Asked, act: Callable[..., Step], *arguments: Any) -> None:
        """Let the group's machine take a step for a request, which is answered now or later."""
        self._groups.step(group, asked, act, *arguments)

    def consumer_heartbeat(
        self, request: ConsumerGroupHeartbeatRequest, asked: Asked, sender: Sender, new_member_id: str
    ) -> None:
        """Let a member of the consumer protocol speak."""
        self._groups.consumer_heartbeat(request, asked, sender, new_member_id)

    # -- offsets -----------------------------------------------------------------------------------------------------

    def commit(self, member_id: str, commits: Mapping[OffsetKey, Committed], asked: Asked, message: Any) -> None:
        """Write offsets that have been checked, and answer with `message` when they, and all before, are committed."""
        self._groups.commit(self.id, member_id, commits, asked, message)

    def commit_part(self, commits: Mapping[OffsetKey, Committed]) -> None:
        """Write offsets that have been checked; more of the same request follow."""
        self._groups.commit_part(self.id, commits)

    def pending(self) -> Collection[OffsetKey]:
        """The partitions whose offsets wait for the end of a transaction."""
        return self._groups.pending.of(self.id)

    @property
    def is_pending(self) -> bool:
        """Does any commit of the group wait for the end of a transaction?"""
        return self.id in self._groups.pending

    def pending_commit_ms(self, key: OffsetKey, now_ms: int) -> int:
        """When a commit counts as done that waits for its transaction from now on."""
        return self._groups.pending_commit_ms(self.id, key, now_ms)

    def expect(self) -> None:
        """Have the group, without members, for offsets that a transaction will commit."""
        self._groups.expect(self.id)

    async def forget_pending(self, keys: Collection[OffsetKey] | None = None) -> int:
        """Offsets that wait for a transaction go, all without keys. An error code."""
        return await self._transactions.forget_offsets(self.id, keys)

    async def delete_offsets(self, group: Group, keys: Collection[OffsetKey]) -> int:
        """Forget offsets; the error code says whether that is committed."""
        return await self._groups.delete_offsets(group, keys)

    # -- commits by SQL ----------------------------------------------------------------------------------------------

    @property
    def commits_by_sql(self) -> bool:
        """Have members of the group committed by SQL?"""
        return self._groups.commits_by_sql(self.id)

    async def settle_commits(self, keys: Collection[OffsetKey], *, waits: bool = True) -> Collection[OffsetKey]:
        """Have the group's offsets be what is committed by SQL as well; returns where a transaction is still open.

        Raises StorageError.
        """
        if self._member_commits is None:
            return ()
        busy = await self._member_commits.settled(self.id, keys, waits=waits)
        if self.is_driven_by_sql:
            await self._groups.read_sql_offsets([self.id])
        return busy

    @property
    def is_driven_by_sql(self) -> bool:
        """Is it kafka.poll() that moves the group's offsets, as far as is known?"""
        group = self.group
        return group is not None and isinstance(group.machine, SqlGroup)

    def was_member(self, client_id: str, client_host: str) -> bool:
        """Was there a member on that host with that name until SQL came to drive the group, and may not know it yet?"""
        return self._groups.was_member(self.id, client_id, client_host)

    # -- the whole ---------------------------------------------------------------------------------------------------

    async def delete(self, group: Group) -> int:
        """Delete a group and its offsets; the error code says whether that is committed, or why it must not be."""
        return await self._groups.delete(group)

    async def alter_configs(
        self, operations: Sequence[Change], *, replaces: bool = False, validate_only: bool = False
    ) -> None:
        """Change the group's configs. Raises InvalidChange, InvalidConfig, StorageError."""
        await self._groups.alter_configs(self.id, operations, replaces=replaces, validate_only=validate_only)
