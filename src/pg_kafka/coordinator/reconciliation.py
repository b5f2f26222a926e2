"""One step of a member towards its target assignment (KIP-848).

Pure. A member never gets a partition before its owner said that it gave it up, and never enters a new epoch before it
gave up what the target takes from it.

| state                 | and then                                                    | next                             |
|-----------------------|-------------------------------------------------------------|----------------------------------|
| STABLE                | the target is of another epoch                              | towards the target               |
| STABLE                | the same epoch, the subscription changed                    | without what it left             |
| UNREVOKED_PARTITIONS  | still owns, or does not say that it does not                | stays, without what it left      |
| UNREVOKED_PARTITIONS  | owns nothing of what is pending any more                    | towards the target               |
| UNRELEASED_PARTITIONS | always                                                      | towards the target               |

Towards the target: what the target does not have is pending revocation (UNREVOKED_PARTITIONS, same epoch), unless the
member does not own it any more; then it enters the target's epoch with all that is free, and is STABLE, or
UNRELEASED_PARTITIONS when some of it is not free.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final
from uuid import UUID

from pg_kafka.coordinator.assignors import Assignment
from pg_kafka.coordinator.consumer_member import NOTHING_OWNED, ConsumerMember, MemberState, OwnedPartitions

Owned = Mapping[UUID, Collection[int]]
"""What a member says that it owns."""

_NO_PARTITIONS: Final[Mapping[int, int]] = {}


def reconcile(
    member: ConsumerMember,
    *,
    target_epoch: int,
    target: Assignment,
    subscribed: Collection[UUID],
    subscription_changed: bool,
    owned: Owned | None,
    is_owned_by_another: Callable[[UUID, int], bool],
) -> ConsumerMember:
    """The member after this step: the same object when nothing changes. `owned` is None when it did not say."""
    if not subscription_changed and member.is_reconciled_to(target_epoch):
        return member
    if member.state is MemberState.STABLE and member.epoch == target_epoch:
        return _without_unsubscribed(member, subscribed, owned)
    if member.state is MemberState.UNREVOKED_PARTITIONS and _owns_any(owned, member.pending):
        return _without_unsubscribed(member, subscribed, owned) if subscription_changed else member
    return _towards(member, target_epoch, target, subscribed, owned, is_owned_by_another)


def _owns_any(owned: Owned | None, pending: OwnedPartitions) -> bool:
    """Whether the member may still own one of these: when it does not say, it may."""
    if owned is None:
        return True
    return any(partition in pending[topic] for topic in owned if topic in pending for partition in owned[topic])


def _without_unsubscribed(member: ConsumerMember, subscribed: Collection[UUID], owned: Owned | None) -> ConsumerMember:
    """The member keeps its epoch and gives up the topics that it does not subscribe to any more."""
    left = {topic: partitions for topic, partitions in member.assigned.items() if topic not in subscribed}
    if not left:
        return member
    assigned = {topic: partitions for topic, partitions in member.assigned.items() if topic in subscribed}
    pending = {topic: dict(partitions) for topic, partitions in member.pending.items()}
    for topic, partitions in left.items():
        pending.setdefault(topic, {}).update(partitions)
    same_epoch = member.at_epoch(member.epoch)
    if _owns_any(owned, pending):
        return replace(same_epoch, state=MemberState.UNREVOKED_PARTITIONS, assigned=assigned, pending=pending)
    return replace(same_epoch, assigned=assigned)


def _towards(
    member: ConsumerMember,
    target_epoch: int,
    target: Assignment,
    subscribed: Collection[UUID],
    owned: Owned | None,
    is_owned_by_another: Callable[[UUID, int], bool],
) -> ConsumerMember:
    assigned: dict[UUID, Mapping[int, int]] = {}
    pending: dict[UUID, Mapping[int, int]] = {}
    ready: dict[UUID, list[int]] = {}
    waits = False
    for topic in dict.fromkeys((*target, *member.assigned)):
        wanted = target.get(topic, ()) if topic in subscribed else ()
        have = member.assigned.get(topic, _NO_PARTITIONS)
        if wanted and len(wanted) == len(have) and all(partition in have for partition in wanted):
            assigned[topic] = have
            continue
        wanted_set = frozenset(wanted)
        kept = {partition: epoch for partition, epoch in have.items() if partition in wanted_set}
        given_up = {partition: epoch for partition, epoch in have.items() if partition not in wanted_set}
        missing = [partition for partition in wanted if partition not in have]
        free = [partition for partition in missing if not is_owned_by_another(topic, partition)]
        waits = waits or len(free) < len(missing)
        if kept:
            assigned[topic] = kept
        if given_up:
            pending[topic] = given_up
        if free:
            ready[topic] = free
    if pending and _owns_any(owned, pending):
        stays = member.at_epoch(member.epoch)
        return replace(stays, state=MemberState.UNREVOKED_PARTITIONS, assigned=assigned, pending=pending)
    for topic, partitions in ready.items():
        together = dict(assigned.get(topic, _NO_PARTITIONS)) | dict.fromkeys(partitions, target_epoch)
        assigned[topic] = dict(sorted(together.items()))
    return replace(
        member.at_epoch(target_epoch),
        state=MemberState.UNRELEASED_PARTITIONS if waits else MemberState.STABLE,
        assigned=assigned,
        pending=NOTHING_OWNED,
    )
