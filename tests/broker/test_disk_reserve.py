"""An embedded server on a small disk that fills: records are refused before PostgreSQL ends, and taken again."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.broker.command import Serving, run, wait_until
from tests.broker.rawclient import RawClient, batch, offsets_of
from tests.kafka_reference import HOST, free_port
from tests.postgres import end_embedded

from pg_kafka.wire.error_codes import ErrorCode

MIB = 2**20
RESERVE = 200 * MIB


@pytest.fixture
def small_disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pgk-", dir="/tmp"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700m,mode=0711", "pg_kafka-test", str(folder)],
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
