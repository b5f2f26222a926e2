"""What a group machine takes and gives: requests with their senders in, durable records, replies and timers out.

A machine never awaits and knows no clock. Its methods take `steady_ms` (`pg_kafka.clock`) and return a `Step`; the
records in it are applied to the machine already, through `apply`, which is also what rebuilds it after a restart. Whoever
runs the machine writes the records, and sends the replies only after these and all earlier records of the group are
committed. When a write fails, the machine is thrown away and built again from what is stored.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from pg_kafka.coordinator.records import HistoryEntry, Record
from pg_kafka.coordinator.timers import TimerName


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a request. `host` is written as Kafka shows it, with a slash in front."""

    client_id: str
    host: str
    version: int  # of the request
    principal: str = ""  # where it is asked what they may see


@dataclass(slots=True)
class Step:
    """What has to be done after an event, in this order: write, then reply; timers at once.

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

    def add(self, other: Step) -> None:
        """Append another step to this one."""
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
    @property
    def permissions(self) -> int:
        """Another number when `seen_by` may say something else."""

    def seen_by(self, principal: str, host: str, names: frozenset[str]) -> frozenset[str]:
        """The topics of these that somebody may describe."""
