"""What machines of groups and of transactional ids have written, so that a restart can rebuild them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One durable change of a group or a transactional id: the latest value of (kind, key) counts, and None deletes it.

    A value holds what JSON can hold; bytes are base64 text. `key` is a member id, say, or "" for what there is once.
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
