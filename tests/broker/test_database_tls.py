"""The way to the database: TLS that proves who the server is, client certificates, and where the password may be.

A PostgreSQL of its own with a CA of its own; every session of a broker (lanes, readers, heartbeat, janitor, control) goes
the same way, which pg_stat_ssl shows.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.broker.command import ANY_PORT, Done, Serving, run
from tests.broker.conftest import serving
from tests.broker.rawclient import RawClient, batch
from tests.postgres import Database, PostgresServer

ROLE = "broker_by_certificate"


class Authority:
    """A CA that signs what a test needs."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.crt"
        certificate = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0), [])
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str, hosts: list[x509.GeneralName]) -> tuple[Path, Path]:
        """Files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key, x509.BasicConstraints(ca=False, path_length=None), hosts)
        places = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        places[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        places[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        places[1].chmod(0o600)
        return places

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        constraints: x509.BasicConstraints,
        hosts: list[x509.GeneralName],
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(constraints, critical=True)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return builder.sign(self._key, hashes.SHA256())


@dataclass
class Secured:
    """A PostgreSQL that takes connections over TLS alone."""

    server: PostgresServer
    ca: Authority
    stranger: Authority
    database: Database

    def url(self, *, host: str = "127.0.0.1", user: str | None = None, password: str = "", **options: object) -> str:
        login = quote(user or self.database.name) + (f":{quote(password)}" if password else "")
        query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in options.items())
        return f"postgresql://{login}@{host}:{self.server.port}/{self.database.name}?{query}"

    def verified(self, **more: object) -> str:
        return self.url(
            **{"password": self.server.password, "sslmode": "verify-full", "sslrootcert": self.ca.file, **more}  # type: ignore[arg-type]
        )


@pytest.fixture(scope="module")
def secured(
    make_postgres: Callable[..., PostgresServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    yield from secure_server(make_postgres("postgresql-15"), tmp_path_factory.mktemp("ca"))


def secure_server(server: PostgresServer, folder: Path) -> Iterator[Secured]:
    """Let a server speak TLS, and nothing else over TCP."""
    ca, stranger = Authority(folder, "ca"), Authority(folder, "stranger")
    certificate, key = ca.sign("server", [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    ca.sign(ROLE, [])
    (folder / "strangers").mkdir()
    Authority(folder / "strangers", "other").sign(ROLE, [])
    for name, file in {"server.crt": certificate, "server.key": key, "root.crt": ca.file}.items():
        place = server.data / name
        place.write_bytes(file.read_bytes())
        place.chmod(0o600)
        owner = server.data.stat()
        os.chown(place, owner.st_uid, owner.st_gid)
    database = server.create_database()
    server.sql(f"CREATE ROLE {ROLE} LOGIN; GRANT {ROLE} TO {database.name};")
    (server.data / "pg_hba.conf").write_text(
        f"local all all trust\nhostssl all {ROLE} 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
    )
    for setting in ("ssl = on", "ssl_ca_file = 'root.crt'", "log_connections = on"):
        server.sql(f"ALTER SYSTEM SET {setting};")
    server.sql("SELECT pg_reload_conf();")
    yield Secured(server, ca, stranger, database)
    server.drop_database(database)


async def ssl_of_all(secured: Secured) -> set[tuple[bool, str | None]]:
    """Of each session of a broker: is it encrypted, and by whose certificate."""
    db = await asyncpg.connect(secured.server.dsn(secured.database.name))
    rows = await db.fetch(
        "SELECT s.ssl, s.client_dn FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) "
        "WHERE a.datname = current_database() AND a.application_name LIKE 'pg_kafka %'"
    )
    await db.close()
    assert len(rows) >= 5
    return {(row["ssl"], row["client_dn"]) for row in rows}


async def test_all_sessions_are_verified(secured: Secured, tmp_path: Path) -> None:
    with serving(secured.verified(), tmp_path, {}) as broker:
        async with await RawClient.connect(broker) as client:
            topic = await client.create_topic()
            assert (await client.produce(topic, batch([b"a"]))).error_code == 0
        assert await ssl_of_all(secured) == {(True, None)}
    for command in ("doctor", "migrate"):
        arguments = [] if command == "migrate" else ["--listen", ANY_PORT]
        done = await asyncio.to_thread(run, command, *arguments, settings={"DATABASE": secured.verified()})
        assert (done.code, secured.server.password in done.out + done.err) == (0, False)


WRONG = {
    "the name is another": {"host": "localhost"},
    "another authority is trusted": {"sslrootcert": "STRANGER"},
    "no authority is there": {"sslrootcert": "/nowhere/root.crt"},
    "no encryption": {"sslmode": "disable"},
    "the password is another": {"password": "another"},
}


@pytest.mark.parametrize("command", ["serve", "migrate", "doctor"])
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_and_said(secured: Secured, what: str, command: str) -> None:
    options = dict(WRONG[what])
    if options.get("sslrootcert") == "STRANGER":
        options["sslrootcert"] = str(secured.stranger.file)
    arguments = [] if command == "migrate" else ["--listen", ANY_PORT]
    done = run(command, *arguments, settings={"DATABASE": secured.verified(**options)})
    assert done.code == 1
    said = done.out + done.err
    assert secured.server.password not in said and "Traceback" not in said
    expected = {
        "the name is another": "certificate",
        "another authority is trusted": "certificate",
        "no authority is there": "sslrootcert names /nowhere/root.crt, which cannot be read",
        "no encryption": "no encryption",
        "the password is another": "password authentication failed",
    }[what]
    assert expected in said


async def test_certificate_instead_of_a_password(secured: Secured, tmp_path: Path) -> None:
    folder = secured.ca.folder
    own = {"user": ROLE, "password": "", "sslcert": folder / f"{ROLE}.crt", "sslkey": folder / f"{ROLE}.key"}
    done = await asyncio.to_thread(run, "migrate", "--grant-broker", ROLE, settings={"DATABASE": secured.verified()})
    assert done == Done(0, "", "")
    with serving(secured.verified(**own), tmp_path, {}) as broker:
        async with await RawClient.connect(broker) as client:
            await client.create_topic()
        assert await ssl_of_all(secured) == {(True, f"/CN={ROLE}")}
    strangers = own | {"sslcert": folder / "strangers" / f"{ROLE}.crt", "sslkey": folder / "strangers" / f"{ROLE}.key"}
    for refused in (strangers, {"user": ROLE, "password": ""}):
        done = await asyncio.to_thread(
            run, "doctor", "--listen", ANY_PORT, settings={"DATABASE": secured.verified(**refused)}
        )
        assert done.code == 1


def password_file(secured: Secured, folder: Path) -> Path:
    file = folder / "pgpass"
    file.write_text(f"127.0.0.1:{secured.server.port}:*:{secured.database.name}:{secured.server.password}\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("way", ["passfile=", "PGPASSFILE", "PGPASSWORD", "~/.pgpass", "database_file"])
def test_password_from_a_file_or_the_environment(secured: Secured, tmp_path: Path, way: str) -> None:
    settings, surroundings = {"DATABASE": secured.verified(password="")}, dict(os.environ)
    for name in [name for name in surroundings if name.startswith("PG")]:
        del surroundings[name]
    if way == "passfile=":
        settings["DATABASE"] += f"&passfile={quote(str(password_file(secured, tmp_path)), safe='')}"
    elif way == "PGPASSFILE":
        surroundings["PGPASSFILE"] = str(password_file(secured, tmp_path))
    elif way == "PGPASSWORD":
        surroundings["PGPASSWORD"] = secured.server.password
    elif way == "~/.pgpass":
        password_file(secured, tmp_path).rename(tmp_path / ".pgpass")
        surroundings["HOME"] = str(tmp_path)
    else:
        secret = tmp_path / "secret"
        secret.write_text(secured.verified() + "\n")
        settings = {"DATABASE_FILE": str(secret)}
    surroundings |= {f"PG_KAFKA_{name}": value for name, value in settings.items()}
    with Serving("--listen", ANY_PORT, env=surroundings) as broker:
        broker.ready()
        shown = broker.out + broker.err + Path(f"/proc/{broker.process.pid}/cmdline").read_text()
        assert secured.server.password not in shown


def test_file_of_the_address_tells_nothing_of_what_is_in_it(tmp_path: Path) -> None:
    hidden = f"hidden-{secrets.token_hex(4)}"
    secret = tmp_path / "secret"
    secret.write_text(f"postgresql://me:{hidden}@a@b/db")
    both = run("doctor", settings={"DATABASE_FILE": str(secret), "DATABASE": "postgresql://h/d"})
    assert "remove one of them" in both.err
    for settings in ({"DATABASE_FILE": str(secret)}, {"DATABASE_FILE": str(tmp_path / "none")}):
        done = run("doctor", settings=settings)
        assert done.code == 1 and hidden not in done.out + done.err
        assert str(settings["DATABASE_FILE"]) in done.err


async def test_statements_that_postgresql_logs_hold_no_password(secured: Secured, tmp_path: Path) -> None:
    """All statements with their parameters, as log_statement and log_min_duration_statement may ask for."""
    server, name = secured.server, secured.database.name
    server.sql(
        f"ALTER DATABASE {name} SET log_statement = 'all'; ALTER DATABASE {name} SET log_min_duration_statement = 0;"
    )
    try:
        with serving(secured.verified(), tmp_path, {}) as broker:
            async with await RawClient.connect(broker) as client:
                await client.create_topic()
            db = await asyncpg.connect(server.dsn(name))
            shown = await db.fetch("SELECT query FROM pg_stat_activity WHERE datname = current_database()")
            await db.close()
    finally:
        server.sql(f"ALTER DATABASE {name} RESET ALL;")
    assert "INSERT INTO kafka.brokers" in server.log
    assert server.password not in server.log
    assert not any(server.password in row["query"] for row in shown)


def test_channel_binding_that_cannot_be_had_is_refused(secured: Secured) -> None:
    done = run("migrate", settings={"DATABASE": secured.verified(channel_binding="require")})
    assert done.code == 1 and "without channel_binding" in done.err
    done = run("migrate", settings={"DATABASE": secured.verified(channel_binding="prefer")})
    assert (done.code, done.err) == (0, "")
