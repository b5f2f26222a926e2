"""The disk watermark, on a disk that the test fills."""

from __future__ import annotations

import pytest

from pg_kafka.storage import disk
from pg_kafka.storage.disk import DiskWatch


class Disk:
    """What is free, and what the log was last told."""

    def __init__(self, free: int | None) -> None:
        self.free = free
        self.is_broken = False
        self.refusal: str | None = None
        self.told = 0

    def free_bytes(self) -> int | None:
        if self.is_broken:
            raise OSError("gone")
        return self.free

    def refuse(self, reason: str | None) -> None:
        self.refusal = reason
        self.told += 1


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split(",")[0] for record in caplog.records]


async def test_records_are_refused_below_the_reserve_and_taken_again_well_above_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    on = Disk(1000)
    watch = DiskWatch(on.free_bytes, 1000, on.refuse)
    for free, is_refused in ((1000, False), (999, True), (500, True), (1050, True), (1100, False), (1000, False)):
        on.free = free
        assert watch.look()
        assert (on.refusal is not None) == is_refused
    assert on.told == 2
    assert lines(caplog) == ["disk nearly full", "disk has room again"]
    assert vars(caplog.records[0])["limit"] == "pg_kafka.disk_reserve_bytes = 1000"


async def test_it_says_so_again_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    on = Disk(1)
    watch = DiskWatch(on.free_bytes, 1000, on.refuse)
    watch.look()
    watch.look()
    monkeypatch.setattr(disk, "REMIND_S", 0.0)
    watch.look()
    assert lines(caplog) == ["disk nearly full"] * 2
    assert on.told == 1


async def test_what_cannot_be_seen_is_not_watched(caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = Disk(None)
    await DiskWatch(elsewhere.free_bytes, 1000, elsewhere.refuse).run()
    unwanted = Disk(0)
    await DiskWatch(unwanted.free_bytes, 0, unwanted.refuse).run()
    assert (elsewhere.told, unwanted.told) == (0, 0)
    broken = Disk(2000)
    broken.is_broken = True
    assert DiskWatch(broken.free_bytes, 1000, broken.refuse).look()
    assert (broken.told, lines(caplog)) == (0, ["cannot look at the free disk space"])
