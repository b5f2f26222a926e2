"""Members that use the classic protocol in a group of the consumer protocol, while it is upgraded or downgraded.

Pure. The broker assigns for them, too: JoinGroup brings the subscription and is answered at once, without a leader;
SyncGroup gets the bytes of the assignment; Heartbeat says when to join again. The member epoch is the generation.
When no member of the consumer protocol is left, and the migration policy allows it, the group becomes a classic one.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Final
from uuid import UUID

from pg_kafka.coordinator.assignors import NOTHING
from pg_kafka.coordinator.classic_group import MAX_PROTOCOLS, ClassicGroup
from pg_kafka.coordinator.classic_member import CONSUMER_PROTOCOL_TYPE, ClassicMember
from pg_kafka.coordinator.consumer_member import ClassicProtocols, ConsumerMember, MemberState
from pg_kafka.coordinator.consumer_protocol import (
    MalformedConsumerProtocol,
    Subscription,
    read_subscription,
    version_of,
    write_assignment,
)
from pg_kafka.coordinator.consumer_rebalance import ConsumerRebalance, MemberChange, RequestRefused
from pg_kafka.coordinator.group_steps import Sender, Step
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from pg_kafka.wire.messages.join_group import JoinGroupRequest, JoinGroupResponse
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse
from pg_kafka.wire.messages.sync_group import SyncGroupRequest, SyncGroupResponse

DOWNGRADE_POLICIES: Final = ("downgrade", "bidirectional")
UPGRADE_POLICIES: Final = ("upgrade", "bidirectional")

_FIRST_JOIN_WITH_MEMBER_ID: Final = 4  # KIP-394
_FIRST_LEAVE_WITH_MEMBERS: Final = 3


class ConsumerClassic(ConsumerRebalance):
    """The requests of classic members."""

    # -- JoinGroup -----------------------------------------------------------------------------------------------

    def join(
        self, request: JoinGroupRequest, token: Hashable, sender: Sender, new_member_id: str, steady_ms: int
    ) -> Step:
        """A classic member joins, or joins again. To an empty group the group becomes a classic one."""
        if not self.members:
            return self._become_new_classic(request, token, sender, new_member_id, steady_ms)
        out = Step()
        try:
            response = self._join(request, sender, new_member_id, out, steady_ms)
        except RequestRefused as refused:
            told = new_member_id if refused.error == ErrorCode.MEMBER_ID_REQUIRED else ""
            name = "" if sender.version < 7 else None
            response = JoinGroupResponse(error_code=refused.error, member_id=told, protocol_name=name)
        out.replies.append((token, response))
        return out

    def _join(
        self, request: JoinGroupRequest, sender: Sender, new_member_id: str, out: Step, steady_ms: int
    ) -> JoinGroupResponse:
        subscription = self._check_join(request, sender)
        member_id = request.member_id or new_member_id
        former = self._former(request, member_id)
        member = _joining(request, sender, member_id, former, subscription)
        if former is not None and request.group_instance_id is not None and self._may_downgrade_for(former):
            return self._join_as_last(former, member, request, out, steady_ms)
        # Clients that do not say what they own have given up everything before they join.
        by_name = self.catalogue.by_name
        owned = {by_name[name].uuid: ids for name, ids in subscription.owned.items() if name in by_name}
        change = self._take_in(out, former, member, steady_ms, owned)
        self._has_rejoined(out, member_id)
        self._start_session(out, change.after, steady_ms)
        out.timers[self._timer("sync", member_id)] = steady_ms + change.after.rebalance_timeout_ms
        self._note_join(out, former, change, request.reason)
        return _joined(change.after)

    def _check_join(self, request: JoinGroupRequest, sender: Sender) -> Subscription:
        settings = self.settings
        session_timeout_ms = request.session_timeout_ms
        if not settings.group_min_session_timeout_ms <= session_timeout_ms <= settings.group_max_session_timeout_ms:
            raise RequestRefused(
                ErrorCode.INVALID_SESSION_TIMEOUT, "The session timeout is outside of the broker's bounds."
            )
        names = [each.name for each in request.protocols]
        if len(names) > MAX_PROTOCOLS:
            raise RequestRefused(ErrorCode.INVALID_REQUEST, "Too many protocols.")
        if settings.group_consumer_migration_policy == "disabled":
            raise RequestRefused(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "The group migration is disabled.")
        self._check_size(request.member_id)
        if not self.supports_classic(request.protocol_type, names):
            raise RequestRefused(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "The member's protocols are not supported.")
        is_dynamic = request.group_instance_id is None
        if is_dynamic and not request.member_id and sender.version >= _FIRST_JOIN_WITH_MEMBER_ID:
            raise RequestRefused(ErrorCode.MEMBER_ID_REQUIRED, "The member has to join with its id.")
        try:
            subscription = read_subscription(bytes(request.protocols[0].metadata))
        except MalformedConsumerProtocol as error:
            raise RequestRefused(ErrorCode.UNKNOWN_SERVER_ERROR, f"Malformed subscription: {error}") from None
        return subscription

    def _check_size(self, member_id: str) -> None:
        most = self.settings.group_consumer_max_size
        if len(self.members) >= most and member_id not in self.members:
            raise RequestRefused(
                ErrorCode.GROUP_MAX_SIZE_REACHED,
                f"The consumer group has reached its maximum capacity of {most} members.",
            )

    def _former(self, request: JoinGroupRequest, member_id: str) -> ConsumerMember | None:
        instance_id = request.group_instance_id
        if instance_id is None:
            return self.members.get(member_id)
        # A static member without an id takes the place of its former self, whichever protocol that used.
        return self._static_member(instance_id) if not request.member_id else self._known(member_id, instance_id)

    def _known(self, member_id: str, instance_id: str | None) -> ConsumerMember:
        """Raises RequestRefused for who is no member, or no longer has the instance id."""
        member = self.members.get(member_id) if instance_id is None else self._static_member(instance_id)
        if member is None:
            who = f"Member {member_id}" if instance_id is None else f"Instance id {instance_id}"
            raise RequestRefused(ErrorCode.UNKNOWN_MEMBER_ID, f"{who} is not a member of group {self.group_id}.")
        if member.member_id != member_id:
            raise RequestRefused(
                ErrorCode.FENCED_INSTANCE_ID,
                f"Static member {member_id} with instance id {instance_id} was fenced by member {member.member_id}.",
            )
        return member

    def _note_join(
        self, out: Step, former: ConsumerMember | None, change: MemberChange, detail: str | None = ""
    ) -> None:
        """What the history says of a member that came, or came back with something else."""
        if former is None:
            self._note(out, "member joined", change.after, detail)
        elif former.member_id != change.after.member_id:
            self._note(out, "static member replaced", change.after, detail)
        elif change.subscription_changed:
            self._note(out, "subscription changed", change.after, detail)

    # -- SyncGroup, Heartbeat, LeaveGroup ------------------------------------------------------------------------

    def sync(self, request: SyncGroupRequest, token: Hashable, sender: Sender, steady_ms: int) -> Step:
        """A classic member asks for its assignment."""
        out = Step()
        try:
            response = self._sync(request, sender, out, steady_ms)
        except RequestRefused as refused:
            response = SyncGroupResponse(error_code=refused.error)
        out.replies.append((token, response))
        return out

    def _sync(self, request: SyncGroupRequest, sender: Sender, out: Step, steady_ms: int) -> SyncGroupResponse:
        if sender.version >= 5 and (request.protocol_type is None or request.protocol_name is None):
            raise RequestRefused(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "The protocol is not said.")  # KIP-559
        member, classic = self._classic(request.member_id, request.group_instance_id, request.generation_id)
        if request.protocol_type not in (None, CONSUMER_PROTOCOL_TYPE):
            raise RequestRefused(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "Another protocol type.")
        if request.protocol_name not in (None, classic.protocols[0][0]):
            raise RequestRefused(
                ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "Another protocol than JoinGroup was answered with."
            )
        # Who has yet to revoke has joined for the new epoch already; it is told to join again when that is done.
        if self.epoch > member.epoch and member.state is not MemberState.UNREVOKED_PARTITIONS:
            self._tell_to_rejoin(out, member, steady_ms)
            return SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS)
        out.timers[self._timer("sync", member.member_id)] = None
        self._start_session(out, member, steady_ms)
        return SyncGroupResponse(
            protocol_type=request.protocol_type,
            protocol_name=request.protocol_name,
            assignment=self._assignment_bytes(classic, member.assigned),
        )

    def heartbeat(self, request: HeartbeatRequest, token: Hashable, sender: Sender, steady_ms: int) -> Step:
        """A classic member is alive."""
        out = Step()
        try:
            member, _ = self._classic(request.member_id, request.group_instance_id, request.generation_id)
        except RequestRefused as refused:
            out.replies.append((token, HeartbeatResponse(error_code=refused.error)))
            return out
        self._start_session(out, member, steady_ms)
        error = ErrorCode.NONE
        if (
            member.epoch < self.epoch
            or member.state is MemberState.UNREVOKED_PARTITIONS
            or (member.state is MemberState.UNRELEASED_PARTITIONS and not self.waits_for_others(member))
        ):
            error = ErrorCode.REBALANCE_IN_PROGRESS
            self._tell_to_rejoin(out, member, steady_ms)
        out.replies.append((token, HeartbeatResponse(error_code=error)))
        return out

    def _classic(
        self, member_id: str, instance_id: str | None, generation: int
    ) -> tuple[ConsumerMember, ClassicProtocols]:
        member = self._known(member_id, instance_id)
        if member.classic is None:
            raise RequestRefused(ErrorCode.UNKNOWN_MEMBER_ID, f"Member {member_id} does not use the classic protocol.")
        if member.epoch != generation:
            raise RequestRefused(
                ErrorCode.ILLEGAL_GENERATION, f"Generation {generation} where the epoch is {member.epoch}."
            )
        return member, member.classic

    def leave(self, request: LeaveGroupRequest, token: Hashable, sender: Sender, steady_ms: int) -> Step:
        """Members of either protocol leave; an administrator removes static ones by their instance id alone."""
        out = Step()
        has_members = sender.version >= _FIRST_LEAVE_WITH_MEMBERS
        identities = request.members if has_members else [MemberIdentity(member_id=request.member_id)]
        leaving: dict[str, ConsumerMember] = {}
        answers = []
        for each in identities:
            error = ErrorCode.NONE
            try:
                member = self._leaving(each)
                if member.member_id not in leaving:
                    self._note(out, "member left", member, each.reason)
                leaving[member.member_id] = member
            except RequestRefused as refused:
                error = refused.error
            answers.append(
                MemberResponse(member_id=each.member_id, group_instance_id=each.group_instance_id, error_code=error)
            )
        if has_members:
            response = LeaveGroupResponse(members=answers)
        else:
            response = LeaveGroupResponse(error_code=answers[0].error_code)
        out.replies.append((token, response))
        if leaving:
            self._dismiss(out, leaving.values(), steady_ms)
        return out

    def _leaving(self, identity: MemberIdentity) -> ConsumerMember:
        instance_id = identity.group_instance_id
        if instance_id is not None and not identity.member_id:
            member = self._static_member(instance_id)
            if member is not None:
                return member
        return self._known(identity.member_id, instance_id)

    # -- to a classic group --------------------------------------------------------------------------------------

    def _dismiss(self, out: Step, leaving: Collection[ConsumerMember], steady_ms: int) -> None:
        """Members go; when only classic ones stay, the group becomes one of theirs."""
        gone = {member.member_id for member in leaving}
        staying = [member for member_id, member in self.members.items() if member_id not in gone]
        if self._may_downgrade(staying):
            group = self._become_classic(out, staying, steady_ms)
            out.add(group.rebalance("downgraded to classic protocol", steady_ms, detail="member left"))
            out.becomes = group
        else:
            self._remove_members(out, leaving)

    def _may_downgrade(self, staying: Collection[ConsumerMember]) -> bool:
        return (
            0 < len(staying) <= self.settings.group_max_size
            and self.settings.group_consumer_migration_policy in DOWNGRADE_POLICIES
            and all(member.classic is not None for member in staying)
        )

    def _may_downgrade_for(self, former: ConsumerMember) -> bool:
        """A static member comes back as a classic one, and it was the last of the consumer protocol."""
        if former.instance_id is None or former.classic is not None or self.classic_members != len(self.members) - 1:
            return False
        settings = self.settings
        return (
            len(self.members) <= settings.group_max_size
            and settings.group_consumer_migration_policy in DOWNGRADE_POLICIES
        )

    def _join_as_last(
        self, former: ConsumerMember, member: ConsumerMember, request: JoinGroupRequest, out: Step, steady_ms: int
    ) -> JoinGroupResponse:
        """All are classic members with this one. They need a rebalance unless they have what the targets say."""
        is_settled = (
            former.topics == member.topics
            and former.regex == member.regex
            and self.epoch == self.target_epoch
            and all(each.is_reconciled_to(self.target_epoch) for each in self.members.values() if each is not former)
        )
        staying = [each for each in self.members.values() if each.member_id != former.member_id]
        group = self._become_classic(out, [*staying, member], steady_ms, former)
        detail = "static member replaced"
        if is_settled:
            group.note(out, "downgraded to classic protocol", detail=detail)
        else:
            out.add(group.rebalance("downgraded to classic protocol", steady_ms, detail=detail))
        out.becomes = group
        return _joined(replace(member, epoch=group.generation))

    def _become_classic(
        self, out: Step, members: Iterable[ConsumerMember], steady_ms: int, former: ConsumerMember | None = None
    ) -> ClassicGroup:
        """The classic group of these members. Each has its target; who takes the place of `former` has that one's."""
        classic_members = []
        for member in members:
            if member.classic is None:
                raise ValueError(f"member {member.member_id} of group {self.group_id} is no classic member")
            takes_place = former is not None and member.instance_id == former.instance_id
            target = self.targets.get(former.member_id if former and takes_place else member.member_id, NOTHING)
            classic_members.append(
                ClassicMember(
                    member_id=member.member_id,
                    group_instance_id=member.instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    session_timeout_ms=member.classic.session_timeout_ms,
                    rebalance_timeout_ms=member.rebalance_timeout_ms,
                    protocols=member.classic.protocols,
                    assignment=self._assignment_bytes(member.classic, target),
                )
            )
        generation = self.epoch
        self._end(out)
        group, record = ClassicGroup.of_members(
            self.group_id,
            self.settings,
            classic_members,
            generation=generation,
            protocol=_elected(classic_members),
            leader=classic_members[0].member_id,
            steady_ms=steady_ms,
        )
        out.records.append(record)
        out.add(group.restart(steady_ms))
        return group

    def _end(self, out: Step) -> None:
        """Nothing of the group is left, nor are its timers."""
        for member_id in self.members:
            self._cancel_timers(out, member_id)
        for record in self.tombstones():
            self.apply(record)
            out.records.append(record)
        self.is_dead = True

    def _become_new_classic(
        self, request: JoinGroupRequest, token: Hashable, sender: Sender, new_member_id: str, steady_ms: int
    ) -> Step:
        out = Step()
        group = ClassicGroup(self.group_id, self.settings)
        joined = group.join(request, token, sender, new_member_id, steady_ms)
        if not group.is_blank:
            self._end(out)
            out.becomes = group
        out.add(joined)
        return out

    def _assignment_bytes(self, classic: ClassicProtocols, partitions: Mapping[UUID, Iterable[int]]) -> bytes:
        """In the version that the member speaks; topics that are gone are left out."""
        by_uuid = self.catalogue.by_uuid
        named = sorted((by_uuid[topic].name, list(ids)) for topic, ids in partitions.items() if topic in by_uuid)
        return write_assignment(version_of(classic.protocols[0][1]), named)


def _joining(
    request: JoinGroupRequest,
    sender: Sender,
    member_id: str,
    former: ConsumerMember | None,
    subscription: Subscription,
) -> ConsumerMember:
    """The member as its request describes it. It keeps what a classic member cannot say."""
    if former is None:
        former = ConsumerMember(member_id)
    elif former.member_id != member_id:
        former = replace(former, member_id=member_id, epoch=0, previous_epoch=0)
    return replace(
        former,
        instance_id=former.instance_id if request.group_instance_id is None else request.group_instance_id,
        rack_id=former.rack_id if subscription.rack_id is None else subscription.rack_id,
        client_id=sender.client_id,
        client_host=sender.host,
        # JoinGroup version 0 has one timeout for both.
        rebalance_timeout_ms=request.session_timeout_ms if sender.version == 0 else request.rebalance_timeout_ms,
        topics=tuple(sorted(subscription.topics)),
        regex="",
        classic=ClassicProtocols(
            request.session_timeout_ms, tuple((each.name, bytes(each.metadata)) for each in request.protocols)
        ),
    )


def _joined(member: ConsumerMember) -> JoinGroupResponse:
    return JoinGroupResponse(
        member_id=member.member_id,
        generation_id=member.epoch,
        protocol_type=CONSUMER_PROTOCOL_TYPE,
        protocol_name=member.classic.protocols[0][0] if member.classic else "",
    )


def _elected(members: Collection[ClassicMember]) -> str:
    """Of the protocols that all have, the one that most want most."""
    candidates = set.intersection(*(set(member.protocol_names) for member in members))
    votes: dict[str, int] = {}
    for member in members:
        name = member.vote(candidates)
        votes[name] = votes.get(name, 0) + 1
    return max(votes, key=votes.__getitem__)
