"""What the database knows of how far consumer groups are behind, and the minutes of kafka.lag_history.

    store = LagStore(control)
    await store.ends([(topic_id, 0)])                      where partitions end that are not loaded
    await store.unread_times([(topic_id, 0, 17)])          when the first record at or behind offset 17 was appended
    await store.write_minute(minute_ms, entries)

Questions are asked 200 at a time: whoever else waits for the session waits for some ten milliseconds, and a second at worst,
where a thousand rows of aborted transactions lie behind each place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from pg_kafka.storage import queries
from pg_kafka.storage.control import ControlSession

SQL = queries.load("lag")

TURNS = 4  # tables of kafka.lag_minutes
MINUTES_OF_TABLE = 10 * 24 * 60  # three full tables are the 30 days
# All of them have a gigabyte at most. A thousand groups, each with one topic, take some 10 kB a minute.
TABLE_BYTES = 256 * 1024 * 1024
# While somebody reads the table that would be emptied next, the one that is written becomes so many times larger. Then
# minutes are lost.
PATIENCE = 2
ASKED_AT_ONCE = 200

Place = TypeVar("Place", bound=tuple[int, ...])


class Entry(NamedTuple):
    """What a minute says of one group and one topic; names that are None stand for all that have no entry of their own."""

    group_id: str | None
    topic: str | None
    lag: int
    lag_seconds: int


class LagStore:
    """See the module. Every method raises StorageError."""

    def __init__(self, control: ControlSession, *, table_bytes: int = TABLE_BYTES) -> None:
        self._control = control
        self._full_bytes = PATIENCE * table_bytes

    async def ends(self, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """The ends of partitions (topic id, index)."""
        found: dict[tuple[int, int], int] = {}
        for some in _parts(places):
            rows = await self._control.fetch(SQL["ends"], [p[0] for p in some], [p[1] for p in some])
            found.update({(row["topic"], row["partition"]): row["end_offset"] for row in rows})
        return found

    async def unread_times(self, places: Sequence[tuple[int, int, int]]) -> list[int | None]:
        """For each (topic id, index, offset) when its first record was appended, ms since 1970; None: nothing to read."""
        found: list[int | None] = []
        for some in _parts(places):
            columns = ([p[0] for p in some], [p[1] for p in some], [p[2] for p in some])
            times: list[int | None] = [None] * len(some)
            for n, append_time in await self._control.fetch(SQL["unread_times"], *columns):
                times[n - 1] = append_time
            found += times
        return found

    async def write_minute(self, minute_ms: int, entries: Sequence[Entry]) -> bool:
        """Keep what a minute was; False: the tables are full, as somebody keeps the next one from being emptied."""
        columns = [list(column) for column in zip(*entries, strict=True)] or [[], [], [], []]
        return bool(await self._control.fetch(SQL["write_minute"], minute_ms, *columns, self._full_bytes))


def _parts(places: Sequence[Place]) -> Iterator[Sequence[Place]]:
    for start in range(0, len(places), ASKED_AT_ONCE):
        yield places[start : start + ASKED_AT_ONCE]
