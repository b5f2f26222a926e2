"""What a group machine takes and gives: requests with their senders in, durable records, replies and timers out.

A machine never awaits and knows no clock. Its methods take `now_ms` (steady, milliseconds) and return a `Result`; the
records in it are applied to the machine already, through `apply`, which is also what rebuilds it after a restart. Whoever
runs the machine writes the records, and sends the replies only after these and all earlier records of the group are
committed. When a write fails, the machine is thrown away and built again from what is stored.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

TimerName = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a request. `host` is written as Kafka shows it, with a slash in front."""

    client_id: str
    host: str
    version: int  # of the request


@dataclass(frozen=True, slots=True)
class Record:
    """One durable change of a group: the latest value of (kind, key) counts, and None deletes it.

    A value holds what JSON can hold; bytes are base64 text. `key` is a member id, or "" for what the group has once.
    """

    kind: str
    key: str
    value: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Why a group rebalanced, or what else happened to it that a person may ask about."""

    event: str  # one of the words in docs/groups.md, as "member joined"
    generation: int  # generation or group epoch after the event
    member_id: str = ""
    client_id: str = ""
    client_host: str = ""
    detail: str = ""


@dataclass(slots=True)
class Result:
    """What has to be done after a step, in this order: write, then reply; timers at once.

    A timer is set anew, or cancelled with None; a name that is not mentioned keeps its deadline. `becomes` replaces the
    machine by one of the other kind; when `is_dead`, nothing of the group is left.
    """

    records: list[Record] = field(default_factory=list)
    replies: list[tuple[Hashable, Any]] = field(
        default_factory=list
    )  # (token given with the request, response message)
    timers: dict[TimerName, int | None] = field(default_factory=dict)
    history: list[HistoryEntry] = field(default_factory=list)
    becomes: Any = None
    is_dead: bool = False

    def add(self, other: Result) -> None:
        """Append another step's outcome to this one."""
        self.records.extend(other.records)
        self.replies.extend(other.replies)
        self.timers.update(other.timers)
        self.history.extend(other.history)
        self.becomes = other.becomes or self.becomes
        self.is_dead = other.is_dead


@dataclass(frozen=True, slots=True)
class TopicImage:
    """What an assignor needs to know of a topic."""

    id: int  # kafka.topics.id, never used again
    uuid: UUID
    name: str
    partitions: int


class Catalogue(Protocol):
    """The topics there are."""

    @property
    def by_name(self) -> Mapping[str, TopicImage]: ...
    @property
    def by_uuid(self) -> Mapping[UUID, TopicImage]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """The broker's settings for groups, by Kafka's names with `_` for `.`; times in milliseconds."""

    group_initial_rebalance_delay_ms: int = 3_000
    group_max_size: int = 2**31 - 1
    group_min_session_timeout_ms: int = 6_000
    group_max_session_timeout_ms: int = 1_800_000
    group_consumer_session_timeout_ms: int = 45_000
    group_consumer_min_session_timeout_ms: int = 45_000
    group_consumer_max_session_timeout_ms: int = 60_000
    group_consumer_heartbeat_interval_ms: int = 5_000
    group_consumer_min_heartbeat_interval_ms: int = 5_000
    group_consumer_max_heartbeat_interval_ms: int = 15_000
    group_consumer_max_size: int = 2**31 - 1
    group_consumer_assignment_interval_ms: int = 1_000  # between two target assignments of a group
    group_consumer_assignors: tuple[str, ...] = ("uniform", "range", "roundrobin", "sticky")
    group_consumer_migration_policy: str = "bidirectional"  # disabled, upgrade, downgrade
