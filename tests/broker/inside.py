"""A broker in the test's own process, so that a test decides who may do what, what is placed there, and looks on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.postgres import PostgresServer

from pg_kafka import app
from pg_kafka.app import Seams, Term
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.cluster.incarnation import History
from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.embedded.given import GivenPostgres


@dataclass
class Inside:
    """Where it listens, and what it is made of."""

    host: str
    port: int
    term: Term
    superuser_dsn: str = ""

    @property
    def house(self) -> Any:
        return self.term.house

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Samples by their name and the values of their labels, in the order of the labels' names."""
        families = self.term._observed.registry.collect()
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


@contextlib.asynccontextmanager
async def running(postgres: PostgresServer, seams: Seams, **settings: Any) -> AsyncIterator[Inside]:
    database = postgres.create_database()
    config = Config(database=database.dsn, listen=Address("127.0.0.1", 0), **settings)
    given = GivenPostgres(database.dsn, logging.getLogger("inside"))
    try:
        await app._prepare(given, config)
        term = Term(config, given, History(), seams)
        try:
            async with asyncio.timeout(60):
                await term.start()
            yield Inside(*term.listeners[0].address, term, database.superuser_dsn)
        finally:
            await term.stop()
    finally:
        postgres.drop_database(database)


class Deny:
    """An authorizer that allows everything but what stands in `denied`."""

    allows_everything = False

    def __init__(self) -> None:
        self.denied: set[tuple[Operation, ResourceType]] = set()
        self.asked: list[tuple[Operation, ResourceType, str]] = []

    def allows(self, who: Any, operation: Operation, resource: ResourceType, name: str) -> bool:
        self.asked.append((operation, resource, name))
        return (operation, resource) not in self.denied

    def decided(self, who: Any, operation: Operation, resource: ResourceType) -> dict[str, bool]:
        return {}

    def allows_any(self, who: Any, operation: Operation, resource: ResourceType) -> bool:
        self.asked.append((operation, resource, "*"))
        return (operation, resource) not in self.denied


class Elsewhere:
    """A placement: everything is another broker's, or nothing is."""

    has_everything = False

    def __init__(self) -> None:
        self.is_elsewhere = False

    @property
    def is_controller(self) -> bool:
        return not self.is_elsewhere

    def leads(self, topic_id: int, index: int) -> bool:
        return not self.is_elsewhere

    def coordinates_group(self, group_id: str) -> bool:
        return not self.is_elsewhere

    def coordinates_transactional_id(self, transactional_id: str) -> bool:
        return not self.is_elsewhere
