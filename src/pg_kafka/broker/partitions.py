"""How handlers get from what a request names to a partition that this broker serves, and the errors on the way."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from pg_kafka.broker.context import Broker
from pg_kafka.errors import StorageError
from pg_kafka.storage.log import Log
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.topics import Topic, Topics
from pg_kafka.wire.error_codes import ErrorCode

FIRST_VERSION_WITH_TOPIC_IDS = 13
"""Produce and Fetch name topics by id from this version on, by name before."""

LOADED_AT_ONCE = 8_000
"""As many as a few readers load side by side; the event loop turns before the next ones."""


class PartitionError(Exception):
    """Why a partition cannot be served; `code` is the answer for it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = int(code)
        self.message = message


def find_topic(topics: Topics, key: str | UUID, index: int) -> Topic:
    """The topic with this name or id, which has a partition `index`. Raises PartitionError."""
    if isinstance(key, str):
        topic = topics.by_name.get(key)
    else:
        topic = topics.by_uuid.get(key)
        if topic is None:
            raise PartitionError(ErrorCode.UNKNOWN_TOPIC_ID, f"no topic has the id {key}")
    if topic is None or not 0 <= index < topic.partitions:
        raise PartitionError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {key}-{index}")
    return topic


def check_leader_epoch(partition: Partition, epoch: int) -> ErrorCode:
    """What a client that believes in leader epoch `epoch` (-1: it does not say) is told (KIP-320)."""
    if epoch == -1 or epoch == partition.leader_epoch:
        return ErrorCode.NONE
    return ErrorCode.FENCED_LEADER_EPOCH if epoch < partition.leader_epoch else ErrorCode.UNKNOWN_LEADER_EPOCH


async def load_each(log: Log, wanted: Sequence[tuple[Topic, int]]) -> list[Partition | StorageError]:
    """Load partitions together; one that cannot be loaded does not stop the others."""
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
                    answers += await load_each(log, [one])
    return answers


async def find_loaded(broker: Broker, keys: Sequence[tuple[str | UUID, int]]) -> list[Partition | PartitionError]:
    """For each topic name or id and index the loaded partition, or why there is none."""
    topics, log = broker.topics, broker.log
    found: list[Partition | PartitionError | None] = []
    wanted: list[tuple[Topic, int]] = []
    async for key, index in broker.turns.each(keys):
        try:
            topic = find_topic(topics, key, index)
        except PartitionError as error:
            found.append(error)
            continue
        partition = log.partition(topic, index)
        if partition is None:
            wanted.append((topic, index))
        found.append(partition)
    loaded = iter(await load_each(log, wanted) if wanted else ())
    return [_as_partition(next(loaded)) if one is None else one for one in found]


def _as_partition(loaded: Partition | StorageError) -> Partition | PartitionError:
    return PartitionError(loaded.code, loaded.message) if isinstance(loaded, StorageError) else loaded
