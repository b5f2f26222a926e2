"""`pg-kafka certs`: what it makes, and that it overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pg_kafka import certs, cli
from pg_kafka.errors import FatalError


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    made = certs.make(tmp_path / "new" / "certs", clients=["alice"])
    assert sorted(path.name for path in made.folder.iterdir()) == ["broker.pem", "ca.key", "ca.pem", "client-alice.pem"]
    assert {path.stat().st_mode & 0o777 for path in made.folder.iterdir()} == {0o600}
    assert made.folder.stat().st_mode & 0o777 == 0o700
    assert sorted(made.new) == sorted(made.folder.iterdir())


def test_the_broker_has_the_names_that_clients_use(tmp_path: Path) -> None:
    made = certs.make(tmp_path, hosts=["kafka.example", "192.0.2.7"])
    names = certificate(made.broker).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"kafka.example", "localhost"} <= set(names.get_values_for_type(x509.DNSName))
    assert {"192.0.2.7", "127.0.0.1", "::1"} <= set(map(str, names.get_values_for_type(x509.IPAddress)))


def test_certificates_are_signed_by_the_ca_and_fit_their_keys(tmp_path: Path) -> None:
    made = certs.make(tmp_path, clients=["alice"])
    ca = certificate(made.ca)
    for path in (made.broker, *made.clients):
        one = certificate(path)
        one.verify_directly_issued_by(ca)
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        assert key.public_key() == one.public_key()
        # What Java reads: PKCS #8.
        assert b"-----BEGIN PRIVATE KEY-----" in path.read_bytes()
    assert certificate(made.clients[0]).subject.rfc4514_string() == "CN=alice"


def test_nothing_is_overwritten_and_clients_are_added(tmp_path: Path) -> None:
    first = certs.make(tmp_path, clients=["alice"])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    second = certs.make(tmp_path, clients=["alice", "bob"])
    assert second.new == [tmp_path / "client-bob.pem"]
    assert {path: path.read_bytes() for path in before} == before
    certificate(second.clients[1]).verify_directly_issued_by(certificate(first.ca))


def test_what_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    certs.make(tmp_path)
    with pytest.raises(FatalError, match=r"broker.pem is there already: remove it to have one for other hosts"):
        certs.make(tmp_path, hosts=["other.example"])
    with pytest.raises(FatalError, match="letters, digits"):
        certs.make(tmp_path, clients=["../bob"])
    (tmp_path / "ca.key").unlink()
    with pytest.raises(FatalError, match="without its other half"):
        certs.make(tmp_path)
    with pytest.raises(FatalError, match="no name of a host"):
        certs.make(tmp_path / "other", hosts=["kafka.exämple"])
    (tmp_path / "file").write_text("")
    with pytest.raises(FatalError, match="cannot write"):
        certs.make(tmp_path / "file")


def test_the_command_says_what_it_made_and_how_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for made in ("made", "kept"):
        with pytest.raises(SystemExit) as end:
            cli.main(["certs", "--folder", str(tmp_path), "--client", "alice"])
        assert not end.value.code
        out = capsys.readouterr().out
        assert f"{made}  {tmp_path}/client-alice.pem" in out
        assert f"ssl.keystore.location={tmp_path}/broker.pem" in out
        assert f"ssl.ca.location={tmp_path}/ca.pem" in out
