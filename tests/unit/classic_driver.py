"""Runs a classic group as the edge does, without time and database: requests in, replies, records and timers kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from struct import pack
from typing import Any

from pg_kafka.config.groups import GroupSettings
from pg_kafka.coordinator.classic_group import ClassicGroup
from pg_kafka.coordinator.group_steps import Sender, Step
from pg_kafka.coordinator.records import HistoryEntry, Record
from pg_kafka.coordinator.timers import TimerName
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from pg_kafka.wire.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

SETTINGS = GroupSettings(group_initial_rebalance_delay_ms=3_000)
SESSION_MS = 10_000
REBALANCE_MS = 60_000


def text(name: str) -> bytes:
    return pack(">h", len(name.encode())) + name.encode()


def subscription(*topics: str, version: int = 1, more: bytes = b"") -> bytes:
    """A ConsumerProtocolSubscription."""
    return pack(">hi", version, len(topics)) + b"".join(map(text, topics)) + pack(">i", -1) + more


def assignment(**partitions: Sequence[int]) -> bytes:
    """A ConsumerProtocolAssignment."""
    topics = b"".join(
        text(topic) + pack(f">i{len(numbers)}i", len(numbers), *numbers) for topic, numbers in partitions.items()
    )
    return pack(">hi", 1, len(partitions)) + topics + pack(">i", -1)


class Driver:
    """`send_...` give a token; `replies` holds what was answered. `stored` is what the database would hold."""

    def __init__(self, settings: GroupSettings = SETTINGS, steady_ms: int = 1_700_000_000_000) -> None:
        self.settings = settings
        self.steady_ms = steady_ms
        self.group = ClassicGroup("g", settings)
        self.replies: dict[int, Any] = {}
        self.open: set[int] = set()
        self.timers: dict[TimerName, int] = {}
        self.stored: list[Record] = []  # the latest only
        self.history: list[HistoryEntry] = []
        self.writes = 0
        self._tokens = count(1)
        self._ids = count(1)

    def perform(self, step: Step) -> Step:
        for record in step.records:
            # What the journal holds is JSON.
            self.stored = [Record(record.kind, record.key, json.loads(json.dumps(record.value)))]
            self.writes += 1
        for token, message in step.replies:
            assert token in self.open, "a request is answered once"
            self.open.discard(token)
            self.replies[token] = message
        for name, deadline in step.timers.items():
            if deadline is None:
                self.timers.pop(name, None)
            else:
                self.timers[name] = deadline
        self.history.extend(step.history)
        return step

    def reloaded(self) -> ClassicGroup:
        """Another machine, of what is stored."""
        group = ClassicGroup("g", self.settings)
        for record in self.stored:
            group.apply(record)
        return group

    def restart(self) -> None:
        """The broker is killed and starts again."""
        self.group.drop()
        self.open.clear()
        self.timers.clear()
        self.group = self.reloaded()
        self.perform(self.group.restart(self.steady_ms))

    def advance(self, ms: int) -> None:
        """Let time pass; timers go off in order."""
        end = self.steady_ms + ms
        while self.timers:
            name, deadline = min(self.timers.items(), key=lambda item: (item[1], item[0]))
            if deadline > end:
                break
            self.steady_ms = max(self.steady_ms, deadline)
            del self.timers[name]
            self.perform(self.group.on_timer(name, self.steady_ms))
        self.steady_ms = end

    def _token(self) -> int:
        token = next(self._tokens)
        self.open.add(token)
        return token

    def send_join(
        self,
        member_id: str = "",
        *,
        instance_id: str | None = None,
        protocols: Sequence[tuple[str, bytes]] = (("range", subscription("t")),),
        protocol_type: str = "consumer",
        session_ms: int = SESSION_MS,
        rebalance_ms: int = REBALANCE_MS,
        version: int = 9,
        client_id: str = "c",
        reason: str | None = None,
    ) -> int:
        token = self._token()
        request = JoinGroupRequest(
            group_id="g",
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=rebalance_ms,
            member_id=member_id,
            group_instance_id=instance_id,
            protocol_type=protocol_type,
            protocols=[JoinGroupRequestProtocol(name=name, metadata=metadata) for name, metadata in protocols],
            reason=reason,
        )
        sender = Sender(client_id, "/10.0.0.1", version)
        new_id = f"{instance_id or client_id}-{next(self._ids)}"
        self.perform(self.group.join(request, token, sender, new_id, self.steady_ms))
        return token

    def join(self, member_id: str = "", **how: Any) -> Any:
        """The reply, None when it has to wait."""
        return self.replies.get(self.send_join(member_id, **how))

    def send_sync(
        self,
        member_id: str,
        generation: int | None = None,
        *,
        assignments: dict[str, bytes] | None = None,
        instance_id: str | None = None,
        protocol_type: str | None = "consumer",
        protocol_name: str | None = "range",
        version: int = 5,
    ) -> int:
        token = self._token()
        request = SyncGroupRequest(
            group_id="g",
            generation_id=self.group.generation if generation is None else generation,
            member_id=member_id,
            group_instance_id=instance_id,
            protocol_type=protocol_type,
            protocol_name=protocol_name,
            assignments=[
                SyncGroupRequestAssignment(member_id=each, assignment=given)
                for each, given in (assignments or {}).items()
            ],
        )
        self.perform(self.group.sync(request, token, Sender("c", "/10.0.0.1", version), self.steady_ms))
        return token

    def sync(self, member_id: str, generation: int | None = None, **how: Any) -> Any:
        return self.replies.get(self.send_sync(member_id, generation, **how))

    def heartbeat(self, member_id: str, generation: int | None = None, instance_id: str | None = None) -> int:
        """The error code."""
        token = self._token()
        request = HeartbeatRequest(
            group_id="g",
            generation_id=self.group.generation if generation is None else generation,
            member_id=member_id,
            group_instance_id=instance_id,
        )
        self.perform(self.group.heartbeat(request, token, Sender("c", "/10.0.0.1", 4), self.steady_ms))
        return int(self.replies[token].error_code)

    def leave(self, *members: str | tuple[str, str | None], version: int = 5, reason: str | None = None) -> Any:
        """Members are ids, or pairs of member id and instance id."""
        token = self._token()
        identities = [each if isinstance(each, tuple) else (each, None) for each in members]
        if version < 3:
            request = LeaveGroupRequest(group_id="g", member_id=identities[0][0])
        else:
            request = LeaveGroupRequest(
                group_id="g",
                members=[
                    MemberIdentity(member_id=member_id, group_instance_id=instance_id, reason=reason)
                    for member_id, instance_id in identities
                ],
            )
        self.perform(self.group.leave(request, token, Sender("c", "/10.0.0.1", version), self.steady_ms))
        return self.replies[token]

    # -- whole scenes ------------------------------------------------------------------------------------------------

    def new_member(self, **how: Any) -> tuple[str, int]:
        """Join twice, as clients since KIP-394 do; the member id and the second request's token."""
        member_id = self.join(**how).member_id
        return member_id, self.send_join(member_id, **how)

    def completing(self, members: int = 2, **how: Any) -> list[str]:
        """A new group whose members have joined and not synced; their ids, leader first."""
        ids = [self.new_member(**how)[0] for _ in range(members)]
        while self.group.state == "PreparingRebalance":
            self.advance(1_000)
        assert self.group.leader == ids[0]
        return ids

    def stable(self, members: int = 2, **how: Any) -> list[str]:
        """A new group in which all have synced."""
        ids = self.completing(members, **how)
        given = {member_id: assignment(t=[number]) for number, member_id in enumerate(ids)}
        for member_id in ids:
            self.send_sync(member_id, assignments=given if member_id == ids[0] else None)
        assert self.group.state == "Stable"
        return ids

    def static_group(self, members: int = 2, **how: Any) -> list[str]:
        """A stable group of static members with the instance ids i0, i1 ..."""
        tokens = [self.send_join(instance_id=f"i{number}", **how) for number in range(members)]
        while self.group.state == "PreparingRebalance":
            self.advance(1_000)
        ids = [self.replies[token].member_id for token in tokens]
        given = {member_id: assignment(t=[number]) for number, member_id in enumerate(ids)}
        for number, member_id in enumerate(ids):
            self.send_sync(member_id, assignments=given if not number else None, instance_id=f"i{number}")
        assert self.group.state == "Stable"
        return ids
