"""The settings of TLS, which each listener may have for itself. Names, defaults and meaning are Kafka's.

`TlsConfig` is a part of `BrokerConfig`; `tls_settings(...)` makes what one listener has of it. Files are not read here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pg_kafka.config.keys import ConfigType, broker_setting

_STRING, _LIST, _PASSWORD = ConfigType.STRING, ConfigType.LIST, ConfigType.PASSWORD

STORE_TYPES = ("PEM", "PKCS12", "JKS")
CLIENT_AUTH = ("none", "requested", "required")
PROTOCOLS = ("TLSv1.2", "TLSv1.3")
# Python's ssl offers all of them or none.
SUITES_OF_TLS_13 = ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")


def _text(name: str, doc: str, default: str | None = None, choices: tuple[str, ...] = ()) -> Any:
    return broker_setting(name, _STRING, default, doc, choices=choices, is_dynamic=True, by_listener=True)


def _secret(name: str, doc: str) -> Any:
    return broker_setting(name, _PASSWORD, None, doc, is_dynamic=True, is_sensitive=True, by_listener=True)


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """See the module."""

    ssl_keystore_type: str = _text(
        "ssl.keystore.type",
        "How key and certificate are kept. JKS is refused: keytool makes PKCS12 of it.",
        "PEM",
        STORE_TYPES,
    )
    ssl_keystore_location: str | None = _text(
        "ssl.keystore.location", "The file with the broker's key and its certificate, and those that lead to the CA."
    )
    ssl_keystore_password: str | None = _secret("ssl.keystore.password", "Of a PKCS12 file.")
    ssl_keystore_certificate_chain: str | None = _secret(
        "ssl.keystore.certificate.chain", "Instead of a file: the certificates in PEM."
    )
    ssl_keystore_key: str | None = _secret("ssl.keystore.key", "Instead of a file: the private key in PEM.")
    ssl_key_password: str | None = _secret("ssl.key.password", "Of the private key in PEM, when it is encrypted.")
    ssl_truststore_type: str = _text(
        "ssl.truststore.type", "How the CAs of clients' certificates are kept. JKS is refused.", "PEM", STORE_TYPES
    )
    ssl_truststore_location: str | None = _text(
        "ssl.truststore.location", "The file with the CAs whose certificates clients may show."
    )
    ssl_truststore_password: str | None = _secret("ssl.truststore.password", "Of a PKCS12 file.")
    ssl_truststore_certificates: str | None = _secret("ssl.truststore.certificates", "Instead of a file: CAs in PEM.")
    ssl_client_auth: str = _text(
        "ssl.client.auth",
        "Whether clients show a certificate. On SASL_SSL only the listener's own value counts, as in Kafka.",
        "none",
        CLIENT_AUTH,
    )
    ssl_enabled_protocols: tuple[str, ...] = broker_setting(
        "ssl.enabled.protocols",
        _LIST,
        PROTOCOLS,
        "Versions of TLS.",
        choices=PROTOCOLS,
        must_be_set=True,
        is_dynamic=True,
        by_listener=True,
    )
    ssl_cipher_suites: tuple[str, ...] | None = broker_setting(
        "ssl.cipher.suites",
        _LIST,
        None,
        "Cipher suites by their names in Java. Unset: OpenSSL's choice. Of those of TLS 1.3 all are named, or none.",
        is_dynamic=True,
        by_listener=True,
    )
    ssl_principal_mapping_rules: str = _text(
        "ssl.principal.mapping.rules",
        "How the subject of a client's certificate becomes a principal: DEFAULT, or RULE:pattern/replacement/[LU].",
        "DEFAULT",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """What one listener has of them."""

    keystore_type: str = "PEM"
    keystore_location: str | None = None
    keystore_password: str | None = field(default=None, repr=False)
    certificate_chain: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    key_password: str | None = field(default=None, repr=False)
    truststore_type: str = "PEM"
    truststore_location: str | None = None
    truststore_password: str | None = field(default=None, repr=False)
    truststore_certificates: str | None = field(default=None, repr=False)
    client_auth: str = "none"
    protocols: tuple[str, ...] = PROTOCOLS
    cipher_suites: tuple[str, ...] = ()
    mapping_rules: str = "DEFAULT"

    @property
    def files(self) -> tuple[str, ...]:
        """What is read, and looked at for changes."""
        return tuple(path for path in (self.keystore_location, self.truststore_location) if path)


def tls_settings(value_of: Callable[[str], Any], client_auth: str) -> TlsSettings:
    """Of a listener; `value_of(name)` is the value that a setting has for it. Raises ValueError with one sentence."""
    settings = TlsSettings(
        keystore_type=value_of("ssl.keystore.type"),
        keystore_location=value_of("ssl.keystore.location"),
        keystore_password=value_of("ssl.keystore.password"),
        certificate_chain=value_of("ssl.keystore.certificate.chain"),
        key=value_of("ssl.keystore.key"),
        key_password=value_of("ssl.key.password"),
        truststore_type=value_of("ssl.truststore.type"),
        truststore_location=value_of("ssl.truststore.location"),
        truststore_password=value_of("ssl.truststore.password"),
        truststore_certificates=value_of("ssl.truststore.certificates"),
        client_auth=client_auth,
        protocols=value_of("ssl.enabled.protocols"),
        cipher_suites=value_of("ssl.cipher.suites") or (),
        mapping_rules=value_of("ssl.principal.mapping.rules"),
    )
    _check(settings)
    return settings


def _check(settings: TlsSettings) -> None:
    for what, type in (("keystore", settings.keystore_type), ("truststore", settings.truststore_type)):
        if type == "JKS":
            raise ValueError(
                f"ssl.{what}.type=JKS is a format of Java alone: make another file with keytool -importkeystore"
                f" -srckeystore {what}.jks -destkeystore {what}.p12 -deststoretype PKCS12, and set ssl.{what}.type=PKCS12"
            )
    inline = [settings.certificate_chain, settings.key]
    if settings.keystore_location is None and not all(inline):
        raise ValueError(
            "TLS wants a key and a certificate: set ssl.keystore.location to a PEM file with both,"
            " or ssl.keystore.key and ssl.keystore.certificate.chain; pg-kafka certs makes some for a first try"
        )
    if settings.keystore_location is not None and any(inline):
        raise ValueError("ssl.keystore.location and ssl.keystore.key or .certificate.chain are both set: remove one")
    if any(inline) and settings.keystore_type != "PEM":
        raise ValueError("ssl.keystore.key and ssl.keystore.certificate.chain are PEM: set ssl.keystore.type=PEM")
    if settings.truststore_location is not None and settings.truststore_certificates:
        raise ValueError("ssl.truststore.location and ssl.truststore.certificates are both set: remove one")
    if settings.truststore_certificates and settings.truststore_type != "PEM":
        raise ValueError("ssl.truststore.certificates are PEM: set ssl.truststore.type=PEM")
    if settings.client_auth != "none" and not (settings.truststore_location or settings.truststore_certificates):
        raise ValueError(
            f"ssl.client.auth={settings.client_auth} wants the CAs of clients' certificates: set ssl.truststore.location"
        )
    named = [suite for suite in SUITES_OF_TLS_13 if suite in settings.cipher_suites]
    if named and len(named) < len(SUITES_OF_TLS_13):
        raise ValueError(
            f"ssl.cipher.suites has some suites of TLS 1.3: name all of {', '.join(SUITES_OF_TLS_13)}, or none"
        )
