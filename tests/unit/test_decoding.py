"""Claims to the memory of large batches: bounded, first come first served, and never a deadlock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.broker import decoding as decoding_module
from pg_kafka.broker.decoding import GIANT_BYTES, Abandoned, Allowance, Claim, Decoding

LIMIT = 128 * 2**20


class Request:
    """A reply, as far as the claims see it."""

    def __init__(self) -> None:
        self.is_abandoned = False
        self.on_abandon: Callable[[], None] | None = None

    def lose_connection(self) -> None:
        self.is_abandoned = True
        if self.on_abandon is not None:
            self.on_abandon()


def asked(allowance: Allowance, count_bytes: int, request: Request | None = None) -> asyncio.Task[Claim]:
    return asyncio.ensure_future(allowance.claim(count_bytes, request or Request(), lambda: None))


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_claims_are_given_in_the_order_of_asking() -> None:
    allowance = Allowance(100)
    first, second, third = [asked(allowance, count) for count in (80, 50, 10)]
    await settle()
    assert [task.done() for task in (first, second, third)] == [True, False, False]  # 10 would fit, 50 is before it
    (await first).give_back()
    await settle()
    assert second.done() and third.done()
    assert allowance.used_bytes == 60


async def test_surplus_lets_the_next_one_in_and_giving_back_twice_counts_once() -> None:
    allowance = Allowance(100)
    first, second = asked(allowance, 100), asked(allowance, 50)
    await settle()
    claim = await first
    claim.resize(40)
    await settle()
    assert allowance.used_bytes == 90 and second.done()
    claim.give_back()
    claim.give_back()
    assert allowance.used_bytes == 50


async def test_claim_above_the_limit_is_alone() -> None:
    allowance = Allowance(100)
    first, large, last = asked(allowance, 10), asked(allowance, 1000), asked(allowance, 10)
    await settle()
    assert first.done() and not large.done()
    (await first).give_back()
    await settle()
    assert large.done() and not last.done()
    (await large).give_back()
    await settle()
    assert last.done()


async def test_waiter_whose_connection_goes_away_leaves_the_queue() -> None:
    allowance = Allowance(100)
    first, gone, last = asked(allowance, 80), Request(), None
    left = asked(allowance, 90, gone)
    last = asked(allowance, 20)
    await settle()
    assert not last.done()
    gone.lose_connection()
    await settle()
    with pytest.raises(Abandoned):
        await left
    assert last.done() and allowance.used_bytes == 100 and allowance.waiting == 0
    assert (await first).bytes == 80
    with pytest.raises(Abandoned):
        await allowance.claim(1, gone, lambda: None)


async def test_waiter_that_is_cancelled_leaves_the_queue_and_what_it_was_given() -> None:
    allowance = Allowance(100)
    first = await asked(allowance, 80)
    waits, given, last = asked(allowance, 90), asked(allowance, 90), asked(allowance, 100)
    await settle()
    waits.cancel()
    await settle()
    first.give_back()  # `given` has its claim, and has not run since
    given.cancel()
    await settle()
    assert waits.cancelled() and given.cancelled()
    assert last.done() and allowance.used_bytes == 100 and allowance.waiting == 0


async def test_wait_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_module, "WAIT_S", 0.01)
    allowance = Allowance(100)
    await asked(allowance, 80)
    with pytest.raises(TimeoutError):
        await asked(allowance, 90)
    assert allowance.used_bytes == 80 and allowance.waiting == 0


@given(st.lists(st.tuples(st.integers(1, 150), st.sampled_from(["keep", "shrink", "leave", "cancel"])), max_size=20))
def test_any_order_of_events_ends_with_nothing_held(events: list[tuple[int, str]]) -> None:
    async def play() -> None:
        allowance = Allowance(100)
        requests = [Request() for _ in events]
        tasks = [asked(allowance, count, request) for (count, _), request in zip(events, requests, strict=True)]
        await settle()
        for (count, event), request, task in zip(events, requests, tasks, strict=True):
            if event == "leave":
                request.lose_connection()
            elif event == "cancel":
                task.cancel()
            elif event == "shrink" and task.done():
                task.result().resize(count // 2)
            await settle()
            assert allowance.used_bytes <= 100 or sum(t.done() and not t.cancelled() for t in tasks) >= 1
        for _ in events:
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception() is None:
                    task.result().give_back()
            await settle()
        assert all(task.done() for task in tasks)
        assert allowance.used_bytes == 0 and allowance.waiting == 0

    asyncio.run(play())


async def test_batch_of_unknown_size_gets_more_until_it_is_done() -> None:
    decoding = Decoding(256 * 2**20)
    tried: list[int] = []

    def decode(count_bytes: int) -> bool:
        tried.append(count_bytes)
        return count_bytes >= 20 * 2**20

    claim = await decoding.decode(decode, 2**20, LIMIT, Request(), lambda: None)
    assert tried == [2**20, 4 * 2**20, LIMIT]
    assert decoding.used_bytes == claim.bytes == LIMIT
    answered = decoding.queued(claim, 30 * 2**20)
    assert decoding.used_bytes == decoding.queued_bytes == 30 * 2**20
    answered()
    assert decoding.used_bytes == decoding.queued_bytes == 0
    decoding.stop()


async def test_known_size_is_claimed_at_once() -> None:
    decoding = Decoding(256 * 2**20)
    tried: list[int] = []
    await decoding.decode(lambda count: tried.append(count) is None, 100 * 2**20, LIMIT, Request(), lambda: None)
    await decoding.decode(lambda count: tried.append(count) is None, 5, LIMIT, Request(), lambda: None)
    assert tried == [100 * 2**20, decoding_module.LEAST_CLAIM_BYTES]
    decoding.stop()


async def test_giants_come_one_after_the_other_and_hold_up_no_others() -> None:
    decoding = Decoding(256 * 2**20)
    go_on, running = threading.Event(), []

    def giant(count_bytes: int) -> bool:
        running.append(count_bytes)
        return go_on.wait(30)

    size = 2 * GIANT_BYTES
    giants = [asyncio.ensure_future(decoding.decode(giant, size, LIMIT, Request(), lambda: None)) for _ in range(4)]
    async with asyncio.timeout(30):
        other = await decoding.decode(lambda _count: True, 2**20, LIMIT, Request(), lambda: None)
        assert not any(task.done() for task in giants) and running == [size]
        go_on.set()
        claims = await asyncio.gather(*giants)
    for claim in (other, *claims):
        claim.give_back()
    assert running == [size] * 4 and decoding.used_bytes == 0
    decoding.stop()


async def test_error_gives_the_claim_back() -> None:
    decoding = Decoding(256 * 2**20)

    def fail(_count: int) -> bool:
        raise MemoryError

    with pytest.raises(MemoryError):
        await decoding.decode(fail, 1, LIMIT, Request(), lambda: None)
    assert decoding.used_bytes == 0
    decoding.stop()


async def test_waiting_is_told() -> None:
    decoding = Decoding(4 * 2**20)
    told: list[str] = []
    first = await decoding.decode(lambda _count: True, 2**20, LIMIT, Request(), lambda: told.append("first"))
    second = asyncio.ensure_future(
        decoding.decode(lambda _count: True, 2**20, LIMIT, Request(), lambda: told.append("second"))
    )
    await settle()
    assert told == ["second"]
    first.give_back()
    (await second).give_back()
    decoding.stop()
