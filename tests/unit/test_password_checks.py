"""Passwords are checked in threads, few at a time, and not twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pg_kafka.broker import password_checks
from pg_kafka.broker.authentication import CannotVerify
from pg_kafka.broker.password_checks import MAX_WAITING, MAX_WAITING_PER_ADDRESS, REMEMBERED, PasswordChecks
from pg_kafka.security import scram
from pg_kafka.security.scram import SHA_256, Keys

KEYS = scram.make_keys(SHA_256, "secret", b"salt", 4096)


@pytest.fixture
async def checks() -> AsyncIterator[PasswordChecks]:
    checks = PasswordChecks()
    yield checks
    checks.stop()


class Counted:
    """Stands for PBKDF2: says how often it is asked, and waits if it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.go = threading.Event()
        self.go.set()
        monkeypatch.setattr(password_checks.scram, "is_password", self)

    def __call__(self, _mechanism: Any, _keys: Keys, password: str) -> bool:
        self.asked += 1
        assert self.go.wait(20)
        return password == "secret"


async def test_the_password_decides(checks: PasswordChecks) -> None:
    assert await checks.is_right("10.0.0.1", SHA_256, KEYS, "secret")
    assert not await checks.is_right("10.0.0.1", SHA_256, KEYS, "another")
    assert not await checks.is_right("10.0.0.1", SHA_256, scram.keys_of_nobody(SHA_256, "x", b"s"), "secret")


async def test_what_is_proved_is_not_computed_again(checks: PasswordChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    for _ in range(3):
        assert await checks.is_right("10.0.0.1", SHA_256, KEYS, "secret")
    assert counted.asked == 1
    for _ in range(3):
        assert not await checks.is_right("10.0.0.1", SHA_256, KEYS, "another")
    assert counted.asked == 4
    # Other keys, another password: nothing of it is known.
    await checks.is_right("10.0.0.1", SHA_256, OTHER, "secret")
    assert counted.asked == 5


OTHER = Keys(b"pepper", KEYS.stored_key, KEYS.server_key, KEYS.iterations)


async def test_proofs_are_forgotten_after_a_minute_and_when_they_are_many(
    checks: PasswordChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    await checks.is_right("10.0.0.1", SHA_256, KEYS, "secret")
    checks._proved = type(checks._proved)((mark, until - 61) for mark, until in checks._proved.items())
    await checks.is_right("10.0.0.1", SHA_256, KEYS, "secret")
    assert counted.asked == 2
    for n in range(REMEMBERED + 10):
        await checks.is_right("10.0.0.1", SHA_256, Keys(b"%d" % n, b"", b"", 4096), "secret")
    assert len(checks._proved) == REMEMBERED


async def test_one_address_cannot_fill_the_room_and_all_together_not_more_than_it(
    checks: PasswordChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    counted.go.clear()
    waiting = [
        asyncio.ensure_future(checks.is_right(f"10.0.0.{host}", SHA_256, KEYS, "another"))
        for host in range(MAX_WAITING // MAX_WAITING_PER_ADDRESS)
        for _ in range(MAX_WAITING_PER_ADDRESS)
    ]
    await asyncio.sleep(0)
    with pytest.raises(CannotVerify):
        await checks.is_right("10.0.0.9", SHA_256, KEYS, "another")
    counted.go.set()
    assert not any(await asyncio.gather(*waiting))

    counted.go.clear()
    waiting = [
        asyncio.ensure_future(checks.is_right("10.0.0.1", SHA_256, KEYS, "another"))
        for _ in range(MAX_WAITING_PER_ADDRESS)
    ]
    await asyncio.sleep(0)
    with pytest.raises(CannotVerify):
        await checks.is_right("10.0.0.1", SHA_256, KEYS, "another")
    other = asyncio.ensure_future(checks.is_right("10.0.0.2", SHA_256, KEYS, "secret"))
    await asyncio.sleep(0)
    counted.go.set()
    assert await other
    assert not any(await asyncio.gather(*waiting))
    assert not checks._per_address
