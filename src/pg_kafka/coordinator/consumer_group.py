"""A group of the consumer protocol (KIP-848): the broker assigns, and members reconcile one by one.

Pure (see group_steps). The behaviour is that of Apache Kafka 4.4's group coordinator. `steady_ms` counts milliseconds
since 1970 and never goes back.

| ConsumerGroupHeartbeat with member epoch | means                                                                  |
|------------------------------------------|------------------------------------------------------------------------|
| 0                                        | join, or join again without any partitions                             |
| the member's own                         | alive; with fields that are not null, a change                         |
| the one before, owning nothing else      | alive; the answer with the new epoch was lost                          |
| another                                  | FENCED_MEMBER_EPOCH                                                    |
| -1                                       | leave                                                                  |
| -2                                       | a static member leaves for a moment, its partitions wait for it        |

| timer                    | when it is over                                                                        |
|--------------------------|----------------------------------------------------------------------------------------|
| session, group, member   | the member is removed                                                                  |
| rebalance, group, member | the same, unless it has come to another epoch: it did not give up partitions           |
| rejoin, group, member    | the same: a classic member did not join again after it was told to                     |
| sync, group, member      | the same: a classic member did not ask for its assignment                              |

The parts: consumer_state (what is known), consumer_rebalance (epochs, targets), reconciliation (a member's next step),
consumer_classic (members of the classic protocol), group_upgrade (from a classic group).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace

from pg_kafka.config.groups import GroupSettings
from pg_kafka.coordinator.consumer_classic import ConsumerClassic
from pg_kafka.coordinator.consumer_member import (
    AWAY,
    LEAVING,
    NOTHING_OWNED,
    ConsumerMember,
    MemberState,
    current_value,
    member_value,
    target_value,
)
from pg_kafka.coordinator.consumer_rebalance import RequestRefused, owned_by_topic
from pg_kafka.coordinator.group_steps import Sender, Step
from pg_kafka.coordinator.reconciliation import Owned
from pg_kafka.coordinator.timers import TimerName
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_heartbeat import (
    Assignment,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    ResponseTopicPartitions,
)

WAITING_INTERVAL_MS = 1_000
_REASONS = {
    "session": "session timed out",
    "rebalance": "member did not revoke",
    "rejoin": "member did not rejoin",
    "sync": "member did not sync",
}


class ConsumerGroup(ConsumerClassic):
    """One group. Attributes without an underscore may be read by all, and are changed by its events only."""

    # -- for the edge --------------------------------------------------------------------------------------------

    def set_settings(self, settings: GroupSettings) -> None:
        """The group's own settings have changed; timeouts count from each member's next heartbeat."""
        self.settings = settings

    def restart(self, steady_ms: int) -> Step:
        """Begin to serve what was loaded: sessions get their full time, and topics may have changed meanwhile."""
        out = Step()
        for member in self.members.values():
            self._start_session(out, member, steady_ms)
            self._start_revocation(out, member, steady_ms)
        out.add(self.on_catalogue(steady_ms))
        return out

    def take_over(self, members: Iterable[ConsumerMember], epoch: int, steady_ms: int) -> Step:
        """Begin with the members of a classic group, their generation as epoch, and what they have as target."""
        out = Step()
        for member in members:
            target = {topic: tuple(partitions) for topic, partitions in member.assigned.items()}
            self._write(out, "member", member.member_id, member_value(member))
            self._write(out, "target", member.member_id, target_value(target))
            self._write(out, "current", member.member_id, current_value(member))
            self._start_session(out, member, steady_ms)
        self._write_group(out, epoch, epoch)
        self._note(out, "upgraded to consumer protocol")
        return out

    def on_timer(self, name: TimerName, steady_ms: int) -> Step:
        """A deadline has passed."""
        out = Step()
        timer, _, member_id = name
        member = self.members.get(member_id)
        has_moved_on = timer == "rebalance" and member and self._must_revoke_at.get(member_id) != member.epoch
        if member is not None and not has_moved_on:
            self._note(out, _REASONS[timer], member)
            self._dismiss(out, [member], steady_ms)
        return out

    def drop(self) -> list[Hashable]:
        """No request ever waits."""
        return []

    def committed(self, member_id: str, steady_ms: int) -> Step:
        """A commit says nothing about a session."""
        return Step()

    # -- ConsumerGroupHeartbeat ----------------------------------------------------------------------------------

    def consumer_heartbeat(
        self,
        request: ConsumerGroupHeartbeatRequest,
        token: Hashable,
        sender: Sender,
        new_member_id: str,
        steady_ms: int,
    ) -> Step:
        """Join, heartbeat, change or leave. `new_member_id` is for who comes without (version 0)."""
        out = Step()
        try:
            self._check_request(request, sender.version)
            if request.member_epoch in (LEAVING, AWAY):
                response = self._leave(request, out, steady_ms)
            else:
                response = self._heartbeat(request, sender, request.member_id or new_member_id, out, steady_ms)
        except RequestRefused as refused:
            response = ConsumerGroupHeartbeatResponse(error_code=refused.error, error_message=refused.message)
        out.replies.append((token, response))
        return out

    def _check_request(self, request: ConsumerGroupHeartbeatRequest, version: int) -> None:
        check_heartbeat(request, version, self.settings)
        if self.is_blank and request.member_epoch != 0:
            what = "Consumer group" if request.member_epoch > 0 else "Group"
            raise RequestRefused(ErrorCode.GROUP_ID_NOT_FOUND, f"{what} {self.group_id} not found.")

    def _heartbeat(
        self, request: ConsumerGroupHeartbeatRequest, sender: Sender, member_id: str, out: Step, steady_ms: int
    ) -> ConsumerGroupHeartbeatResponse:
        self._check_size(request.member_id)
        owned = None if request.topic_partitions is None else owned_by_topic(request.topic_partitions)
        former = self._former_of(request, member_id, owned)
        member = _as_requested(request, sender, member_id, former)
        self._check_regex(former.regex if former else "", request.subscribed_topic_regex)
        change = self._take_in(out, former, member, steady_ms, owned)
        after = change.after
        if former is not None and former.classic is not None:
            self._has_rejoined(out, member_id)
            out.timers[self._timer("sync", member_id)] = None
        self._start_session(out, after, steady_ms)
        self._note_join(out, former, change)
        response = ConsumerGroupHeartbeatResponse(
            member_id=member_id,
            member_epoch=after.epoch,
            heartbeat_interval_ms=self._interval_ms(after),
        )
        if request.member_epoch == 0 or _is_full(request) or change.before.assigned != after.assigned:
            response.assignment = Assignment(
                topic_partitions=[
                    ResponseTopicPartitions(topic_id=topic, partitions=list(partitions))
                    for topic, partitions in after.assigned.items()
                ]
            )
        return response

    def _interval_ms(self, member: ConsumerMember) -> int:
        """Until the next heartbeat: sooner for who waits for partitions, as that heartbeat is what gets it them."""
        interval_ms = self.settings.group_consumer_heartbeat_interval_ms
        waits = member.state is MemberState.UNRELEASED_PARTITIONS
        return min(interval_ms, WAITING_INTERVAL_MS) if waits else interval_ms

    def _former_of(
        self, request: ConsumerGroupHeartbeatRequest, member_id: str, owned: Owned | None
    ) -> ConsumerMember | None:
        """Who the member was until now; None when it is new. Raises RequestRefused when it may not speak."""
        instance_id, epoch = request.instance_id, request.member_epoch
        if epoch == 0 and instance_id is None:
            return self.members.get(member_id)
        if epoch == 0 and instance_id is not None:
            former = self._static_member(instance_id)
            if former is not None and former.classic is None and not former.is_away:
                raise RequestRefused(
                    ErrorCode.UNRELEASED_INSTANCE_ID,
                    f"Static member {member_id} with instance id {instance_id} cannot join the group because the"
                    f" instance id is owned by {former.member_id} member.",
                )
            return former or self.members.get(member_id)
        former = self._known(member_id, instance_id)
        _check_epoch(former, epoch, owned)
        return former

    def _leave(
        self, request: ConsumerGroupHeartbeatRequest, out: Step, steady_ms: int
    ) -> ConsumerGroupHeartbeatResponse:
        member = self._known(request.member_id, request.instance_id)
        if request.member_epoch == AWAY:
            away = replace(member, epoch=AWAY, pending=NOTHING_OWNED)
            self._write(out, "current", member.member_id, current_value(away))
            self._note(out, "static member away", member)
        else:
            self._note(out, "member left", member)
            self._dismiss(out, [member], steady_ms)
        return ConsumerGroupHeartbeatResponse(member_id=request.member_id, member_epoch=request.member_epoch)


def _is_full(request: ConsumerGroupHeartbeatRequest) -> bool:
    """All that a member says when it joins or does not know what the broker knows: it wants its assignment."""
    return (
        request.rebalance_timeout_ms != -1
        and (request.subscribed_topic_names is not None or request.subscribed_topic_regex is not None)
        and request.topic_partitions is not None
    )


def check_heartbeat(request: ConsumerGroupHeartbeatRequest, version: int, settings: GroupSettings) -> None:
    """Raises RequestRefused for what no group takes, whatever its state."""
    epoch = request.member_epoch

    def invalid(message: str) -> RequestRefused:
        return RequestRefused(ErrorCode.INVALID_REQUEST, message)

    if (version >= 1 or epoch > 0 or epoch == LEAVING) and not request.member_id.strip():
        raise invalid("MemberId can't be empty.")
    if not request.group_id.strip():
        raise invalid("GroupId can't be empty.")
    for field, value in (("InstanceId", request.instance_id), ("RackId", request.rack_id)):
        if value is not None and not value.strip():
            raise invalid(f"{field} can't be empty.")
    if epoch == 0:
        if request.rebalance_timeout_ms == -1:
            raise invalid("RebalanceTimeoutMs must be provided in first request.")
        if request.topic_partitions is None or request.topic_partitions:
            raise invalid("TopicPartitions must be empty when (re-)joining.")
        if request.subscribed_topic_names is None and request.subscribed_topic_regex is None:
            raise invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")
    elif epoch == AWAY and request.instance_id is None:
        raise invalid("InstanceId can't be null.")
    elif epoch < AWAY:
        raise invalid("MemberEpoch is invalid.")
    assignors = settings.group_consumer_assignors
    if request.server_assignor is not None and request.server_assignor not in assignors:
        raise RequestRefused(
            ErrorCode.UNSUPPORTED_ASSIGNOR,
            f"ServerAssignor {request.server_assignor} is not supported. Supported assignors: {', '.join(assignors)}.",
        )


def _check_epoch(member: ConsumerMember, epoch: int, owned: Owned | None) -> None:
    if epoch == member.epoch:
        return
    if epoch > member.epoch:
        compared = "greater"
    elif epoch == member.previous_epoch and _owns_at_most(owned, member):
        return
    else:
        compared = "smaller"
    raise RequestRefused(
        ErrorCode.FENCED_MEMBER_EPOCH,
        f"The consumer group member has a {compared} member epoch ({epoch}) than the one known by the group"
        f" coordinator ({member.epoch}). The member must abandon all its partitions and rejoin.",
    )


def _owns_at_most(owned: Owned | None, member: ConsumerMember) -> bool:
    """The member says what it owns, and all of it is assigned to it."""
    if owned is None:
        return False
    return all(
        topic in member.assigned and all(partition in member.assigned[topic] for partition in partitions)
        for topic, partitions in owned.items()
    )


def _as_requested(
    request: ConsumerGroupHeartbeatRequest, sender: Sender, member_id: str, former: ConsumerMember | None
) -> ConsumerMember:
    """The member with what the request says anew; the same object when that is nothing."""
    member = former or ConsumerMember(member_id)
    if member.member_id != member_id:
        member = replace(member, member_id=member_id, epoch=0, previous_epoch=0)
    names = request.subscribed_topic_names
    changes = {
        "instance_id": request.instance_id,
        "rack_id": request.rack_id,
        "rebalance_timeout_ms": None if request.rebalance_timeout_ms == -1 else request.rebalance_timeout_ms,
        "assignor": request.server_assignor,
        "topics": None if names is None else tuple(sorted(set(names))),
        "regex": request.subscribed_topic_regex,
        "client_id": sender.client_id,
        "client_host": sender.host,
        "principal": sender.principal or None,
    }
    new = {name: value for name, value in changes.items() if value is not None and value != getattr(member, name)}
    if new or member.classic is not None:
        return replace(member, classic=None, **new)  # type: ignore[arg-type]
    return member
