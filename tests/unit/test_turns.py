"""Long work in slices: others have their turn, and short work takes none."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from pg_kafka.broker import turns as turns_module
from pg_kafka.broker.turns import PART_ITEMS, Turns, begun


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice is over as soon as it has begun."""
    monkeypatch.setattr(turns_module, "SLICE_S", 0.0)


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    assert gc.isenabled()
    yield
    assert gc.isenabled()


class Loop:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.turns = 0
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.turns += 1
        self._loop.call_soon(self._turn)


async def test_few_items_take_no_turn() -> None:
    turns = Turns()
    taken: list[object] = []

    async def work() -> None:
        taken.extend([item async for item in turns.each("abc")])
        taken.extend([list(some) async for some in turns.parts(range(PART_ITEMS + 1))])

    assert begun(work()) is None
    assert taken == ["a", "b", "c", list(range(PART_ITEMS)), [PART_ITEMS]]
    assert turns.given == 0


@pytest.mark.usefixtures("no_time")
async def test_the_loop_turns_when_a_slice_is_over() -> None:
    turns, loop = Turns(), Loop()
    seen = [(item, loop.turns) async for item in turns.each(range(5))]
    assert [item for item, _ in seen] == [0, 1, 2, 3, 4]
    assert len({turn for _, turn in seen}) == 5
    assert turns.given == 5


@pytest.mark.usefixtures("no_time")
async def test_of_several_one_goes_on_in_a_turn() -> None:
    turns, loop = Turns(), Loop()
    seen: list[tuple[str, int]] = []

    async def work(name: str) -> None:
        async for _ in turns.each(range(4)):
            seen.append((name, loop.turns))

    async with asyncio.timeout(10):
        await asyncio.gather(*(work(name) for name in "abc"))
    assert [name for name, _ in seen] == ["a", "b", "c"] * 4
    assert len({turn for _, turn in seen}) == 12


@pytest.mark.usefixtures("no_time")
async def test_who_is_cancelled_holds_up_nobody() -> None:
    turns = Turns()

    async def work(times: int) -> int:
        return len([item async for item in turns.each(range(times))])

    tasks = [asyncio.create_task(work(10)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    async with asyncio.timeout(10):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [10, 10]


async def test_begun_work_goes_on_where_it_waited() -> None:
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    done: list[str] = []

    async def work() -> None:
        done.append(await gate)
        await asyncio.sleep(0)
        done.append("end")

    rest = begun(work())
    assert rest is not None
    gate.set_result("gate")
    async with asyncio.timeout(10):
        await rest
    assert done == ["gate", "end"]


async def test_begun_work_fails_and_is_cancelled_as_any_other() -> None:
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    seen: list[type[BaseException]] = []

    async def work() -> None:
        try:
            await gate
        except BaseException as error:
            seen.append(type(error))
            raise

    async def wait(rest: object) -> None:
        await rest  # type: ignore[misc]

    with pytest.raises(ZeroDivisionError):
        begun(_divide())
    task = asyncio.create_task(wait(begun(work())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate = asyncio.get_running_loop().create_future()
    rest = begun(work())
    gate.set_exception(OSError("lost"))
    with pytest.raises(OSError, match="lost"):
        await wait(rest)
    assert seen == [asyncio.CancelledError, OSError]


async def _divide() -> None:
    raise ZeroDivisionError


@pytest.mark.usefixtures("no_time")
async def test_nothing_is_collected_during_long_work() -> None:
    turns = Turns()
    with turns.long_work():
        assert not gc.isenabled()
        states = [gc.isenabled() async for _ in turns.each("ab")]
        assert states == [False, False]
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), turns.long_work():
        raise ZeroDivisionError
    assert gc.isenabled()


async def test_long_work_without_an_end_lets_the_collector_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "LONGEST_WITHOUT_COLLECTION_S", 0.0)
    turns = Turns()
    with turns.long_work():
        assert not gc.isenabled()
        async with asyncio.timeout(10):
            while not gc.isenabled():  # noqa: ASYNC110 - it is a timer of the loop that is waited for
                await asyncio.sleep(0)
        with turns.long_work():
            assert gc.isenabled()
        assert gc.isenabled()
