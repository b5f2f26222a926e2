"""Columns of topics' views that are taken from JSON: kafka.define_columns() and its like."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from tests.storage.janitors import janitor_of, job
from tests.storage.log_rows import add_row, add_topic, connect_migrated

from pg_kafka.storage import queries
from pg_kafka.storage.upkeep.janitor import Janitor

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)

BASE = [
    *(
        "topic_id",
        "partition_id",
        "partition_offset",
        "global_offset",
        "key",
        "value",
        "timestamp",
        "timestamp_ms",
        "headers",
    ),
    *("batch_base_offset", "batch_last_offset", "batch_max_timestamp", "series", "segment"),
]
COLUMNS = """
    SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""
DEFINE = "SELECT name, type, path FROM kafka.define_columns($1, $2)"
UTC = datetime.UTC


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def new_topic(db: asyncpg.Connection, name: str = "orders", documents: Sequence[Any] = ()) -> int:
    """A topic with a view, and with these values as JSON; bytes are what they are."""
    topic = await add_topic(db, name)
    await db.execute("SELECT kafka.create_topic_view($1)", topic)
    if documents:
        await add_documents(db, topic, 0, documents)
    return topic


async def add_documents(db: asyncpg.Connection, topic: int, offset: int, documents: Sequence[Any]) -> None:
    values = [each if isinstance(each, bytes) or each is None else json.dumps(each).encode() for each in documents]
    await add_row(db, topic, offset, values)


async def define(db: asyncpg.Connection, columns: dict[str, Any], topic: str = "orders") -> list[tuple[str, str, str]]:
    return [tuple(row) for row in await db.fetch(DEFINE, topic, json.dumps(columns))]


async def column(db: asyncpg.Connection, name: str, topic: str = "orders") -> list[Any]:
    rows = await db.fetch(f'SELECT "{name}" AS it FROM topics.{topic} ORDER BY partition_offset')
    return [row["it"] for row in rows]


# Of each type: what fits, and what it becomes; then what does not, and is NULL.
FITS: dict[str, list[tuple[Any, Any]]] = {
    "text": [
        ("é\n", "é\n"),
        ("", ""),
        (12.50, "12.5"),
        (True, "true"),
        ({"b": 1, "a": [None]}, '{"a": [null], "b": 1}'),
    ],
    "bigint": [
        (5, 5),
        ("-7", -7),
        (12.0, 12),
        (1e3, 1000),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        ("9223372036854775807", 2**63 - 1),
    ],
    "integer": [(5, 5), ("-2147483648", -(2**31)), (2**31 - 1, 2**31 - 1)],
    "numeric": [
        (12.5, Decimal("12.5")),
        ("0.10", Decimal("0.10")),
        (10**40, Decimal(10**40)),
        ("1e-5", Decimal("0.00001")),
        ("-.5", Decimal("-0.5")),
    ],
    "double precision": [(0.1, 0.1), (0, 0.0), ("1e308", 1e308), (-1e-300, -1e-300)],
    "boolean": [(True, True), (False, False), ("true", True), ("false", False)],
    "timestamptz": [
        ("2026-11-29T07:08:09.123456Z", datetime.datetime(2026, 11, 29, 7, 8, 9, 123456, UTC)),
        ("2026-11-29T07:08:09+02:00", datetime.datetime(2026, 11, 29, 5, 8, 9, tzinfo=UTC)),
        ("2026-11-29 07:08:09-0530", datetime.datetime(2026, 11, 29, 12, 38, 9, tzinfo=UTC)),
        ("2026-11-29T07:08:09.5", datetime.datetime(2026, 11, 29, 7, 8, 9, 500000, UTC)),
        ("2024-02-29T23:59:59.9999999Z", datetime.datetime(2024, 3, 1, tzinfo=UTC)),
        ("2026-11-28T23:59:59Z", datetime.datetime(2026, 11, 28, 23, 59, 59, tzinfo=UTC)),
        ("2026-11-29T07:08Z", datetime.datetime(2026, 11, 29, 7, 8, tzinfo=UTC)),
        ("2026-11-29", datetime.datetime(2026, 11, 29, tzinfo=UTC)),
        (1_700_000_000_123, datetime.datetime(2023, 11, 14, 22, 13, 20, 123000, UTC)),
        (0, datetime.datetime(1970, 1, 1, tzinfo=UTC)),
    ],
    "date": [("2024-02-29", datetime.date(2024, 2, 29)), ("0001-01-01", datetime.date(1, 1, 1))],
    "uuid": [
        ("3d1f8f3a-1b1b-4c4c-8d8d-000000000001", uuid.UUID("3d1f8f3a-1b1b-4c4c-8d8d-000000000001")),
        ("3D1F8F3A1B1B4C4C8D8D000000000001", uuid.UUID("3d1f8f3a-1b1b-4c4c-8d8d-000000000001")),
    ],
    "jsonb": [({"a": [1, None]}, '{"a": [1, null]}'), ("x", '"x"'), (5, "5"), ([], "[]")],
}
FITS_NOT: dict[str, list[Any]] = {
    "text": [],
    "bigint": [2**63, -(2**63) - 1, 12.5, "x", "", " 5", "0x10", True, [5], {"a": 5}, "NaN", "9223372036854775808"],
    "integer": [2**31, -(2**31) - 1, 0.5, "1_000", "2147483648"],
    "numeric": ["NaN", "Infinity", "-", "1e", "1e999999", "1" * 5000, "", True, [], {}, "1 2", "--1"],
    "double precision": [10**400, "1e-400", "1e309", "NaN", "inf", "x"],
    "boolean": ["yes", 1, 0, "t", "TRUE", [], ["true"], {}],
    "timestamptz": [
        *(
            "now",
            "today",
            "infinity",
            "-infinity",
            "epoch",
            "2026-13-01T00:00:00Z",
            "2026-02-30",
            "2026-11-29T25:00:00Z",
        ),
        *("2026-11-29T07:08:09 Europe/Zurich", "29.11.2026", "Nov 29 2026", "2026-11-29T", "2026-11-29T07:08:09+99:00"),
        *(10**300, -(10**20), True, [0], {}, "", "2026-11-29" + "0" * 100, "0000-01-01T00:00:00Z"),
    ],
    "date": [
        "2026-02-29",
        "2026-11-29T00:00:00Z",
        "today",
        "infinity",
        "26-11-29",
        20260101,
        "0000-01-01",
        "11/29/2026",
        [],
    ],
    "uuid": [
        "3d1f8f3a-1b1b-4c4c-8d8d-00000000000",
        "x" * 36,
        5,
        "",
        {"a": 1},
        ["3d1f8f3a-1b1b-4c4c-8d8d-000000000001"],
    ],
    "jsonb": [],
}
# What a value may be besides an object that has the member.
NO_DOCUMENTS = [{}, {"v": None}, {"w": 1}, [1], 5, "v", None, b"", b"{", b"\xff{}", b'{"v": "\\u0000"}', b"[" * 20_000]


async def test_what_fits_is_there_and_all_else_is_null(db: asyncpg.Connection) -> None:
    for number, kind in enumerate(FITS):
        documents = (
            [{"v": given} for given, _ in FITS[kind]] + [{"v": given} for given in FITS_NOT[kind]] + NO_DOCUMENTS
        )
        await new_topic(db, f"t{number}", documents)
        assert await define(db, {"v": kind}, f"t{number}") == [("v", kind, "$.v")]
    for settings in ("RESET ALL", "SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; SET search_path = nowhere"):
        await db.execute(settings)
        for number, kind in enumerate(FITS):
            wanted = [wanted for _, wanted in FITS[kind]] + [None] * (len(FITS_NOT[kind]) + len(NO_DOCUMENTS))
            assert dict(enumerate(await column(db, "v", f"t{number}"))) == dict(enumerate(wanted)), kind
            assert await db.fetchval(f"SELECT count(*) FROM topics.t{number} WHERE v IS NULL") == wanted.count(None)


async def test_paths_lead_to_members_and_elements(db: asyncpg.Connection) -> None:
    document = {"a": {"b c": [{"d": 1}, {"d": "é"}]}, 'q"\\': 2, "$x": 3, "10": 4, "größe": 5}
    await new_topic(db, documents=[document, {"a": [5]}])
    await define(
        db,
        {
            "first": {"type": "bigint", "path": '$.a."b c"[0].d'},
            "second": {"type": "text", "path": '$.a."b c"[1].d'},
            "third": {"type": "text", "path": '$.a."b c"[2].d'},
            'q"\\': "integer",
            "$x": "integer",
            "10": "integer",
            "größe": "integer",
            "everything": {"type": "jsonb", "path": "$"},
        },
    )
    names = ("first", "second", "third", 'q""\\', "$x", "10", "größe")
    assert [await column(db, name) for name in names] == [
        [1, None],
        ["é", None],
        [None, None],
        *([n, None] for n in (2, 3, 4, 5)),
    ]
    assert [json.loads(each) for each in await column(db, "everything")] == [document, {"a": [5]}]


NO_DEFINITIONS = [
    ('{"a": "varchar"}', 'column "a" has a type that columns cannot have: varchar'),
    ('{"a": "text); DROP TABLE kafka.log; --"}', 'column "a" has a type that columns cannot have'),
    ('{"a": {"type": "text", "path": "a"}}', 'column "a" has a path that is none: a'),
    ('{"a": {"type": "text", "path": "$.a[*]"}}', 'column "a" has a path that is none'),
    ('{"a": {"type": "text", "path": "$..a"}}', 'column "a" has a path that is none'),
    ('{"a": {"type": "text", "path": "$.a ? (@ > 1)"}}', 'column "a" has a path that is none'),
    ('{"a": {"path": "$.a"}}', 'column "a" must have a type'),
    ('{"a": {"type": "text", "default": 1}}', 'column "a" must have a type'),
    ('{"a": 5}', 'column "a" must have a type'),
    ('{"a": "text", "b": "text", "a": "bigint"}', 'column "a" is there twice'),
    ('{"timestamp": "timestamptz"}', 'every topic\'s view has a column "timestamp"'),
    ('{"xmin": "text"}', 'every topic\'s view has a column "xmin"'),
    ('{"": "text"}', "a column's name must have 1 to 63 bytes"),
    (json.dumps({"é" * 32: "text"}), "a column's name must have 1 to 63 bytes"),
    (json.dumps({f"c{n}": "text" for n in range(501)}), "more than 500 columns"),
    ("[]", "columns must be a JSON object"),
    (None, "columns must be a JSON object"),
]


async def test_what_is_no_definition_is_refused_and_changes_nothing(db: asyncpg.Connection) -> None:
    await new_topic(db)
    await define(db, {"z": "text"})
    for columns, says in NO_DEFINITIONS:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await db.fetch(DEFINE, "orders", columns)
        assert says in str(caught.value)
        assert (caught.value.sqlstate, bool(caught.value.hint)) == ("KF020", True)
    assert await db.fetchval(COLUMNS, "topics.orders") == [*BASE, "z"]


async def test_topics_that_can_have_no_columns(db: asyncpg.Connection) -> None:
    await add_topic(db, "app-store-changelog")
    for topic, state in (("nothing", "KF001"), ("app-store-changelog", "KF020"), (None, "22004")):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await db.fetch(DEFINE, topic, '{"a": "text"}')
        assert (caught.value.sqlstate, bool(caught.value.hint)) == (state, True)
        with pytest.raises(asyncpg.PostgresError) as caught:
            await db.execute("SELECT kafka.undefine_columns($1)", topic)
        assert caught.value.sqlstate == state


async def test_columns_come_one_by_one_and_a_topic_without_a_view_gets_it(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "orders")
    await add_documents(db, topic, 0, [{"a": 1, "b": {"c": "x"}}])
    assert await define(db, {"a": "int8"}) == [("a", "bigint", "$.a")]
    assert await define(db, {"c": {"type": "text", "path": "$.b.c"}}) == [
        ("a", "bigint", "$.a"),
        ("c", "text", "$.b.c"),
    ]
    assert await db.fetchval(COLUMNS, "topics.orders") == [*BASE, "a", "c"]
    assert tuple(await db.fetchrow("SELECT a, c FROM topics.orders")) == (1, "x")
    description = await db.fetchval("SELECT col_description('topics.orders'::regclass, 16)")
    assert description.startswith("$.b.c of the value")
    rows = await db.fetch("SELECT * FROM kafka.read('orders', 0, 0, 9)")
    assert [list(row.keys()) for row in rows] == [BASE]
    assert rows[0]["value"] == b'{"a": 1, "b": {"c": "x"}}'


async def test_rights_triggers_and_comments_stay_whatever_becomes_of_the_columns(
    db: asyncpg.Connection, pg_superuser_dsn: str
) -> None:
    topic = await new_topic(db, documents=[{"a": 1, "b": 2}])
    superuser = await asyncpg.connect(pg_superuser_dsn)
    rights = """
        SELECT grantee, privilege_type, is_grantable, NULL AS column_name FROM information_schema.table_privileges
        WHERE table_schema = 'topics' AND grantee LIKE 'columns_%'
        UNION SELECT grantee, privilege_type, is_grantable, column_name FROM information_schema.column_privileges
        WHERE table_schema = 'topics' AND grantee LIKE 'columns_%' AND column_name IN ('a', 'key') ORDER BY 1, 2, 3, 4
    """
    await superuser.execute("DROP ROLE IF EXISTS columns_reader; CREATE ROLE columns_reader;")
    await superuser.execute("DROP ROLE IF EXISTS columns_other; CREATE ROLE columns_other;")
    try:
        await define(db, {"a": "text", "b": "text"})
        await db.execute(
            """
            GRANT USAGE ON SCHEMA topics TO columns_reader;
            GRANT SELECT ON topics.orders TO columns_reader WITH GRANT OPTION;
            GRANT INSERT ON topics.orders TO columns_reader;
            GRANT SELECT (a, key) ON topics.orders TO columns_other;
            ALTER DEFAULT PRIVILEGES IN SCHEMA topics GRANT DELETE ON TABLES TO columns_other;
            CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
            CREATE TRIGGER mine INSTEAD OF DELETE ON topics.orders FOR EACH ROW EXECUTE FUNCTION public.nothing();
            COMMENT ON COLUMN topics.orders.key IS 'who';
            """
        )
        before = [tuple(row) for row in await superuser.fetch(rights)]
        assert ("columns_reader", "SELECT", "YES", None) in before and ("columns_other", "SELECT", "NO", "a") in before

        await define(db, {"a": "bigint"})  # another type
        assert await db.fetchval("SELECT kafka.undefine_columns('orders', 'b')") == 1
        assert await db.fetchval(COLUMNS, "topics.orders") == [*BASE, "a"]
        assert [tuple(row) for row in await superuser.fetch(rights)] == before
        triggers = await db.fetch(
            "SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'topics.orders'::regclass ORDER BY 1"
        )
        assert [row[0] for row in triggers] == ["check_columns", "mine", "produce"]
        assert await db.fetchval("SELECT col_description('topics.orders'::regclass, 5)") == "who"
        await superuser.execute("SET ROLE columns_reader")
        assert await superuser.fetchval("SELECT a FROM topics.orders") == 1
        await superuser.execute("SET ROLE columns_other")
        assert await superuser.fetchval("SELECT a FROM topics.orders") == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.fetchval("SELECT value FROM topics.orders")
        await superuser.execute("RESET ROLE")
        assert await db.fetchval("SELECT kafka.undefine_columns('orders')") == 1
        assert await db.fetchval(COLUMNS, "topics.orders") == BASE
        assert await db.fetchval("SELECT view_name FROM kafka.topics WHERE id = $1", topic) == "orders"
    finally:
        await superuser.execute(
            "RESET ROLE; DROP OWNED BY columns_reader, columns_other; DROP ROLE columns_reader, columns_other"
        )
        await superuser.close()


async def test_what_users_views_stand_on_neither_goes_nor_changes_its_type(db: asyncpg.Connection) -> None:
    await new_topic(db, documents=[{"a": "1", "b": 2}])
    await define(db, {"a": "text", "b": "bigint"})
    await db.execute("CREATE VIEW public.mine AS SELECT a FROM topics.orders")
    for statement in (
        "SELECT kafka.undefine_columns('orders', 'a')",
        "SELECT kafka.undefine_columns('orders', 'b')",  # PostgreSQL lets no view lose a column while others stand on it
        """SELECT kafka.define_columns('orders', '{"a": "bigint"}')""",
    ):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await db.execute(statement)
        assert caught.value.sqlstate == "KF021" and "Drop what stands on it" in caught.value.hint
        assert "view mine depends on view topics.orders" in caught.value.detail.replace("public.", "")
        assert [await column(db, "a"), await column(db, "b")] == [["1"], [2]]
    # New ones, and another path, come beside it.
    await define(db, {"c": "text", "a": {"type": "text", "path": "$.b"}})
    assert await db.fetchval("SELECT a FROM public.mine") == "2"
    async with db.transaction():
        await db.execute("DROP VIEW public.mine")
        await define(db, {"a": "bigint"})
        await db.execute("CREATE VIEW public.mine AS SELECT a FROM topics.orders")
    assert await db.fetchval("SELECT a FROM public.mine") == 1


async def test_unknown_columns_are_not_undefined(db: asyncpg.Connection) -> None:
    await new_topic(db)
    await define(db, {"a": "text"})
    for names in (["b"], ["a", "key"]):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await db.fetchval("SELECT kafka.undefine_columns('orders', VARIADIC $1::text[])", names)
        assert (caught.value.sqlstate, bool(caught.value.hint)) == ("KF020", True)
    assert await db.fetchval(COLUMNS, "topics.orders") == [*BASE, "a"]
    assert await db.fetchval("SELECT kafka.undefine_columns('orders')") == 1
    assert await db.fetchval("SELECT kafka.undefine_columns('orders')") == 0


async def recreate(db: asyncpg.Connection, name: str = "orders") -> int:
    """Delete a topic and make it again, as its users do; the janitor has come in between."""
    await db.execute("DELETE FROM kafka.topics WHERE name = $1", name)
    await db.execute("SELECT kafka.drop_topic_view(view_name) FROM kafka.deleted_topics")
    return await new_topic(db, name)


async def test_a_topic_that_is_made_again_has_the_columns_of_its_name(db: asyncpg.Connection) -> None:
    await new_topic(db, documents=[{"a": 1}])
    await define(db, {"a": "bigint"})
    topic = await recreate(db)
    await add_documents(db, topic, 0, [{"a": 7}])
    assert await column(db, "a") == [7]
    # Gone while there is no topic: then they do not come back.
    await db.execute("DELETE FROM kafka.topics")
    assert await db.fetchval("SELECT kafka.undefine_columns('orders')") == 1
    await db.execute("SELECT kafka.drop_topic_view('orders')")
    await new_topic(db)
    assert await db.fetchval(COLUMNS, "topics.orders") == BASE


async def test_users_views_follow_to_a_topic_that_is_made_again(db: asyncpg.Connection) -> None:
    await new_topic(db, documents=[{"a": 1, "b": "x"}])
    await define(db, {"a": "bigint", "b": "text"})
    await db.execute("CREATE VIEW public.mine AS SELECT a, b FROM topics.orders")
    await db.execute("DELETE FROM kafka.topics")
    assert await db.fetchval("SELECT kafka.drop_topic_view('orders')") is False
    assert await db.fetch("SELECT * FROM public.mine") == []
    # What is not defined any more is NULL, for the sake of those that stand on it.
    assert await db.fetchval("SELECT kafka.undefine_columns('orders', 'b')") == 1
    topic = await new_topic(db, documents=[{"a": 2, "b": "y"}])
    assert [tuple(row) for row in await db.fetch("SELECT * FROM public.mine")] == [(2, None)]
    assert await db.fetchval(COLUMNS, "topics.orders") == [*BASE, "a", "b"]
    await db.execute("DROP VIEW public.mine; SELECT kafka.create_topic_view($1)".replace("$1", str(topic)))
    assert await db.fetchval(COLUMNS, "topics.orders") == [*BASE, "a"]


class Lanes:
    async def switch_segment(self, series: int, segment: int) -> None: ...
    async def move_topic(self, topic_id: int, series: int, segment: int) -> None: ...
    async def switch_journal(self, journal: str, active: int) -> None: ...


async def step(db: asyncpg.Connection, dsn: str, name: str) -> Janitor:
    """One step of one job of a janitor that is not running."""
    janitor = janitor_of(dsn, Lanes(), owner=1, compression="none")  # type: ignore[arg-type]
    await janitor._connect()
    try:
        await job(janitor, name).step()
    finally:
        janitor._site.drop()
    return janitor


async def append_column(db: asyncpg.Connection, name: str) -> None:
    """As the features of a later version do."""
    script = (queries.SQL / "features" / "020_messages.sql").read_text(encoding="utf-8")
    await db.execute("SET search_path = pg_catalog")
    await db.execute(script.replace("l.segment%1$s\n", f"l.segment%1$s,\n l.leader_epoch AS {name}\n"))
    await db.execute("RESET search_path")


async def test_a_later_versions_column_comes_behind_and_gives_way_to_one_that_is_there(
    db: asyncpg.Connection, pg_dsn: str
) -> None:
    await new_topic(db, documents=[{"a": 1, "epoch": "mine"}])
    await new_topic(db, "others", documents=[{"a": 1}])
    await define(db, {"a": "bigint"}, "others")
    await define(db, {"a": "bigint", "epoch": "text"})
    await append_column(db, "epoch")
    assert await db.fetchval("SELECT epoch FROM kafka.read('others', 0, 0, 1)") is None
    old = f"SELECT array_agg(name) FROM ({queries.load('janitor')['topics_with_old_view'].rstrip('; ')}) AS t"
    assert await db.fetchval(old, [], 10) == ["others"]
    await step(db, pg_dsn, "renew views")
    assert await db.fetchval(old, [], 10) is None
    assert await db.fetchval(COLUMNS, "topics.others") == [*BASE, "a", "epoch"]
    assert tuple(await db.fetchrow("SELECT a, epoch FROM topics.others")) == (1, 1)
    assert await column(db, "epoch") == ["mine"]
    assert await db.fetchval("SELECT epoch FROM kafka.read('others', 0, 0, 1)") == 1
    assert await db.fetchval("SELECT epoch FROM kafka.read('orders', 0, 0, 1)") is None


async def test_a_view_that_somebody_has_dropped_comes_back_with_its_columns(
    db: asyncpg.Connection, pg_dsn: str
) -> None:
    await new_topic(db, documents=[{"a": 1}])
    await define(db, {"a": "bigint"})
    await db.execute("DROP VIEW topics.orders")
    await step(db, pg_dsn, "make views")
    assert await column(db, "a") == [1]


async def test_views_from_before_get_what_makes_them_writable(db: asyncpg.Connection, pg_dsn: str) -> None:
    await new_topic(db)
    await db.execute("DROP TRIGGER produce ON topics.orders")
    await step(db, pg_dsn, "renew views")
    assert await db.fetchval("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'topics.orders'::regclass") == 1


async def test_a_sample_gives_each_member_the_type_that_fits_all(db: asyncpg.Connection) -> None:
    first = {
        "customer": "c1",
        "amount": 12,
        "count": 1,
        "paid": True,
        "at": "2026-11-29T10:00:00Z",
        "day": "2026-11-29",
        "id": str(uuid.uuid4()),
        "items": [{"sku": 1}],
        "mixed": 1,
        "odd": {"x": 1},
        "nothing": None,
        "timestamp": 5,
        "two words": 1,
    }
    second = first | {
        "amount": 12.5,
        "mixed": "x",
        "odd": 7,
        "late": "2026-11-29",
        "id": str(uuid.uuid4()),
        "customer": None,
    }
    await new_topic(db, documents=[b"no JSON", first, second, None, [1], {}, {"": 1, "x" * 64: 2}])
    assert {
        row["name"]: (row["type"], row["path"])
        for row in await db.fetch("SELECT * FROM kafka.define_columns_from_sample('orders')")
    } == {
        "customer": ("text", "$.customer"),
        "amount": ("numeric", "$.amount"),
        "count": ("bigint", "$.count"),
        "paid": ("boolean", "$.paid"),
        "at": ("timestamptz", "$.at"),
        "day": ("date", "$.day"),
        "id": ("uuid", "$.id"),
        "items": ("jsonb", "$.items"),
        "mixed": ("text", "$.mixed"),
        "odd": ("jsonb", "$.odd"),
        "nothing": ("text", "$.nothing"),
        "timestamp_": ("bigint", "$.timestamp"),
        "two words": ("bigint", '$."two words"'),
        "late": ("date", "$.late"),
    }
    assert await column(db, "timestamp_") == [None, 5, 5, None, None, None, None]


async def test_a_sample_adds_to_what_is_defined_and_looks_at_the_last_records_only(db: asyncpg.Connection) -> None:
    topic = await new_topic(db, documents=[{"old": 1}] * 5)
    await add_documents(db, topic, 5, [{"a": 1, "b": 2, "c": 3}] * 3)
    await define(db, {"a": "text", "renamed": {"type": "text", "path": "$.b"}})
    rows = await db.fetch("SELECT * FROM kafka.define_columns_from_sample('orders', 3)")
    assert [(row["name"], row["type"]) for row in rows] == [("a", "text"), ("renamed", "text"), ("c", "bigint")]


async def test_a_sample_without_json_objects_says_so(db: asyncpg.Connection) -> None:
    await new_topic(db, documents=[b"x", [1]])
    with pytest.raises(asyncpg.PostgresError) as caught:
        await db.fetch("SELECT * FROM kafka.define_columns_from_sample('orders')")
    assert (caught.value.sqlstate, bool(caught.value.hint)) == ("KF022", True)


async def test_a_value_is_parsed_once_and_only_where_a_column_is_asked_for(db: asyncpg.Connection) -> None:
    """How often: by a function in its place that counts. Values that come again would invite the planner to remember."""
    topic = await new_topic(db)
    for n in range(20):
        await add_documents(db, topic, 50 * n, [{"a": 1, "b": 2, "c": 3}] * 50)
    await define(db, {"a": "bigint", "b": "text", "c": "numeric"})
    await db.execute(
        """
        CREATE SEQUENCE public.parsed;
        CREATE OR REPLACE FUNCTION kafka.as_json(bytes bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
        AS 'BEGIN PERFORM nextval(''public.parsed''); RETURN convert_from(bytes, ''UTF8'')::jsonb; END';
        """
    )
    for analyzed in (False, True):
        if analyzed:
            await db.execute("ANALYZE")
        for question, wanted in (
            ("SELECT count(*), max(partition_offset), max(length(value)) FROM topics.orders", 0),
            ("SELECT sum(a), max(b), sum(c) FROM topics.orders", 1000),
            ("SELECT sum(a) FROM topics.orders WHERE b = '2' AND c > 2", 1000),
            ("SELECT sum(a), max(b) FROM topics.orders WHERE partition_offset BETWEEN 100 AND 109", 10),
            ("SELECT sum(a) FROM topics.orders WHERE batch_base_offset = 100 AND partition_offset < 103", 3),
        ):
            before = await db.fetchval("SELECT nextval('public.parsed')")
            await db.fetch(question)
            assert await db.fetchval("SELECT nextval('public.parsed')") - before - 1 == wanted, question
            plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {question}"))
            assert "Memoize" not in plan, plan


async def test_a_value_for_a_column_of_its_own_is_no_record(db: asyncpg.Connection) -> None:
    """It would be lost, and the record a tombstone."""
    await new_topic(db)
    await define(db, {"a": "bigint", "b": "text"})
    with pytest.raises(asyncpg.PostgresError, match='column "b" of topics') as caught:
        await db.execute("INSERT INTO topics.orders (key, b) VALUES ('k', 'x')")
    assert (caught.value.sqlstate, bool(caught.value.hint)) == ("KF023", True)
    await db.execute("INSERT INTO topics.orders (key, value) VALUES ('k', '{}')")
    assert await db.fetchval("SELECT sum(record_count) FROM kafka.outbox_0") == 1


async def test_who_may_read_the_view_reads_its_columns_and_who_may_not_takes_no_sample(
    db: asyncpg.Connection, pg_superuser_dsn: str
) -> None:
    await new_topic(db, documents=[{"a": 1, "at": "2026-11-29", "n": 1.5, "u": str(uuid.uuid4()), "t": "x", "f": True}])
    await db.fetch("SELECT * FROM kafka.define_columns_from_sample('orders')")
    superuser = await asyncpg.connect(pg_superuser_dsn)
    await superuser.execute("DROP ROLE IF EXISTS sampler; CREATE ROLE sampler")
    try:
        await db.execute("GRANT USAGE ON SCHEMA topics TO sampler; GRANT SELECT ON topics.orders TO sampler")
        await superuser.execute("SET ROLE sampler")
        assert tuple(await superuser.fetchrow("SELECT a, n, t, f FROM topics.orders")) == (1, Decimal("1.5"), "x", True)
        await superuser.execute("RESET ROLE")
        await db.execute(
            "REVOKE SELECT ON topics.orders FROM sampler; GRANT USAGE ON SCHEMA kafka TO sampler;"
            "GRANT EXECUTE ON FUNCTION kafka.define_columns_from_sample TO sampler"
        )
        await superuser.execute("SET ROLE sampler")
        with pytest.raises(asyncpg.InsufficientPrivilegeError) as caught:
            await superuser.fetch("SELECT * FROM kafka.define_columns_from_sample('orders')")
        assert "GRANT SELECT ON topics.orders TO sampler" in caught.value.hint
    finally:
        await superuser.execute("RESET ROLE; DROP OWNED BY sampler; DROP ROLE sampler")
        await superuser.close()
