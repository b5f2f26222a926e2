"""An embedded server on a small disk that fills: records are refused before PostgreSQL ends, and taken again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.broker.command import Serving, run, wait_until
from tests.broker.rawclient import PRODUCE, RawClient, answered, batch, offsets_of, producing
from tests.kafka_reference import HOST, free_port
from tests.postgres import end_embedded

from pg_kafka.wire.error_codes import ErrorCode

MIB = 2**20
RESERVE = 200 * MIB
GZIP = 1


@pytest.fixture(params=[700])
def small_disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of so many MiB."""
    folder = Path(tempfile.mkdtemp(prefix="pgk-", dir="/tmp"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}m,mode=0711", "pg_kafka-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        folder.rmdir()
        pytest.skip(f"mounting a small file system is not permitted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        end_embedded(folder / "data")
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        folder.rmdir()


async def test_nearly_full_disk_refuses_records_until_there_is_room(small_disk: Path) -> None:
    data = small_disk / "data"
    ballast = small_disk / "ballast"
    where = ["--listen", f"{HOST}:{free_port()}", "--data", str(data)]
    settings = {"DISK_RESERVE_BYTES": str(RESERVE)}
    with Serving(*where, settings=settings).ready() as broker:
        async with await RawClient.connect(broker) as client:
            topic = await client.create_topic()
            assert (await client.produce(topic, batch([b"a"]))).error_code == 0
            disk = os.statvfs(small_disk)
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - RESERVE // 2)
            wait_until(lambda: "disk nearly full, records are refused" in broker.err, "the disk is noticed")
            refused = await client.produce(topic, batch([b"b"]))
            assert refused.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            assert offsets_of(await client.fetch(topic, 0)) == [0]
            other = await client.create_topic()
            await client.delete_topic(other)
            advice = run(
                "doctor", "--listen", f"{HOST}:{free_port()}", "--data", str(small_disk / "new"), settings=settings
            )
            assert "make room, or lower it" in advice.out
            ballast.unlink()
            wait_until(lambda: "disk has room again, records are taken" in broker.err, "the room is noticed")
            assert (await client.produce(topic, batch([b"b"]))).base_offset == 1
            assert "PostgreSQL ended" not in broker.err


@pytest.mark.parametrize("small_disk", [1000], indirect=True)
async def test_bombs_that_the_disk_does_not_hold_are_refused_before_they_are_queued(small_disk: Path) -> None:
    """One request of half a megabyte becomes 500 MiB, of which PostgreSQL would make more than there is."""
    data = small_disk / "data"
    where = ["--listen", f"{HOST}:{free_port()}", "--data", str(data)]
    bomb = batch([bytes(100 * MIB - 100)], compression=GZIP)
    with Serving(*where, settings={"DISK_RESERVE_BYTES": str(RESERVE)}).ready() as broker:
        async with await RawClient.connect(broker) as client:
            topic = await client.create_topic(partitions=5)
            assert (await client.produce(topic, batch([b"a"]))).error_code == 0
            response = await client.call(producing(topic, dict.fromkeys(range(5), bomb)), PRODUCE, 9, timeout_s=120)
            codes = {index: one.error_code for index, one in answered(response).items()}
            assert set(codes.values()) == {0, ErrorCode.KAFKA_STORAGE_ERROR}
            # What was acknowledged is there, and others go on producing and reading.
            for index, code in codes.items():
                found = await client.offset_at(topic, -1, index)
                assert found.offset == (index == 0) + (code == 0)
            assert (await client.produce(topic, batch([b"b"]), 4)).error_code == 0
            assert offsets_of(await client.fetch(topic, 0, partition_max_bytes=1000))[0] == 0
            free = shutil.disk_usage(small_disk).free
            assert free > RESERVE // 2
            assert "PostgreSQL ended" not in broker.err
            assert "disk has no room for a batch, it is refused" in broker.err
