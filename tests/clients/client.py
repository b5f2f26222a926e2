"""The face that every client library shows to the tests, so that one test drives them all.

Each call is blocking. What a library cannot do it says (`can_send`, `sets_timestamps`, `administers`, ...): the tests
then leave that part out for it, and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import ClassVar

from tests.clients.logins import Login
from tests.clients.records import Record

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
CALL_TIMEOUT_S = 60.0
# Long enough that no test ends because a long poll ran out.
LONG_WAIT_MS = 100_000
USUAL_WAIT_MS = 500
USUAL_BYTES = 1_000_000


class ClientError(Exception):
    """A failed call; `code` is Kafka's error number, -1 when the client gave none."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code


class Producer(ABC):
    """An open producer with acks=all."""

    @abstractmethod
    def send(self, topic: str, records: Sequence[Record], partition: int = 0) -> list[int]:
        """Sends all, waits for all, returns their offsets; raises ClientError when one failed."""

    @abstractmethod
    def close(self) -> None: ...


class Consumer(ABC):
    """An open consumer, without a group, of one partition."""

    @abstractmethod
    def read(self, count: int, timeout_s: float = CALL_TIMEOUT_S) -> list[Record]:
        """The next records: at least `count`, fewer only when the time is over; perhaps more."""

    @abstractmethod
    def seek(self, offset: int) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class Client(ABC):
    """A client library."""

    name: ClassVar[str]
    sets_timestamps: ClassVar[bool] = True
    administers: ClassVar[bool] = True
    """Has an admin client."""
    keeps_open: ClassVar[bool] = True
    """Producers and consumers live across calls (false for a program that runs once)."""
    reads_headers: ClassVar[bool] = True
    codecs: ClassVar[tuple[str, ...]] = CODECS

    def stop(self) -> None:  # noqa: B027 (most libraries keep nothing running)
        """Ends what the library keeps running."""

    def can_send(self, record: Record) -> bool:
        """Whether the library's own interface accepts such a record."""
        return True

    @abstractmethod
    def producer(
        self,
        bootstrap: str,
        *,
        codec: str = "none",
        idempotent: bool = True,
        max_bytes: int = USUAL_BYTES,
        login: Login | None = None,
    ) -> Producer:
        """A producer whose batches and records may have `max_bytes`.

        With a login that is refused this raises ClientError, or the first call of what was opened does.
        """

    @abstractmethod
    def consumer(
        self,
        bootstrap: str,
        topic: str,
        *,
        partition: int = 0,
        offset: int = 0,
        max_wait_ms: int = USUAL_WAIT_MS,
        login: Login | None = None,
    ) -> Consumer: ...

    def watermarks(self, bootstrap: str, topic: str, partition: int = 0) -> tuple[int, int]:
        """First and next offset."""
        raise AssertionError(f"{self.name} has no admin client")

    def offset_for_time(self, bootstrap: str, topic: str, timestamp: int, partition: int = 0) -> int:
        """First offset whose timestamp is `timestamp` or later, -1 when there is none."""
        raise AssertionError(f"{self.name} has no admin client")

    def create_topic(
        self, bootstrap: str, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        raise AssertionError(f"{self.name} has no admin client")

    def delete_topic(self, bootstrap: str, topic: str) -> None:
        raise AssertionError(f"{self.name} has no admin client")

    def create_partitions(self, bootstrap: str, topic: str, total: int) -> None:
        raise AssertionError(f"{self.name} has no admin client")

    def partitions(self, bootstrap: str, topic: str) -> int:
        """How many partitions the topic has; raises ClientError when there is no such topic."""
        raise AssertionError(f"{self.name} has no admin client")

    def configs(self, bootstrap: str, topic: str) -> dict[str, str]:
        """All configs of the topic with their effective values."""
        raise AssertionError(f"{self.name} has no admin client")

    def produce(
        self,
        bootstrap: str,
        topic: str,
        records: Sequence[Record],
        *,
        partition: int = 0,
        codec: str = "none",
        idempotent: bool = True,
        max_bytes: int = USUAL_BYTES,
    ) -> list[int]:
        """Sends all with a producer of its own; returns the offsets."""
        with closing(self.producer(bootstrap, codec=codec, idempotent=idempotent, max_bytes=max_bytes)) as producer:
            return producer.send(topic, records, partition)

    def consume(self, bootstrap: str, topic: str, count: int, *, partition: int = 0, offset: int = 0) -> list[Record]:
        """The `count` records from `offset` on, read with a consumer of its own."""
        with closing(self.consumer(bootstrap, topic, partition=partition, offset=offset)) as consumer:
            return consumer.read(count)[:count]
