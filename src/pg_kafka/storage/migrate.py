"""Create or upgrade the schema `kafka` of a database.

`sql/schema/` is the whole truth of today, `sql/features/` what users may call, `sql/migrations/` leads older databases
there: files named `<version>_<what>.sql`, applied in order of name. All of it is one transaction under an advisory lock,
so that brokers that start together do it once, and a crash leaves nothing half made. Nothing is granted to PUBLIC but
EXECUTE on functions that views contain.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any

import asyncpg

from pg_kafka.config.broker import BROKER_KEYS
from pg_kafka.config.client_metrics import CLIENT_METRICS_KEYS
from pg_kafka.config.groups import GROUP_KEYS
from pg_kafka.config.keys import Key
from pg_kafka.config.topics import TOPIC_KEYS
from pg_kafka.errors import FatalError
from pg_kafka.storage import locks, segments
from pg_kafka.storage.queries import SQL, load

SCHEMA_VERSION = 5
OLDEST_SERVER = 140000
MIGRATION = 0  # the number of its advisory lock
LOCK_TIMEOUT_S = 60.0
LOCK_CHECK_S = 0.1

_QUERIES = load("migrate")
_CONFIGS = {"topic": TOPIC_KEYS, "broker": BROKER_KEYS, "group": GROUP_KEYS, "client metrics": CLIENT_METRICS_KEYS}


async def migrate(
    connection: asyncpg.Connection, *, settings: Mapping[str, str] | None = None, compression: str = "auto"
) -> None:
    """Bring the database to SCHEMA_VERSION; a no-op when it is there.

    `settings` are the names that kafka.set_config() may set, with their descriptions; `compression` is that of the first
    segment. Raises FatalError: the server is too old or a standby, the encoding is not UTF8, the schema is newer than
    this program, or the role lacks a privilege.
    """
    server = dict((await connection.fetch(_QUERIES["server"]))[0])
    check_server(server)
    deadline = asyncio.get_running_loop().time() + LOCK_TIMEOUT_S
    try:
        # Each try is a transaction of its own: within one, a session may go on believing what it read of the catalogue
        # before (PostgreSQL reads what others changed in it at the start of a transaction, and when it locks a table).
        while not await _try(connection, settings, compression):
            if asyncio.get_running_loop().time() > deadline:
                others = await connection.fetch(_QUERIES["lock_holders"])
                raise FatalError(
                    f'another program has been migrating database "{server["database"]}" for a minute: {locks.told(others)}'
                )
            await asyncio.sleep(LOCK_CHECK_S)  # nothing tells
    except asyncpg.InsufficientPrivilegeError as error:
        raise FatalError(_missing_privilege(server, error)) from error
    except asyncpg.LockNotAvailableError as error:
        raise FatalError(
            f'another program has been migrating database "{server["database"]}" for a minute: {error}'
        ) from error


async def _try(connection: asyncpg.Connection, settings: Mapping[str, str] | None, compression: str) -> bool:
    """Migrate in one transaction, unless another program is at it: then False."""
    async with connection.transaction():
        await connection.execute(_QUERIES["search_path"])
        await connection.execute(_QUERIES["lock_timeout"])
        if not await _lock(connection):
            return False
        await _migrate_locked(connection, settings, compression)
        return True


async def _migrate_locked(connection: asyncpg.Connection, settings: Mapping[str, str] | None, compression: str) -> None:
    (state,) = await connection.fetch(_QUERIES["schema_state"])
    if not state["has_schema"]:
        await _create(connection, compression)
    elif not state["has_cluster"]:
        raise FatalError(
            'the database has a schema "kafka" that is not pg_kafka\'s: rename it, or use another database'
        )
    else:
        version = await connection.fetchval(_QUERIES["version"])
        if version > SCHEMA_VERSION:
            raise FatalError(
                f"the database's schema has version {version} and this program knows {SCHEMA_VERSION}: use a newer pg-kafka"
            )
        if version < SCHEMA_VERSION:
            (owner,) = await connection.fetch(_QUERIES["owner"])
            if not owner["is_own"]:
                raise FatalError(
                    f"the database's schema has version {version} and this program needs {SCHEMA_VERSION}:"
                    f' run "pg-kafka migrate" as its owner, role "{owner["name"]}"'
                )
            await _upgrade(connection, version)
    if settings is not None:
        await connection.execute(_QUERIES["forget_settings"], list(settings))
        await connection.execute(_QUERIES["know_settings"], list(settings), list(settings.values()))
    rows = [_config_row(scope, key) for scope, keys in _CONFIGS.items() for key in keys.values()]
    scopes, names = [row["scope"] for row in rows], [row["name"] for row in rows]
    await connection.execute(_QUERIES["forget_configs"], scopes, names)
    await connection.execute(_QUERIES["know_configs"], json.dumps(rows))


def _config_row(scope: str, key: Key) -> dict[str, object]:
    """A row of kafka.config_keys."""
    return {
        "scope": scope,
        "name": key.name,
        "type": key.type.name.lower(),
        "default_value": key.text(key.default),
        "minimum": key.minimum,
        "maximum": key.maximum,
        "also_allowed": key.also_allowed,
        "choices": key.choices,
        "pattern": key.pattern,
        "form": key.form,
        "must_be_set": key.must_be_set,
        "synonyms": key.synonyms,
        "bounds": key.bounds or (),
        "unit_ms": key.unit_ms,
        "effect": key.effect.value,
        "refused": key.refused,
        "is_dynamic": key.is_dynamic or scope != "broker",
        "documentation": key.doc,
    }


async def _lock(connection: asyncpg.Connection) -> bool:
    """Keep other programs from migrating; False while another is at it.

    Who may not write what is there does not migrate it, whatever it has locked.
    """
    if await connection.fetchval(_QUERIES["try_lock"]):
        return True
    (state,) = await connection.fetch(_QUERIES["schema_state"])
    others = await locks.users(connection, [MIGRATION]) if state["has_cluster"] else []
    if not others or any(user["may_write"] for user in others):
        return False
    locks.warn(others)
    await connection.execute(_QUERIES["lock_cluster"])
    return True


async def _create(connection: asyncpg.Connection, compression: str) -> None:
    for script in (*_scripts("schema"), *_scripts("features")):
        await connection.execute(script.read_text(encoding="utf-8"))
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    await connection.execute(_QUERIES["insert_cluster"], cluster_id, SCHEMA_VERSION)
    await segments.create_shared_series(connection, compression)
    await connection.execute(_QUERIES["revoke_all"])
    await connection.execute(_QUERIES["grant_to_readers"])


async def _upgrade(connection: asyncpg.Connection, version: int) -> None:
    steps = [script for script in _scripts("migrations") if int(script.name.partition("_")[0]) > version]
    for script in (*steps, *_scripts("features")):
        await connection.execute(script.read_text(encoding="utf-8"))
    await connection.execute(_QUERIES["revoke_all"])
    await connection.execute(_QUERIES["grant_to_readers"])
    await connection.execute(_QUERIES["set_version"], SCHEMA_VERSION)
    broker = await connection.fetchval(_QUERIES["broker_role"])
    if broker is not None:
        await connection.execute(_QUERIES["grant_broker"], broker)  # also what is new


async def grant_broker(connection: asyncpg.Connection, role: str) -> None:
    """Give a role what a broker needs and no more; it owns the tables of segments from then on. Raises FatalError."""
    try:
        async with connection.transaction():
            await connection.execute(_QUERIES["search_path"])
            await connection.execute(_QUERIES["lock_timeout"])
            await connection.execute(_QUERIES["grant_broker"], role)
    except asyncpg.PostgresError as error:
        hint = getattr(error, "hint", None)
        said = f"{error.args[0]}: {hint}" if hint else error.args[0]
        raise FatalError(f'cannot give role "{role}" the rights of a broker: {said}') from error


def _scripts(folder: str) -> list[Traversable]:
    """The .sql files of a folder in order; none when the folder is not there (an empty one is not packaged)."""
    path = SQL / folder
    entries = sorted(path.iterdir(), key=lambda entry: entry.name) if path.is_dir() else []
    return [entry for entry in entries if entry.name.endswith(".sql")]


def check_server(server: Mapping[str, Any]) -> None:
    """Raise FatalError when a server with these properties cannot hold the log."""
    if server["version_number"] < OLDEST_SERVER:
        raise FatalError(f"PostgreSQL {server['version']} is too old: pg_kafka needs 14 or newer")
    if server["is_in_recovery"]:
        raise FatalError("the PostgreSQL server is a standby in recovery: connect to the primary")
    if server["encoding"] != "UTF8":
        raise FatalError(
            f"database \"{server['database']}\" has encoding {server['encoding']}: pg_kafka needs one with ENCODING 'UTF8'"
        )


def _missing_privilege(server: Mapping[str, Any], error: asyncpg.InsufficientPrivilegeError) -> str:
    role, database = server["role"], server["database"]
    if "for database" in str(error):
        return f'role "{role}" may not create schemas here: GRANT CREATE ON DATABASE "{database}" TO "{role}"'
    return f'role "{role}" lacks a privilege in database "{database}": {error}'
