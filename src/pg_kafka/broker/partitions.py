"""What Produce, Fetch and the questions about partitions have in common."""

from __future__ import annotations

from pg_kafka.storage.partition import Partition
from pg_kafka.wire.error_codes import ErrorCode

FIRST_VERSION_WITH_TOPIC_IDS = 13
"""Produce and Fetch name topics by id from this version on, by name before."""


def check_leader_epoch(partition: Partition, epoch: int) -> ErrorCode:
    """What a client that believes in leader epoch `epoch` (-1: it does not say) is told (KIP-320)."""
    if epoch == -1 or epoch == partition.leader_epoch:
        return ErrorCode.NONE
    return ErrorCode.FENCED_LEADER_EPOCH if epoch < partition.leader_epoch else ErrorCode.UNKNOWN_LEADER_EPOCH
