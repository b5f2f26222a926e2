"""The door to topics and partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.doors.house import House
from pg_kafka.broker.permission import CLUSTER_NAME, Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.broker.turns import Turns
from pg_kafka.coordinator import topic_names
from pg_kafka.errors import StorageError
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.topics import NewTopic as NewTopic
from pg_kafka.storage.topics import Topic as Topic
from pg_kafka.wire.error_codes import ErrorCode

LOADED_AT_ONCE = 8_000
"""As many as a few readers load side by side; the event loop turns before the next ones."""

_TOPIC = ResourceType.TOPIC


class TopicDoor:
    """See the package."""

    __slots__ = ("_decided", "_has_everything", "_house", "_is_open", "_operation", "_principal", "_who")

    def __init__(self, house: House, who: ConnectionInfo) -> None:
        self._house = house
        self._who = who
        self._is_open = house.is_open
        self._has_everything = house.placement.has_everything
        # Of the last operation that was asked about for a partition, by this principal; most connections have but one.
        self._decided: Mapping[str, bool] = {}
        self._operation: Operation | None = None
        self._principal = ""

    # -- topics ------------------------------------------------------------------------------------------------------

    def find(self, operation: Operation | None, key: str | UUID) -> Topic | None:
        """The topic with this name or id; None when there is none. Raises Refused without permission.

        Without an operation nobody is asked: another broker speaks for a client whom it has asked.
        """
        topics = self._house.topics
        topic = topics.by_name.get(key) if isinstance(key, str) else topics.by_uuid.get(key)
        if not self._is_open and operation is not None:
            name = key if isinstance(key, str) else None if topic is None else topic.name
            if name is not None:  # an id that is no topic's is answered as such: it says nothing about any name
                self._house.check(self._who, operation, _TOPIC, name)
        return topic

    def numbered(self, operation: Operation, topic_id: int) -> Topic | None:
        """The topic with this number of the database's; None also without permission, since nobody has asked for it."""
        topic = self._house.topics.by_id.get(topic_id)
        return None if topic is None or not self.may(operation, topic.name) else topic

    def is_gone(self, topic: Topic) -> bool:
        """Has it been deleted since it was found?"""
        return topic.id not in self._house.topics.by_id

    def seen(self, operation: Operation | None) -> list[Topic]:
        """All topics, without those that are not to be seen; without an operation for who may see the cluster whole."""
        everything = list(self._house.topics.by_name.values())
        if self._is_open or operation is None:
            return everything
        return [topic for topic in everything if self.may(operation, topic.name)]

    async def newest_change(self) -> int:
        """The number of the newest change of the catalogue. Raises StorageError."""
        return await self._house.topics.newest_change()

    def names(self) -> list[str]:
        """Of all topics, for who may see the whole cluster."""
        return list(self._house.topics.by_name)

    def may(self, operation: Operation, name: str) -> bool:
        return self._is_open or self._house.may(self._who, operation, _TOPIC, name)

    def check(self, operation: Operation, name: str) -> None:
        """Raises Refused."""
        self._house.check(self._who, operation, _TOPIC, name)

    # -- partitions --------------------------------------------------------------------------------------------------

    def with_partition(self, operation: Operation | None, key: str | UUID, index: int) -> Topic:
        """The topic with this name or id, which has a partition `index` that is led here. Raises Refused."""
        topics = self._house.topics
        if isinstance(key, str):
            name, topic = key, topics.by_name.get(key)
        else:
            topic = topics.by_uuid.get(key)
            if topic is None:
                raise Refused(ErrorCode.UNKNOWN_TOPIC_ID, f"no topic has the id {key}")
            name = topic.name
        if not (
            self._is_open
            or (self._decided.get(name) and operation is self._operation and self._who.principal is self._principal)
            or operation is None
        ):
            self._ask(operation, name)
        if topic is None or not 0 <= index < topic.partitions:
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {key}-{index}")
        if not self._has_everything and not self._house.placement.leads(topic.id, index):
            raise Refused(ErrorCode.NOT_LEADER_OR_FOLLOWER, f"another broker leads {topic.name}-{index}")
        return topic

    def _ask(self, operation: Operation, name: str) -> None:
        """As `check`; what the authorizer keeps is looked at without a call from then on."""
        house, who = self._house, self._who
        house.check(who, operation, _TOPIC, name)
        self._decided = house.authorizer.decided(who, operation, _TOPIC)
        self._operation, self._principal = operation, who.principal

    def led(self, topic: Topic) -> Sequence[int]:
        """The partitions of a topic that are led here."""
        placement = self._house.placement
        every = range(topic.partitions)
        return every if placement.has_everything else [index for index in every if placement.leads(topic.id, index)]

    def loaded(self, topic: Topic, index: int) -> Partition | None:
        """The partition, when it is in memory."""
        return self._house.log.partition(topic, index)

    async def load(self, wanted: Sequence[tuple[Topic, int]]) -> list[Partition | StorageError]:
        """Load partitions together; one that cannot be loaded does not stop the others."""
        log = self._house.log
        answers: list[Partition | StorageError] = []
        for start in range(0, len(wanted), LOADED_AT_ONCE):
            some = wanted[start : start + LOADED_AT_ONCE]
            try:
                answers += await log.load(some)
            except StorageError as error:
                if error.retriable:  # so it would be for the others
                    return answers + [error] * (len(wanted) - len(answers))
                if len(some) == 1:
                    answers.append(error)
                else:
                    for one in some:
                        answers += await self.load([one])
        return answers

    async def partitions(
        self, operation: Operation | None, keys: Sequence[tuple[str | UUID, int]], turns: Turns
    ) -> list[Partition | Refused]:
        """For each topic name or id and index the loaded partition, or why there is none."""
        found: list[Partition | Refused | None] = []
        wanted: list[tuple[Topic, int]] = []
        async for key, index in turns.each(keys):
            try:
                topic = self.with_partition(operation, key, index)
            except Refused as refused:
                found.append(refused)
                continue
            partition = self.loaded(topic, index)
            if partition is None:
                wanted.append((topic, index))
            found.append(partition)
        loaded = iter(await self.load(wanted) if wanted else ())
        return [_as_partition(next(loaded)) if one is None else one for one in found]

    def lane_of(self, partition: Partition) -> int:
        """Number of the lane that writes to it."""
        return self._house.log.lane_of(partition.topic.id, partition.index)

    # -- changes -----------------------------------------------------------------------------------------------------

    def may_create(self, name: str) -> bool:
        """Who may create topics in the cluster may create any."""
        return (
            self._is_open
            or self._house.may(self._who, Operation.CREATE, ResourceType.CLUSTER, CLUSTER_NAME)
            or self.may(Operation.CREATE, name)
        )

    def to_delete(self, key: str | UUID) -> Topic | None:
        """The topic with this name or id, for who may delete it; None when there is none. Raises Refused.

        Who may delete in the cluster may delete any. A name that the client may not describe is refused whether there
        is a topic or not; one that it may describe and not delete, where there is one.
        """
        topics = self._house.topics
        topic = topics.by_name.get(key) if isinstance(key, str) else topics.by_uuid.get(key)
        if not self._is_open and not self._house.may(self._who, Operation.DELETE, ResourceType.CLUSTER, CLUSTER_NAME):
            if isinstance(key, str):
                self.check(Operation.DESCRIBE, key)
            if topic is not None:
                self.check(Operation.DELETE, topic.name)
        return topic

    def is_taken(self, name: str) -> bool:
        """Is there a topic of this name? For those who may create it."""
        return name in self._house.topics.by_name

    def collision(self, name: str) -> str | None:
        """The topic whose name differs from this one only in what metrics cannot tell apart."""
        return topic_names.collision(name, self._house.topics.by_name)

    async def create(self, specs: Sequence[NewTopic]) -> list[Topic | int]:
        """Create topics: for each a Topic or an error code. Raises StorageError."""
        return await self._house.topics.create(specs)

    async def delete(self, topics: Sequence[Topic]) -> None:
        """Raises StorageError."""
        await self._house.topics.delete(topics)

    async def alter(
        self, topic: Topic, change: Callable[[Mapping[str, str]], dict[str, str]], *, validate_only: bool
    ) -> Topic | None:
        """Change what is set for a topic; None when it is gone. Raises StorageError, and what `change` raises."""
        return await self._house.topics.alter(topic, change, validate_only=validate_only)

    async def grow(self, topic: Topic, partitions: int) -> Topic:
        """Add partitions up to this number. Raises StorageError."""
        return await self._house.topics.grow(topic, partitions)


def _as_partition(loaded: Partition | StorageError) -> Partition | Refused:
    return Refused(loaded.code, loaded.message) if isinstance(loaded, StorageError) else loaded
