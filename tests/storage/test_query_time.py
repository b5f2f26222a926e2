"""kafka.read_time() and kafka.tail(): what they find, and what they do not have to look at for it."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import asyncpg
import pytest
from tests.storage.janitors import janitor_of, job
from tests.storage.log_rows import add_marker, add_row, add_topic, connect_migrated

from pg_kafka.storage.segments import Segments

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
T = 1_700_000_000_000
EVER = "SELECT * FROM kafka.read_time('t', '-infinity')"


def at(ms: float) -> datetime.datetime:
    return EPOCH + datetime.timedelta(milliseconds=ms)


class Stored(NamedTuple):
    partition: int
    offset: int
    timestamp_ms: int


class Log:
    """A topic whose rows have the running maximum that a broker writes, and what they should show."""

    def __init__(self, db: asyncpg.Connection, topic: int) -> None:
        self.db = db
        self.topic = topic
        self.segments = Segments(db)
        self.series, self.segment = 0, 0
        self.records: list[Stored] = []
        self._ends: dict[int, int] = {}

    async def own_series(self) -> None:
        await self.segments.create_series(self.topic, "none")
        self.series = self.topic

    async def add(self, timestamps: Sequence[int], partition: int = 0, *, is_shown: bool = True, **options: Any) -> int:
        """A row at the end of a partition; where it begins."""
        base = self._ends.get(partition, 0)
        same = len(set(timestamps)) == 1
        options |= {
            "partition": partition,
            "series": self.series,
            "segment": self.segment,
            "first_timestamp": timestamps[0],
        }
        options |= {} if same else {"timestamps": timestamps}
        deltas = options.get("offset_deltas") or range(len(timestamps))
        await add_row(self.db, self.topic, base, [b"%d" % (base + delta) for delta in deltas], **options)
        await self._run(partition, base)
        if is_shown:
            self.records += [Stored(partition, base + delta, ms) for delta, ms in zip(deltas, timestamps, strict=True)]
        self._ends[partition] = base + deltas[-1] + 1
        return base

    async def end_transaction(self, producer_id: int, *, is_commit: bool, partition: int = 0, ms: int = T) -> None:
        base = self._ends[partition]
        place = {"partition": partition, "series": self.series, "segment": self.segment, "first_timestamp": ms}
        await add_marker(self.db, self.topic, base, producer_id, is_commit=is_commit, **place)
        await self._run(partition, base)
        self._ends[partition] += 1

    async def _run(self, partition: int, base: int) -> None:
        await self.db.execute(
            "UPDATE kafka.log l SET running_max_timestamp = (SELECT max(o.max_timestamp) FROM kafka.log o"
            " WHERE o.topic = l.topic AND o.partition = l.partition AND o.base_offset <= l.base_offset)"
            " WHERE topic = $1 AND partition = $2 AND base_offset = $3",
            self.topic,
            partition,
            base,
        )

    async def roll(self, *, knows_times: bool = True) -> None:
        """Another segment; the one before is complete."""
        await self.db.execute("UPDATE kafka.segments SET owner = 1 WHERE series = $1 AND state = 'active'", self.series)
        new = await self.segments.roll(self.series, self.segment, "none")
        assert new is not None
        await self.segments.seal(self.series, self.segment)
        self.segment = new
        if knows_times:
            while await self.segments.fill_times(2):
                pass

    async def read(self, since: int, until: int | None = None, partition: int | None = None) -> list[Stored]:
        arguments = ["t", at(since), *([] if until is None else [at(until)])]
        name = "" if partition is None else f", partition => {partition}"
        places = ", ".join(f"${n + 1}" for n in range(len(arguments)))
        return shown(await self.db.fetch(f"SELECT * FROM kafka.read_time({places}{name})", *arguments))

    async def tail(self, count: int, partition: int | None = None) -> list[Stored]:
        return shown(await self.db.fetch("SELECT * FROM kafka.tail('t', $1, $2)", count, partition))

    def wanted(self, since: int, until: int, partition: int | None = None) -> list[Stored]:
        chosen = (r for r in self.records if since <= r.timestamp_ms < until and partition in (None, r.partition))
        return sorted(chosen)

    async def touched(self, question: str) -> set[str]:
        """Which tables of the topic a statement has read."""
        await self.db.execute("SELECT pg_stat_force_next_flush()")  # what the session has read before
        async with self.db.transaction():
            await self.db.fetch(question)
            rows = await self.db.fetch(
                "SELECT relname::text FROM pg_stat_xact_user_tables WHERE relname ~ '^log_[0-9]+_[0-9]+$'"
                " AND coalesce(seq_tup_read, 0) + coalesce(idx_scan, 0) > 0"
            )
        return {row["relname"].partition(f"log_{self.series}_")[2] for row in rows}

    async def buffers(self, question: str) -> int:
        """How many pages a statement looks at, once the session knows what it has to know."""
        for _ in range(3):
            await self.db.fetch(question)
        (row,) = await self.db.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {question}")
        plan = json.loads(row[0])[0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def shown(rows: Sequence[asyncpg.Record]) -> list[Stored]:
    for row in rows:
        assert row["value"] == b"%d" % row["partition_offset"]
    return [Stored(row["partition_id"], row["partition_offset"], row["timestamp_ms"]) for row in rows]


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def log(db: asyncpg.Connection) -> Log:
    return Log(db, await add_topic(db, "t", 3))


async def test_whatever_order_timestamps_have_exactly_those_of_the_time_are_found(
    db: asyncpg.Connection, log: Log
) -> None:
    """Records that came late, by any length of time, in rows and in segments far behind, and times ahead of all others."""
    chance = random.Random(5)
    await add_row(db, await add_topic(db, "other", 3), 0, [b"x"], first_timestamp=T)
    for step in range(40):
        if step == 10:
            await log.own_series()
        elif step % 7 == 6 and step > 10:
            await log.roll(knows_times=chance.random() < 0.7)
        for partition in range(3):
            now = T + 100 * step
            stamps = [now + chance.choice([0, 0, chance.randrange(-50, 50)]) for _ in range(chance.choice([1, 1, 4]))]
            if chance.random() < 0.1:
                stamps[-1] = T + chance.choice([-(10**9), 3, 10**9, chance.randrange(4000)])
            await log.add(stamps, partition)
    everything = sorted(log.records)
    assert shown(await db.fetch(EVER)) == everything
    for _ in range(60):
        since = T + chance.randrange(-100, 4200)
        until = since + chance.choice([1, 30, 300, 3000])
        partition = chance.choice([None, 0, 1, 2])
        assert await log.read(since, until, partition) == log.wanted(since, until, partition)
    assert await log.read(T + 2000) == log.wanted(T + 2000, 1 << 62)
    assert await log.read(T + 10**9, T + 10**9 + 1) == log.wanted(T + 10**9, T + 10**9 + 1)


async def test_bounds_are_to_the_microsecond_and_the_upper_one_is_not_in_it(log: Log) -> None:
    await log.add([T, T + 1, T + 2])
    assert [r.offset for r in await log.read(T, T + 2)] == [0, 1]
    assert [r.offset for r in await log.read(T + 0.001, T + 2.001)] == [1, 2]  # type: ignore[arg-type]
    assert await log.read(T + 1, T + 1) == [] == await log.read(T + 2, T)
    assert [r.offset for r in await log.read(T + 2)] == [2]


async def test_records_without_a_timestamp_and_times_that_are_none(db: asyncpg.Connection, log: Log) -> None:
    await log.add([-1])
    await log.add([T])
    await log.add([1 << 62])
    assert [row["partition_offset"] for row in await db.fetch(EVER)] == [0, 1, 2]
    assert [r.offset for r in await log.read(0)] == [1, 2]
    until = await db.fetch("SELECT * FROM kafka.read_time('t', '-infinity', 'epoch')")
    assert [row["partition_offset"] for row in until] == [0]


async def test_what_views_hide_is_hidden(db: asyncpg.Connection, log: Log) -> None:
    await log.add([T, T + 1], is_shown=False)  # below the log start, the first of them
    log.records.append(Stored(0, 1, T + 1))
    await log.add([T + 2], is_transactional=True, producer_ids=[7])
    await log.add([T + 3], is_transactional=True, producer_ids=[8], is_shown=False)
    await log.end_transaction(7, is_commit=True)
    await log.end_transaction(8, is_commit=False)
    await log.add([T + 4, T + 5], offset_deltas=[2, 5])  # compaction has been here
    await log.add([T + 6], is_transactional=True, producer_ids=[9], is_shown=False)  # open
    await db.execute("INSERT INTO kafka.log_starts VALUES ($1, 0, 1)", log.topic)
    assert await log.read(T) == log.records == await log.tail(100) == await log.tail(100, 0)
    assert await log.read(T + 3, T + 4) == [] == await log.read(T + 6)
    assert await log.tail(2) == log.records[-2:] == await log.tail(2, 0)
    await log.end_transaction(9, is_commit=True)
    assert [r.timestamp_ms for r in await log.tail(1, 0)] == [T + 6]


async def test_the_end_of_a_partition_and_of_a_topic(db: asyncpg.Connection, log: Log) -> None:
    await log.own_series()
    for step in range(6):
        await log.add([T + 10 * step, T + 10 * step + 1, T + 10 * step + 2], partition=step % 2)
        if step % 2:
            await log.roll()
    ordered = sorted(log.records, key=lambda r: (r.timestamp_ms, r.partition, r.offset))
    for count in (0, 1, 3, 4, 7, 18, 1000):
        assert await log.tail(count) == ordered[len(ordered) - min(count, 18) :]
        assert await log.tail(count, 1) == [r for r in ordered if r.partition == 1][max(0, 9 - count) :]
    assert await log.tail(5, 2) == []
    assert len(await db.fetch("SELECT * FROM kafka.tail('t')")) == 10
    # What came last counts in a partition, whatever its timestamp; of several those with the latest timestamps.
    late = await log.add([T - 5], partition=0)
    assert (await log.tail(1, 0)) == [Stored(0, late, T - 5)]
    assert (await log.tail(1)) == ordered[-1:]
    assert Stored(0, late, T - 5) in await log.tail(1000)


async def test_a_topic_that_is_new_is_read_without_a_view(db: asyncpg.Connection, log: Log) -> None:
    assert await db.fetch(EVER) == [] == await log.tail(5)
    await log.add([T])
    assert await log.read(T) == log.records == await log.tail(5)
    assert await db.fetchval("SELECT view_name FROM kafka.topics") is None
    rows = await db.fetch("SELECT * FROM kafka.tail('t')")
    columns = await db.fetch(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'kafka.messages'::regclass ORDER BY attnum"
    )
    assert list(rows[0].keys()) == [row[0] for row in columns]


@pytest.mark.parametrize("function", ["read_time", "tail", "segments_of_time"])
async def test_what_is_asked_wrongly_is_an_error_with_a_hint(db: asyncpg.Connection, log: Log, function: str) -> None:
    calls = {
        "read_time": [
            ("'nothing', now()", "KF001"),
            ("'t', now(), now(), 3", "KF002"),
            ("'t', now(), now(), -1", "KF002"),
            ("'t', NULL", "22004"),
            ("'t', now(), NULL", "22004"),
            ("NULL, now()", "22004"),
        ],
        "tail": [
            ("'nothing'", "KF001"),
            ("'t', 1, 3", "KF002"),
            ("'t', NULL", "22004"),
            ("'t', -1", "22023"),
            ("NULL", "22004"),
        ],
        "segments_of_time": [("'nothing', now()", "KF001"), ("'t', NULL", "22004")],
    }
    for arguments, state in calls[function]:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await db.fetch(f"SELECT kafka.{function}({arguments})")
        assert (caught.value.sqlstate, bool(caught.value.hint)) == (state, True), arguments


async def test_who_may_read_the_view_may_read_this_way_and_nobody_else(
    db: asyncpg.Connection, log: Log, pg_superuser_dsn: str
) -> None:
    await log.add([T])
    await db.execute("SELECT kafka.create_topic_view($1)", log.topic)
    superuser = await asyncpg.connect(pg_superuser_dsn)
    calls = (EVER, "SELECT * FROM kafka.tail('t')", "SELECT kafka.segments_of_time('t', '-infinity')")
    await superuser.execute("DROP ROLE IF EXISTS time_reader; CREATE ROLE time_reader")
    try:
        await superuser.execute("SELECT kafka.grant_reader('time_reader', 't'); SET ROLE time_reader")
        for call in calls:
            assert len(await superuser.fetch(call)) == 1
        await db.execute("REVOKE SELECT ON topics.t FROM time_reader")
        for call in calls:
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as caught:
                await superuser.fetch(call)
            assert caught.value.hint == "GRANT SELECT ON topics.t TO time_reader"
        await db.execute(
            "REVOKE EXECUTE ON FUNCTION kafka.tail FROM time_reader; GRANT SELECT ON topics.t TO time_reader"
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="function tail"):
            await superuser.fetch(calls[1])
    finally:
        await superuser.execute("RESET ROLE; DROP OWNED BY time_reader; DROP ROLE time_reader")
        await superuser.close()


async def long_log(log: Log, segments: int, *, rows: int = 60) -> None:
    """Segments of one partition, each with rows of an hour."""
    await log.own_series()
    for hour in range(segments):
        await log.db.execute(
            f"""
            INSERT INTO kafka.log_{log.series}_{log.segment} (
                series, segment, topic, partition, base_offset, last_offset, global_base, max_timestamp, running_max_timestamp,
                append_time, first_timestamp, record_count, row_bytes, leader_epoch, timestamp_type, codec, is_transactional,
                is_control, timestamps, values)
            SELECT $1::bigint, $2, $1::bigint, 0, b, b + 1, b, t + 1, t + 1, t, t, 2, 9, 0, 0, 0, false, false, ARRAY[t, t + 1],
                   ARRAY[b::text::bytea, (b + 1)::text::bytea]
            FROM (SELECT 2 * ($3::bigint * $4::bigint + n) AS b,
                         $5::bigint + 3600000 * $3::bigint + 3600000 / $4::bigint * n AS t
                  FROM generate_series(0, $4 - 1) AS n) AS r
            """,
            log.series,
            log.segment,
            hour,
            rows,
            T,
        )
        await log.db.execute(
            "INSERT INTO kafka.extents (topic, partition, first_offset, series, segment) VALUES ($1, 0, $2, $3, $4)",
            log.topic,
            2 * hour * rows,
            log.series,
            log.segment,
        )
        await log.roll()
    log._ends[0] = 2 * segments * rows
    await log.add([T + segments * HOUR])
    await log.db.execute("ANALYZE")


HOUR = 3_600_000


def minute_of(hour: float) -> str:
    since, until = at(T + hour * HOUR).isoformat(), at(T + hour * HOUR + 60_000).isoformat()
    return f"SELECT count(*) FROM kafka.read_time('t', '{since}', '{until}')"


async def test_only_segments_of_the_time_are_looked_into(log: Log) -> None:
    await long_log(log, 8)
    assert await log.db.fetchval(minute_of(3.5)) == 2
    # The newest segment is not complete: nobody knows yet what is not in it.
    assert await log.touched(minute_of(3.5)) == {"3", "8"}
    assert await log.touched(minute_of(0)) == {"0", "8"}
    assert await log.touched("SELECT count(*) FROM kafka.tail('t', 5)") == {"7", "8"}
    assert await log.touched("SELECT count(*) FROM kafka.tail('t', 1)") == {"8"}
    assert await log.touched(minute_of(-1)) == {"8"}
    # One record that came late: its segment counts as well from then on, and no other.
    await log.roll()
    await log.add([T + 9 * HOUR, T + 3 * HOUR + HOUR // 2 + 1])
    await log.roll()
    assert await log.db.fetchval(minute_of(3.5)) == 3
    assert await log.touched(minute_of(3.5)) == {"3", "9"}
    assert await log.touched(minute_of(4.5)) == {"4", "9"}
    assert await log.touched(minute_of(2.5)) == {"2"}


async def test_what_it_costs_does_not_grow_with_the_log(log: Log, db: asyncpg.Connection) -> None:
    """Pages, counted: with eight times as many segments, and with rows in a segment thirty times as many."""
    other = Log(db, await add_topic(db, "u"))
    third = Log(db, await add_topic(db, "v"))
    await long_log(log, 4)
    await long_log(other, 32)
    await long_log(third, 2, rows=1800)
    for question in (minute_of(1.5), "SELECT count(*) FROM kafka.tail('t', 10)"):
        small = await log.buffers(question)
        large = await other.buffers(question.replace("'t'", "'u'"))
        assert large <= 1.5 * small + 30, question
        # The segment with the time is searched by halving; what is behind the time in it is looked at.
        full = await third.buffers(question.replace("'t'", "'v'"))
        assert full <= 2 * small + 200, question


async def test_conditions_of_a_view_keep_it_off_segments_and_rows(log: Log, db: asyncpg.Connection) -> None:
    await long_log(log, 8, rows=600)
    await db.execute("SELECT kafka.create_topic_view($1)", log.topic)

    async def plan(condition: str) -> tuple[set[str], str]:
        rows = await db.fetch(f"EXPLAIN (COSTS OFF) SELECT count(value) FROM topics.t WHERE {condition}")
        text = "\n".join(row[0] for row in rows)
        found = {name for name in (f"log_{log.series}_{n} " for n in range(9)) if f" {name}" in text}
        return {name.strip().rpartition("_")[2] for name in found}, text

    numbers = await db.fetchval(
        "SELECT kafka.segments_of_time('t', $1, $2)", at(T + 3.5 * HOUR), at(T + 3.5 * HOUR + 60_000)
    )
    assert numbers == [3, 8]
    time = f"timestamp_ms >= {T + 3.5 * HOUR:.0f} AND timestamp_ms < {T + 3.5 * HOUR + 60_000:.0f}"
    assert (await plan(f"segment = ANY ('{{3,8}}') AND {time}"))[0] == {"3", "8"}
    assert (await plan("segment >= 6"))[0] == {"6", "7", "8"}
    assert (await plan("partition_offset < 10"))[0] == set(map(str, range(9)))
    _, text = await plan("partition_id = 0 AND batch_base_offset BETWEEN 100 AND 110 AND segment = 0")
    assert "Index Cond" in text and "base_offset >= 100" in text
    # What few rows are found is few pages, whatever there is.
    some = "SELECT count(value) FROM topics.t WHERE segment = ANY ('{3,8}') AND " + time
    assert await db.fetchval(some) == 20
    assert await log.touched(some) == {"3", "8"}
    evening = f"{T + 7.9 * HOUR:.0f}"
    rows = f"SELECT count(value) FROM topics.t WHERE batch_max_timestamp >= {evening} AND timestamp_ms >= {evening}"
    assert await db.fetchval(rows) == 121
    by_offset = "SELECT count(value) FROM topics.t WHERE partition_id = 0 AND batch_base_offset BETWEEN 4000 AND 4002"
    everything = "SELECT count(value) FROM topics.t"
    assert await db.fetchval(by_offset) == 4
    assert 3 * await log.buffers(by_offset) < await log.buffers(everything)


async def test_records_that_move_while_they_are_looked_for_are_looked_for_again(
    db: asyncpg.Connection, log: Log
) -> None:
    """The first time it is told of an extent that is not what it was."""
    await log.add([T, T + 1])
    for function, call in (("time_rows", EVER), ("last_rows", "SELECT * FROM kafka.tail('t', 5)")):
        await db.execute(f"CREATE SEQUENCE public.calls_of_{function}")
        types = "bigint, int4range, bigint, bigint" if function == "time_rows" else "bigint, int4range, integer"
        await db.execute(f"ALTER FUNCTION kafka.{function}({types}) RENAME TO true_{function}")
        given = ", ".join(f"${n + 1}" for n in range(types.count(",") + 1))
        await db.execute(
            f"""
            CREATE FUNCTION kafka.{function}({types}) RETURNS TABLE (
                partition integer, first_offset bigint, generation integer, series bigint, segment integer, base_offset bigint)
            LANGUAGE sql VOLATILE AS $f$
                SELECT r.partition, r.first_offset, r.generation - CASE WHEN n.n < 3 THEN n.n::integer ELSE 0 END, r.series,
                       r.segment, r.base_offset
                FROM (SELECT nextval('public.calls_of_{function}') AS n) AS n, kafka.true_{function}({given}) AS r
            $f$
            """
        )
        assert shown(await db.fetch(call)) == log.records
        assert await db.fetchval(f"SELECT last_value FROM public.calls_of_{function}") == 3


class Lanes:
    async def switch_segment(self, series: int, segment: int) -> None: ...
    async def move_topic(self, topic_id: int, series: int, segment: int) -> None: ...
    async def switch_journal(self, journal: str, active: int) -> None: ...


async def test_the_janitor_finds_the_smallest_timestamps_of_what_is_complete(
    db: asyncpg.Connection, log: Log, pg_dsn: str
) -> None:
    await log.own_series()
    await log.add([T + 5, T + 3, T + 9])
    await log.add([T + 4], partition=1)
    await log.add([T + 7], partition=2, is_transactional=True, producer_ids=[3])
    await log.end_transaction(3, is_commit=True, partition=2, ms=T)
    await log.roll(knows_times=False)
    await log.add([T + 6])
    # As of batches that were kept as they came: they are known when they are unpacked.
    await db.execute("UPDATE kafka.extents SET packed_from = 0 WHERE partition = 1")
    janitor = janitor_of(pg_dsn, Lanes(), owner=1, compression="none")  # type: ignore[arg-type]
    await janitor._connect()
    question = "SELECT partition, segment, min_timestamp FROM kafka.extents WHERE topic = $1 ORDER BY 2, 1"
    try:
        times = job(janitor, "fill times")
        assert await times.step() is True
        known = [(0, 0, T + 3), (1, 0, None), (2, 0, T + 7), (0, 1, None)]
        assert [tuple(row) for row in await db.fetch(question, log.topic)] == known
        assert await times.step() is False
        await db.execute("UPDATE kafka.extents SET packed_from = NULL")
        assert await times.step() is False  # it has just looked
        janitor._site.counts.segments["sealed"] += 1
        assert await times.step() is True
        known[1] = (1, 0, T + 4)
        assert [tuple(row) for row in await db.fetch(question, log.topic)] == known
    finally:
        janitor._site.drop()
