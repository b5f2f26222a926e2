"""What a classic group knows: what is stored of it, what follows from that, and every question that changes nothing.

Pure. `apply` is the only way in for what is stored, after a step as after a restart. The events are in classic_group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pg_kafka.config.groups import GroupSettings
from pg_kafka.coordinator.classic_member import CONSUMER_PROTOCOL_TYPE, ClassicMember, from_value, to_value
from pg_kafka.coordinator.records import Record
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import consumer_group_describe as consumer_describe
from pg_kafka.wire.messages.describe_groups import DescribedGroup, DescribedGroupMember

EMPTY: Final = "Empty"
PREPARING: Final = "PreparingRebalance"
COMPLETING: Final = "CompletingRebalance"
STABLE: Final = "Stable"
DEAD: Final = "Dead"


class ClassicState:
    """A classic group between two events. Members and leader run ahead of what is stored while it prepares a rebalance."""

    kind: Final = "classic"

    def __init__(self, group_id: str, settings: GroupSettings) -> None:
        self.group_id = group_id
        self.settings = settings
        self.state = EMPTY
        self.state_since_ms = 0
        self.generation = 0
        self.protocol_type = ""
        self.protocol: str | None = None
        self.leader: str | None = None
        self.members: dict[str, ClassicMember] = {}
        self.subscribed_topics: frozenset[str] | None = None  # None: not known
        self._stored: Record | None = None
        # What follows from the members.
        self._static: dict[str, str] = {}  # member id by instance id
        self._supporters: dict[str, int] = {}  # how many members have a protocol
        self._values: dict[str, tuple[ClassicMember, str, str | None, Mapping[str, Any]]] = {}  # JSON made so far

    # -- what is stored ------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        """Take the stored state over; whoever is no member any more is forgotten in everything that follows from it."""
        value = record.value
        if value is None:
            self.state = DEAD
            self.members, self._static, self._supporters, self._values = {}, {}, {}, {}
            self.leader, self._stored = None, None
            return
        self._stored = record
        self.state, self.state_since_ms = value["state"], value["state_at_ms"]
        self.generation = value["generation"]
        self.protocol_type, self.protocol, self.leader = value["protocol_type"], value["protocol"], value["leader"]
        known, self.members, self._static, self._supporters, self._values = self._values, {}, {}, {}, {}
        topics: set[str] = set()
        is_known = self.protocol_type == CONSUMER_PROTOCOL_TYPE
        for stored in value["members"]:
            member_id = stored["member_id"]
            made = known.get(member_id)
            if made is None or made[3] is not stored:
                made = (from_value(stored), self.protocol_type, self.protocol, stored)
            self._values[member_id] = made
            self._add(made[0])
            if stored["topics"] is None:
                is_known = False
            else:
                topics.update(stored["topics"])
        self.subscribed_topics = frozenset(topics) if is_known else None

    def records_of_state(self) -> list[Record]:
        """What rebuilds the group. While it prepares a rebalance, that is still the generation before."""
        return [self._stored] if self._stored else []

    def _record(self, state: str, state_at_ms: int) -> Record:
        value = {
            "state": state,
            "state_at_ms": state_at_ms,
            "generation": self.generation,
            "protocol_type": self.protocol_type,
            "protocol": self.protocol,
            "leader": self.leader,
            "members": [self._value(member) for member in self.members.values()],
        }
        return Record("classic", "", value)

    def _value(self, member: ClassicMember) -> Mapping[str, Any]:
        made = self._values.get(member.member_id)
        if made is None or made[0] is not member or made[1:3] != (self.protocol_type, self.protocol):
            value = to_value(member, self.protocol_type, self.protocol)
            made = self._values[member.member_id] = (member, self.protocol_type, self.protocol, value)
        return made[3]

    # -- members -------------------------------------------------------------------------------------------------

    def _select_protocol(self) -> str:
        """The one with the most votes among those that all members have; at a tie, what the eldest members want."""
        candidates = {name for name, supporters in self._supporters.items() if supporters == len(self.members)}
        votes: dict[str, int] = {}
        for member in self.members.values():
            name = member.vote(candidates)
            votes[name] = votes.get(name, 0) + 1
        return max(votes, key=votes.__getitem__)

    def _rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    def _check_member(self, member_id: str, instance_id: str | None) -> ErrorCode:
        if instance_id is not None:
            holder = self._static.get(instance_id)
            if holder is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            if holder != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self.members else ErrorCode.UNKNOWN_MEMBER_ID

    def _add(self, member: ClassicMember) -> None:
        self.members[member.member_id] = member
        if member.group_instance_id is not None:
            self._static[member.group_instance_id] = member.member_id
        self._count_protocols(member, 1)

    def _discard(self, member: ClassicMember) -> None:
        del self.members[member.member_id]
        if member.group_instance_id is not None:
            del self._static[member.group_instance_id]
        self._count_protocols(member, -1)

    def _count_protocols(self, member: ClassicMember, by: int) -> None:
        for name in member.protocol_names:
            supporters = self._supporters.get(name, 0) + by
            if supporters:
                self._supporters[name] = supporters
            else:
                del self._supporters[name]

    # -- offsets -------------------------------------------------------------------------------------------------

    def check_commit(
        self,
        member_id: str,
        group_instance_id: str | None,
        generation_or_epoch: int,
        version: int,
        is_transactional: bool = False,
    ) -> ErrorCode:
        """NONE, or why offsets may not be committed by this member and generation. All versions have the same rules."""
        if self.state == DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if generation_or_epoch < 0 and self.state == EMPTY:
            return ErrorCode.NONE  # a consumer without group management, or a tool
        if generation_or_epoch >= 0 or member_id or group_instance_id is not None:
            error = self._check_member(member_id, group_instance_id)
            if error:
                return error
            if generation_or_epoch != self.generation:
                return ErrorCode.ILLEGAL_GENERATION
        elif not is_transactional and self.state != EMPTY:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if not is_transactional and self.state == COMPLETING:
            # It knows the new generation, but commits for what it owned in the one before.
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def check_fetch(self, member_id: str | None, member_epoch: int) -> ErrorCode:
        """NONE, or why offsets may not be fetched: a classic group shows them to everybody."""
        return ErrorCode.GROUP_ID_NOT_FOUND if self.state == DEAD else ErrorCode.NONE

    def check_offset_delete(self) -> ErrorCode:
        """NONE when OffsetDelete may go on and look at each topic with `is_subscribed`."""
        if self.state == DEAD:
            return ErrorCode.GROUP_ID_NOT_FOUND
        is_open = self.state == EMPTY or self.protocol_type == CONSUMER_PROTOCOL_TYPE
        return ErrorCode.NONE if is_open else ErrorCode.NON_EMPTY_GROUP

    def is_subscribed(self, topic_name: str) -> bool:
        """Whether a member reads the topic, or may: what cannot be parsed may name any."""
        if self.state in (EMPTY, DEAD):
            return False
        return self.subscribed_topics is None or topic_name in self.subscribed_topics

    def offset_expiry_base_ms(self, committed_at_ms: int) -> int | None:
        """See group_offsets."""
        if not self.protocol_type:
            return committed_at_ms
        if self.state == EMPTY:
            return self.state_since_ms
        is_judged = self.state == STABLE and self.subscribed_topics is not None
        return committed_at_ms if is_judged else None

    # -- administration ------------------------------------------------------------------------------------------

    def check_delete(self) -> ErrorCode:
        """NONE, or why the group may not be deleted."""
        if self.state == DEAD:
            return ErrorCode.GROUP_ID_NOT_FOUND
        return ErrorCode.NONE if self.state == EMPTY else ErrorCode.NON_EMPTY_GROUP

    def tombstones(self) -> list[Record]:
        """What deletes the group. It is Dead when that is applied."""
        return [Record("classic", "", None)] if self._stored else []

    def describe_classic(self) -> DescribedGroup:
        """The answer to DescribeGroups; only a stable group has a protocol to show metadata of."""
        is_stable = self.state == STABLE
        return DescribedGroup(
            group_id=self.group_id,
            group_state=self.state,
            protocol_type=self.protocol_type,
            protocol_data=(self.protocol or "") if is_stable else "",
            members=[
                DescribedGroupMember(
                    member_id=member.member_id,
                    group_instance_id=member.group_instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    member_metadata=member.metadata(self.protocol) if is_stable else b"",
                    member_assignment=member.assignment,
                )
                for member in self.members.values()
            ],
        )

    def describe_consumer(self) -> consumer_describe.DescribedGroup:
        """The answer to ConsumerGroupDescribe: there is no such consumer group."""
        return consumer_describe.DescribedGroup(
            error_code=ErrorCode.GROUP_ID_NOT_FOUND,
            error_message=f"Group {self.group_id} is not a consumer group.",
            group_id=self.group_id,
        )
