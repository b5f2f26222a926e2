"""The janitor finds what there is to do, does it in steps that survive a kill, and lets no failure stop the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg
import pytest
from tests.storage.janitors import janitor_of
from tests.storage.log_rows import add_row, add_topic, connect_migrated

from pg_kafka.storage import sessions
from pg_kafka.storage.segments import Segments, adopt
from pg_kafka.storage.upkeep.janitor import Janitor
from pg_kafka.storage.upkeep.job import Options

DEADLINE_S = 30.0
MIB = 1024 * 1024
NODE = 1


class Lanes:
    """Records what the janitor asks for; writes kafka.topics as the log does."""

    def __init__(self, db: asyncpg.Connection) -> None:
        self.db = db
        self.switched: list[tuple[int, int]] = []
        self.moved: list[tuple[int, int, int]] = []
        self.fail_times = 0

    def _perhaps_fail(self) -> None:
        if self.fail_times:
            self.fail_times -= 1
            raise RuntimeError("the lane is stuck")

    async def switch_segment(self, series: int, segment: int) -> None:
        self._perhaps_fail()
        self.switched.append((series, segment))

    async def write_checkpoints(self, places: Sequence[tuple[int, int]]) -> None:
        for topic_id, index in places:
            await self.db.execute(
                "INSERT INTO kafka.partition_checkpoints (topic, partition, next_offset, running_max_timestamp)"
                " VALUES ($1, $2, 1 << 30, 0)",
                topic_id,
                index,
            )

    async def rows_moved(self, places: Sequence[tuple[int, int]]) -> None:
        pass

    async def move_topic(self, topic_id: int, series: int, segment: int) -> None:
        self._perhaps_fail()
        await self.db.execute("UPDATE kafka.topics SET series = $2 WHERE id = $1", topic_id, series)
        self.moved.append((topic_id, series, segment))


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn, compression="none")
    await adopt(connection.fetch, NODE)
    yield connection
    await connection.close()


@pytest.fixture
async def lanes(pg_dsn: str) -> AsyncIterator[Lanes]:
    connection = await asyncpg.connect(pg_dsn)
    yield Lanes(connection)
    await connection.close()


def outgrown(janitor: Janitor, topic: int) -> None:
    """The log says that a topic is too large for the shared series."""
    janitor._site.growth.outgrown.add(topic)
    janitor.poke()


@pytest.fixture
async def make_janitor(pg_dsn: str, lanes: Lanes) -> AsyncIterator[Callable[..., Awaitable[Janitor]]]:
    made: list[Janitor] = []

    async def make(**changes: Any) -> Janitor:
        options = {
            "owner": NODE,
            "segment_bytes": 1024 * MIB,
            "segment_ms": 7 * 86_400_000,
            "compression": "auto",
            "interval_s": 0.3,
        }
        janitor = janitor_of(pg_dsn, lanes, **{**options, **changes})
        made.append(janitor)
        await janitor.start()
        return janitor

    yield make
    for janitor in made:
        await janitor.stop()


async def test_checkpoints_take_bounded_space_under_a_held_snapshot(
    db: asyncpg.Connection, pg_dsn: str, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    size = "SELECT pg_table_size('kafka.partition_checkpoints')"
    rows = "SELECT array_agg(c ORDER BY partition) FROM kafka.partition_checkpoints c"
    await db.execute(
        "INSERT INTO kafka.partition_checkpoints (topic, partition, next_offset, running_max_timestamp)"
        " SELECT 1, n, 0, 0 FROM generate_series(1, 200) n"
    )
    holder = await asyncpg.connect(pg_dsn)
    await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await holder.fetchval("SELECT count(*) FROM pg_class")
    for _ in range(60):
        await db.execute("UPDATE kafka.partition_checkpoints SET next_offset = next_offset + 1")
    before, bloated = await db.fetchval(rows), await db.fetchval(size)
    await db.execute("VACUUM kafka.partition_checkpoints")
    assert await db.fetchval(size) >= bloated > MIB
    janitor = await make_janitor(checkpoint_table_bytes=MIB // 4)
    await until(db, f"SELECT ({size}) < $1", MIB // 4)
    assert await db.fetchval(rows) == before

    # Whoever reads it is not waited for, nor does anybody wait behind the attempt.
    for _ in range(60):
        await db.execute("UPDATE kafka.partition_checkpoints SET next_offset = next_offset + 1")
    await holder.fetchval("SELECT count(*) FROM kafka.partition_checkpoints")
    janitor.poke()
    async with asyncio.timeout(DEADLINE_S):
        while not janitor.failures["rewrite checkpoints"]:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
    await db.execute("UPDATE kafka.partition_checkpoints SET next_offset = next_offset + 1")
    await holder.close()
    await until(db, f"SELECT ({size}) < $1", MIB // 4)


async def until(db: asyncpg.Connection, question: str, *arguments: Any) -> None:
    """Wait until a query says true."""
    deadline = time.monotonic() + DEADLINE_S
    while not await db.fetchval(question, *arguments):
        assert time.monotonic() < deadline, question
        await asyncio.sleep(0.01)


async def views(db: asyncpg.Connection) -> list[str]:
    rows = await db.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'topics'::regnamespace ORDER BY relname")
    return [row["relname"] for row in rows]


async def delete_topic(db: asyncpg.Connection, topic: int) -> None:
    await db.execute(
        "WITH gone AS (DELETE FROM kafka.topics WHERE id = $1 RETURNING id, name, series, view_name) "
        "INSERT INTO kafka.deleted_topics (id, name, series, view_name) SELECT * FROM gone",
        topic,
    )


NONE_DELETED = "SELECT NOT EXISTS (SELECT FROM kafka.deleted_topics)"
ALL_VIEWS = "SELECT NOT EXISTS (SELECT FROM kafka.topics WHERE view_name IS NULL AND name !~ '^_')"


async def test_new_topics_get_views_and_internal_ones_do_not(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    janitor = await make_janitor(interval_s=60)
    await until(
        db,
        "SELECT count(*) > 0 FROM pg_stat_activity"
        " WHERE application_name = 'pg_kafka janitor' AND datname = current_database()",
    )
    for name in ("__consumer_offsets", "app-store-changelog", "app-by-key-repartition", "my-changelog-topic", "orders"):
        await add_topic(db, name)
    janitor.poke()
    await until(db, "SELECT count(*) = 2 FROM kafka.topics WHERE view_name IS NOT NULL")
    assert await views(db) == ["my-changelog-topic", "orders"]
    topic = await db.fetchrow(
        "SELECT id, obj_description('topics.orders'::regclass) AS about FROM kafka.topics WHERE name = 'orders'"
    )
    assert topic["about"] == f"Records of topic orders (id {topic['id']})."


async def test_a_view_that_somebody_drops_is_made_again(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    dropped, replaced, looked_like, kept = [await add_topic(db, name) for name in ("a", "b", "c", "d")]
    await make_janitor()
    await until(db, ALL_VIEWS)
    for topic in (dropped, replaced, looked_like, kept):
        await add_row(db, topic, 0, [b"record"])
    # In one transaction: the janitor may be quick.
    await db.execute(
        "BEGIN; DROP VIEW topics.a; DROP VIEW topics.b; CREATE TABLE topics.b (value text); DROP VIEW topics.c;"
        "CREATE VIEW topics.c AS SELECT 1 AS value; CREATE OR REPLACE VIEW topics.d AS SELECT * FROM kafka.messages"
        " WHERE false; COMMIT"
    )
    wanted = ["a", "b", f"b~{replaced}", "c", f"c~{looked_like}", "d"]
    async with asyncio.timeout(DEADLINE_S):
        while await views(db) != wanted:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    await until(db, ALL_VIEWS)
    for name, topic in (("a", "a"), (f"b~{replaced}", "b"), (f"c~{looked_like}", "c")):
        assert [row["value"] for row in await db.fetch(f'SELECT value FROM topics."{name}"')] == [b"record"]
        read = await db.fetch("SELECT value FROM kafka.read($1, 0, 0, 10)", topic)
        assert [row["value"] for row in read] == [b"record"]
    assert await db.fetch("SELECT * FROM topics.d") == []  # still a view of records: it is not touched


async def test_views_from_before_an_upgrade_are_made_anew(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    topics = [await add_topic(db, name) for name in ("a", "b", "c")]
    for name, topic in zip("abc", topics, strict=True):
        await add_row(db, topic, 0, [name.encode()])
        await db.execute("SELECT kafka.create_topic_view($1)", topic)
        await db.execute(
            f"CREATE OR REPLACE VIEW topics.{name} AS"
            f" SELECT * FROM kafka.messages WHERE series IN (0, {topic}) AND topic_id = {topic}"
        )
    await db.execute("CREATE VIEW public.mine AS SELECT value FROM topics.a; GRANT SELECT ON topics.a TO PUBLIC")
    await make_janitor()
    await until(
        db,
        "SELECT count(*) = 3 FROM pg_views WHERE schemaname = 'topics'"
        " AND definition ~ 'is_unpacked' AND definition ~ 'topic_messages'",
    )
    assert await db.fetchval("SELECT value FROM public.mine") == b"a"
    assert await db.fetchval("SELECT has_table_privilege('public', 'topics.a', 'SELECT')")
    assert await db.fetchval("SELECT value FROM topics.c") == b"c"


async def test_somebody_elses_object_outlives_the_topic(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    topic = await add_topic(db, "a")
    await db.execute("SELECT kafka.create_topic_view($1)", topic)
    await db.execute("BEGIN; DROP VIEW topics.a; CREATE TABLE topics.a (); COMMIT")
    await delete_topic(db, topic)
    await make_janitor()
    await until(db, NONE_DELETED)
    assert await views(db) == ["a"]


async def test_thousands_of_topics_get_their_views_in_seconds(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    await db.execute("INSERT INTO kafka.topics (name, partitions) SELECT 't' || n, 1 FROM generate_series(1, 2000) n")
    await make_janitor()
    await until(db, ALL_VIEWS)
    assert len(await views(db)) == 2000


async def test_a_topic_whose_view_fails_stops_no_other(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    bad, _good = await add_topic(db, "bad"), await add_topic(db, "good")
    await db.execute(f'CREATE TABLE topics."bad" (); CREATE TABLE topics."bad~{bad}" ()')
    janitor = await make_janitor()
    await until(db, "SELECT view_name IS NOT NULL FROM kafka.topics WHERE name = 'good'")
    assert janitor.failures["make views"] > 0
    await db.execute(f'DROP TABLE topics."bad~{bad}"')
    await until(db, ALL_VIEWS)


async def test_nothing_is_left_of_a_deleted_topic(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    janitor = await make_janitor(interval_s=60)
    doomed, other = await add_topic(db, "doomed"), await add_topic(db, "other")
    for offset in range(250):
        await add_row(db, doomed, offset, [b"x"])
    await add_row(db, other, 0, [b"x"])
    await db.execute("INSERT INTO kafka.log_starts VALUES ($1, 0, 1)", doomed)
    await db.execute("INSERT INTO kafka.leader_epochs VALUES ($1, 0, 1, 0)", doomed)
    outgrown(janitor, doomed)
    await until(db, "SELECT series = id FROM kafka.topics WHERE id = $1", doomed)
    await add_row(db, doomed, 250, [b"x"], series=doomed)
    await until(db, ALL_VIEWS)

    await delete_topic(db, doomed)
    janitor.poke()

    await until(db, NONE_DELETED)
    assert await views(db) == ["other"]
    for table in ("log", "extents", "leader_epochs", "log_starts", "partition_checkpoints"):
        assert await db.fetchval(f"SELECT count(*) FROM kafka.{table} WHERE topic = $1", doomed) == 0
    assert await db.fetchval("SELECT count(*) FROM kafka.series") == 1
    assert await db.fetchval("SELECT to_regclass($1) IS NULL", f"kafka.log_{doomed}")
    assert await db.fetchval("SELECT count(*) FROM kafka.messages") == 1


async def test_a_users_view_on_a_deleted_topic_is_empty_and_follows_to_the_next(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    janitor = await make_janitor()
    first = await add_topic(db, "orders")
    await add_row(db, first, 0, [b"old"])
    janitor.poke()
    await until(db, ALL_VIEWS)
    await db.execute("CREATE VIEW public.mine AS SELECT value FROM topics.orders")

    await delete_topic(db, first)
    janitor.poke()
    await until(db, "SELECT obj_description('topics.orders'::regclass) LIKE 'Its topic was deleted%'")
    assert await db.fetch("SELECT * FROM public.mine") == []

    second = await add_topic(db, "orders")
    await add_row(db, second, 0, [b"new"])
    janitor.poke()
    await until(db, ALL_VIEWS)
    assert [row["value"] for row in await db.fetch("SELECT * FROM public.mine")] == [b"new"]
    await until(db, NONE_DELETED)


async def test_a_full_segment_is_followed_by_a_new_one_and_frozen(
    db: asyncpg.Connection, lanes: Lanes, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    topic = await add_topic(db, "t")
    for offset in range(50):
        await add_row(db, topic, offset, [bytes(range(256)) * 100])
    lanes.fail_times = 2
    janitor = await make_janitor(segment_bytes=MIB, compression="none")
    await until(db, "SELECT state = 'frozen' FROM kafka.segments WHERE segment = 0")
    assert await db.fetchval("SELECT segment FROM kafka.segments WHERE series = 0 AND state = 'active'") == 1
    assert set(lanes.switched) == {(0, 1)}
    assert janitor.failures["seal segments"] == 2
    assert await db.fetchval("SELECT state FROM kafka.segments WHERE segment = 1") == "active"


async def test_segments_of_brokers_that_are_gone_are_sealed_by_who_has_adopted_them(
    db: asyncpg.Connection, lanes: Lanes, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    assert await Segments(db).roll(0, 0, "none") == 1
    await db.execute("UPDATE kafka.segments SET owner = 9")
    janitor = await make_janitor(interval_s=60)
    await add_topic(db, "t")
    janitor.poke()
    await until(db, ALL_VIEWS)
    await add_topic(db, "u")  # a whole turn of its jobs later
    janitor.poke()
    await until(db, ALL_VIEWS)
    states = "SELECT array_agg(state ORDER BY segment) FROM kafka.segments"
    assert await db.fetchval(states) == ["superseded", "active"] and not lanes.switched

    await adopt(db.fetch, NODE)
    janitor.poke()
    await until(db, f"SELECT ({states}) = $1", ["frozen", "active"])
    assert lanes.switched == [(0, 1)]


async def grow(db: asyncpg.Connection, topic: int, begin: int) -> None:
    """Some 1.3 MB, in 50 transactions."""
    for offset in range(begin, begin + 50):
        await add_row(db, topic, offset, [bytes(range(256)) * 100])


IS_FROZEN = """
SELECT bool_and(age(c.relfrozenxid) < 50 AND c.relallvisible > 0) AND sum(c.relallvisible) > $1
FROM pg_class c, pg_class log
WHERE log.oid = 'kafka.log_0_0'::regclass AND c.oid IN (log.oid, log.reltoastrelid)
"""


async def test_on_a_nearly_full_disk_only_what_frees_space_goes_on(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    asked: list[float] = []
    has_room = False

    def room(disk_bytes: float, *, small: bool = False) -> bool:
        asked.append(disk_bytes)
        return has_room or small

    shared, own, kept = [await add_topic(db, name) for name in ("shared", "own", "kept")]
    await grow(db, kept, 0)
    await grow(db, shared, 0)
    await db.execute("SELECT kafka.create_topic_view($1)", own)
    janitor = await make_janitor(compression="none")
    outgrown(janitor, own)
    has_room = True
    await until(db, "SELECT series = id FROM kafka.topics WHERE id = $1", own)
    await janitor.stop()
    has_room = False
    await db.execute("UPDATE kafka.topics SET view_name = NULL WHERE id = $1", kept)
    await db.execute("DROP VIEW IF EXISTS topics.kept")
    for doomed in (shared, own):
        await delete_topic(db, doomed)

    await make_janitor(compression="none", freeze_bytes=MIB, segment_bytes=MIB, has_room=room)
    await until(db, "SELECT NOT EXISTS (SELECT FROM kafka.deleted_topics WHERE id = $1)", own)
    assert await db.fetchval("SELECT to_regclass($1) IS NULL", f"kafka.log_{own}")
    assert await db.fetchval("SELECT count(*) FROM kafka.log WHERE topic = $1", shared) == 50
    assert await db.fetchval("SELECT view_name IS NULL FROM kafka.topics WHERE id = $1", kept)
    assert await db.fetchval("SELECT segment FROM kafka.segments WHERE series = 0 AND state = 'active'") == 0
    assert asked and not max(asked)

    has_room = True
    await until(db, NONE_DELETED)
    await until(db, ALL_VIEWS)
    await until(db, "SELECT state = 'frozen' FROM kafka.segments WHERE segment = 0")
    assert max(asked) > MIB  # freezing said what it would write


async def test_an_active_segment_is_frozen_as_it_grows(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    topic = await add_topic(db, "t")
    await grow(db, topic, 0)
    await grow(db, topic, 50)
    janitor = await make_janitor(compression="none", freeze_bytes=MIB)
    await until(db, IS_FROZEN, 300)
    await grow(db, topic, 100)
    janitor.poke()
    await until(db, IS_FROZEN, 450)
    assert await db.fetchval("SELECT state FROM kafka.segments") == "active"
    assert not janitor.failures


@pytest.mark.parametrize("grace_s", [3600, 0])
async def test_a_sealed_segment_waits_for_old_snapshots(
    db: asyncpg.Connection, pg_dsn: str, make_janitor: Callable[..., Awaitable[Janitor]], grace_s: int
) -> None:
    topic = await add_topic(db, "t")
    await grow(db, topic, 0)
    holder = await asyncpg.connect(pg_dsn)
    await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await holder.fetchval("SELECT count(*) FROM pg_class")
    await grow(db, topic, 50)
    janitor = await make_janitor(compression="none", segment_bytes=MIB, freeze_grace_s=grace_s)
    state = "SELECT state FROM kafka.segments WHERE segment = 0"
    if grace_s:
        await until(db, f"SELECT ({state}) = 'sealed'")
        for turn in range(2):  # of all jobs
            await add_topic(db, f"turn-{turn}")
            janitor.poke()
            await until(db, ALL_VIEWS)
        assert await db.fetchval(state) == "sealed"
        await holder.close()
        janitor.poke()
        await until(db, f"SELECT ({state}) = 'frozen'")
        assert await db.fetchval(IS_FROZEN, 300)
    else:
        await until(db, f"SELECT ({state}) = 'frozen'")
        await holder.close()
    assert not janitor.failures


async def test_an_old_segment_is_rolled_when_it_is_not_empty(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    janitor = await make_janitor(segment_ms=1)
    await asyncio.sleep(0.5)
    assert await db.fetchval("SELECT count(*) FROM kafka.segments") == 1
    await add_row(db, await add_topic(db, "t"), 0, [b"x"])
    janitor.poke()
    await until(db, "SELECT state = 'frozen' FROM kafka.segments WHERE segment = 0")


@pytest.mark.parametrize(
    ("configs", "options"),
    [
        ('{"cleanup.policy": "compact", "max.compaction.lag.ms": "1"}', {}),
        ('{"cleanup.policy": "compact,delete"}', {"max_compaction_lag_ms": 1}),
        ('{"max.compaction.lag.ms": "1"}', {"compacts": True}),
        ("{}", {"compacts": True, "max_compaction_lag_ms": 1}),
    ],
)
async def test_a_compacted_segment_is_no_older_than_the_lag(
    db: asyncpg.Connection,
    make_janitor: Callable[..., Awaitable[Janitor]],
    configs: str,
    options: Mapping[str, Any],
) -> None:
    """Whether the topic or the broker says that it is compacted, and how long records may escape that."""
    topic = await add_topic(db, "t", configs=configs)
    kept = await add_topic(db, "kept", configs='{"cleanup.policy": "delete", "max.compaction.lag.ms": "1"}')
    janitor = await make_janitor(**options)
    for each in (topic, kept):
        outgrown(janitor, each)
        await until(db, "SELECT series = id FROM kafka.topics WHERE id = $1", each)
        await add_row(db, each, 0, [b"x"], series=each)
    janitor.poke()
    await until(db, "SELECT state = 'frozen' FROM kafka.segments WHERE series = $1 AND segment = 0", topic)
    assert await db.fetchval("SELECT count(*) FROM kafka.segments WHERE series = $1", kept) == 1


async def test_configs_that_are_no_numbers_stop_no_segment(
    db: asyncpg.Connection, lanes: Lanes, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    """Somebody may write anything into a topic's configs by SQL."""
    text = await add_topic(db, "text", configs='{"segment.bytes": "large", "segment.ms": {"a": 1}}')
    janitor = await make_janitor(segment_bytes=MIB, compression="none")
    outgrown(janitor, text)
    await until(db, "SELECT EXISTS (SELECT FROM kafka.series WHERE id = $1)", text)
    await add_row(db, text, 0, [b"x" * MIB * 2], series=text)
    janitor.poke()
    await until(db, "SELECT count(*) = 2 FROM kafka.segments WHERE series = $1", text)
    assert not janitor.failures["roll segments"]


async def test_segment_bytes_of_a_topic_count_in_its_own_series(
    db: asyncpg.Connection, lanes: Lanes, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    topic = await add_topic(db, "t", configs='{"segment.bytes": "1048576"}')
    janitor = await make_janitor(compression="none")
    outgrown(janitor, topic)
    await until(db, "SELECT series = id FROM kafka.topics WHERE id = $1", topic)
    assert lanes.moved == [(topic, topic, 0)]
    for offset in range(50):
        await add_row(db, topic, offset, [bytes(range(256)) * 100], series=topic)
    janitor.poke()
    await until(db, "SELECT state = 'frozen' FROM kafka.segments WHERE series = $1 AND segment = 0", topic)


async def test_a_move_that_was_begun_is_finished_by_the_next_janitor(
    db: asyncpg.Connection, lanes: Lanes, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    topic = await add_topic(db, "t")
    lanes.fail_times = 1000
    janitor = await make_janitor()
    outgrown(janitor, topic)
    await until(db, "SELECT EXISTS (SELECT FROM kafka.series WHERE id = $1)", topic)
    await janitor.stop()
    lanes.fail_times = 0
    await make_janitor()
    await until(db, "SELECT series = id FROM kafka.topics WHERE id = $1", topic)


async def test_auto_compression_looks_at_the_records(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    if "lz4" not in await db.fetchval("SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"):
        pytest.skip("this PostgreSQL was built without lz4")
    text, noise = await add_topic(db, "text"), await add_topic(db, "noise")
    await add_row(db, text, 0, [b'{"name": "value", "number": 12345}'] * 500)
    random_bytes = await db.fetchval(
        "SELECT array_agg(decode(md5(n::text) || md5((n + 1000000)::text), 'hex')) FROM generate_series(1, 500) n"
    )
    await add_row(db, noise, 0, random_bytes)
    janitor = await make_janitor()
    outgrown(janitor, text)
    outgrown(janitor, noise)
    await until(db, "SELECT count(*) = 2 FROM kafka.topics WHERE series = id")
    chosen = dict(await db.fetch("SELECT series, compression FROM kafka.segments WHERE series <> 0"))
    assert chosen == {text: "lz4", noise: "none"}


async def test_sessions_that_are_killed_all_the_time_delay_the_work_only(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pg_kafka.storage.upkeep.janitor.FIRST_RETRY_S", 0.01)
    monkeypatch.setattr("pg_kafka.storage.upkeep.janitor.LAST_RETRY_S", 0.05)
    monkeypatch.setattr("pg_kafka.storage.upkeep.views.VIEWS_PER_STEP", 5)
    keep, doomed = await add_topic(db, "keep"), await add_topic(db, "doomed")
    await db.execute("INSERT INTO kafka.topics (name, partitions) SELECT 't' || n, 1 FROM generate_series(1, 50) n")
    for offset in range(300):
        await add_row(db, doomed, offset, [b"x" * 10_000])
        await add_row(db, keep, offset, [b"x" * 10_000])
    await delete_topic(db, doomed)
    janitor = await make_janitor(segment_bytes=MIB)
    outgrown(janitor, keep)
    for _ in range(30):
        await asyncio.sleep(0.02)
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'pg_kafka janitor' AND datname = current_database()"
        )
    await until(db, ALL_VIEWS)
    await until(db, NONE_DELETED)
    await until(db, "SELECT series = id FROM kafka.topics WHERE id = $1", keep)
    await until(db, "SELECT state = 'frozen' FROM kafka.segments WHERE series = 0 AND segment = 0")
    assert await db.fetchval("SELECT count(*) FROM kafka.messages WHERE topic_id = $1", keep) == 300
    assert sum(janitor.failures.values()) > 0


async def test_stop_ends_the_session(db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]) -> None:
    janitor = await make_janitor()
    here = (
        "SELECT count(*) = $1 FROM pg_stat_activity "
        "WHERE application_name = 'pg_kafka janitor' AND datname = current_database()"
    )
    await until(db, here, 1)
    await janitor.stop()
    await until(db, here, 0)


async def test_stop_while_connecting_ends_the_session(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_open = asyncio.Event()

    async def never(_connection: asyncpg.Connection) -> list[str]:
        is_open.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("pg_kafka.storage.upkeep.janitor.server_compressions", never)
    janitor = await make_janitor()
    async with asyncio.timeout(DEADLINE_S):
        await is_open.wait()
    await janitor.stop()
    here = (
        "SELECT count(*) = $1 FROM pg_stat_activity "
        "WHERE application_name = 'pg_kafka janitor' AND datname = current_database()"
    )
    await until(db, here, 0)


async def test_without_a_database_it_waits_between_its_tries(
    make_janitor: Callable[..., Awaitable[Janitor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that want their turn do not make it try, or look, again and again."""
    janitor = await make_janitor(interval_s=600.0)
    tried = janitor._site.counts.job("janitor", "connect")
    async with asyncio.timeout(DEADLINE_S):
        while janitor._site.session is None or tried.steps < 2:
            await asyncio.sleep(0.01)
            janitor.poke()
    for job in janitor._jobs:
        monkeypatch.setattr(type(job), "wakes_at", lambda _: 0.0)
    rounds = 0
    wait = janitor._wait

    async def counted() -> None:
        nonlocal rounds
        rounds += 1
        await wait()

    async def refuse(_name: str) -> sessions.Session:
        raise ConnectionRefusedError

    monkeypatch.setattr(janitor, "_wait", counted)
    monkeypatch.setattr(janitor, "_open", refuse)
    assert janitor._site.session is not None
    before = tried.steps
    janitor._site.session.drop()
    async with asyncio.timeout(DEADLINE_S):
        while tried.steps < before + 3:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    # One for each job that has failed, and for each try.
    assert rounds < 3 * len(janitor._jobs)


async def test_a_fenced_broker_s_janitor_makes_no_noise(
    make_janitor: Callable[..., Awaitable[Janitor]], caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(kind: str) -> sessions.Session:
        raise sessions.Fenced("incarnation 1 is fenced")

    with caplog.at_level("INFO"):
        janitor = await make_janitor(open_session=refuse)
        await asyncio.sleep(0.1)
        await janitor.stop()
    (line,) = [record for record in caplog.records if record.name.endswith("janitor")]
    assert line.levelname == "INFO" and line.exc_info is None


async def test_a_topic_says_how_its_own_series_is_compressed(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    own, wrong = await add_topic(db, "own"), await add_topic(db, "wrong")
    for topic, wish in ((own, "pglz"), (wrong, "zip")):
        await db.execute(
            "UPDATE kafka.topics SET configs = jsonb_build_object('storage.compression', $2::text) WHERE id = $1",
            topic,
            wish,
        )
        await grow(db, topic, 0)
    janitor = await make_janitor(compression="none", segment_bytes=MIB)
    outgrown(janitor, own)
    outgrown(janitor, wrong)
    await until(db, "SELECT count(*) = 2 FROM kafka.topics WHERE series = id")
    chosen = dict(await db.fetch("SELECT series, compression FROM kafka.segments WHERE series <> 0"))
    assert chosen == {own: "pglz", wrong: "none"}


async def test_a_janitor_goes_by_settings_that_have_changed(
    db: asyncpg.Connection, make_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    topic = await add_topic(db, "grown")
    for offset in range(0, 3000, 1000):
        await grow(db, topic, offset)
    janitor = await make_janitor(compression="none")
    janitor.renew(Options(segment_bytes=1024, segment_ms=1 << 60, compression="none"))
    await until(db, "SELECT count(*) > 1 FROM kafka.segments WHERE series = 0")
