"""Key, certificates and CAs in all forms that a listener takes, proved by handshakes in memory."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from tests.broker import tls_files

from pg_kafka import certs
from pg_kafka.broker.certificates import CertificateProblem, load, openssl_name
from pg_kafka.config.tls import TlsSettings, tls_settings


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> certs.Made:
    return tls_files.make(tmp_path_factory.mktemp("certificates"), "alice")


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The server's side of a handshake. Raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    done: set[int] = set()
    for _ in range(10):
        for number, side in enumerate(sides):
            try:
                side.do_handshake()
                done.add(number)
            except ssl.SSLWantReadError:
                pass
    assert done == {0, 1}
    return sides[1]


def key_and_chain(path: Path) -> tuple[str, str]:
    text = path.read_text()
    cut = text.index("-----BEGIN CERTIFICATE")
    return text[:cut], text[cut:]


def encrypted(path: Path, password: str) -> str:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    form, encryption = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(password.encode())
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def works(settings: TlsSettings, files: certs.Made) -> bool:
    spoken = shake_hands(load(settings).context, tls_files.client_context(files.ca, files.clients[0]))
    return spoken.version() == "TLSv1.3"


def test_pem_in_one_file(files: certs.Made) -> None:
    assert works(TlsSettings(keystore_location=str(files.broker)), files)


@pytest.mark.parametrize("line_break", ["\n", " ", "\\n"])
def test_pem_in_settings_on_one_line_or_several(files: certs.Made, line_break: str) -> None:
    key, chain = (text.strip().replace("\n", line_break) for text in key_and_chain(files.broker))
    assert works(TlsSettings(key=key, certificate_chain=chain), files)


def test_encrypted_key(files: certs.Made, tmp_path: Path) -> None:
    path = tmp_path / "broker.pem"
    path.write_text(encrypted(files.broker, "secret") + key_and_chain(files.broker)[1])
    assert works(TlsSettings(keystore_location=str(path), key_password="secret"), files)
    with pytest.raises(CertificateProblem, match=r"broker\.pem is encrypted: set ssl\.key\.password"):
        load(TlsSettings(keystore_location=str(path)))
    with pytest.raises(CertificateProblem, match=r"cannot be read \(is ssl\.key\.password right\?\)"):
        load(TlsSettings(keystore_location=str(path), key_password="wrong"))


def test_pkcs12(files: certs.Made, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(files.broker.read_bytes(), None)
    assert isinstance(key, pkcs12.PKCS12PrivateKeyTypes)
    certificate = x509.load_pem_x509_certificate(files.broker.read_bytes())
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    encryption = serialization.BestAvailableEncryption(b"secret")
    keystore, truststore = tmp_path / "broker.p12", tmp_path / "trusted.p12"
    keystore.write_bytes(pkcs12.serialize_key_and_certificates(b"broker", key, certificate, [ca], encryption))
    truststore.write_bytes(pkcs12.serialize_key_and_certificates(None, None, None, [ca], encryption))
    settings = TlsSettings(
        keystore_type="PKCS12",
        keystore_location=str(keystore),
        keystore_password="secret",
        truststore_type="PKCS12",
        truststore_location=str(truststore),
        truststore_password="secret",
        client_auth="required",
    )
    assert works(settings, files)
    with pytest.raises(CertificateProblem, match=r"broker\.p12 is no PKCS12 file, or its password is another one"):
        load(TlsSettings(keystore_type="PKCS12", keystore_location=str(keystore), keystore_password="wrong"))
    with pytest.raises(CertificateProblem, match=r"trusted\.p12 has no private key with a certificate"):
        load(TlsSettings(keystore_type="PKCS12", keystore_location=str(truststore), keystore_password="secret"))


def test_trusted_certificates_in_settings(files: certs.Made, tmp_path: Path) -> None:
    settings = TlsSettings(
        keystore_location=str(files.broker), truststore_certificates=files.ca.read_text(), client_auth="required"
    )
    assert works(settings, files)
    stranger = tls_files.make(tmp_path, "alice").clients[0]
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(load(settings).context, tls_files.client_context(files.ca, stranger))


def test_a_chain_that_does_not_begin_with_the_keys_certificate(files: certs.Made) -> None:
    key, _ = key_and_chain(files.broker)
    with pytest.raises(CertificateProblem, match="is not that of its private key"):
        load(TlsSettings(key=key, certificate_chain=files.ca.read_text()))


def test_names_of_suites_are_javas() -> None:
    assert [
        openssl_name(name)
        for name in (
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_RSA_WITH_AES_256_CBC_SHA256",
            "TLS_DHE_RSA_WITH_AES_256_CBC_SHA",
            "ECDHE-RSA-AES128-GCM-SHA256",
        )
    ] == [
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "AES256-SHA256",
        "DHE-RSA-AES256-SHA",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"ssl.truststore.type": "JKS"}, "-destkeystore truststore.p12 -deststoretype PKCS12"),
        ({"ssl.keystore.key": "k"}, "ssl.keystore.location and ssl.keystore.key"),
        ({"ssl.truststore.location": "a", "ssl.truststore.certificates": "b"}, "are both set: remove one"),
        ({"ssl.truststore.certificates": "b", "ssl.truststore.type": "PKCS12"}, "set ssl.truststore.type=PEM"),
    ],
)
def test_settings_that_do_not_go_together(given: dict[str, str], sentence: str) -> None:
    values = {"ssl.keystore.type": "PEM", "ssl.truststore.type": "PEM", "ssl.keystore.location": "x", **given}
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        tls_settings(values.get, "none")


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(TlsSettings(key_password="secret", key="secret", keystore_password="secret"))
