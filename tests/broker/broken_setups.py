"""Setups that cannot work, each with the sentence that says so: `serve` must refuse them and `doctor` must find them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.broker.command import ANY_PORT
from tests.broker.pgbouncer import pgbouncer
from tests.kafka_reference import HOST
from tests.postgres import Database, PostgresServer

from pg_kafka import app
from pg_kafka.config.load import load
from pg_kafka.embedded.folder import DataFolder


@dataclass(frozen=True)
class Surroundings:
    """What a setup is made of."""

    server: PostgresServer
    database: Database
    folder: Path

    def sql(self, statements: str) -> None:
        self.server.sql(statements, self.database.name)


@dataclass(frozen=True)
class Broken:
    """Arguments and PG_KAFKA_* variables of the command, and a pattern of what it must say about them."""

    sentence: str
    arguments: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)


Setup = Callable[[Surroundings], AbstractContextManager[Broken]]
SETUPS: dict[str, Setup] = {}
LISTEN = ("--listen", ANY_PORT)


def setup(make: Callable[[Surroundings], Iterator[Broken]]) -> Setup:
    SETUPS[make.__name__.replace("_", " ")] = made = contextlib.contextmanager(make)
    return made


def on(dsn: str) -> tuple[str, ...]:
    return (*LISTEN, "--database", dsn)


def with_file(place: Surroundings, text: str, sentence: str) -> Broken:
    file = place.folder / "pg-kafka.toml"
    file.write_text(text)
    return Broken(sentence, ("--config", str(file), *on(place.database.dsn)))


@setup
def port_taken(place: Surroundings) -> Iterator[Broken]:
    with socket.create_server((HOST, 0)) as taken:
        address = f"{HOST}:{taken.getsockname()[1]}"
        yield Broken(
            f"cannot listen on {address}: Address already in use; stop what uses it, or give --listen",
            ("--listen", address, "--data", str(place.folder / "data")),
        )
    assert not (place.folder / "data").exists()


@setup
def data_folder_in_use(place: Surroundings) -> Iterator[Broken]:
    data = place.folder / "data"
    folder = DataFolder(data)
    folder.claim()
    try:
        yield Broken(
            rf"data folder {data} is in use by another pg-kafka \(process \d+\)", (*LISTEN, "--data", str(data))
        )
    finally:
        folder.release()


@setup
def data_folder_of_another_version(place: Surroundings) -> Iterator[Broken]:
    data = place.folder / "data"
    (data / "postgres").mkdir(parents=True)
    (data / "pg_kafka.lock").touch()
    (data / "postgres" / "PG_VERSION").write_text("12\n")
    yield Broken(
        rf"data folder {data} was made by PostgreSQL 12, but this pg-kafka brings PostgreSQL \d",
        (*LISTEN, "--data", str(data)),
    )


@setup
def database_unreachable(place: Surroundings) -> Iterator[Broken]:
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        where = f"{HOST}:{bound.getsockname()[1]}/kafka"
        yield Broken(f"the database {where} cannot be used: .*refused", on(f"postgresql://me:hidden@{where}"))


@setup
def password_wrong(place: Surroundings) -> Iterator[Broken]:
    dsn = place.server.dsn(place.database.name, place.database.name, tcp=True)
    yield Broken("password authentication failed", on(dsn.replace(place.server.password, "hidden")))


@setup
def address_of_no_database(place: Surroundings) -> Iterator[Broken]:
    yield Broken("--database wants a URL, as in postgresql://user@host/dbname", on("mysql://somewhere/else"))


@setup
def server_too_old(place: Surroundings) -> Iterator[Broken]:
    with old_server("13.22") as dsn:
        yield Broken("is PostgreSQL 13.22, but pg-kafka needs 14 or newer", on(dsn))


@setup
def database_not_utf8(place: Surroundings) -> Iterator[Broken]:
    name = f"{place.database.name}_ascii"
    place.server.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        yield Broken("has encoding SQL_ASCII, but pg-kafka needs UTF8", on(place.server.dsn(name)))
    finally:
        place.server.sql(f"DROP DATABASE {name} WITH (FORCE)")


@setup
def role_without_privilege(place: Surroundings) -> Iterator[Broken]:
    name = place.database.name
    place.sql(f"ALTER DATABASE {name} OWNER TO postgres")
    yield Broken(
        f'role "{name}" may not create schemas here: GRANT CREATE ON DATABASE "{name}" TO "{name}"',
        on(place.database.dsn),
    )


@setup
def schema_of_somebody_else(place: Surroundings) -> Iterator[Broken]:
    place.sql("CREATE SCHEMA kafka")
    yield Broken('a schema "kafka" that is not pg_kafka\'s', on(place.database.dsn))


@setup
def schema_newer_than_the_program(place: Surroundings) -> Iterator[Broken]:
    migrated(place)
    place.sql("UPDATE kafka.cluster SET schema_version = 99")
    yield Broken("schema has version 99.*: use a newer pg-kafka", on(place.database.dsn))


@setup
def transactions_pooled(place: Surroundings) -> Iterator[Broken]:
    with pgbouncer(place.server, place.database, "transaction") as dsn:
        yield Broken("reached through a transaction-pooling proxy", on(dsn))


@setup
def transactions_pooled_on_one_session(place: Surroundings) -> Iterator[Broken]:
    with pgbouncer(place.server, place.database, "transaction", default_pool_size="1") as dsn:
        yield Broken("reached through a transaction-pooling proxy", on(dsn))


@setup
def connections_too_few(place: Surroundings) -> Iterator[Broken]:
    place.sql(f"ALTER ROLE {place.database.name} CONNECTION LIMIT 7")
    yield Broken("the database allows 7 connections and pg-kafka needs 12: raise ", on(place.database.dsn))


@setup
def connections_too_few_to_check(place: Surroundings) -> Iterator[Broken]:
    place.sql(f"ALTER ROLE {place.database.name} CONNECTION LIMIT 1")
    yield Broken("no room for the 12 connections that pg-kafka needs: too many connections", on(place.database.dsn))


@setup
def connections_too_few_for_stored_settings(place: Surroundings) -> Iterator[Broken]:
    migrated(place)
    place.sql(f"ALTER DATABASE {place.database.name} CONNECTION LIMIT 20")
    place.sql("SELECT kafka.set_config('pg_kafka.lanes', '10')")
    yield Broken("the database allows 20 connections and pg-kafka needs 30", on(place.database.dsn))


@setup
def stored_setting_of_no_use(place: Surroundings) -> Iterator[Broken]:
    migrated(place)
    place.sql(f"ALTER DATABASE {place.database.name} SET pg_kafka.num_partitions = 'several'")
    yield Broken(
        "pg_kafka.num_partitions in the database wants a whole number, 1 or more, not 'several'",
        on(place.database.dsn),
    )


@setup
def config_file_missing(place: Surroundings) -> Iterator[Broken]:
    file = place.folder / "none.toml"
    yield Broken(f"cannot read the configuration file {file}: No such file", (*LISTEN, "--config", str(file)))


@setup
def config_file_with_an_unknown_name(place: Surroundings) -> Iterator[Broken]:
    text = "num.partition = 3\n"
    yield with_file(place, text, "sets 'num.partition', which is no setting .* nearest one is 'num.partitions'")


@setup
def variable_with_a_bad_value(place: Surroundings) -> Iterator[Broken]:
    sentence = "PG_KAFKA_COMPRESSION_TYPE wants one of .*, not 'rar'"
    yield Broken(sentence, on(place.database.dsn), {"COMPRESSION_TYPE": "rar"})


def migrated(place: Surroundings) -> None:
    app.migrate(load({"database": place.database.dsn}, {}, None))


@contextlib.contextmanager
def old_server(version: str) -> Iterator[str]:
    """What a PostgreSQL of an older version says to whoever connects; it can do nothing else."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack(">i", len(body) + 4) + body

    parameters = {"server_version": version, "server_encoding": "UTF8", "client_encoding": "UTF8"}
    hello = message(b"R", struct.pack(">i", 0))
    hello += b"".join(message(b"S", f"{name}\0{value}\0".encode()) for name, value in parameters.items())
    hello += message(b"K", struct.pack(">ii", 1, 1)) + message(b"Z", b"I")

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    is_ssl_request = len(connection.recv(4096)) == 8
                    if is_ssl_request:
                        connection.sendall(b"N")
                        connection.recv(4096)
                    connection.sendall(hello)
                    connection.recv(4096)  # it says goodbye

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"postgresql://me@{HOST}:{listener.getsockname()[1]}/kafka"
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # close() alone does not wake accept()
            thread.join()


def asking(mechanism: str, **settings: str) -> dict[str, str]:
    return {
        "LISTENERS": f"SASL://{HOST}:0",
        "LISTENER_SECURITY_PROTOCOL_MAP": "SASL:SASL_PLAINTEXT",
        "SASL_ENABLED_MECHANISMS": mechanism,
        **settings,
    }


@setup
def tokens_without_keys(place: Surroundings) -> Iterator[Broken]:
    yield Broken(
        "SASL has OAUTHBEARER and no sasl.oauthbearer.jwks.endpoint.url",
        ("--database", place.database.dsn),
        asking("OAUTHBEARER"),
    )


@setup
def keys_for_tokens_that_are_none(place: Surroundings) -> Iterator[Broken]:
    file = place.folder / "keys.json"
    file.write_text('{"keys": []}')
    yield Broken(
        f"sasl.oauthbearer.jwks.endpoint.url = {file.as_uri()}: a set of keys has none",
        ("--database", place.database.dsn),
        asking("OAUTHBEARER", SASL_OAUTHBEARER_JWKS_ENDPOINT_URL=file.as_uri()),
    )


@setup
def roles_whose_passwords_nobody_asks_for(place: Surroundings) -> Iterator[Broken]:
    # The test servers trust whoever comes by their socket.
    yield Broken(
        "pg_kafka.users = roles needs a PostgreSQL that asks for passwords",
        ("--database", place.database.dsn),
        asking("PLAIN", USERS="roles"),
    )
