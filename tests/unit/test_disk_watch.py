"""The disk watermark, on a disk that the test fills."""

from __future__ import annotations

import pytest

from pg_kafka.storage import disk
from pg_kafka.storage.disk import BATCH_BYTES, NEARLY_FULL, NO_ROOM, WRITE_FACTOR, DiskWatch

MIB = 2**20
RESERVE = 100 * MIB


class Disk:
    """What is free."""

    def __init__(self, free: int | None) -> None:
        self.free = free
        self.is_broken = False
        self.rooms = 0

    def free_bytes(self) -> int | None:
        if self.is_broken:
            raise OSError("gone")
        return self.free

    def watch(self, reserve: int = RESERVE) -> DiskWatch:
        return DiskWatch(self.free_bytes, reserve, on_room=self.told_of_room)

    def told_of_room(self) -> None:
        self.rooms += 1


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split(",")[0] for record in caplog.records]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that does not fit has the disk looked at again at once."""
    monkeypatch.setattr(disk, "RECHECK_S", 0.0)


async def test_records_are_refused_below_the_reserve_and_taken_again_well_above_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    on = Disk(RESERVE + MIB)
    watch = on.watch()
    for free, is_refused in ((1.1, False), (0.99, True), (0.5, True), (1.05, True), (1.1, False), (1.05, False)):
        on.free = int(free * RESERVE) + 1
        assert watch.look()
        assert watch.admit(0) == (NEARLY_FULL if is_refused else None)
        watch.written(0)
    assert on.rooms == 1
    assert lines(caplog) == ["disk nearly full", "disk has room again"]
    assert vars(caplog.records[0])["limit"] == f"pg_kafka.disk_reserve_bytes = {RESERVE}"


@pytest.mark.usefixtures("eager")
async def test_what_is_queued_counts_until_it_is_written(caplog: pytest.LogCaptureFixture) -> None:
    on = Disk(RESERVE + 8 * MIB)
    watch = on.watch()
    watch.look()
    assert watch.admit(MIB) is None
    assert watch.admit(MIB) is None
    assert watch.admit(MIB) == NO_ROOM
    assert watch.admit(1024) is None  # a smaller one still fits
    watch.written(1024)
    watch.written(MIB)
    assert watch.admit(MIB) is None  # what the first took shows in what is free, and here that is nothing
    assert lines(caplog) == ["disk has no room for a batch"]


async def test_what_was_written_since_the_last_look_counts() -> None:
    on = Disk(RESERVE + 4 * MIB)
    watch = on.watch()
    watch.look()
    assert watch.admit(MIB) is None
    watch.written(MIB)
    assert watch.admit(MIB) == NO_ROOM  # it was looked at a moment ago
    watch.look()
    assert watch.admit(MIB) is None


@pytest.mark.usefixtures("eager")
async def test_disk_that_fills_between_two_looks_is_noticed_by_the_next_batch_that_comes_near() -> None:
    on = Disk(RESERVE + 8 * MIB)
    watch = on.watch()
    watch.look()
    on.free = RESERVE - MIB
    assert watch.admit(3 * MIB) == NEARLY_FULL


async def test_small_things_go_on_down_to_a_quarter_of_the_reserve() -> None:
    on = Disk(RESERVE - 1)
    watch = on.watch()
    watch.look()
    assert watch.admit_small(100) is None
    on.free = RESERVE // 4 + BATCH_BYTES
    watch.look()
    assert watch.admit_small(100) == NEARLY_FULL


async def test_queue_that_not_even_the_reserve_holds_is_dropped() -> None:
    on = Disk(RESERVE * 10)
    watch = on.watch()
    watch.look()
    size = int(RESERVE / WRITE_FACTOR)
    assert watch.admit(size) is None
    on.free = RESERVE - 1
    watch.look()
    assert watch.must_drop
    watch.written(size)
    assert not watch.must_drop


async def test_upkeep_stops_where_it_would_not_fit() -> None:
    on = Disk(RESERVE + 8 * MIB)
    watch = on.watch()
    assert watch.has_room(100 * RESERVE)  # nothing is known yet
    watch.look()
    assert watch.has_room(8 * MIB)
    assert not watch.has_room(9 * MIB)
    on.free = RESERVE - 1
    watch.look()
    assert not watch.has_room(0)
    assert watch.has_room(RESERVE // 2, small=True)
    assert not watch.has_room(RESERVE, small=True)


async def test_it_says_so_again_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Disk(1).watch()
    watch.look()
    watch.look()
    monkeypatch.setattr(disk, "REMIND_S", 0.0)
    watch.look()
    assert lines(caplog) == ["disk nearly full"] * 2


async def test_what_cannot_be_seen_is_not_watched(caplog: pytest.LogCaptureFixture) -> None:
    for on, reserve in ((Disk(None), RESERVE), (Disk(0), 0)):
        watch = on.watch(reserve)
        await watch.run()
        assert watch.admit(1 << 40) is None
        assert watch.has_room(1 << 40)
        assert not watch.must_drop
    broken = Disk(2 * RESERVE)
    broken.is_broken = True
    watch = broken.watch()
    assert watch.look()
    assert watch.admit(1) is None
    assert lines(caplog) == ["cannot look at the free disk space"]
