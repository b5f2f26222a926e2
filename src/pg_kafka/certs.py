"""`pg-kafka certs`: a CA and certificates for a first try, in PEM files that brokers, Java clients and librdkafka read.

    made = make(folder, hosts=["kafka.example"], clients=["alice"], days=825)

    ca.pem              the CA: what clients trust, and what the broker trusts in clients' certificates
    ca.key              its private key: who has this file can make certificates
    broker.pem          the broker's key and certificate, for ssl.keystore.location
    client-alice.pem    the key and certificate of a client whose principal is User:CN=alice

Nothing is overwritten. A CA that is there is used again, so that clients can be added.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pg_kafka.errors import FatalError

CA_DAYS = 3650
LEAF_DAYS = 825
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
# Clocks of clients may be behind.
_BEGUN_BEFORE = timedelta(hours=1)
_CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(slots=True)
class Made:
    """What there is now, and which of it is new."""

    folder: Path
    clients: list[Path] = field(default_factory=list)
    new: list[Path] = field(default_factory=list)

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.folder / "ca.key"

    @property
    def broker(self) -> Path:
        return self.folder / "broker.pem"


def make(folder: Path, hosts: Sequence[str] = (), clients: Sequence[str] = (), days: int = LEAF_DAYS) -> Made:
    """Make what is not there yet. `hosts` are names and addresses of the broker beside those of this machine.

    Raises FatalError.
    """
    for name in clients:
        if not _CLIENT_NAME.fullmatch(name):
            raise FatalError(f"a client's name has letters, digits, dots, dashes and @ alone, not {name!r}")
    made = Made(folder)
    with _told(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca, ca_key = _ca(made)
        if not made.broker.exists():
            alternatives = [*dict.fromkeys([*hosts, *LOCAL_HOSTS, socket.gethostname()])]
            made.new.append(_leaf(made.broker, alternatives[0], ca, ca_key, days, alternatives))
        elif hosts:
            raise FatalError(
                f"{made.broker} is there already: remove it to have one for other hosts, or leave --host out"
            )
        for name in clients:
            path = folder / f"client-{name}.pem"
            if not path.exists():
                made.new.append(_leaf(path, name, ca, ca_key, days))
            made.clients.append(path)
    return made


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FatalError(f"cannot write {error.filename or folder}: {error.strerror}") from error


def _ca(made: Made) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if made.ca.exists() and made.ca_key.exists():
        try:
            ca = x509.load_pem_x509_certificate(made.ca.read_bytes())
            key = serialization.load_pem_private_key(made.ca_key.read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise FatalError(f"{made.ca} and {made.ca_key} cannot be read: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FatalError(f"{made.ca_key} was not made by pg-kafka certs: choose another folder")
        return ca, key
    for path in (made.ca, made.ca_key):
        if path.exists():
            raise FatalError(f"{path} is there without its other half: remove it, or choose another folder")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pg-kafka CA")])
    ca = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    made.new.append(_write(made.ca_key, _key_text(key)))
    made.new.append(_write(made.ca, ca.public_bytes(serialization.Encoding.PEM)))
    return ca, key


def _leaf(
    path: Path,
    name: str,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    days: int,
    hosts: Sequence[str] = (),
) -> Path:
    """A key and its certificate in one file; of a broker when it has hosts, else of a client."""
    key = ec.generate_private_key(ec.SECP256R1())
    # A common name has at most 64 characters; clients look at the alternatives alone.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    use = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(subject, ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_alternative, hosts))), critical=False)
    certificate = builder.sign(ca_key, hashes.SHA256())
    return _write(path, _key_text(key) + certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEGUN_BEFORE)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise FatalError(f"{host!r} is no name of a host: use letters, digits, dots and dashes") from None


def _key_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    # PKCS #8 without a password: the form that Java's PEM files may have.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> Path:
    """A new file that nobody else can read. Raises OSError when there is one already."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
    return path


def how_to_use(made: Made) -> list[str]:
    """Lines that say which settings name these files."""
    lines = [
        "of the broker",
        f"  ssl.keystore.location={made.broker}",
        f"  ssl.truststore.location={made.ca}",
        "of Java clients, in a file for --command-config",
        "  security.protocol=SSL",
        "  ssl.truststore.type=PEM",
        f"  ssl.truststore.location={made.ca}",
    ]
    for client in made.clients[:1]:
        lines += ["  ssl.keystore.type=PEM", f"  ssl.keystore.location={client}"]
    lines += ["of kcat and others on librdkafka", "  security.protocol=SSL", f"  ssl.ca.location={made.ca}"]
    for client in made.clients[:1]:
        lines += [f"  ssl.certificate.location={client}", f"  ssl.key.location={client}"]
    return lines
