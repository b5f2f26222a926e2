"""Where the log of a partition begins for readers: DeleteRecords and retention move it forward, and it never goes back.

The database has it first, in `kafka.log_starts`; then the leader's partition takes it, and only after that anything below
it is freed. So a read that finds a row gone looks at its partition, and knows why.

    starts = await log_starts.advance(connection, [(topic_id, 0, 4711)])
    log.take_starts(starts)

SQL moves starts too, by `kafka.delete_records()`. Each notes a change of the kind `log start`, which `FollowStarts` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import asyncpg

from pg_kafka.storage import queries
from pg_kafka.storage.catalogue_changes import Change

SQL = queries.load("log_starts")

KIND = "log start"

Starts = Mapping[tuple[int, int], int]
"""Topic id and partition -> first offset that readers may see."""


class Session(Protocol):
    """A connection, or the control session."""

    async def fetch(self, sql: str, /, *arguments: Any) -> list[asyncpg.Record]: ...


async def advance(session: Session, wanted: Sequence[tuple[int, int, int]]) -> Starts:
    """Move the starts of partitions (topic id, partition, offset) forward, and commit; where they are then.

    One that lies further already stays. Those that cannot be moved at this moment are left out of the answer: their topic
    is gone or is being deleted, or somebody's open transaction moves them. Who asks makes sure that no offset lies above
    the high watermark. Outside of a transaction, or in one whose lock_timeout may become two seconds.
    """
    greatest: dict[tuple[int, int], int] = {}
    for topic_id, index, offset in wanted:
        greatest[topic_id, index] = max(offset, greatest.get((topic_id, index), 0))
    rows = await session.fetch(
        SQL["advance"],
        [topic_id for topic_id, _ in greatest],
        [index for _, index in greatest],
        list(greatest.values()),
    )
    return _starts(rows)


async def all_starts(session: Session) -> Starts:
    """Where all partitions begin, but for those that begin at 0."""
    return _starts(await session.fetch(SQL["all"]))


class FollowStarts:
    """Has the leader take what others have moved in the database."""

    def __init__(self, session: Session, take: Callable[[Starts], None]) -> None:
        self._session = session
        self._take = take

    async def follow(self, changes: Sequence[Change] | None) -> None:
        """An `Apply` of `CatalogueChanges`: None is for whatever may have been missed. Raises what the session does."""
        if changes is None:
            rows = await self._session.fetch(SQL["all"])
        else:
            topic_ids = sorted({c.object_id for c in changes if c.kind == KIND and c.object_id is not None})
            if not topic_ids:
                return
            rows = await self._session.fetch(SQL["of_topics"], topic_ids)
        self._take(_starts(rows))


def _starts(rows: Sequence[asyncpg.Record]) -> Starts:
    return {(row["topic"], row["partition"]): row["log_start_offset"] for row in rows}
