"""The places where clients connect: each has a name, an address, and a way to say who the client is.

A listener is what Kafka calls by this word: `listeners=PLAIN://127.0.0.1:9092,SECURE://0.0.0.0:9093` are two. Clients
that came by one of them are told the advertised addresses of the same one.
`listening.py` makes them from settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from pg_kafka.config.address import Address
from pg_kafka.config.keys import INT_MAX, ConfigType, Key, broker_setting, setting
from pg_kafka.config.tls import TlsConfig, TlsSettings

LISTENER_PREFIX = "listener.name."
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
# Of the one listener that `listen` is.
SIMPLE_NAME = "PLAINTEXT"
WANTED = "NAME://HOST:PORT, with commas between several, as in INTERNAL://127.0.0.1:9092,EXTERNAL://:9093"
WANTED_MAP = "NAME:PROTOCOL, with commas between several, as in INTERNAL:PLAINTEXT,EXTERNAL:SASL_SSL"

_NAME = r"[A-Za-z0-9_-]+"
_URL = re.compile(rf"({_NAME})://(.*)")


@lru_cache(maxsize=4)
def overrides(text: str | None) -> Mapping[str, int]:
    """The limits in max.connections.per.ip.overrides, by address."""
    pairs = (item.strip().rpartition(":") for item in (text or "").split(",") if item)
    return {address: int(limit) for address, _, limit in pairs}


class SecurityProtocol(Enum):
    """What is spoken on a listener, by Kafka's names."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def has_tls(self) -> bool:
        return self in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @property
    def has_sasl(self) -> bool:
        return self in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listener. Names are upper case, as in `listeners`."""

    name: str
    address: Address  # port 0 takes a free one; without a host, all addresses of this machine
    advertised: Address | None = None  # None: the address that each client has connected to
    protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    mechanisms: tuple[str, ...] = ()  # of SASL, by their names in Kafka: PLAIN, SCRAM-SHA-512
    tls: TlsSettings | None = None  # of SSL and SASL_SSL
    takes_roles: bool = False  # PLAIN is for PostgreSQL's roles instead of stored users

    @property
    def authenticates(self) -> bool:
        """Does everybody who connects say, and prove, who that is?"""
        return self.protocol.has_sasl or (self.tls is not None and self.tls.client_auth == "required")


NOWHERE = Listener(name="PLAINTEXT", address=Address("", 0))
"""Of a connection that has not been made."""


def in_keys(listener: str) -> str:
    """A listener's name within the names of its own settings. A dash cannot be told from an underscore in all places."""
    return listener.lower().replace("-", "_")


@dataclass(frozen=True, kw_only=True)
class ListenerConfig(TlsConfig):
    """The settings of a broker that each listener may have for itself. A part of `BrokerConfig`."""

    max_connections: int = broker_setting(
        "max.connections",
        ConfigType.INT,
        INT_MAX,
        "Most connections at a time, over all listeners; and of one listener, where it has a value of its own.",
        is_dynamic=True,
        by_listener=True,
    )
    max_connections_per_ip: int = broker_setting(
        "max.connections.per.ip",
        ConfigType.INT,
        INT_MAX,
        "Most connections at a time from one address.",
        is_dynamic=True,
    )
    max_connections_per_ip_overrides: str | None = setting(
        Key(
            name="max.connections.per.ip.overrides",
            type=ConfigType.STRING,
            default=None,
            pattern=r"[0-9a-fA-F.:]+:[0-9]{1,9}(,[0-9a-fA-F.:]+:[0-9]{1,9})*",
            form="addresses with a number each, as in 127.0.0.1:200,::1:100",
            doc="Instead of max.connections.per.ip, for single addresses.",
            is_dynamic=True,
        )
    )
    sasl_enabled_mechanisms: tuple[str, ...] = broker_setting(
        "sasl.enabled.mechanisms",
        ConfigType.LIST,
        ("SCRAM-SHA-256", "SCRAM-SHA-512"),
        "Ways to log in on listeners with SASL.",
        choices=MECHANISMS,
        must_be_set=True,
        by_listener=True,
    )


Endpoint = tuple[str, Address]
"""A name and an address."""


def parse_urls(text: str) -> tuple[Endpoint, ...]:
    """`listeners` and `advertised.listeners`: names in upper case and addresses. Raises ValueError with what is wanted."""
    endpoints = []
    for item in text.split(","):
        found = _URL.fullmatch(item.strip())
        if found is None:
            raise ValueError(WANTED)
        name, place = found[1].upper(), found[2]
        if place.startswith(":"):
            endpoints.append((name, Address("", Address.parse(f"all{place}").port)))
        else:
            endpoints.append((name, Address.parse(place)))
    return tuple(endpoints)


class Endpoints(tuple[Endpoint, ...]):
    """Some endpoints, written as Kafka does."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Endpoints:
        return cls(parse_urls(text))

    def __str__(self) -> str:
        return ",".join(url(name, address) for name, address in self)


class ProtocolMap(tuple[tuple[str, SecurityProtocol], ...]):
    """Names of listeners in upper case, each with its protocol, written as Kafka does."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> ProtocolMap:
        """`listener.security.protocol.map`. Raises ValueError with what is wanted."""
        protocols: dict[str, SecurityProtocol] = {}
        for item in text.split(","):
            name, colon, protocol = (part.strip().upper() for part in item.partition(":"))
            if not colon or re.fullmatch(_NAME, name) is None:
                raise ValueError(WANTED_MAP)
            if protocol not in SecurityProtocol.__members__:
                raise ValueError(f"protocols of {', '.join(SecurityProtocol.__members__)}")
            if name in protocols:
                raise ValueError("each name once")
            protocols[name] = SecurityProtocol[protocol]
        return cls(protocols.items())

    def __str__(self) -> str:
        return ",".join(f"{name}:{protocol.value}" for name, protocol in self)


def url(name: str, address: Address) -> str:
    """As in `listeners`."""
    return f"{name}://{address}"
