"""What is written of events one by one, and what is counted."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from pg_kafka.broker import audit as audit_module
from pg_kafka.broker.audit import EVENTS_LOST, ONE_BY_ONE, QUEUED, WINDOW_MS, AuditLog, Ration
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.clock import Clock
from pg_kafka.config import Config
from pg_kafka.config.settings import Settings
from pg_kafka.errors import StorageError
from pg_kafka.storage.audit import Event
from pg_kafka.wire.error_codes import ErrorCode

FAILED = Event(
    at_ms=0,
    event="login failed",
    principal="User:ANONYMOUS",
    address="10.0.0.1",
    listener="SECURE",
    application="librdkafka 2.0",
    resource="user alice",
    detail="wrong password",
    succeeded=False,
)


def at(ms: int, event: Event = FAILED, address: str = "10.0.0.1") -> Event:
    return dataclasses.replace(event, at_ms=ms, address=address)


def test_changes_are_never_counted() -> None:
    ration = Ration()
    created = dataclasses.replace(FAILED, event="topic created")
    assert all(ration.takes(created) for _ in range(1000))
    assert ration.over(WINDOW_MS) == []


def test_flood_from_one_address_is_one_row_a_minute() -> None:
    ration = Ration()
    taken = [ration.takes(at(n)) for n in range(1000)]
    assert taken == [True] * ONE_BY_ONE + [False] * (1000 - ONE_BY_ONE)
    assert ration.next_over_ms == WINDOW_MS
    assert ration.over(WINDOW_MS - 1) == []
    (counted,) = ration.over(WINDOW_MS)
    assert (counted.event, counted.address, counted.times) == ("login failed", "10.0.0.1", 1000 - ONE_BY_ONE)
    assert (counted.principal, counted.resource, counted.succeeded) == ("", "", False)
    assert ration.next_over_ms is None
    assert ration.takes(at(WINDOW_MS))  # the next minute begins anew


def test_other_addresses_and_events_have_their_own_share() -> None:
    ration = Ration()
    for n in range(100):
        ration.takes(at(n))
    assert ration.takes(at(100, address="10.0.0.2"))
    assert ration.takes(at(100, dataclasses.replace(FAILED, event="login", succeeded=True)))


def test_quiet_addresses_leave_nothing_to_count() -> None:
    ration = Ration()
    assert ration.takes(at(0))
    assert ration.over(WINDOW_MS) == []


def test_too_many_addresses_are_counted_together() -> None:
    ration = Ration(windows=10)
    taken = sum(ration.takes(at(n, address=f"10.0.1.{n}")) for n in range(200))
    assert taken == 10 + ONE_BY_ONE
    (counted,) = ration.over(2 * WINDOW_MS)
    assert (counted.address, counted.times) == (None, 200 - 10 - ONE_BY_ONE)
    assert "many addresses" in counted.detail


def test_what_is_open_is_told_at_the_end() -> None:
    ration = Ration()
    for n in range(ONE_BY_ONE + 5):
        ration.takes(at(n))
    assert [one.times for one in ration.over(20, all_of_them=True)] == [5]


class Store:
    """Keeps what is written, and fails as long as it is told to."""

    def __init__(self) -> None:
        self.is_down = False
        self.rows: list[Event] = []
        self.tried = asyncio.Event()
        self.written = asyncio.Event()

    async def write(self, events: Sequence[Event], _now_ms: int) -> None:
        self.tried.set()
        if self.is_down:
            raise StorageError(True, ErrorCode.KAFKA_STORAGE_ERROR, "it is down")
        self.rows += events
        self.written.set()

    async def trim(self, *, rows: int, retention_ms: int) -> None:
        return


WHO = ConnectionInfo(1, ("10.0.0.1", 5000), ("127.0.0.1", 9092), principal="User:alice")


def audit_log(store: Any) -> AuditLog:
    return AuditLog(store, Settings(Config()), Clock())


async def test_what_cannot_be_written_is_kept_for_later_and_counted_beyond_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_module, "RETRY_S", 0.0)
    store = Store()
    store.is_down = True
    log = audit_log(store)
    for number in range(QUEUED + 5):
        log.note("topic created", who=WHO, resource=f"topic {number}")
    task = asyncio.create_task(log.run())
    async with asyncio.timeout(10):
        await store.tried.wait()
        store.is_down = False
        while len(store.rows) < QUEUED + 1:
            store.written.clear()
            await store.written.wait()
    await log.stop(task)
    assert [one.resource for one in store.rows if one.event == "topic created"] == [f"topic {n}" for n in range(QUEUED)]
    assert [one.times for one in store.rows if one.event == EVENTS_LOST] == [5]


async def test_stop_writes_what_is_left_and_what_was_counted() -> None:
    store = Store()
    log = audit_log(store)
    task = asyncio.create_task(log.run())
    for _ in range(ONE_BY_ONE + 3):
        log.note("login failed", who=WHO, succeeded=False)
    log.note("topic deleted", who=WHO, resource="topic t")
    await log.stop(task)
    assert [(one.event, one.times) for one in store.rows] == [
        *[("login failed", 1)] * ONE_BY_ONE,
        ("topic deleted", 1),
        ("login failed", 3),
    ]


async def test_database_that_does_not_answer_delays_no_stop() -> None:
    store = Store()
    store.is_down = True
    log = audit_log(store)
    log.note("topic deleted", who=WHO, resource="topic t")
    await log.stop(asyncio.create_task(log.run()))
    assert store.rows == []
