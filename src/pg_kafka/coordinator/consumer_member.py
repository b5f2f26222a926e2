"""A member of a group of the consumer protocol, and the JSON that stores it.

Pure and immutable: whoever changes a member makes a new one. Three records hold it, so that what changes often is small:

    member   who it is and what it wants: client, instance, rack, subscription, assignor, classic protocols if it has any
    target   what the assignor gave it: {"partitions": {topic uuid: [partition, ...]}}
    current  where it is on its way there: epochs, state, what it owns and what it has yet to give up

A member that uses the classic protocol in such a group has `classic`; its member epoch is its generation.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

from pg_kafka.coordinator.assignors import Assignment

LEAVING: Final = -1
"""Member epoch of a request by which a member leaves."""

AWAY: Final = -2
"""Member epoch of a static member that left for a moment: its partitions wait for it until its session ends."""

OwnedPartitions = Mapping[UUID, Mapping[int, int]]
"""Partitions by topic, each with the epoch in which the member got it."""

NOTHING_OWNED: Final[OwnedPartitions] = {}


class MemberState(StrEnum):
    """How far a member is on the way to its target."""

    STABLE = "stable"  # has what the target of its epoch says
    UNREVOKED_PARTITIONS = "unrevoked_partitions"  # must say first that it gave up what is pending revocation
    UNRELEASED_PARTITIONS = "unreleased_partitions"  # waits for partitions that others still own


@dataclass(frozen=True, slots=True)
class ClassicProtocols:
    """What a classic member said in JoinGroup: its session timeout and its protocols, most wanted first."""

    session_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]


class Pattern(NamedTuple):
    """A regular expression, and who has asked for what it matches, where it is asked what they may see."""

    regex: str
    principal: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class ConsumerMember:
    """See the three records above. `topics` are sorted; no regular expression is ""."""

    member_id: str
    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    principal: str = ""
    rebalance_timeout_ms: int = -1
    topics: tuple[str, ...] = ()
    regex: str = ""
    assignor: str | None = None
    classic: ClassicProtocols | None = None
    epoch: int = 0
    previous_epoch: int = -1
    state: MemberState = MemberState.STABLE
    assigned: OwnedPartitions = field(default_factory=dict)
    pending: OwnedPartitions = field(default_factory=dict)  # to be revoked

    @property
    def pattern(self) -> Pattern:
        return Pattern(self.regex, self.principal, self.client_host if self.principal else "")

    @property
    def is_away(self) -> bool:
        return self.epoch == AWAY

    def is_reconciled_to(self, target_epoch: int) -> bool:
        return self.state is MemberState.STABLE and self.epoch == target_epoch

    def at_epoch(self, epoch: int) -> ConsumerMember:
        return replace(self, epoch=epoch, previous_epoch=self.epoch)

    def owned_since(self, topic: UUID, partition: int) -> int | None:
        """The epoch in which the member got a partition that it owns, or has to give up; None for others."""
        epoch = self.assigned.get(topic, {}).get(partition)
        return self.pending.get(topic, {}).get(partition) if epoch is None else epoch


@lru_cache(maxsize=16_384)
def _uuid(text: str) -> UUID:
    return UUID(text)


@lru_cache(maxsize=16_384)
def _text(topic: UUID) -> str:
    return str(topic)


def member_value(member: ConsumerMember) -> dict[str, Any]:
    """The record "member"."""
    classic = member.classic
    return {
        "instance_id": member.instance_id,
        "rack_id": member.rack_id,
        "client_id": member.client_id,
        "client_host": member.client_host,
        **({"principal": member.principal} if member.principal else {}),
        "rebalance_timeout_ms": member.rebalance_timeout_ms,
        "topics": list(member.topics),
        "regex": member.regex,
        "assignor": member.assignor,
        "classic": None
        if classic is None
        else {
            "session_timeout_ms": classic.session_timeout_ms,
            "protocols": [[name, b64encode(metadata).decode()] for name, metadata in classic.protocols],
        },
    }


def with_member_value(member: ConsumerMember, value: Mapping[str, Any]) -> ConsumerMember:
    """`member` with what the record "member" says."""
    classic = value["classic"]
    return replace(
        member,
        instance_id=value["instance_id"],
        rack_id=value["rack_id"],
        client_id=value["client_id"],
        client_host=value["client_host"],
        principal=value.get("principal", ""),
        rebalance_timeout_ms=value["rebalance_timeout_ms"],
        topics=tuple(value["topics"]),
        regex=value["regex"],
        assignor=value["assignor"],
        classic=None
        if classic is None
        else ClassicProtocols(
            classic["session_timeout_ms"],
            tuple((name, b64decode(metadata)) for name, metadata in classic["protocols"]),
        ),
    )


def target_value(target: Assignment) -> dict[str, Any]:
    """The record "target"."""
    return {"partitions": {_text(topic): list(partitions) for topic, partitions in target.items()}}


def target_from_value(value: Mapping[str, Any]) -> Assignment:
    """What `target_value` stored."""
    return {_uuid(topic): tuple(partitions) for topic, partitions in value["partitions"].items()}


def current_value(member: ConsumerMember) -> dict[str, Any]:
    """The record "current". Epochs are in the order of the partitions."""
    return {
        "epoch": member.epoch,
        "previous_epoch": member.previous_epoch,
        "state": member.state.value,
        "assigned": _numbers(member.assigned),
        "assigned_epochs": _epochs(member.assigned),
        "pending": _numbers(member.pending),
        "pending_epochs": _epochs(member.pending),
    }


def with_current_value(member: ConsumerMember, value: Mapping[str, Any]) -> ConsumerMember:
    """`member` with what the record "current" says."""
    return replace(
        member,
        epoch=value["epoch"],
        previous_epoch=value["previous_epoch"],
        state=MemberState(value["state"]),
        assigned=_owned(value["assigned"], value["assigned_epochs"]),
        pending=_owned(value["pending"], value["pending_epochs"]),
    )


def _numbers(owned: OwnedPartitions) -> dict[str, list[int]]:
    return {_text(topic): list(partitions) for topic, partitions in owned.items()}


def _epochs(owned: OwnedPartitions) -> dict[str, list[int]]:
    return {_text(topic): list(partitions.values()) for topic, partitions in owned.items()}


def _owned(numbers: Mapping[str, Iterable[int]], epochs: Mapping[str, Iterable[int]]) -> OwnedPartitions:
    return {
        _uuid(topic): dict(zip(partitions, epochs[topic], strict=True)) for topic, partitions in numbers.items()
    }  # fmt: skip
