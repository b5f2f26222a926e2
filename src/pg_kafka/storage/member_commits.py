"""Offsets that members of consumer groups commit by kafka.commit_offsets() in transactions of their own.

    store = MemberCommits(control)
    busy = await store.under_way([("billing", 7, 0)])     whose transactions are still open
    commits, snapshot = await store.news(None)            all that is committed and still in the tables
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


class MemberCommits:
    """See the module. Every method raises StorageError."""

    def __init__(self, control: ControlSession) -> None:
        self._control = control

    async def under_way(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Those of these places in which an open transaction has committed, each with the process id of its session.

        A transaction that begins to commit after this has been asked sees all that was committed before.
        """
        if (await self._control.fetch(SQL["is_quiet"]))[0]["is_quiet"] or not places:
            return {}
        groups, topics, partitions = zip(*places, strict=True)
        rows = await self._control.fetch(SQL["under_way"], groups, topics, partitions)
        return {(row["group_id"], row["topic_id"], row["partition"]): row["pid"] for row in rows}

    async def news(self, snapshot: str | None) -> tuple[list[MemberCommit], str]:
        """What is committed now and was not at a snapshot, by their ids, and the snapshot of now. Some may come again."""
        rows = await self._control.fetch(SQL["news"], snapshot)
        return [MemberCommit(*list(row)[1:]) for row in rows if row["id"] is not None], rows[0]["snapshot"]
