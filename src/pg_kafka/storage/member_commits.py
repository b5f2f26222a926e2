"""Offsets that members of consumer groups commit by kafka.commit_offsets() in transactions of their own.

    store = MemberCommits(control)
    seen = await store.look([("billing", 7, 0)], [])      whose transactions are still open
    commits, snapshot = await store.news(None)            the last of each place that is still in the tables
    commits, snapshot = await store.news(snapshot)        what has been committed since then

Ask in this order: what was under way no longer is then among the news.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from pg_kafka.storage import queries
from pg_kafka.storage.control import ControlSession

SQL = queries.load("member_commits")

Place = tuple[str, int, int]
"""Group id, topic id and partition."""


class MemberCommit(NamedTuple):
    """A commit of one partition. In one place a later one has a higher id."""

    id: int
    group_id: str
    topic_id: int
    partition: int
    offset: int
    leader_epoch: int
    metadata: str
    committed_at_ms: int


class Seen(NamedTuple):
    """What a look has found."""

    busy: Mapping[Place, int]  # where an open transaction has committed, with the process id of its session
    driven: Mapping[str, bool]  # groups that SQL drives; False: that an open transaction is about to have it drive
    is_quiet: bool  # no transaction that has committed is open


class MemberCommits:
    """See the module. Every method raises StorageError."""

    def __init__(self, control: ControlSession) -> None:
        self._control = control

    async def look(self, places: Collection[Place], groups: Collection[str]) -> Seen:
        """What is under way in some places, and which of some groups SQL drives.

        A transaction that begins to commit, or to drive a group, after this has been asked sees all that was committed before.
        """
        rows = await self._control.fetch(SQL["look"], list(groups))
        driven = {row["group_id"]: row["is_driven"] for row in rows if row["group_id"] is not None}
        busy: dict[Place, int] = {}
        if not rows[0]["is_quiet"] and places:
            found = await self._control.fetch(SQL["under_way"], *map(list, zip(*places, strict=True)))
            busy = {(row["group_id"], row["topic_id"], row["partition"]): row["pid"] for row in found}
        return Seen(busy, driven, rows[0]["is_quiet"])

    async def news(self, snapshot: str | None) -> tuple[list[MemberCommit], str]:
        """Of each place the last commit that is there now and was not at a snapshot, and the snapshot of now.

        Some may come again.
        """
        rows = await self._control.fetch(SQL["news"], snapshot)
        return [MemberCommit(*list(row)[1:]) for row in rows if row["id"] is not None], rows[0]["snapshot"]
