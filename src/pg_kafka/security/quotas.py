"""Quotas: which there are, whom they are for, and which one of them applies (KIP-13, 124, 257, 546, 599 and 612).

    table = Table({Entity(user="alice"): {"producer_byte_rate": 1e6}})
    table.applying("producer_byte_rate", "alice", "app-1")     Applying(("alice", None), 1e6)

An entity is a user, a client id, both, or an address; in place of each name the default may stand, which is for all that
have no quota of their own. Of the eight that may match a client the first counts that has the quota, whatever it says:

    user and client id                      default user and client id
    user and default client id              default user and default client id
    user                                    default user
                                            client id
                                            default client id

All that come under the same user (or client id, or both) share what the quota allows: with a quota for a default user
each user has it for himself.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

DEFAULT: Final = ""
"""In place of a name: whoever has no quota of his own."""

USER, CLIENT_ID, IP = "user", "client-id", "ip"
PRODUCER_BYTE_RATE: Final = "producer_byte_rate"
CONSUMER_BYTE_RATE: Final = "consumer_byte_rate"
REQUEST_PERCENTAGE: Final = "request_percentage"
CONTROLLER_MUTATION_RATE: Final = "controller_mutation_rate"
CONNECTION_CREATION_RATE: Final = "connection_creation_rate"

MAX_NAME_BYTES: Final = 1000
"""Of a user or a client id in an entity: both together are in an index of PostgreSQL."""


class Number(Enum):
    """What a quota may be: Kafka's type, and its greatest value."""

    INT = 2.0**31 - 1
    LONG = 2.0**63
    DOUBLE = math.inf


OF_CLIENTS: Mapping[str, Number] = {
    PRODUCER_BYTE_RATE: Number.LONG,
    CONSUMER_BYTE_RATE: Number.LONG,
    REQUEST_PERCENTAGE: Number.DOUBLE,
    CONTROLLER_MUTATION_RATE: Number.DOUBLE,
}
OF_ADDRESSES: Mapping[str, Number] = {CONNECTION_CREATION_RATE: Number.INT}


class Unusable(ValueError):
    """An entity or a quota that cannot be; the message is Kafka's where Kafka has one."""


class Entity(NamedTuple):
    """Whom a quota is for. None: the entity says nothing of it."""

    user: str | None = None
    client_id: str | None = None
    ip: str | None = None

    def pairs(self) -> Iterator[tuple[str, str | None]]:
        """As requests name it: a type and a name, None for the default."""
        for kind, name in zip((USER, CLIENT_ID, IP), self, strict=True):
            if name is not None:
                yield kind, name or None

    def __str__(self) -> str:
        return ", ".join(f"default {kind}" if name is None else f"{kind} {name}" for kind, name in self.pairs())


class Applying(NamedTuple):
    """The quota of a client: who shares it, as user and client id, and how much it is."""

    shared_by: tuple[str | None, str | None]
    limit: float


def entity_of(pairs: Iterable[tuple[str, str | None]]) -> Entity:
    """The entity that a request names. Raises Unusable."""
    names: dict[str, str] = {}
    for kind, name in pairs:
        if kind not in (USER, CLIENT_ID, IP):
            raise Unusable(f"Unhandled client quota entity type: {kind}")
        if name == "":
            raise Unusable(f"Empty {kind} not supported")
        names[kind] = DEFAULT if name is None else name
    if not names:
        raise Unusable("Invalid empty client quota entity")
    if IP in names:
        if len(names) > 1:
            raise Unusable(
                "Invalid quota entity combination, IP entity shouldnot be combined with User or ClientId"  # as in Kafka
            )
        if names[IP] != DEFAULT and address_of(names[IP]) is None:
            raise Unusable(f"{names[IP]} is not a valid IP or resolvable host.")
    for kind, name in names.items():
        if "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
            raise Unusable(f"The {kind} has a NUL, or more than {MAX_NAME_BYTES} bytes.")
    return Entity(names.get(USER), names.get(CLIENT_ID), names.get(IP))


def check(entity: Entity, name: str, value: float) -> None:
    """May the entity have this quota? Raises Unusable."""
    number = (OF_CLIENTS if entity.ip is None else OF_ADDRESSES).get(name)
    if number is None:
        raise Unusable(f"Invalid configuration key {name}")
    if not math.isfinite(value):
        raise Unusable(f"Quota {name} must be a finite number")
    if value <= 0.0:
        raise Unusable(f"Quota {name} must be greater than 0")
    if number is Number.DOUBLE:
        return
    if value > number.value:
        article = "an" if number is Number.INT else "a"
        raise Unusable(f"Proposed value for {name} is too large for {article} {number.name}.")
    if math.fmod(value, 1.0) > 1e-6:
        raise Unusable(f"{name} cannot be a fractional value.")


def address_of(text: str) -> str | None:
    """An address in its one form, as connections have it; None when it is none."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found)


class Match(NamedTuple):
    """What DescribeClientQuotas asks for of one type. `name` None: any that is named, or the default."""

    kind: str
    name: str | None

    def holds(self, entity: Entity) -> bool:
        found = {USER: entity.user, CLIENT_ID: entity.client_id, IP: entity.ip}[self.kind]
        return found is not None and self.name in (None, found)


class Table:
    """All quotas. It does not change."""

    __slots__ = ("_addresses", "_clients", "entries")

    def __init__(self, entries: Mapping[Entity, Mapping[str, float]]) -> None:
        self.entries = {entity: dict(values) for entity, values in entries.items() if values}
        clients: dict[str, dict[tuple[str | None, str | None], float]] = {}
        self._addresses: dict[str, float] = {}
        for entity, values in self.entries.items():
            if entity.ip is None:
                for name, value in values.items():
                    clients.setdefault(name, {})[entity.user, entity.client_id] = value
            elif CONNECTION_CREATION_RATE in values:
                key = DEFAULT if entity.ip == DEFAULT else address_of(entity.ip) or entity.ip
                value = values[CONNECTION_CREATION_RATE]
                self._addresses[key] = min(value, self._addresses.get(key, math.inf))  # written in two ways perhaps
        self._clients = clients

    @property
    def has_clients(self) -> bool:
        """Are there any quotas but those of addresses?"""
        return bool(self._clients)

    def applying(self, name: str, user: str, client_id: str) -> Applying | None:
        """The quota that counts for a client; None when there is none."""
        limits = self._clients.get(name)
        if limits is None:
            return None
        for entity, shared_by in (
            ((user, client_id), (user, client_id)),
            ((user, DEFAULT), (user, client_id)),
            ((user, None), (user, None)),
            ((DEFAULT, client_id), (user, client_id)),
            ((DEFAULT, DEFAULT), (user, client_id)),
            ((DEFAULT, None), (user, None)),
            ((None, client_id), (None, client_id)),
            ((None, DEFAULT), (None, client_id)),
        ):
            limit = limits.get(entity)
            if limit is not None:
                return Applying(shared_by, limit)
        return None

    def connection_rate(self, ip: str) -> float | None:
        """How many connections a second an address may make."""
        if not self._addresses:
            return None
        found = self._addresses.get(address_of(ip) or ip)
        return self._addresses.get(DEFAULT) if found is None else found

    def matching(self, matches: Sequence[Match], *, strict: bool) -> Iterator[Entity]:
        """The entities that a filter means; a strict one only those of whom it says everything."""
        for entity in self.entries:
            if strict and sum(part is not None for part in entity) != len(matches):
                continue
            if all(match.holds(entity) for match in matches):
                yield entity
