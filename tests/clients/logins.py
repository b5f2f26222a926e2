"""How a client says who it is, and how each library's settings say it.

A token is read from its file each time that a client logs in, so that a test can put a newer one there.
"""

from __future__ import annotations

import json
import ssl
import time
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_JAVA_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "OAUTHBEARER": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule",
}
_JAVA_CALLBACKS = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler"


@dataclass(frozen=True, kw_only=True)
class Login:
    """What one client shows: certificates, and a password or the file of a token."""

    mechanism: str = ""  # of SASL; "": none
    name: str = ""
    password: str = ""
    token: Path | None = None
    unsigned: str = ""  # what librdkafka is to say in a token that it makes itself
    ca: Path | None = None  # None: no TLS
    certificate: Path | None = None
    key: Path | None = None
    both: Path | None = None  # the key and the certificate in one file

    @property
    def protocol(self) -> str:
        """By Kafka's names."""
        last = "PLAINTEXT" if self.ca is None else "SSL"
        return f"SASL_{last}" if self.mechanism else last

    def read_token(self) -> str:
        assert self.token is not None
        return self.token.read_text().strip()

    def for_java(self) -> dict[str, str]:
        settings = {"security.protocol": self.protocol}
        if self.ca is not None:
            settings |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(self.ca)}
        if self.both is not None:
            settings |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(self.both)}
        if self.mechanism:
            options = ""
            if self.token is not None:
                settings["sasl.login.callback.handler.class"] = _JAVA_CALLBACKS
                settings["sasl.oauthbearer.token.endpoint.url"] = self.token.as_uri()
            else:
                options = f' username="{self.name}" password="{self.password}"'
            settings["sasl.mechanism"] = self.mechanism
            settings["sasl.jaas.config"] = f"{_JAVA_MODULES[self.mechanism]} required{options};"
        return settings

    def for_librdkafka(self) -> dict[str, Any]:
        """All but the callback for tokens."""
        settings = {"security.protocol": self.protocol.lower()}
        if self.ca is not None:
            settings["ssl.ca.location"] = str(self.ca)
        if self.certificate is not None:
            settings |= {"ssl.certificate.location": str(self.certificate), "ssl.key.location": str(self.key)}
        if self.mechanism:
            settings["sasl.mechanism"] = self.mechanism
            if self.unsigned:
                settings |= {"enable.sasl.oauthbearer.unsecure.jwt": "true", "sasl.oauthbearer.config": self.unsigned}
            elif self.token is None:
                settings |= {"sasl.username": self.name, "sasl.password": self.password}
        return settings

    def for_python(self) -> dict[str, Any]:
        """What aiokafka and kafka-python both take; all but the provider of tokens."""
        settings: dict[str, Any] = {"security_protocol": self.protocol}
        if self.ca is not None:
            context = ssl.create_default_context(cafile=str(self.ca))
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
            settings["ssl_context"] = context
        if self.mechanism:
            settings["sasl_mechanism"] = self.mechanism
            if self.token is None:
                settings |= {"sasl_plain_username": self.name, "sasl_plain_password": self.password}
        return settings

    def for_agent(self) -> dict[str, Any]:
        """What agents of our own read: paths as text, "" for what is not there."""
        values = {name: "" if value is None else str(value) for name, value in vars(self).items()}
        return values | {"uses_tls": self.ca is not None}


def lifetime_ends_s(token: str) -> float:
    """When a token says that it ends, for clients that want to be told.

    Never in the past: they would not send an expired one, and whether the broker refuses it would stay open.
    """
    body = token.split(".")[1]
    claims = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    ends = float(claims["exp"])
    return ends if ends > time.time() else time.time() + 300
