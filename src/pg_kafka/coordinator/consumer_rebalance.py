"""How a group of the consumer protocol goes from one epoch to the next, whichever protocol its members speak.

Pure. A change of who subscribes to what brings a new group epoch. The next member that comes gets a target assignment
made for that epoch, though not sooner than `group.consumer.assignment.interval.ms` after the last; until then members
stay in the old one. Each member comes to the target in its own steps (see reconciliation).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from pg_kafka.config.groups import GroupSettings
from pg_kafka.coordinator.assignors import ASSIGNORS, NOTHING, Subscriber
from pg_kafka.coordinator.consumer_member import (
    ConsumerMember,
    MemberState,
    current_value,
    member_value,
    target_value,
)
from pg_kafka.coordinator.consumer_state import ConsumerState
from pg_kafka.coordinator.group_steps import Catalogue, Step
from pg_kafka.coordinator.reconciliation import Owned, reconcile
from pg_kafka.coordinator.records import HistoryEntry, Record
from pg_kafka.coordinator.timers import TimerName
from pg_kafka.coordinator.topic_regex import InvalidTopicRegex, check
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_heartbeat import RequestTopicPartitions

TIMERS: Final = ("session", "rebalance", "rejoin", "sync")
"""Deadlines of a member: to be heard of, to give up partitions, and for classic members to join and to sync."""

_DETAIL_LENGTH: Final = 255  # what clients cut their reasons to (KIP-800)


class RequestRefused(Exception):
    """The request is answered with an error. Raised before anything is changed."""

    def __init__(self, error: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


@dataclass(frozen=True, slots=True)
class MemberChange:
    """What became of a member: the state before its request, and after it."""

    before: ConsumerMember
    after: ConsumerMember
    subscription_changed: bool


class ConsumerRebalance(ConsumerState):
    """The steps of a group, and its timers."""

    def __init__(self, group_id: str, settings: GroupSettings, catalogue: Catalogue) -> None:
        super().__init__(group_id, settings, catalogue)
        # What a restart forgets.
        self._target_made_at_ms: int | None = None
        self._must_revoke_at: dict[str, int] = {}  # member epoch in which the rebalance timer was set
        self._must_rejoin: set[str] = set()  # classic members that were told so

    def _write(self, out: Step, kind: str, key: str, value: dict[str, Any] | None) -> None:
        record = Record(kind, key, value)
        self.apply(record)
        out.records.append(record)

    def _note(self, out: Step, event: str, member: ConsumerMember | None = None, detail: str | None = "") -> None:
        text = (detail or "")[:_DETAIL_LENGTH]
        who = (member.member_id, member.client_id, member.client_host) if member else ("", "", "")
        out.history.append(HistoryEntry(event, self.epoch, *who, text))

    # -- one member ----------------------------------------------------------------------------------------------

    def _check_regex(self, former: str, regex: str | None) -> None:
        """An expression that nobody has used yet must be one."""
        if not regex or regex == former or any(regex == pattern.regex for pattern in self._patterns):
            return
        try:
            check(regex)
        except InvalidTopicRegex as error:
            raise RequestRefused(
                ErrorCode.INVALID_REGULAR_EXPRESSION,
                f"SubscribedTopicRegex `{regex}` is not a valid regular expression: {error}.",
            ) from None

    def _take_in(
        self, out: Step, former: ConsumerMember | None, member: ConsumerMember, steady_ms: int, owned: Owned | None
    ) -> MemberChange:
        """A member as it is after its request: new, changed or as before; then its next step towards the target.

        `former` is who it was: None for a new member, another member id for a static member that comes back.
        """
        before = self._replaced(out, former, member) if former else ConsumerMember(member.member_id)
        changed = before.topics != member.topics or before.pattern != member.pattern
        if member != self.members.get(member.member_id):
            self._write(out, "member", member.member_id, member_value(member))
        target_epoch_before = self.target_epoch
        epoch = self.epoch + 1 if changed or self.epoch == 0 else self.epoch
        target_epoch = self._make_targets(out, epoch, steady_ms)
        if epoch != self.epoch or target_epoch != target_epoch_before:
            self._write_group(out, epoch, target_epoch)
        after = reconcile(
            member,
            target_epoch=target_epoch,
            target=self.targets.get(member.member_id, NOTHING),
            subscribed=self.subscribed_ids(member),
            subscription_changed=changed,
            owned=owned,
            is_owned_by_another=lambda topic, partition: self.is_owned_by_another(member.member_id, topic, partition),
        )
        if after != self.members[member.member_id]:
            self._write(out, "current", member.member_id, current_value(after))
            self._start_revocation(out, after, steady_ms)
        return MemberChange(before, after, changed)

    def _replaced(self, out: Step, former: ConsumerMember, member: ConsumerMember) -> ConsumerMember:
        """A static member in the place of its former self, whose target is its own now."""
        if former.member_id == member.member_id:
            return former
        target = self.targets.get(former.member_id)
        self._forget(out, former)
        if target is not None:
            self._write(out, "target", member.member_id, target_value(target))
        return replace(former, member_id=member.member_id, epoch=0, previous_epoch=0)

    def _forget(self, out: Step, member: ConsumerMember) -> None:
        member_id = member.member_id
        self._write(out, "current", member_id, None)
        if member_id in self.targets:
            self._write(out, "target", member_id, None)
        self._write(out, "member", member_id, None)
        self._must_revoke_at.pop(member_id, None)
        self._must_rejoin.discard(member_id)
        self._cancel_timers(out, member_id)

    # -- the group -----------------------------------------------------------------------------------------------

    def _write_group(self, out: Step, epoch: int, target_epoch: int) -> None:
        record = self._group_record(epoch, target_epoch, self.hash_of_topics())
        self.apply(record)
        out.records.append(record)

    def _make_targets(self, out: Step, epoch: int, steady_ms: int) -> int:
        """Write targets for this group epoch when it is time; returns the epoch that targets are of then."""
        if epoch <= self.target_epoch:
            return self.target_epoch
        interval_ms = self.settings.group_consumer_assignment_interval_ms
        made_at_ms = self._target_made_at_ms
        if interval_ms > 0 and made_at_ms is not None and 0 <= steady_ms - made_at_ms < interval_ms:
            return self.target_epoch
        subscribers = {
            member_id: Subscriber(self.subscribed_ids(member), self.targets.get(member_id, NOTHING), member.instance_id)
            for member_id, member in self.members.items()
        }
        wanted = frozenset[Any]().union(*{subscriber.topics for subscriber in subscribers.values()})
        topics = [topic for topic in map(self.catalogue.by_uuid.get, wanted) if topic is not None]
        topics.sort(key=lambda topic: topic.name)
        assign = ASSIGNORS[self.preferred_assignor()]
        for member_id, target in assign(subscribers, {topic.uuid: topic.partitions for topic in topics}).items():
            if target != self.targets.get(member_id, NOTHING):
                self._write(out, "target", member_id, target_value(target))
        self._target_made_at_ms = steady_ms
        return epoch

    def _remove_members(self, out: Step, members: Iterable[ConsumerMember]) -> None:
        """They are members no more, and what they had is free."""
        for member in members:
            self._forget(out, member)
        self._write_group(out, self.epoch + 1, self.target_epoch)
        if not self.members:
            self._note(out, "group empty")

    def on_catalogue(self, steady_ms: int) -> Step:
        """Topics have come, gone, or have more partitions: a new epoch when any is subscribed to."""
        out = Step()
        self._look_at_catalogue()
        if self.members and self.hash_of_topics() != self.topics_hash:
            self._write_group(out, self.epoch + 1, self.target_epoch)
            self._note(out, "topics changed")
        return out

    # -- timers --------------------------------------------------------------------------------------------------

    def _timer(self, name: str, member_id: str) -> TimerName:
        return (name, self.group_id, member_id)

    def _cancel_timers(self, out: Step, member_id: str) -> None:
        for name in TIMERS:
            out.timers[self._timer(name, member_id)] = None

    def _start_session(self, out: Step, member: ConsumerMember, steady_ms: int) -> None:
        classic = member.classic
        timeout_ms = self.settings.group_consumer_session_timeout_ms if classic is None else classic.session_timeout_ms
        out.timers[self._timer("session", member.member_id)] = steady_ms + timeout_ms

    def _start_revocation(self, out: Step, member: ConsumerMember, steady_ms: int) -> None:
        """A member of the consumer protocol has its rebalance timeout to give up partitions; a classic one to rejoin."""
        timer = self._timer("rebalance", member.member_id)
        if member.classic is None and member.state is MemberState.UNREVOKED_PARTITIONS:
            self._must_revoke_at[member.member_id] = member.epoch
            out.timers[timer] = steady_ms + member.rebalance_timeout_ms
        elif self._must_revoke_at.pop(member.member_id, None) is not None:
            out.timers[timer] = None

    def _tell_to_rejoin(self, out: Step, member: ConsumerMember, steady_ms: int) -> None:
        """A classic member has its rebalance timeout from the first time that it is told."""
        if member.member_id not in self._must_rejoin:
            self._must_rejoin.add(member.member_id)
            out.timers[self._timer("rejoin", member.member_id)] = steady_ms + member.rebalance_timeout_ms

    def _has_rejoined(self, out: Step, member_id: str) -> None:
        if member_id in self._must_rejoin:
            self._must_rejoin.remove(member_id)
            out.timers[self._timer("rejoin", member_id)] = None


def owned_by_topic(numbers: Iterable[RequestTopicPartitions]) -> Owned:
    """What a request says that its member owns."""
    owned: dict[UUID, Collection[int]] = {}
    for topic in numbers:
        owned[topic.topic_id] = (*owned.get(topic.topic_id, ()), *topic.partitions)
    return owned
