"""The door to transactional ids."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.doors.house import House
from pg_kafka.broker.doors.ids import can_be_id
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.broker.transactions import TransactionalId as TransactionalId
from pg_kafka.coordinator.transaction_steps import Step, TopicPartition
from pg_kafka.coordinator.transactions import Transaction
from pg_kafka.storage.endings import Marker
from pg_kafka.storage.partition import Partition
from pg_kafka.wire.error_codes import ErrorCode

_TRANSACTIONAL_ID = ResourceType.TRANSACTIONAL_ID


class TransactionDoor:
    """See the package."""

    __slots__ = ("_house", "_is_open", "_who")

    def __init__(self, house: House, who: ConnectionInfo) -> None:
        self._house = house
        self._who = who
        self._is_open = house.is_open

    def enter(self, operation: Operation, transactional_id: str) -> TransactionRoom:
        """What may be done with a transactional id, whether it is there or not. Raises Refused."""
        self.check(operation, transactional_id)
        return self.entered(transactional_id)

    def entered(self, transactional_id: str) -> TransactionRoom:
        """The same for another broker, which has asked its client. Raises Refused."""
        if not self._is_open and not self._house.placement.coordinates_transactional_id(transactional_id):
            raise Refused(ErrorCode.NOT_COORDINATOR, None)
        return TransactionRoom(self._house, transactional_id)

    def check(self, operation: Operation, transactional_id: str) -> None:
        """Permission alone. Raises Refused."""
        self._house.check(self._who, operation, _TRANSACTIONAL_ID, transactional_id)

    def listed(self) -> Iterator[TransactionalId]:
        """All that are to be seen. Raises Refused while they are loaded."""
        house, who = self._house, self._who
        if house.transactions.refusal:
            raise Refused(house.transactions.refusal, None)
        if house.allows_everything:
            return iter(house.transactions)
        return (one for one in house.transactions if house.may(who, Operation.DESCRIBE, _TRANSACTIONAL_ID, one.id))

    def steady_ms(self) -> int:
        """The time of transactions' machines."""
        return self._house.transactions.steady_ms()

    def admit(
        self,
        transactional_id: str,
        producer: tuple[int, int],
        partitions: Sequence[Partition],
        version: int,
        then: Callable[[Mapping[TopicPartition, int]], None],
    ) -> None:
        """May batches of this producer be appended? `then` is told which partitions must not get theirs. Raises Refused."""
        self.check(Operation.WRITE, transactional_id)
        self._house.transactions.admit(transactional_id, *producer, partitions, version, then)

    def write_markers(self, lane: int, pairs: Sequence[tuple[Partition, Marker]]) -> Awaitable[None]:
        """Write markers that no machine has asked for. Awaiting it raises StorageError."""
        return self._house.transactions.write_markers(lane, pairs)

    async def new_producer_id(self) -> int:
        """A producer id that was never given before. Raises StorageError."""
        return await self._house.log.allocate_producer_id()


class TransactionRoom:
    """One transactional id, which may not be there."""

    __slots__ = ("_house", "id")

    def __init__(self, house: House, transactional_id: str) -> None:
        self._house = house
        self.id = transactional_id

    @property
    def can_be(self) -> bool:
        """Can this be a transactional id?"""
        return can_be_id(self.id)

    @property
    def refusal(self) -> ErrorCode:
        """What requests get while transactional ids are loaded, or given away; NONE while they are served."""
        return self._house.transactions.refusal

    @property
    def one(self) -> TransactionalId | None:
        """The transactional id, as it is at this moment."""
        return self._house.transactions.get(self.id)

    def steady_ms(self) -> int:
        """The time of transactions' machines."""
        return self._house.transactions.steady_ms()

    async def init_producer(self, producer_id: int, epoch: int, timeout_ms: int, version: int) -> Step:
        """A producer begins; the answer is in the step, with an error or when it is committed."""
        return await self._house.transactions.init_producer(self.id, producer_id, epoch, timeout_ms, version)

    async def step(self, act: Callable[[Transaction, int | None], Step], *, may_need_producer_id: bool = False) -> Step:
        """Let the machine take a step; returns it, with the error to answer with, when all is committed."""
        return await self._house.transactions.step(self.id, act, may_need_producer_id=may_need_producer_id)
