"""The control session: what is left behind by those who do not wait for an answer."""

import asyncio
import gc
from typing import Any

import pytest
from tests.storage.leader import leading

from pg_kafka.errors import StorageError
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.sessions import Fenced, Session


async def test_statement_that_fails_after_its_caller_has_gone_is_quiet(pg_dsn: str) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with leading(pg_dsn) as leader:
        asked = asyncio.create_task(leader.control.fetch("SELECT pg_sleep(0.2), 1 / 0"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert (await leader.control.fetch("SELECT 1 AS one"))[0]["one"] == 1  # one at a time: the other is over
        with pytest.raises(StorageError):
            await leader.control.fetch("SELECT 1 / 0")
        gc.collect()
    assert not told


@pytest.mark.parametrize("turns", range(6))
async def test_cancellation_is_not_lost_when_the_statement_ends_in_the_same_moment(turns: int) -> None:
    """Whoever waits for the cancelled task would wait for ever."""
    loop = asyncio.get_running_loop()
    was_in_time = False

    def cancel(left: int) -> None:
        nonlocal was_in_time
        if left:
            loop.call_soon(cancel, left - 1)
        else:
            was_in_time = asked.cancel()

    async def refuse(_name: str) -> Session:
        loop.call_soon(cancel, turns)
        raise Fenced("no longer")

    asked = asyncio.create_task(ControlSession(refuse).fetch("SELECT 1"))
    (outcome,) = await asyncio.gather(asked, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError if was_in_time else StorageError)
