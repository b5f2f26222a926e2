"""The listeners that a broker's settings make.

    listeners_of(config)        at least one; raises ConfigError with one sentence

Settings of a listener are Kafka's: `listener.name.secure.ssl.keystore.location` over `ssl.keystore.location`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Sequence
from functools import partial

from pg_kafka.config.keys import Source
from pg_kafka.config.listeners import (
    LISTENER_PREFIX,
    SIMPLE_NAME,
    Endpoint,
    Endpoints,
    Listener,
    SecurityProtocol,
    in_keys,
    url,
)
from pg_kafka.config.oauth import OAUTHBEARER, OauthSettings
from pg_kafka.config.settings import Config
from pg_kafka.config.tls import TlsSettings, tls_settings
from pg_kafka.config.users import ROLES, roles_refused
from pg_kafka.errors import ConfigError


def listeners_of(config: Config) -> tuple[Listener, ...]:
    """The listeners of a broker, at least one. Raises ConfigError."""
    endpoints, advertised = _endpoints(config), dict(_advertised(config))
    _refuse_duplicates("listeners", endpoints)
    _refuse_shared_ports(endpoints)
    names = [name for name, _ in endpoints]
    for name in advertised:
        if name not in names:
            raise ConfigError(f"advertised.listeners names {name}, which listeners does not have: add it there")
    _refuse_settings_of_others(config, names)
    listeners = []
    for name, address in endpoints:
        protocol = _protocol(config, name)
        listener = Listener(
            name=name,
            address=address,
            advertised=advertised.get(name),
            protocol=protocol,
            tls=_tls(config, name, protocol) if protocol.has_tls else None,
            mechanisms=config.of_listener(name, "sasl.enabled.mechanisms") if protocol.has_sasl else (),
            takes_roles=protocol.has_sasl and config.of_listener(name, "pg_kafka.users") == ROLES,
        )
        _refuse_unusable_logins(config, listener)
        listeners.append(listener)
    return tuple(listeners)


def _tls(config: Config, name: str, protocol: SecurityProtocol) -> TlsSettings:
    client_auth = config.of_listener(name, "ssl.client.auth")
    if protocol.has_sasl and f"{LISTENER_PREFIX}{in_keys(name)}.ssl.client.auth" not in config.by_listener:
        client_auth = "none"
    try:
        return tls_settings(partial(config.of_listener, name), client_auth)
    except ValueError as error:
        raise ConfigError(f"listener {name}: {error}") from None


def tokens_of(config: Config, listener: Listener) -> OauthSettings:
    """The settings of OAUTHBEARER on a listener. Raises ConfigError."""
    try:
        return OauthSettings.read(listener.name, partial(config.of_listener, listener.name, mechanism=OAUTHBEARER))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def with_addresses(config: Config, listeners: Sequence[Listener]) -> Config:
    """The same settings with the addresses that these listeners have: a start that follows takes the same ports."""
    if config.listeners is None:
        return dataclasses.replace(config, listen=listeners[0].address)
    return dataclasses.replace(config, listeners=Endpoints((one.name, one.address) for one in listeners))


def _endpoints(config: Config) -> Sequence[Endpoint]:
    if config.listeners is None:
        return ((_simple_name(config), config.listen),)
    if config.secure:
        raise ConfigError("secure and listeners are both set: remove secure, or give listen instead of listeners")
    for simple in ("listen", "advertise"):
        if config.source(simple) is not Source.DEFAULT:
            raise ConfigError(f"{simple} and listeners are both set: remove {simple}")
    return config.listeners


def _advertised(config: Config) -> Sequence[Endpoint]:
    if config.advertised_listeners is None:
        return () if config.advertise is None else ((_simple_name(config), config.advertise),)
    if config.source("advertise") is not Source.DEFAULT:
        raise ConfigError("advertise and advertised.listeners are both set: remove advertise")
    _refuse_duplicates("advertised.listeners", config.advertised_listeners)
    for name, address in config.advertised_listeners:
        if not address.host or address.host in ("0.0.0.0", "::"):
            raise ConfigError(
                f"advertised.listeners wants a host that clients can connect to, not {url(name, address)}"
            )
        if address.port == 0:
            raise ConfigError(f"advertised.listeners wants a port from 1 to 65535, not {url(name, address)}")
    return config.advertised_listeners


def _simple_name(config: Config) -> str:
    return SecurityProtocol.SASL_SSL.value if config.secure else SIMPLE_NAME


def _protocol(config: Config, name: str) -> SecurityProtocol:
    mapped = dict(config.listener_security_protocol_map or ()).get(name)
    if mapped is not None:
        return mapped
    if name in SecurityProtocol.__members__:
        return SecurityProtocol[name]
    if name == "CONTROLLER":
        raise ConfigError("listeners has CONTROLLER, and there are no controllers here: remove it")
    raise ConfigError(
        f"listener {name} has no protocol: add {name}:SASL_SSL, or another one, to listener.security.protocol.map"
    )


def _refuse_unusable_logins(config: Config, listener: Listener) -> None:
    if OAUTHBEARER in listener.mechanisms:
        tokens_of(config, listener)
    if listener.takes_roles and (reason := roles_refused(listener)) is not None:
        raise ConfigError(reason)
    own_users = f"{LISTENER_PREFIX}{in_keys(listener.name)}.pg_kafka.users"
    if not listener.protocol.has_sasl and config.by_listener.get(own_users) == ROLES:
        raise ConfigError(f"{own_users} = roles is set, and the listener {listener.name} has no SASL: use SASL_SSL")


def _refuse_duplicates(setting: str, endpoints: Iterable[Endpoint]) -> None:
    names = [name for name, _ in endpoints]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{setting} has {name} twice: give each listener a name of its own")


def _refuse_shared_ports(endpoints: Sequence[Endpoint]) -> None:
    """Two listeners may share a port when one has an IPv4 address and the other one an IPv6 address, as in Kafka."""
    by_port: dict[int, list[Endpoint]] = {}
    for name, address in endpoints:
        if address.port:
            by_port.setdefault(address.port, []).append((name, address))
    for port, sharing in by_port.items():
        if len(sharing) == 1 or (len(sharing) == 2 and {_ip_version(one.host) for _, one in sharing} == {4, 6}):
            continue
        raise ConfigError(
            f"listeners {' and '.join(name for name, _ in sharing)} have the same port {port}: give each one of its own"
        )


def _ip_version(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def _refuse_settings_of_others(config: Config, names: Iterable[str]) -> None:
    """What a start sets for a listener that is not there does nothing; in the database it may be for other brokers."""
    known = set(map(in_keys, names))
    for full_name in config.by_listener:
        listener = full_name.removeprefix(LISTENER_PREFIX).partition(".")[0]
        if listener not in known and config.source(full_name) in (Source.FLAG, Source.ENVIRONMENT, Source.FILE):
            raise ConfigError(f"{full_name} is set, and there is no listener {listener.upper()}: name it in listeners")
