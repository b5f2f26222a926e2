"""What a start refuses by default, and `pg-kafka serve --secure`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import confluent_kafka
import confluent_kafka.admin
from tests.broker.command import Serving, run

DEADLINE_S = 30.0


def test_open_listener_beyond_loopback_is_refused(pg_dsn: str, tmp_path: Path) -> None:
    for given in (
        ("--listen", "0.0.0.0:0"),
        ("--listeners", "PLAINTEXT://127.0.0.1:0,OTHER://:0", "--listener-security-protocol-map", "OTHER:PLAINTEXT"),
    ):
        done = run("serve", *given, "--database", pg_dsn)
        assert done.code == 1
        [line] = done.err.strip().splitlines()
        assert (
            "can be reached by others and asks nobody who they are: give --secure, or a listener with SASL_SSL" in line
        )
    done = run("doctor", "--listen", "0.0.0.0:0", "--database", pg_dsn)
    assert done.code == 1
    assert "--allow-anonymous to let everybody read and write" in done.out


def test_open_listener_is_served_when_that_is_wanted(pg_dsn: str) -> None:
    with Serving("--listen", "0.0.0.0:0", "--database", pg_dsn, "--allow-anonymous").ready() as broker:
        broker.wait_for("there is no authentication")


def test_listener_that_asks_who_comes_may_be_open_to_others(pg_dsn: str) -> None:
    with Serving("--listeners", "SASL_PLAINTEXT://0.0.0.0:0", "--database", pg_dsn).ready() as broker:
        assert "no authentication" not in broker.out
        broker.wait_for("is not enciphered: SASL_SSL is")


def test_secure_and_listeners_are_not_given_together(pg_dsn: str) -> None:
    done = run("serve", "--secure", "--listeners", "SSL://127.0.0.1:0", "--database", pg_dsn)
    assert "secure and listeners are both set" in done.err


def settings_of(file: Path) -> dict[str, Any]:
    """Of librdkafka, as kcat -F reads them."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def secure(dsn: str, data: Path) -> Serving:
    return Serving("--secure", "--listen", "127.0.0.1:0", "--database", dsn, "--data", str(data)).ready()


def write(settings: dict[str, Any], topic: str) -> str | None:
    """None, or what went wrong."""
    found: list[Any] = []
    producer = confluent_kafka.Producer(settings | {"message.timeout.ms": 8000, "error_cb": found.append})
    producer.produce(topic, b"v", on_delivery=lambda error, _: found.append(error) if error else None)
    producer.flush(DEADLINE_S)
    return None if not found else str(found)


def test_secure_on_a_fresh_machine_and_again(pg_dsn: str, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "data-secure"
    with secure(pg_dsn, data) as broker:
        files = {path.name: path for path in folder.iterdir()}
        assert sorted(files) == ["broker.pem", "ca.key", "ca.pem", "client.properties", "kcat.conf"]
        assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
        before = {path: path.read_bytes() for path in files.values()}
        address = f"127.0.0.1:{broker.port}"
        assert f"kcat -b {address} -F {folder}/kcat.conf" in broker.out
        assert f"--bootstrap-server {address} --command-config {folder}/client.properties" in broker.out
        password = re.findall(r"sasl.password=(.+)", files["kcat.conf"].read_text())[0]
        assert password not in broker.out + broker.err
        admin = settings_of(files["kcat.conf"]) | {"bootstrap.servers": address}
        assert write(admin, "first") is None
        # Somebody else: a wrong password, none, and a user who has no rights.
        assert "Authentication failed" in (write(admin | {"sasl.password": "wrong"}, "first") or "")
        assert write({"bootstrap.servers": address}, "first") is not None
        done = run("users", "create", "bob", "--database", pg_dsn, settings={"USER_PASSWORD": "secret"})
        assert done.code == 0, done.err
        bob = admin | {"sasl.username": "bob", "sasl.password": "secret"}
        assert "uthorization" in (write(bob, "first") or "")
    with secure(pg_dsn, data) as broker:
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        admin["bootstrap.servers"] = f"127.0.0.1:{broker.port}"
        assert write(admin, "second") is None


def test_secure_with_another_database_makes_the_user_there(pg_dsn: str, tmp_path: Path) -> None:
    """The files are there, the user is not: it is made with the password of the files."""
    with secure(pg_dsn, tmp_path / "data") as broker:
        kcat = tmp_path / "data-secure" / "kcat.conf"
        assert run("users", "drop", "admin", "--database", pg_dsn).code == 0
    with secure(pg_dsn, tmp_path / "data") as broker:
        assert write(settings_of(kcat) | {"bootstrap.servers": broker.bootstrap}, "t") is None
    (tmp_path / "data-secure" / "client.properties").unlink()
    done = run("serve", "--secure", "--listen", "127.0.0.1:0", "--database", pg_dsn, "--data", str(tmp_path / "data"))
    assert done.code == 1
    assert "client.properties with its password is not there: put it back" in done.err
