"""Who is asked for which metrics, and who may push them when (KIP-714).

    instances = Instances()
    instances.renew([Subscription.of("usage", {"metrics": "org.apache.kafka.producer."})])
    code, instance = instances.ask(instance_id, client, connection, now_ms)
    code, instance = instances.push(instance_id, client, connection, now_ms, Pushing(...))

Pure. A client that asks gets an instance, with what all subscriptions that match it want together. It pushes once in each
interval; between two pushes it gets THROTTLING_QUOTA_EXCEEDED. An instance is forgotten when its client is silent for
three intervals, or when the connection that it was made for has ended and the client comes again by another one.
What a subscription wants is told in a number of its own, so that a client that pushes by an older one notices.
"""

from __future__ import annotations

import base64
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from pg_kafka.config.client_metrics import CLIENT_METRICS_KEYS, DEFAULT_INTERVAL_MS, illegal, matches, parse
from pg_kafka.config.keys import InvalidChange, InvalidConfig
from pg_kafka.coordinator.topic_regex import InvalidTopicRegex, check, matching
from pg_kafka.wire.error_codes import ErrorCode

MAX_INSTANCES: Final = 16_384
"""As in Kafka. Of more, the longest silent are forgotten; they get the same number when they come again."""

MAX_NAME_BYTES: Final = 1_000
"""Of a subscription."""

ALL: Final = "*"

LEAST_SILENCE_MS: Final = 60_000
_SWEEP_MS = 10_000
_NEVER = -(1 << 62)
# Reserved by Kafka, as no id of anything.
_RESERVED = (UUID(int=0), UUID(int=1))
_COMPRESSIONS = range(5)


class Client(NamedTuple):
    """What is known of a client. Names are those that a subscription matches by."""

    client_instance_id: str
    client_id: str | None
    client_software_name: str
    client_software_version: str
    client_source_address: str
    client_source_port: str


class Connection(Protocol):
    """The connection that an instance was made for."""

    is_closed: bool


def shown(instance_id: UUID) -> str:
    """An id as Kafka's clients and tools write it."""
    return base64.urlsafe_b64encode(instance_id.bytes).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Subscription:
    """What is wanted of the clients that match."""

    name: str
    metrics: tuple[str, ...]  # how their names begin
    interval_ms: int
    match: tuple[tuple[str, str], ...]  # property and expression; all have to match

    @classmethod
    def of(cls, name: str, configs: Mapping[str, str]) -> Subscription:
        """A subscription with these configs. Raises InvalidChange, InvalidConfig."""
        values = {key.name: key.default for key in CLIENT_METRICS_KEYS.values()}
        for key, text in configs.items():
            values[key] = parse(key, text)
        match = matches(values["match"])
        for wanted, expression in match:
            try:
                check(expression)
            except InvalidTopicRegex as error:
                raise illegal(f"{wanted}={expression}", str(error)) from None
        return cls(name, values["metrics"], values["interval.ms"], tuple(match))

    def wants(self, client: Client) -> bool:
        """Is this client one of those?"""
        for wanted, expression in self.match:
            value = getattr(client, wanted)
            if value is None or not matching(expression, (value,)):
                return False
        return True


def usable(stored: Mapping[str, Mapping[str, str]]) -> tuple[list[Subscription], list[tuple[str, str]]]:
    """The subscriptions that the database has, and those that are none: their names, with the reason."""
    found, faults = [], []
    for name, configs in sorted(stored.items()):
        try:
            found.append(Subscription.of(name, configs))
        except KeyError as error:
            faults.append((name, f"Unknown client metrics configuration: {error.args[0]}"))
        except (InvalidChange, InvalidConfig) as error:
            faults.append((name, str(error)))
    return found, faults


@dataclass(slots=True)
class Instance:
    """One client, from when it first asked until it is forgotten."""

    id: UUID
    client: Client
    connection: Connection
    version: int  # of the subscriptions by which what follows was found
    metrics: tuple[str, ...]
    interval_ms: int
    subscription_id: int
    asked_ms: int = _NEVER
    pushed_ms: int = _NEVER
    seen_ms: int = _NEVER
    has_said_goodbye: bool = False
    last_code: int = 0

    @property
    def silence_ms(self) -> int:
        """When it has been silent for so long it is forgotten."""
        return max(LEAST_SILENCE_MS, 3 * self.interval_ms)


class Pushing(NamedTuple):
    """What a push says of itself."""

    subscription_id: int
    compression: int
    size: int
    is_last: bool


class Instances:
    """See the module."""

    def __init__(self) -> None:
        self.subscriptions: tuple[Subscription, ...] = ()
        self._version = 0
        self._instances: OrderedDict[UUID, Instance] = OrderedDict()  # the longest silent first
        self._swept_ms = _NEVER

    def __len__(self) -> int:
        return len(self._instances)

    def __contains__(self, instance_id: UUID) -> bool:
        return instance_id in self._instances

    def renew(self, subscriptions: Sequence[Subscription]) -> None:
        """These hold from now on."""
        if tuple(subscriptions) != self.subscriptions:
            self.subscriptions = tuple(subscriptions)
            self._version += 1

    def ask(self, instance_id: UUID, client: Client, connection: Connection, now_ms: int) -> tuple[int, Instance]:
        """A client asks what is wanted of it: NONE, or why it is not told."""
        instance = self._of(instance_id, client, connection, now_ms)
        is_due = now_ms - max(instance.asked_ms, instance.pushed_ms) >= instance.interval_ms
        if is_due:
            instance.asked_ms = now_ms
        elif instance.last_code not in (ErrorCode.UNKNOWN_SUBSCRIPTION_ID, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE):
            return int(ErrorCode.THROTTLING_QUOTA_EXCEEDED), instance
        instance.last_code = int(ErrorCode.NONE)
        return int(ErrorCode.NONE), instance

    def push(
        self, instance_id: UUID, client: Client, connection: Connection, now_ms: int, what: Pushing, most_bytes: int
    ) -> tuple[int, Instance | None]:
        """A client pushes: NONE when its metrics may be read, or why they are not taken."""
        if instance_id in _RESERVED:
            return int(ErrorCode.INVALID_REQUEST), None
        instance = self._of(instance_id, client, connection, now_ms)
        code = self._code_of(instance, now_ms, what, most_bytes)
        instance.has_said_goodbye = what.is_last
        instance.last_code = int(code)
        return int(code), instance

    def _code_of(self, instance: Instance, now_ms: int, what: Pushing, most_bytes: int) -> ErrorCode:
        if instance.has_said_goodbye:
            return ErrorCode.INVALID_REQUEST
        # A client that has just asked pushes when it likes: it spreads its pushes over the interval.
        is_due = instance.asked_ms > instance.pushed_ms or now_ms - instance.pushed_ms >= instance.interval_ms
        if is_due:
            instance.pushed_ms = now_ms
        elif not what.is_last:
            return ErrorCode.THROTTLING_QUOTA_EXCEEDED
        if what.subscription_id != instance.subscription_id:
            return ErrorCode.UNKNOWN_SUBSCRIPTION_ID
        if what.compression not in _COMPRESSIONS:
            return ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
        if what.size > most_bytes:
            return ErrorCode.TELEMETRY_TOO_LARGE
        return ErrorCode.NONE

    def forgotten(self, now_ms: int) -> list[UUID]:
        """Forget who has been silent for too long; their ids."""
        self._swept_ms = now_ms
        gone = [one.id for one in self._instances.values() if now_ms - one.seen_ms >= one.silence_ms]
        for instance_id in gone:
            del self._instances[instance_id]
        return gone

    def is_time_to_forget(self, now_ms: int) -> bool:
        """Some time has gone by since the last look."""
        return now_ms - self._swept_ms >= _SWEEP_MS

    def _of(self, instance_id: UUID, client: Client, connection: Connection, now_ms: int) -> Instance:
        instance = self._instances.get(instance_id)
        if instance is None or (instance.connection.is_closed and instance.connection is not connection):
            instance = self._new(instance_id, client, connection)
        elif instance.version != self._version:
            instance = self._new(instance_id, instance.client, connection)
        self._instances[instance_id] = instance
        self._instances.move_to_end(instance_id)
        if len(self._instances) > MAX_INSTANCES:
            self._instances.popitem(last=False)
        instance.seen_ms = now_ms
        return instance

    def _new(self, instance_id: UUID, client: Client, connection: Connection) -> Instance:
        wanted = [one for one in self.subscriptions if one.wants(client)]
        names = {name for one in wanted for name in one.metrics}
        metrics = (ALL,) if ALL in names else tuple(sorted(names))
        interval_ms = min((one.interval_ms for one in wanted), default=DEFAULT_INTERVAL_MS)
        number = _number_of(metrics, interval_ms, instance_id)
        return Instance(instance_id, client, connection, self._version, metrics, interval_ms, number)


def _number_of(metrics: Iterable[str], interval_ms: int, instance_id: UUID) -> int:
    """A subscription's number: the same on every broker, another one for other metrics or another interval."""
    sum = zlib.crc32(f"{','.join(metrics)} {interval_ms}".encode()) ^ zlib.crc32(instance_id.bytes)
    return sum - (1 << 32) if sum >> 31 else sum
