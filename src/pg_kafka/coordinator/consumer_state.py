"""What a group of the consumer protocol knows (KIP-848), what follows from it, and what it answers without changing.

Pure. `apply` is the only way in, live and when the group is loaded; the records of a group may come in any order then.

| kind     | key       | value                                                                                        |
|----------|-----------|----------------------------------------------------------------------------------------------|
| consumer | ""        | epoch, target_epoch (the epoch that the targets are of), topics_hash of the subscribed topics|
| member   | member id | see consumer_member                                                                          |
| target   | member id | see consumer_member                                                                          |
| current  | member id | see consumer_member                                                                          |

| state       | when                                                                   |
|-------------|------------------------------------------------------------------------|
| Empty       | there are no members                                                   |
| Assigning   | the targets are of an older epoch than the group                       |
| Reconciling | a member is not STABLE in the target's epoch                           |
| Stable      | otherwise                                                              |
| Dead        | the group is deleted, or has become a classic one                      |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Final, TypeVar
from uuid import UUID

from pg_kafka.config.groups import GroupSettings
from pg_kafka.coordinator.assignors import NOTHING, Assignment
from pg_kafka.coordinator.classic_member import CONSUMER_PROTOCOL_TYPE
from pg_kafka.coordinator.consumer_member import (
    NOTHING_OWNED,
    ConsumerMember,
    MemberState,
    OwnedPartitions,
    Pattern,
    current_value,
    member_value,
    target_from_value,
    target_value,
    with_current_value,
    with_member_value,
)
from pg_kafka.coordinator.group_steps import Catalogue
from pg_kafka.coordinator.records import Record
from pg_kafka.coordinator.topic_regex import matching
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import consumer_group_describe as consumer_describe
from pg_kafka.wire.messages.describe_groups import DescribedGroup

EMPTY: Final = "Empty"
ASSIGNING: Final = "Assigning"
RECONCILING: Final = "Reconciling"
STABLE: Final = "Stable"
DEAD: Final = "Dead"

FIRST_COMMIT_VERSION: Final = 9
"""OffsetCommit's first version that knows member epochs."""

_HASH_RANGE: Final = 1 << 64
_CLASSIC_MEMBER: Final = 0  # ConsumerGroupDescribe's member types
_CONSUMER_MEMBER: Final = 1


@lru_cache(maxsize=65_536)
def _topic_hash(name: str, topic_id: int, partitions: int) -> int:
    return int.from_bytes(blake2b(f"{name}\0{topic_id}\0{partitions}".encode(), digest_size=8).digest())


class ConsumerState:
    """A group between two events."""

    kind: Final = "consumer"
    protocol_type: Final = CONSUMER_PROTOCOL_TYPE

    def __init__(self, group_id: str, settings: GroupSettings, catalogue: Catalogue) -> None:
        self.group_id = group_id
        self.settings = settings
        self.catalogue = catalogue
        self.is_dead = False
        self.epoch = 0
        self.target_epoch = 0
        self.topics_hash = 0
        self.members: dict[str, ConsumerMember] = {}
        self.targets: dict[str, Assignment] = {}
        # What follows from the members.
        self.static: dict[str, str] = {}  # member id by instance id
        self.classic_members = 0
        self._owners: dict[UUID, dict[int, str]] = {}  # who owns a partition, or has yet to give it up
        self._names: Counter[str] = Counter()  # how many subscribe to a topic by name
        self._patterns: Counter[Pattern] = Counter()
        self._assignors: Counter[str] = Counter()
        self._protocols: Counter[str] = Counter()  # how many classic members have a protocol
        # What follows from the catalogue, as it was when the group last looked.
        self._seen_names: frozenset[str] = frozenset(catalogue.by_name)
        self._matched: dict[Pattern, frozenset[str]] = {}
        self._seen_permissions = catalogue.permissions
        self._topic_ids: dict[tuple[tuple[str, ...], Pattern], frozenset[UUID]] = {}  # by subscription
        self._subscribed_hash: int | None = None

    @property
    def state(self) -> str:
        """One of Kafka's words, see the table above."""
        if self.is_dead:
            return DEAD
        if not self.members:
            return EMPTY
        if self.epoch > self.target_epoch:
            return ASSIGNING
        target_epoch = self.target_epoch
        if all(member.is_reconciled_to(target_epoch) for member in self.members.values()):
            return STABLE
        return RECONCILING

    @property
    def is_blank(self) -> bool:
        """Nothing is stored: the group need not exist, unless it has offsets."""
        return self.epoch == 0 and not self.members

    # -- what is stored ------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        """Take one record over."""
        kind, key, value = record.kind, record.key, record.value
        if kind == "consumer":
            self.is_dead = value is None
            self.epoch = value["epoch"] if value else 0
            self.target_epoch = value["target_epoch"] if value else 0
            self.topics_hash = int(value["topics_hash"], 16) if value else 0
        elif kind == "target":
            if value is None:
                self.targets.pop(key, None)
            else:
                self.targets[key] = target_from_value(value)
        elif kind == "member" and value is None:
            self._remove(key)
        elif kind == "member" and value is not None:
            self._put(with_member_value(self.members.get(key) or ConsumerMember(key), value))
        elif kind == "current" and value is not None:
            self._put(with_current_value(self.members.get(key) or ConsumerMember(key), value))
        elif kind == "current" and key in self.members:
            self._put(
                replace(
                    self.members[key],
                    epoch=0,
                    previous_epoch=-1,
                    state=MemberState.STABLE,
                    assigned=NOTHING_OWNED,
                    pending=NOTHING_OWNED,
                )
            )

    def records_of_state(self) -> list[Record]:
        """What rebuilds the group."""
        records = [self._group_record(self.epoch, self.target_epoch, self.topics_hash)] if self.epoch else []
        for member_id, member in self.members.items():
            records.append(Record("member", member_id, member_value(member)))
            if member_id in self.targets:
                records.append(Record("target", member_id, target_value(self.targets[member_id])))
            if member.epoch:
                records.append(Record("current", member_id, current_value(member)))
        return records

    def tombstones(self) -> list[Record]:
        """What deletes the group."""
        return [Record(record.kind, record.key, None) for record in self.records_of_state()]

    @staticmethod
    def _group_record(epoch: int, target_epoch: int, topics_hash: int) -> Record:
        value = {"epoch": epoch, "target_epoch": target_epoch, "topics_hash": f"{topics_hash:016x}"}
        return Record("consumer", "", value)

    # -- members -------------------------------------------------------------------------------------------------

    def _put(self, member: ConsumerMember) -> None:
        old = self.members.get(member.member_id)
        self.members[member.member_id] = member
        if old is None or old.topics != member.topics or old.pattern != member.pattern:
            self._count_subscription(old, -1)
            self._count_subscription(member, 1)
        if old is None or old.assignor != member.assignor:
            self._count_assignor(old, -1)
            self._count_assignor(member, 1)
        if (old.classic if old else None) != member.classic:
            self._count_protocols(old, -1)
            self._count_protocols(member, 1)
        if old is None or old.assigned is not member.assigned or old.pending is not member.pending:
            if old is not None:
                self._disown(old)
            self._own(member.member_id, member.assigned)
            self._own(member.member_id, member.pending)
        if old is not None and old.instance_id != member.instance_id:
            self._release_instance(old)
        if member.instance_id is not None:
            self.static[member.instance_id] = member.member_id

    def _release_instance(self, member: ConsumerMember) -> None:
        if member.instance_id is not None and self.static.get(member.instance_id) == member.member_id:
            del self.static[member.instance_id]

    def _remove(self, member_id: str) -> None:
        old = self.members.pop(member_id, None)
        if old is None:
            return
        self._count_subscription(old, -1)
        self._count_assignor(old, -1)
        self._count_protocols(old, -1)
        self._disown(old)
        self._release_instance(old)

    def _own(self, member_id: str, owned: OwnedPartitions) -> None:
        for topic, partitions in owned.items():
            self._owners.setdefault(topic, {}).update(dict.fromkeys(partitions, member_id))

    def _disown(self, member: ConsumerMember) -> None:
        for owned in (member.assigned, member.pending):
            for topic, partitions in owned.items():
                owners = self._owners.get(topic, {})
                for partition in partitions:
                    if owners.get(partition) == member.member_id:
                        del owners[partition]
                if not owners:
                    self._owners.pop(topic, None)

    def _count_subscription(self, member: ConsumerMember | None, by: int) -> None:
        if member is None or not (member.topics or member.regex):
            return
        for name in member.topics:
            if _count(self._names, name, by):
                self._subscribed_hash = None
        if member.regex and _count(self._patterns, member.pattern, by):
            self._subscribed_hash = None
            if by < 0:
                self._matched.pop(member.pattern, None)

    def _count_assignor(self, member: ConsumerMember | None, by: int) -> None:
        if member is not None and member.assignor is not None:
            _count(self._assignors, member.assignor, by)

    def _count_protocols(self, member: ConsumerMember | None, by: int) -> None:
        if member is None or member.classic is None:
            return
        self.classic_members += by
        for name in dict.fromkeys(name for name, _ in member.classic.protocols):
            _count(self._protocols, name, by)

    def _static_member(self, instance_id: str) -> ConsumerMember | None:
        member_id = self.static.get(instance_id)
        return None if member_id is None else self.members[member_id]

    def supports_classic(self, protocol_type: str, names: Iterable[str]) -> bool:
        """Whether one of these protocols is one that all classic members have."""
        if protocol_type != CONSUMER_PROTOCOL_TYPE:
            return False
        return any(self._protocols.get(name, 0) == self.classic_members for name in names)

    def preferred_assignor(self) -> str:
        """What most members ask for; at a tie, and when none does, what comes first in group.consumer.assignors."""
        known = self.settings.group_consumer_assignors
        return max(known, key=lambda name: (self._assignors.get(name, 0), -known.index(name)))

    def is_owned_by_another(self, member_id: str, topic: UUID, partition: int) -> bool:
        """Another member owns the partition or has not said yet that it gave it up."""
        owner = self._owners.get(topic, {}).get(partition)
        return owner is not None and owner != member_id

    def waits_for_others(self, member: ConsumerMember) -> bool:
        """Some of the member's target is not free."""
        return any(
            partition not in member.assigned.get(topic, {})
            and self.is_owned_by_another(member.member_id, topic, partition)
            for topic, partitions in self.targets.get(member.member_id, NOTHING).items()
            for partition in partitions
        )

    # -- topics --------------------------------------------------------------------------------------------------

    def _topics_of(self, pattern: Pattern) -> frozenset[str]:
        found = self._matched.get(pattern)
        if found is None:
            found = self._matched[pattern] = self._matching(pattern, self._seen_names)
        return found

    def _matching(self, pattern: Pattern, names: frozenset[str]) -> frozenset[str]:
        """What an expression matches of these, without what its member may not describe."""
        found = matching(pattern.regex, names)
        return self.catalogue.seen_by(pattern.principal, pattern.host, found) if pattern.principal else found

    def _look_at_catalogue(self) -> None:
        """Take the topics that there are now; expressions look at the new names only, unless permissions have changed."""
        if self._seen_permissions != self.catalogue.permissions:
            self._seen_permissions = self.catalogue.permissions
            self._matched.clear()
        names = frozenset(self.catalogue.by_name)
        new = names - self._seen_names
        self._matched = {
            pattern: (topics & names) | self._matching(pattern, new) if new or topics - names else topics
            for pattern, topics in self._matched.items()
        }
        self._seen_names = names
        self._topic_ids.clear()
        self._subscribed_hash = None

    def subscribed_ids(self, member: ConsumerMember) -> frozenset[UUID]:
        """The topics that exist and that the member subscribes to; one object for all of the same subscription."""
        key = (member.topics, member.pattern)
        found = self._topic_ids.get(key)
        if found is None:
            names = self._topics_of(member.pattern).union(member.topics) if member.regex else member.topics
            by_name = self.catalogue.by_name
            if len(self._topic_ids) > 2 * len(self.members) + 16:
                self._topic_ids.clear()  # of subscriptions that nobody has any more
            found = frozenset(by_name[name].uuid for name in names if name in by_name)
            self._topic_ids[key] = found
        return found

    def hash_of_topics(self) -> int:
        """Changes when a subscribed topic appears, goes, or has more partitions, and when somebody may see another one.

        The order of topics is no matter.
        """
        if self._subscribed_hash is None:
            names = set(self._names).union(*(self._topics_of(pattern) for pattern in self._patterns))
            by_name = self.catalogue.by_name
            topics = (by_name[name] for name in names if name in by_name)
            total = sum(_topic_hash(topic.name, topic.id, topic.partitions) for topic in topics)
            total += sum(
                _topic_hash(f"{pattern.principal} {pattern.host} {name}", by_name[name].id, 0)
                for pattern in self._patterns
                if pattern.principal
                for name in self._topics_of(pattern)
                if name in by_name
            )
            self._subscribed_hash = total % _HASH_RANGE
        return self._subscribed_hash

    def is_subscribed(self, topic_name: str) -> bool:
        """A member subscribes to the topic, by name or by expression."""
        return topic_name in self._names or any(topic_name in self._topics_of(pattern) for pattern in self._patterns)

    # -- offsets -------------------------------------------------------------------------------------------------

    def check_commit(
        self,
        member_id: str,
        group_instance_id: str | None,
        generation_or_epoch: int,
        version: int,
        is_transactional: bool = False,
        partitions: Iterable[tuple[UUID, int]] | None = None,
    ) -> ErrorCode:
        """NONE, or why offsets may not be committed by this member and epoch.

        A member whose epoch is behind may commit for what it got in that epoch or before and still owns, so that a new
        epoch does not fail commits under way (KIP-1251); that takes the `partitions` of the request.
        """
        if generation_or_epoch < 0 and not self.members:
            return ErrorCode.NONE  # a consumer without group management, or a tool
        if is_transactional and generation_or_epoch == -1 and not member_id and group_instance_id is None:
            return ErrorCode.NONE  # a producer that does not say whose offsets these are
        member = self.members.get(member_id)
        if member is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if not is_transactional and member.classic is None and version < FIRST_COMMIT_VERSION:
            return ErrorCode.UNSUPPORTED_VERSION
        if generation_or_epoch == member.epoch:
            return ErrorCode.NONE
        if generation_or_epoch < member.epoch and partitions is not None:
            since = [member.owned_since(topic, partition) for topic, partition in partitions]
            if all(epoch is not None and epoch <= generation_or_epoch for epoch in since):
                return ErrorCode.NONE
        return _wrong_epoch(member)

    def check_fetch(self, member_id: str | None, member_epoch: int) -> ErrorCode:
        """NONE, or why offsets may not be fetched. Who names neither member nor epoch may."""
        if self.is_dead:
            return ErrorCode.GROUP_ID_NOT_FOUND
        if member_id is None and member_epoch < 0:
            return ErrorCode.NONE
        member = self.members.get(member_id or "")
        if member is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        return ErrorCode.NONE if member_epoch == member.epoch else _wrong_epoch(member)

    def check_offset_delete(self) -> ErrorCode:
        """NONE: OffsetDelete may go on and look at each topic with `is_subscribed`."""
        return ErrorCode.GROUP_ID_NOT_FOUND if self.is_dead else ErrorCode.NONE

    def offset_expiry_base_ms(self, committed_at_ms: int) -> int | None:
        """See group_offsets."""
        return committed_at_ms

    # -- administration ------------------------------------------------------------------------------------------

    def check_delete(self) -> ErrorCode:
        """NONE, or why the group may not be deleted."""
        if self.is_dead:
            return ErrorCode.GROUP_ID_NOT_FOUND
        return ErrorCode.NON_EMPTY_GROUP if self.members else ErrorCode.NONE

    def describe_classic(self) -> DescribedGroup:
        """The answer to DescribeGroups: there is no such classic group. Versions before 6 have no error, only Dead."""
        return DescribedGroup(
            error_code=ErrorCode.GROUP_ID_NOT_FOUND,
            error_message=f"Group {self.group_id} is not a classic group.",
            group_id=self.group_id,
            group_state=DEAD,
        )

    def describe_consumer(self) -> consumer_describe.DescribedGroup:
        """The answer to ConsumerGroupDescribe."""
        if self.is_dead:
            return consumer_describe.DescribedGroup(
                error_code=ErrorCode.GROUP_ID_NOT_FOUND,
                error_message=f"Group {self.group_id} not found.",
                group_id=self.group_id,
            )
        return consumer_describe.DescribedGroup(
            group_id=self.group_id,
            group_state=self.state,
            group_epoch=self.epoch,
            assignment_epoch=self.target_epoch,
            assignor_name=self.preferred_assignor(),
            members=[self._described(member) for member in self.members.values()],
        )

    def _described(self, member: ConsumerMember) -> consumer_describe.Member:
        return consumer_describe.Member(
            member_id=member.member_id,
            instance_id=member.instance_id,
            rack_id=member.rack_id,
            member_epoch=member.epoch,
            client_id=member.client_id,
            client_host=member.client_host,
            subscribed_topic_names=member.topics,
            subscribed_topic_regex=member.regex,
            assignment=self._described_partitions(member.assigned),
            target_assignment=self._described_partitions(self.targets.get(member.member_id, NOTHING)),
            member_type=_CONSUMER_MEMBER if member.classic is None else _CLASSIC_MEMBER,
        )

    def _described_partitions(self, partitions: Mapping[UUID, Iterable[int]]) -> consumer_describe.Assignment:
        by_uuid = self.catalogue.by_uuid
        return consumer_describe.Assignment(
            topic_partitions=[
                consumer_describe.TopicPartitions(
                    topic_id=topic, topic_name=by_uuid[topic].name, partitions=list(numbers)
                )
                for topic, numbers in partitions.items()
                if topic in by_uuid
            ]
        )


_Counted = TypeVar("_Counted", str, Pattern)


def _count(counter: Counter[_Counted], name: _Counted, by: int) -> bool:
    """Whether the name is there for the first time, or no longer."""
    count = counter.get(name, 0) + by
    if count:
        counter[name] = count
    else:
        counter.pop(name, None)
    return count == 0 or (count == 1 and by > 0)


def _wrong_epoch(member: ConsumerMember) -> ErrorCode:
    return ErrorCode.STALE_MEMBER_EPOCH if member.classic is None else ErrorCode.ILLEGAL_GENERATION
