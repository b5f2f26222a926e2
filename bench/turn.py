"""What a workload gets: the system whose turn it is, payloads, and a place for what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.measurements import Measurement
from bench.payloads import Payloads
from bench.systems import System
from pg_kafka.bench.cluster import create, delete, find
from pg_kafka.bench.connection import Connection

JOIN_GROUP = 11


class Workload(Protocol):
    """One row of a profile."""

    @property
    def name(self) -> str:
        """What it is called in tables."""

    def run(self, turn: Turn) -> Iterator[Measurement]:
        """Do it on the turn's system; nothing if it does not apply to that system."""


@dataclass
class Turn:
    """A system that runs, in one round."""

    system: System
    round: int
    payloads: Payloads
    folder: Path
    say: Callable[[str], None]
    _topics: int = field(default=0, init=False)

    def topic(self, partitions: int) -> str:
        """A new topic, ready to be written to; its name can be a table's name."""
        self._topics += 1
        name = f"bench_{self._topics}"
        with self._connection() as connection:
            create(connection, name, partitions)
            find(connection, name, partitions)
        return name

    def drop(self, topic: str) -> None:
        with self._connection() as connection:
            delete(connection, topic)

    def serves(self, api_key: int) -> bool:
        with self._connection() as connection:
            return connection.serves(api_key)

    def found(
        self,
        kind: str,
        workload: str,
        figures: Mapping[str, float],
        settings: Mapping[str, str | int] | None = None,
        *,
        system: str = "",
        note: str = "",
    ) -> Measurement:
        return Measurement(kind, workload, system or self.system.name, self.round, figures, settings or {}, note)

    def _connection(self) -> Connection:
        return Connection(self.system.host, self.system.port)
