"""A classic group: members join, the broker picks a protocol and a leader, the leader assigns, all sync.

Pure (see group_steps). The behaviour is that of Apache Kafka 4's group coordinator; KIP numbers stand where a rule
comes from. `steady_ms` counts milliseconds since 1970 and never goes back.

| state               | what is known           | JoinGroup waits until     | SyncGroup            | Heartbeat             |
|---------------------|-------------------------|---------------------------|----------------------|-----------------------|
| Empty               | generation, offsets     | the initial delay is over | UNKNOWN_MEMBER_ID    | UNKNOWN_MEMBER_ID     |
| PreparingRebalance  | who has rejoined        | all have, or time is up   | REBALANCE_IN_PROGRESS| REBALANCE_IN_PROGRESS |
| CompletingRebalance | generation, leader      | - (a change: rebalance)   | waits for the leader | none                  |
| Stable              | assignments             | - (a change: rebalance)   | the assignment       | none                  |
| Dead                | nothing; it was deleted | COORDINATOR_NOT_AVAILABLE | the same             | the same              |

Written: a new generation with its members when a join phase ends, the assignments when the leader syncs, a static
member that takes over the place of its former self. PreparingRebalance is never written: a group that is loaded
again goes on in its last generation, in which nobody owns anything twice, and members that want a rebalance ask again.
Members that have only been given an id (KIP-394) are not written either.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pg_kafka.config.groups import GroupSettings
from pg_kafka.coordinator.classic_member import CONSUMER_PROTOCOL_TYPE, ClassicMember
from pg_kafka.coordinator.classic_state import COMPLETING, DEAD, EMPTY, PREPARING, STABLE, ClassicState
from pg_kafka.coordinator.group_steps import Sender, Step
from pg_kafka.coordinator.records import HistoryEntry, Record
from pg_kafka.coordinator.timers import TimerName
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from pg_kafka.wire.messages.join_group import JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse
from pg_kafka.wire.messages.sync_group import SyncGroupRequest, SyncGroupResponse

TRANSITIONS: Final[Mapping[tuple[str, str], str]] = {
    (EMPTY, "rebalance"): PREPARING,  # the first member joins; the join timer runs for the initial delay
    (STABLE, "rebalance"): PREPARING,  # a member joins, leaves, expires or changes, or the leader rejoins
    (COMPLETING, "rebalance"): PREPARING,  # the same; who waits for an assignment gets REBALANCE_IN_PROGRESS
    (PREPARING, "all joined"): COMPLETING,  # or the rebalance timeout is over, and at least one has joined
    (PREPARING, "none left"): EMPTY,
    (COMPLETING, "assigned"): STABLE,  # the leader has synced
    (EMPTY, "deleted"): DEAD,
}

NEW_MEMBER_JOIN_TIMEOUT_MS: Final = 300_000
"""How long a new member's JoinGroup may wait. It may have no id yet, so that it cannot heartbeat (Kafka's constant)."""

MAX_PROTOCOLS: Final = 100
"""Of one member. Clients send one for each assignor, a handful."""

MAX_PENDING: Final = 10_000
"""Ids given to members that have not joined with them yet; beyond that the oldest is forgotten."""

_REASON_LENGTH: Final = 255  # what clients cut their reasons to (KIP-800)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that is answered later."""

    token: Hashable
    version: int


class ClassicGroup(ClassicState):
    """One classic group. Attributes without an underscore may be read by all, and are changed by its events only."""

    def __init__(self, group_id: str, settings: GroupSettings) -> None:
        super().__init__(group_id, settings)
        # What a restart forgets.
        self._pending: dict[str, None] = {}  # ids given, not joined yet (KIP-394), oldest first
        self._joining: dict[str, _Waiting] = {}
        self._syncing: dict[str, _Waiting] = {}
        self._not_synced: set[str] = set()
        self._new: set[str] = set()  # members whose first JoinGroup still waits
        self._is_initial = False  # the rebalance under way began in Empty
        self._has_newcomers = False
        self._initial_delay_ms = 0
        self._initial_left_ms = 0

    @classmethod
    def of_members(
        cls,
        group_id: str,
        settings: GroupSettings,
        members: Iterable[ClassicMember],
        *,
        generation: int,
        protocol: str,
        leader: str,
        steady_ms: int,
    ) -> tuple[ClassicGroup, Record]:
        """A Stable group of consumers, and the record that stores it: what a consumer group is downgraded to."""
        group = cls(group_id, settings)
        group.protocol_type = CONSUMER_PROTOCOL_TYPE
        group.generation, group.protocol, group.leader = generation, protocol, leader
        for member in members:
            group._add(member)
        out = Step()
        group._store(STABLE, out, steady_ms)
        return group, out.records[0]

    # -- for the edge --------------------------------------------------------------------------------------------

    @property
    def is_blank(self) -> bool:
        """Nothing is stored and nobody is here: the group need not exist, unless it has offsets."""
        return not (self._stored or self.members or self._pending)

    def restart(self, steady_ms: int) -> Step:
        """Begin to serve what was loaded: sessions get their full time, and so has who has yet to sync."""
        out = Step()
        for member in self.members.values():
            self._start_session(out, member, steady_ms)
        if self.state == COMPLETING:
            self._await_sync(out, steady_ms)
        if len(self.members) > self.settings.group_max_size:
            self.note(out, "group over capacity", detail=f"{len(self.members)} members")
            self._prepare(out, steady_ms)
        return out

    def on_timer(self, name: TimerName, steady_ms: int) -> Step:
        """A deadline has passed: ("session", group, member), ("join", group) or ("sync", group)."""
        out = Step()
        if name[0] == "session":
            self._on_session_timeout(name[2], out, steady_ms)
        elif name[0] == "join" and self.state == PREPARING:
            self._on_join_timeout(out, steady_ms)
        elif name[0] == "sync" and self.state in (COMPLETING, STABLE) and self._not_synced:
            for member_id in [member_id for member_id in self.members if member_id in self._not_synced]:
                self.note(out, "member did not sync", self.members[member_id])
                self._remove(member_id, out)
            self._prepare(out, steady_ms)
        return out

    def drop(self) -> list[Hashable]:
        """The tokens of requests that wait, when the machine is thrown away; the edge answers them."""
        waiting = [*self._joining.values(), *self._syncing.values()]
        self._joining.clear()
        self._syncing.clear()
        return [each.token for each in waiting]

    def dismiss(self, error: ErrorCode) -> Step:
        """Answer all that wait with an error and cancel all timers, as when the group turns into one of another kind."""
        out = Step()
        for member_id, waiting in self._joining.items():
            out.replies.append((waiting.token, _join_error(error, member_id, waiting.version)))
        for waiting in self._syncing.values():
            out.replies.append((waiting.token, SyncGroupResponse(error_code=error)))
        self.drop()
        for member_id in (*self.members, *self._pending):
            out.timers["session", self.group_id, member_id] = None
        out.timers["join", self.group_id] = out.timers["sync", self.group_id] = None
        return out

    def rebalance(self, event: str, steady_ms: int, *, detail: str = "") -> Step:
        """Have all members join again, for a reason that lies outside of the group."""
        out = Step()
        self.note(out, event, detail=detail)
        self._prepare(out, steady_ms)
        return out

    def note(self, out: Step, event: str, member: ClassicMember | None = None, *, detail: str | None = "") -> None:
        """Add to the history."""
        text = (detail or "")[:_REASON_LENGTH]
        entry = (member.member_id, member.client_id, member.client_host) if member else ("", "", "")
        out.history.append(HistoryEntry(event, self.generation, *entry, text))

    # -- JoinGroup -----------------------------------------------------------------------------------------------

    def join(
        self, request: JoinGroupRequest, token: Hashable, sender: Sender, new_member_id: str, steady_ms: int
    ) -> Step:
        """A member joins, or joins again. `new_member_id` is for one that has none."""
        out = Step()
        waiting = _Waiting(token, sender.version)
        member_id = request.member_id
        error = self._refuse_join(request)
        if error:
            out.replies.append((token, _join_error(error, member_id, sender.version)))
        elif not self._accepts(member_id):
            # Kafka takes the members' places as they rejoin, when the limit was lowered; the last ones have to go.
            if member_id in self.members or member_id in self._pending:
                self._remove(member_id, out)
            out.replies.append((token, _join_error(ErrorCode.GROUP_MAX_SIZE_REACHED, "", sender.version)))
            self._complete_if_all_joined(out, steady_ms)
        elif not self._supports(request):
            error = ErrorCode.INCONSISTENT_GROUP_PROTOCOL
            out.replies.append((token, _join_error(error, member_id, sender.version)))
        elif not member_id:
            self._join_new(request, waiting, sender, new_member_id, out, steady_ms)
        else:
            self._join_known(request, waiting, sender, out, steady_ms)
        return out

    def _refuse_join(self, request: JoinGroupRequest) -> ErrorCode:
        settings = self.settings
        if not (
            settings.group_min_session_timeout_ms <= request.session_timeout_ms <= settings.group_max_session_timeout_ms
        ):
            return ErrorCode.INVALID_SESSION_TIMEOUT
        if len(request.protocols) > MAX_PROTOCOLS:
            return ErrorCode.INVALID_REQUEST
        return ErrorCode.COORDINATOR_NOT_AVAILABLE if self.state == DEAD else ErrorCode.NONE

    def _accepts(self, member_id: str) -> bool:
        if self.state == EMPTY:
            return True
        if self.state == PREPARING:
            return member_id in self._joining or len(self._joining) < self.settings.group_max_size
        return member_id in self.members or len(self.members) < self.settings.group_max_size

    def _supports(self, request: JoinGroupRequest) -> bool:
        """One of the protocols is one that all members have."""
        if self.state == EMPTY:
            return bool(request.protocol_type and request.protocols)
        return request.protocol_type == self.protocol_type and any(
            self._supporters.get(protocol.name, 0) == len(self.members) for protocol in request.protocols
        )

    def _join_new(
        self,
        request: JoinGroupRequest,
        waiting: _Waiting,
        sender: Sender,
        new_member_id: str,
        out: Step,
        steady_ms: int,
    ) -> None:
        instance_id = request.group_instance_id
        if instance_id is not None and instance_id in self._static:
            self._replace_static(request, waiting, sender, new_member_id, out, steady_ms)
        elif instance_id is None and sender.version >= 4:
            # If it got in at once and lost the reply, it would come again and leave a dead member behind (KIP-394).
            if len(self._pending) >= MAX_PENDING:
                self._remove(next(iter(self._pending)), out)
            self._pending[new_member_id] = None
            out.timers["session", self.group_id, new_member_id] = steady_ms + request.session_timeout_ms
            out.replies.append(
                (waiting.token, _join_error(ErrorCode.MEMBER_ID_REQUIRED, new_member_id, sender.version))
            )
        else:
            self._join_as(new_member_id, request, waiting, sender, out, steady_ms)

    def _join_known(
        self, request: JoinGroupRequest, waiting: _Waiting, sender: Sender, out: Step, steady_ms: int
    ) -> None:
        member_id = request.member_id
        if member_id in self._pending and request.group_instance_id is None:
            self._join_as(member_id, request, waiting, sender, out, steady_ms)
            return
        error = self._check_member(member_id, request.group_instance_id)
        if error:
            response = _join_error(error, member_id, waiting.version)
            out.replies.append((waiting.token, response))
            return
        member = self.members[member_id]
        is_changed = _protocols(request) != member.protocols
        is_leader = member_id == self.leader
        if self.state == PREPARING:
            self._update(member, request, waiting, out)
            self._complete_if_all_joined(out, steady_ms)
        elif is_changed or (is_leader and self.state == STABLE):
            # A leader that rejoins wants a rebalance for reasons that are not in its metadata, as new partitions.
            event = "subscription changed" if is_changed else "leader rejoined"
            self.note(out, event, member, detail=request.reason)
            self._update(member, request, waiting, out)
            self._prepare(out, steady_ms)
        else:
            # It may have missed the first answer.
            response = self._joined(member_id, waiting.version, with_members=is_leader and self.state == COMPLETING)
            out.replies.append((waiting.token, response))

    def _join_as(
        self, member_id: str, request: JoinGroupRequest, waiting: _Waiting, sender: Sender, out: Step, steady_ms: int
    ) -> None:
        """A new member, by the id that it has from now on."""
        self._pending.pop(member_id, None)
        if not self.members:
            self.protocol_type = request.protocol_type
        member = _new_member(member_id, request, sender)
        self._add(member)
        if self.leader is None:
            self.leader = member_id
        self._joining[member_id] = waiting
        self._new.add(member_id)
        self._has_newcomers = self._is_initial
        self._start_session(out, member, steady_ms, NEW_MEMBER_JOIN_TIMEOUT_MS)
        self.note(out, "member joined", member, detail=request.reason)
        self._prepare_or_complete(out, steady_ms)

    def _replace_static(
        self,
        request: JoinGroupRequest,
        waiting: _Waiting,
        sender: Sender,
        new_member_id: str,
        out: Step,
        steady_ms: int,
    ) -> None:
        """A static member is back without its member id: it takes its place, and its former self is fenced (KIP-345)."""
        instance_id = request.group_instance_id or ""
        old = self.members[self._static[instance_id]]
        if old.member_id in self._joining:
            fenced = self._joining.pop(old.member_id)
            response = _join_error(ErrorCode.FENCED_INSTANCE_ID, old.member_id, fenced.version)
            out.replies.append((fenced.token, response))
        if old.member_id in self._syncing:
            fenced = self._syncing.pop(old.member_id)
            out.replies.append((fenced.token, SyncGroupResponse(error_code=ErrorCode.FENCED_INSTANCE_ID)))
        if old.member_id in self._not_synced:
            self._not_synced.remove(old.member_id)
            self._not_synced.add(new_member_id)
        self._new.discard(old.member_id)
        old_leader = self.leader
        member = replace(_new_member(new_member_id, request, sender), assignment=old.assignment)
        self._discard(old)
        self._add(member)
        if self.leader == old.member_id:
            self.leader = new_member_id
        out.timers["session", self.group_id, old.member_id] = None
        self._start_session(out, member, steady_ms)
        self.note(out, "static member replaced", member, detail=request.reason)
        if self.state != STABLE:
            self._joining[new_member_id] = waiting
            self._prepare_or_complete(out, steady_ms)
        elif member.protocol_names != old.protocol_names and self._select_protocol() != self.protocol:
            self._joining[new_member_id] = waiting
            self._prepare(out, steady_ms)
        else:
            self._store(STABLE, out, steady_ms)
            is_leader = self.leader == new_member_id
            if waiting.version >= 9:
                response = self._joined(new_member_id, 9, with_members=is_leader)
                response.skip_assignment = is_leader
            else:
                # Who believes itself the leader would assign anew, without a rebalance for the others.
                response = self._joined(new_member_id, waiting.version)
                response.leader = old_leader or ""
            out.replies.append((waiting.token, response))

    def _joined(self, member_id: str, version: int, *, with_members: bool = False) -> JoinGroupResponse:
        members = [
            JoinGroupResponseMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                metadata=member.metadata(self.protocol),
            )
            for member in (self.members.values() if with_members else ())
        ]
        return JoinGroupResponse(
            generation_id=self.generation,
            protocol_type=self.protocol_type or None,
            protocol_name=self.protocol if self.protocol is not None or version >= 7 else "",
            leader=self.leader or "",
            member_id=member_id,
            members=members,
        )

    # -- SyncGroup, Heartbeat, LeaveGroup ------------------------------------------------------------------------

    def sync(self, request: SyncGroupRequest, token: Hashable, sender: Sender, steady_ms: int) -> Step:
        """A member asks for its assignment; the leader brings all of them."""
        out = Step()
        member_id = request.member_id
        error = self._refuse_sync(request, sender.version)
        if error:
            out.replies.append((token, SyncGroupResponse(error_code=error)))
            return out
        self._not_synced.discard(member_id)
        if not self._not_synced:
            out.timers["sync", self.group_id] = None
        if self.state == STABLE:
            out.replies.append((token, self._synced(member_id)))
            return out
        former = self._syncing.get(member_id)
        if former:
            out.replies.append((former.token, SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS)))
        self._syncing[member_id] = _Waiting(token, sender.version)
        if member_id == self.leader:
            self._assign({each.member_id: bytes(each.assignment) for each in request.assignments}, out, steady_ms)
        return out

    def _refuse_sync(self, request: SyncGroupRequest, version: int) -> ErrorCode:
        if self.state == DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if version >= 5 and (request.protocol_type is None or request.protocol_name is None):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL  # KIP-559
        error = self._check_member(request.member_id, request.group_instance_id)
        if error:
            return error
        if request.generation_id != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        if request.protocol_type is not None and request.protocol_type != self.protocol_type:
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if request.protocol_name is not None and request.protocol_name != self.protocol:
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        return ErrorCode.REBALANCE_IN_PROGRESS if self.state == PREPARING else ErrorCode.NONE

    def _assign(self, assignments: Mapping[str, bytes], out: Step, steady_ms: int) -> None:
        for member_id, member in self.members.items():
            assignment = assignments.get(member_id, b"")
            if assignment != member.assignment:
                self.members[member_id] = replace(member, assignment=assignment)
        self._store(TRANSITIONS[self.state, "assigned"], out, steady_ms)
        self.note(out, "assigned", self.members[self.leader or ""], detail=f"{len(self.members)} members")
        for member_id, waiting in self._syncing.items():
            out.replies.append((waiting.token, self._synced(member_id)))
            # While it waited, its session could not expire, and the timer may be gone.
            self._start_session(out, self.members[member_id], steady_ms)
        self._syncing.clear()

    def _synced(self, member_id: str) -> SyncGroupResponse:
        return SyncGroupResponse(
            protocol_type=self.protocol_type or None,
            protocol_name=self.protocol,
            assignment=self.members[member_id].assignment,
        )

    def heartbeat(self, request: HeartbeatRequest, token: Hashable, sender: Sender, steady_ms: int) -> Step:
        """A member is alive."""
        out = Step()
        error = ErrorCode.COORDINATOR_NOT_AVAILABLE
        if self.state != DEAD:
            error = self._check_member(request.member_id, request.group_instance_id)
            if not error and request.generation_id != self.generation:
                error = ErrorCode.ILLEGAL_GENERATION
        if not error:
            self._start_session(out, self.members[request.member_id], steady_ms)
            if self.state == PREPARING:
                error = ErrorCode.REBALANCE_IN_PROGRESS
        out.replies.append((token, HeartbeatResponse(error_code=error)))
        return out

    def committed(self, member_id: str, steady_ms: int) -> Step:
        """A commit is a sign of life."""
        out = Step()
        member = self.members.get(member_id)
        if member and self.state in (STABLE, PREPARING):
            self._start_session(out, member, steady_ms)
        return out

    def leave(self, request: LeaveGroupRequest, token: Hashable, sender: Sender, steady_ms: int) -> Step:
        """Members leave; from version 3 many at once, static ones also by their instance id alone."""
        out = Step()
        if self.state == DEAD:
            out.replies.append((token, LeaveGroupResponse(error_code=ErrorCode.COORDINATOR_NOT_AVAILABLE)))
            return out
        leaving = request.members if sender.version >= 3 else [MemberIdentity(member_id=request.member_id)]
        answers = [
            MemberResponse(
                member_id=each.member_id, group_instance_id=each.group_instance_id, error_code=self._leave(each, out)
            )
            for each in leaving
        ]
        if sender.version >= 3:
            response = LeaveGroupResponse(members=answers)
        else:
            response = LeaveGroupResponse(error_code=answers[0].error_code)
        out.replies.append((token, response))
        if any(answer.error_code == ErrorCode.NONE for answer in answers) and self.state != EMPTY:
            self._prepare_or_complete(out, steady_ms)
        return out

    def _leave(self, identity: MemberIdentity, out: Step) -> ErrorCode:
        member_id = identity.member_id
        if not member_id:
            # How an administrator removes a static member.
            member_id = self._static.get(identity.group_instance_id or "", "")
            if identity.group_instance_id is None or not member_id:
                return ErrorCode.UNKNOWN_MEMBER_ID
        elif member_id not in self._pending:
            error = self._check_member(member_id, identity.group_instance_id)
            if error:
                return error
        if member_id in self.members:
            self.note(out, "member left", self.members[member_id], detail=identity.reason)
        self._remove(member_id, out)
        return ErrorCode.NONE

    # -- rebalance -----------------------------------------------------------------------------------------------

    def _prepare_or_complete(self, out: Step, steady_ms: int) -> None:
        if self.state == PREPARING:
            self._complete_if_all_joined(out, steady_ms)
        else:
            self._prepare(out, steady_ms)

    def _prepare(self, out: Step, steady_ms: int) -> None:
        """Begin to wait for the members' JoinGroup."""
        for member_id, waiting in self._syncing.items():
            out.replies.append((waiting.token, SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS)))
            self._start_session(out, self.members[member_id], steady_ms)
        self._syncing.clear()
        self._not_synced.clear()
        out.timers["sync", self.group_id] = None
        self._is_initial = self.state == EMPTY
        self._has_newcomers = False
        self.state, self.state_since_ms = TRANSITIONS[self.state, "rebalance"], steady_ms
        if self._is_initial:
            # Members of a new group start together; each that comes extends the wait, as long as its time allows.
            self._initial_delay_ms = self.settings.group_initial_rebalance_delay_ms
            self._initial_left_ms = max(self._rebalance_timeout_ms() - self._initial_delay_ms, 0)
            out.timers["join", self.group_id] = steady_ms + self._initial_delay_ms
        elif self._have_all_joined():
            self._complete_join(out, steady_ms)
        else:
            out.timers["join", self.group_id] = steady_ms + self._rebalance_timeout_ms()

    def _on_join_timeout(self, out: Step, steady_ms: int) -> None:
        if not (self._is_initial and self._has_newcomers and self._initial_left_ms):
            self._complete_join(out, steady_ms)
            return
        self._has_newcomers = False
        passed_ms = self._initial_delay_ms
        self._initial_delay_ms = min(self.settings.group_initial_rebalance_delay_ms, self._initial_left_ms)
        self._initial_left_ms = max(self._initial_left_ms - passed_ms, 0)
        out.timers["join", self.group_id] = steady_ms + self._initial_delay_ms

    def _have_all_joined(self) -> bool:
        return len(self._joining) == len(self.members) and not self._pending

    def _complete_if_all_joined(self, out: Step, steady_ms: int) -> None:
        if self.state == PREPARING and not self._is_initial and self._have_all_joined():
            self._complete_join(out, steady_ms)

    def _complete_join(self, out: Step, steady_ms: int) -> None:
        """The next generation, of those who have joined and of static members, who may be restarting."""
        out.timers["join", self.group_id] = None
        for member in [each for each in self.members.values() if each.member_id not in self._joining]:
            if not member.is_static:
                self.note(out, "member did not rejoin", member)
                self._remove(member.member_id, out)
        if self.members and not self._joining:
            # None but static members, all away: until they are back, or their sessions have expired.
            self._initial_left_ms = 0
            out.timers["join", self.group_id] = steady_ms + self._rebalance_timeout_ms()
            return
        if self.leader not in self._joining:
            self.leader = next((each for each in self.members if each in self._joining), None)
        self.generation += 1
        self._is_initial = False
        if not self.members:
            self.protocol = None
            self._store(TRANSITIONS[self.state, "none left"], out, steady_ms)
            self.note(out, "group empty")
            return
        self.protocol = self._select_protocol()
        for member_id, member in self.members.items():
            if member.assignment:
                self.members[member_id] = replace(member, assignment=b"")
        self._store(TRANSITIONS[self.state, "all joined"], out, steady_ms)
        self.note(out, "generation begun", detail=f"{len(self.members)} members, protocol {self.protocol}")
        for member_id, waiting in self._joining.items():
            response = self._joined(member_id, waiting.version, with_members=member_id == self.leader)
            out.replies.append((waiting.token, response))
        self._joining.clear()
        self._new.clear()
        for member in self.members.values():
            self._start_session(out, member, steady_ms)
        self._await_sync(out, steady_ms)

    def _await_sync(self, out: Step, steady_ms: int) -> None:
        self._not_synced = set(self.members)
        out.timers["sync", self.group_id] = steady_ms + self._rebalance_timeout_ms()

    def _store(self, state: str, out: Step, steady_ms: int) -> None:
        since_ms = steady_ms if state != self.state else self.state_since_ms
        record = self._record(state, since_ms)
        self.apply(record)
        out.records.append(record)

    # -- members -------------------------------------------------------------------------------------------------

    def _start_session(self, out: Step, member: ClassicMember, steady_ms: int, timeout_ms: int | None = None) -> None:
        timeout_ms = member.session_timeout_ms if timeout_ms is None else timeout_ms
        out.timers["session", self.group_id, member.member_id] = steady_ms + timeout_ms

    def _on_session_timeout(self, member_id: str, out: Step, steady_ms: int) -> None:
        member = self.members.get(member_id)
        if member:
            is_waiting = member_id in self._joining or member_id in self._syncing
            if is_waiting and member_id not in self._new:
                return  # who waits for an answer cannot heartbeat; the answer starts the session anew
            timeout_ms = NEW_MEMBER_JOIN_TIMEOUT_MS if member_id in self._new else member.session_timeout_ms
            self.note(out, "session timed out", member, detail=f"after {timeout_ms} ms")
        elif member_id not in self._pending:
            return
        self._remove(member_id, out)
        if self.state == PREPARING:
            if self._have_all_joined():
                self._complete_join(out, steady_ms)
        elif member:
            self._prepare(out, steady_ms)

    def _update(self, member: ClassicMember, request: JoinGroupRequest, waiting: _Waiting, out: Step) -> None:
        """What a member says as it rejoins."""
        self._count_protocols(member, -1)
        member = replace(
            member,
            protocols=_protocols(request),
            session_timeout_ms=request.session_timeout_ms,
            rebalance_timeout_ms=_rebalance_timeout_ms(request, waiting.version),
        )
        self._count_protocols(member, 1)
        self.members[member.member_id] = member
        former = self._joining.get(member.member_id)
        if former:
            # Kafka leaves it without an answer; here each request gets one.
            response = _join_error(ErrorCode.REBALANCE_IN_PROGRESS, member.member_id, former.version)
            out.replies.append((former.token, response))
        self._joining[member.member_id] = waiting

    def _remove(self, member_id: str, out: Step) -> None:
        """Forget a member, or one that has only been given an id. If it waits, it is told to start over."""
        out.timers["session", self.group_id, member_id] = None
        self._pending.pop(member_id, None)
        member = self.members.get(member_id)
        if member is None:
            return
        self._discard(member)
        self._not_synced.discard(member_id)
        self._new.discard(member_id)
        joining, syncing = self._joining.pop(member_id, None), self._syncing.pop(member_id, None)
        if joining:
            response = _join_error(ErrorCode.UNKNOWN_MEMBER_ID, "", joining.version)
            out.replies.append((joining.token, response))
        if syncing:
            out.replies.append((syncing.token, SyncGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID)))
        if member_id == self.leader:
            self.leader = next(iter(self.members), None)


def _protocols(request: JoinGroupRequest) -> tuple[tuple[str, bytes], ...]:
    return tuple((protocol.name, bytes(protocol.metadata)) for protocol in request.protocols)


def _rebalance_timeout_ms(request: JoinGroupRequest, version: int) -> int:
    """Version 0 has one timeout for both."""
    return request.session_timeout_ms if version == 0 else max(request.rebalance_timeout_ms, 0)


def _new_member(member_id: str, request: JoinGroupRequest, sender: Sender) -> ClassicMember:
    return ClassicMember(
        member_id,
        request.group_instance_id,
        sender.client_id,
        sender.host,
        request.session_timeout_ms,
        _rebalance_timeout_ms(request, sender.version),
        _protocols(request),
    )


def _join_error(error: ErrorCode, member_id: str, version: int) -> JoinGroupResponse:
    """The name of the protocol is null where the version can say so."""
    return JoinGroupResponse(error_code=error, member_id=member_id, protocol_name="" if version < 7 else None)
