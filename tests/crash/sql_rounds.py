"""One round of many SQL sessions on a topic and its account: sessions produce, consumers read, and all has to agree.

play(...)   what a test calls; `trouble` says what happens meanwhile
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import asyncpg
from confluent_kafka.admin import AdminClient, NewTopic
from tests.clients.agents import JavaClient
from tests.clients.records import Record
from tests.crash.sql_account import PARTITIONS, Log, check, note_of
from tests.crash.sql_readers import read_to, reading
from tests.crash.sql_sessions import Sessions

TELLS_PLACES_OF = 2000


@dataclass
class Report:
    """What became of a round."""

    what: str
    seed: int
    seconds: float = 0.0
    committed: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    played: Mapping[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = ", ".join(f"{count} {what}" for what, count in [*self.endings.most_common(), *self.played.items()])
        result = "\n  ".join(["FAILED", *self.faults[:20]]) if self.faults else "ok"
        return f"{self.what} seed {self.seed}: {self.committed} records committed in {self.seconds:.0f} s, {told}: {result}"


def create_topic(bootstrap: str, name: str, **configs: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for answer in admin.create_topics([NewTopic(name, PARTITIONS, 1, config=configs)]).values():
        answer.result(30)


async def play(
    what: str,
    bootstrap: str,
    sessions: Sessions,
    java: JavaClient | None,
    trouble: Callable[[], Awaitable[Counter[str]]],
    begin_anew: Callable[[], Awaitable[None]],
    seed: int,
) -> Report:
    """Sessions work while there is trouble. Then all is read and compared, once more after the broker began anew."""
    started = time.monotonic()
    report = Report(what, seed, endings=sessions.endings)
    async with reading(bootstrap, sessions.topic, java) as readers:
        try:
            sessions.start()
            report.played = await trouble()
            await sessions.stop()
            marks = await sessions.mark()
            for reader in readers:
                await reader.has_seen(marks)
        except (TimeoutError, AssertionError) as error:
            report.faults.append(f"{type(error).__name__}: {error}")
            return report
        finally:
            await sessions.cancel()
            report.faults += sessions.faults
            report.faults += [fault for reader in readers for fault in reader.faults]
    notes = await sessions.committed()
    report.committed = len(notes)
    log = await read_to(bootstrap, sessions.topic, marks)
    seen: dict[str, Log] = {reader.name: reader.log for reader in readers}
    seen["SQL"] = await _read_by_sql(sessions)
    report.faults += check(notes, log, seen)
    # report.faults += await _check_places(sessions, log)
    await begin_anew()
    last = await sessions.mark()
    again = await read_to(bootstrap, sessions.topic, last)
    for partition, records in again.items():
        if list(records[:-1]) != list(log[partition]) or note_of(records[-1]) not in last:
            more = len(records) - 1 - len(log[partition])
            report.faults.append(f"{partition}: not what it was, {more} records more, when the broker began anew")
    report.seconds = time.monotonic() - started
    return report


async def _read_by_sql(sessions: Sessions) -> Log:
    log: dict[int, list[Record]] = {index: [] for index in range(PARTITIONS)}
    async with sessions.connection() as connection:
        rows = await connection.fetch(
            "SELECT partition_id, partition_offset, key, value, headers, timestamp_ms "
            f'FROM topics."{sessions.topic}" ORDER BY partition_id, partition_offset'
        )
    for row in rows:
        headers = tuple((header["key"], header["value"]) for header in row["headers"] or ())
        record = Record(row["key"], row["value"], headers, row["timestamp_ms"], row["partition_offset"])
        log[row["partition_id"]].append(record)
    return log


async def _check_places(sessions: Sessions, log: Log) -> list[str]:
    """What kafka.produced tells of ids is where the records are."""
    told = await sessions.ids()
    place_of = {note_of(record): (partition, record.offset) for partition, records in log.items() for record in records}
    async with sessions.connection() as connection:
        rows: list[asyncpg.Record] = await connection.fetch(
            "SELECT n.id, p.* FROM (SELECT id FROM proof.notes ORDER BY id DESC LIMIT $1) n, kafka.produced(n.id) p",
            TELLS_PLACES_OF,
        )
    wanted = min(TELLS_PLACES_OF, len(told))
    faults = [] if len(rows) == wanted else [f"kafka.produced tells of {len(rows)} records, not of {wanted}"]
    wrong = [
        f"{dict(row)}, it is at {place_of.get(told[row['id']])}"
        for row in rows
        if (row["state"], row["topic"]) != ("sent", sessions.topic)
        or (row["partition_id"], row["partition_offset"]) != place_of.get(told[row["id"]])
    ]
    if wrong:
        faults.append(f"kafka.produced tells {len(wrong)} wrong places: {'; '.join(wrong[:3])}")
    return faults
