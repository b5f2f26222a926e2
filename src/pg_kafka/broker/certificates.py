"""What a listener's TLS is made of: key, certificates and CAs, read from files or settings into an `ssl.SSLContext`.

    loaded = load(settings)          reads the files; raises CertificateProblem with one sentence
    loaded.context                   for new connections
    loaded.principal_of(certificate) who a client with this certificate is, or None
    watched = Watched(settings); watched.look()     the same, read anew when a file has changed

A file that cannot be used leaves what was read before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12

from pg_kafka.config import Config
from pg_kafka.config.listening import listeners_of
from pg_kafka.config.tls import SUITES_OF_TLS_13, TlsSettings
from pg_kafka.errors import ConfigError
from pg_kafka.security import distinguished_names, principals

logger = logging.getLogger(__name__)

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_VERIFY = {"none": ssl.CERT_NONE, "requested": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_LINE_CHARACTERS = 64
MAX_FILE_BYTES = 4 * 1024 * 1024


class CertificateProblem(Exception):
    """Key, certificate or CAs cannot be used; the message is one sentence that names the file or setting."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """TLS as it is for new connections."""

    context: ssl.SSLContext
    rules: Sequence[principals.Rule]
    expires_ms: float  # the broker's own certificate
    expires: str

    def principal_of(self, certificate: bytes) -> str | None:
        """Kafka's name of who has this certificate, or None when no rule makes one of its subject."""
        subject = x509.load_der_x509_certificate(certificate).subject.public_bytes()
        try:
            name = principals.name_of(self.rules, distinguished_names.text_of(subject))
        except distinguished_names.InvalidName:
            return None
        return None if name is None else principals.user(name)


def load(settings: TlsSettings) -> Loaded:
    """Raises CertificateProblem."""
    try:
        rules = principals.parse_rules(settings.mapping_rules)
    except principals.InvalidRules as error:
        raise CertificateProblem(f"ssl.principal.mapping.rules cannot be used: {error}") from None
    key, chain, where = _key_and_chain(settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_versions(context, settings)
    # A client that makes the broker compute a new handshake again and again within one connection gets none.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_SINGLE_ECDH_USE
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        with _private_file(_pem_of(key, chain)) as path:
            context.load_cert_chain(path)
    except ssl.SSLError as error:
        raise CertificateProblem(f"{where} cannot be used: {_reason(error)}") from None
    if settings.client_auth != "none":
        _trust(context, settings)
        # A resumed session would show a certificate that has expired, or whose CA is trusted no more.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    context.verify_mode = _VERIFY[settings.client_auth]
    end = chain[0].not_valid_after_utc
    return Loaded(context, rules, end.timestamp() * 1000, end.isoformat())


def _set_versions(context: ssl.SSLContext, settings: TlsSettings) -> None:
    versions = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
    wanted = [versions[name] for name in versions if name in settings.protocols]
    older = [suite for suite in settings.cipher_suites if suite not in SUITES_OF_TLS_13]
    if settings.cipher_suites:
        if len(older) == len(settings.cipher_suites):
            wanted = [version for version in wanted if version is not ssl.TLSVersion.TLSv1_3]
        if not older:
            wanted = [version for version in wanted if version is not ssl.TLSVersion.TLSv1_2]
        if not wanted:
            raise CertificateProblem(
                "ssl.cipher.suites has none for ssl.enabled.protocols: name suites of one of these versions"
            )
    context.minimum_version, context.maximum_version = wanted[0], wanted[-1]
    if older:
        try:
            context.set_ciphers(":".join(map(openssl_name, older)))
        except ssl.SSLError:
            raise CertificateProblem(f"ssl.cipher.suites has none that OpenSSL knows: {', '.join(older)}") from None
        known = {str(cipher["name"]) for cipher in context.get_ciphers()}
        for suite in older:
            if openssl_name(suite) not in known:
                raise CertificateProblem(f"ssl.cipher.suites has {suite}, which OpenSSL does not know: remove it")


def openssl_name(suite: str) -> str:
    """Of a cipher suite before TLS 1.3 that is named as in Java; OpenSSL's own names are taken as they are."""
    if not suite.startswith("TLS_"):
        return suite
    name = suite.removeprefix("TLS_").replace("_WITH_", "_").removeprefix("RSA_")
    name = re.sub(r"(AES|CAMELLIA|ARIA)_(\d+)", r"\1\2", name).replace("_CBC", "")
    return name.replace("CHACHA20_POLY1305_SHA256", "CHACHA20_POLY1305").replace("_", "-")


def _key_and_chain(settings: TlsSettings) -> tuple[PrivateKeyTypes, list[x509.Certificate], str]:
    where = settings.keystore_location or "ssl.keystore.key"
    if settings.keystore_type == "PKCS12":
        assert settings.keystore_location is not None
        store = _pkcs12(settings.keystore_location, settings.keystore_password)
        if store.key is None or store.cert is None:
            raise CertificateProblem(f"{where} has no private key with a certificate")
        chain = [store.cert.certificate, *(other.certificate for other in store.additional_certs)]
        return store.key, chain, where
    if settings.keystore_location is not None:
        text = _read(settings.keystore_location)
        key_text = chain_text = text
    else:
        key_text, chain_text = settings.key or "", settings.certificate_chain or ""
    keys = [block for kind, block in _blocks(key_text) if kind.endswith("PRIVATE KEY")]
    if len(keys) != 1:
        raise CertificateProblem(f"{where} has {len(keys) or 'no'} private keys in PEM: it wants one")
    password = (settings.key_password or "").encode() or None
    try:
        key = serialization.load_pem_private_key(keys[0].encode(), password)
    except (ValueError, TypeError) as error:
        advice = "set ssl.key.password" if password is None else "is ssl.key.password right?"
        what = f"the private key of {where} cannot be read" + (f" ({advice})" if "ENCRYPTED" in keys[0] else "")
        if isinstance(error, TypeError):
            what = f"the private key of {where} is encrypted: set ssl.key.password" if password is None else what
            if password is not None:
                what = f"the private key of {where} is not encrypted: remove ssl.key.password"
        raise CertificateProblem(what) from None
    chain = _certificates(chain_text, settings.keystore_location or "ssl.keystore.certificate.chain")
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    own = (
        chain[0].public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    if own != public:
        raise CertificateProblem(f"the first certificate of {where} is not that of its private key")
    return key, chain, where


def _trust(context: ssl.SSLContext, settings: TlsSettings) -> None:
    where = settings.truststore_location or "ssl.truststore.certificates"
    if settings.truststore_location is None:
        trusted = _certificates(settings.truststore_certificates or "", where)
    elif settings.truststore_type == "PKCS12":
        store = _pkcs12(where, settings.truststore_password)
        trusted = [other.certificate for other in store.additional_certs]
        if not trusted:
            raise CertificateProblem(f"{where} has no certificates of CAs")
    else:
        trusted = _certificates(_read(where), where)
    text = "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in trusted)
    try:
        context.load_verify_locations(cadata=text)
    except ssl.SSLError as error:
        raise CertificateProblem(f"{where} cannot be used: {_reason(error)}") from None


def _certificates(text: str, where: str) -> list[x509.Certificate]:
    try:
        found = [
            x509.load_pem_x509_certificate(block.encode()) for kind, block in _blocks(text) if kind == "CERTIFICATE"
        ]
    except ValueError:
        raise CertificateProblem(f"a certificate of {where} cannot be read") from None
    if not found:
        raise CertificateProblem(f"{where} has no certificates in PEM")
    return found


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """The kinds and texts of PEM blocks. In a setting they may be on one line, with spaces or `\\n` for the line breaks."""
    for kind, body in _PEM.findall(text.replace("\\n", "\n")):
        if ":" in body:  # headers of an old form of encryption
            yield kind, f"-----BEGIN {kind}-----{body}-----END {kind}-----\n"
            continue
        letters = "".join(body.split())
        lines = [letters[i : i + _LINE_CHARACTERS] for i in range(0, len(letters), _LINE_CHARACTERS)]
        yield kind, "\n".join((f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""))


def _pkcs12(path: str, password: str | None) -> pkcs12.PKCS12KeyAndCertificates:
    try:
        return pkcs12.load_pkcs12(_read_bytes(path), None if password is None else password.encode())
    except ValueError:
        raise CertificateProblem(f"{path} is no PKCS12 file, or its password is another one") from None


def _read(path: str) -> str:
    return _read_bytes(path).decode("utf-8", "replace")


def _read_bytes(path: str) -> bytes:
    try:
        with Path(path).expanduser().open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CertificateProblem(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise CertificateProblem(f"{path} is larger than {MAX_FILE_BYTES} bytes: it is no file with certificates")
    return content


def _pem_of(key: PrivateKeyTypes, chain: Sequence[x509.Certificate]) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    parts = [key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())]
    parts += [one.public_bytes(serialization.Encoding.PEM) for one in chain]
    return b"".join(parts)


@contextlib.contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """A path with this content for as long as it takes: the ssl module reads keys from files alone."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("key"), "wb") as stream:
            stream.write(content)
            stream.flush()
            yield f"/proc/self/fd/{stream.fileno()}"
        return
    with tempfile.NamedTemporaryFile() as stream:  # which only this user can read
        stream.write(content)
        stream.flush()
        yield stream.name


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def check(config: Config) -> None:
    """Raises ConfigError when a listener could not have TLS as it is set."""
    for listener in listeners_of(config):
        if listener.tls is not None:
            try:
                load(listener.tls)
            except CertificateProblem as problem:
                raise ConfigError(f"listener {listener.name}: {problem}") from None


class Watched:
    """TLS of one listener, which follows its files and settings. `loaded` is replaced as a whole."""

    def __init__(self, name: str, settings: TlsSettings, wall_ms: Callable[[], int]) -> None:
        """Raises CertificateProblem."""
        self._name = name
        self._wall_ms = wall_ms
        self._settings = settings
        self._stamps = _stamps(settings)
        self.loaded = load(settings)
        self._warn_of_end()

    def look(self, settings: TlsSettings | None = None) -> bool:
        """Read anew if something has changed, and say so in the log; True if it is in force."""
        settings = settings or self._settings
        stamps = _stamps(settings)
        if (settings, stamps) == (self._settings, self._stamps):
            return False
        self._settings, self._stamps = settings, stamps
        try:
            self.loaded = load(settings)
        except CertificateProblem as problem:
            logger.warning(
                "new certificates cannot be used, so the old ones stay",
                extra={"listener": self._name, "reason": str(problem)},
            )
            return False
        logger.warning("certificates read anew", extra={"listener": self._name, "valid_until": self.loaded.expires})
        self._warn_of_end()
        return True

    def _warn_of_end(self) -> None:
        if self.loaded.expires_ms < self._wall_ms():
            logger.warning(
                "the broker's certificate has expired, and clients will refuse it",
                extra={"listener": self._name, "valid_until": self.loaded.expires},
            )


def _stamps(settings: TlsSettings) -> tuple[tuple[int, int, int] | None, ...]:
    stamps: list[tuple[int, int, int] | None] = []
    for path in settings.files:
        try:
            found = Path(path).expanduser().stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(stamps)
