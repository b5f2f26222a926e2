"""What a request costs the broker's process, old against new: processor seconds of brokers from two checkouts, in turns.

    python -m bench.requests --old ../before                         ten pairs of 100,000 requests of each kind
    python -m bench.requests --old ../before --pairs 3 --requests 20000

Both brokers run all the time, each on an embedded PostgreSQL of its own, and only the one whose turn it is has work. Who
begins changes from pair to pair. The first requests of each kind are not counted. A checkout has to be built in place
(`make install`), and uses the interpreter and the packages of this one.

produce     one record of 100 bytes, acks=all, from 16 connections that each wait for the acknowledgement
fetch       one batch from memory, without a session
poll        an incremental fetch that finds nothing for a millisecond: the same bytes but for the session's epoch
heartbeat   of a group that is not there
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from bench.raw import (
    CREATE_TOPICS,
    FETCH,
    HEARTBEAT,
    PRODUCE,
    RawConnection,
    check,
    connect_many,
)
from pg_kafka.bench.batches import BatchTemplate
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

HERE = Path(__file__).parents[1]
HOST = "127.0.0.1"
CONNECTIONS = 16
RECORD_BYTES = 100
START_S = 60.0
WARM_UP_SHARE = 0.1
_PRODUCE_VERSION, _FETCH_VERSION, _CREATE_VERSION, _HEARTBEAT_VERSION = 9, 12, 7, 4
_MAX_BYTES = 1 << 20
# clock_getcpuclockid(3): Linux numbers the clock of another process's processor time like this. Its unit is the nanosecond.
_PROCESS_CLOCK = 2

NextFrame = Callable[[], bytes]


class Broker:
    """A broker of one checkout."""

    def __init__(self, checkout: Path, folder: Path, port: int, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are environment variables, which say where it listens; without them it listens on `port`."""
        self.port = port
        self._log = folder / "log"
        command = "from pg_kafka.cli import main; main()"
        where = [] if settings else ["--listen", f"{HOST}:{port}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", command, "serve", *where, "--data", str(folder / "data")],
                env=os.environ | {"PYTHONPATH": str(checkout / "src")} | dict(settings or {}),
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the broker of {checkout} does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def _listens(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def cpu_s(self) -> float:
        """Of the broker's process and its threads; PostgreSQL has others."""
        return time.clock_gettime(~self._process.pid << 3 | _PROCESS_CLOCK)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def produce(connection: RawConnection, topic: str) -> NextFrame:
    template = BatchTemplate([bytes(RECORD_BYTES)])
    records = template.batch(int(time.time() * 1000))
    data = [PartitionProduceData(index=0, records=records)]
    topics = [TopicProduceData(name=topic, partition_data=data)]
    request = ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=topics)
    frame = connection.frame(PRODUCE, _PRODUCE_VERSION, request)
    return lambda: frame


def _fetching(topic: str, offset: int, **more: int) -> FetchRequest:
    partitions = [FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1)]
    return FetchRequest(
        **{"max_wait_ms": 0, "min_bytes": 1, "max_bytes": _MAX_BYTES, "session_epoch": -1} | more,
        topics=[FetchTopic(topic=topic, partitions=partitions)],
    )


async def fetch(connection: RawConnection, topic: str) -> NextFrame:
    await connection.call(PRODUCE, _PRODUCE_VERSION, _one_batch(topic))
    answer = await connection.call(FETCH, _FETCH_VERSION, _fetching(topic, 0))
    end = answer.responses[0].partitions[0].high_watermark
    frame = connection.frame(FETCH, _FETCH_VERSION, _fetching(topic, end - 1))
    return lambda: frame


def _one_batch(topic: str) -> ProduceRequest:
    records = BatchTemplate([bytes(RECORD_BYTES)]).batch(int(time.time() * 1000))
    topics = [TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=0, records=records)])]
    return ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=topics)


async def poll(connection: RawConnection, topic: str) -> NextFrame:
    answer = await connection.call(FETCH, _FETCH_VERSION, _fetching(topic, 0))
    end = answer.responses[0].partitions[0].high_watermark
    answer = await connection.call(FETCH, _FETCH_VERSION, _fetching(topic, end, session_epoch=0))
    session_id, epoch = answer.session_id, 0

    def frame() -> bytes:
        nonlocal epoch
        epoch += 1
        request = FetchRequest(
            max_wait_ms=1, min_bytes=1, max_bytes=_MAX_BYTES, session_id=session_id, session_epoch=epoch
        )
        return connection.frame(FETCH, _FETCH_VERSION, request)

    return frame


async def heartbeat(connection: RawConnection, _topic: str) -> NextFrame:
    frame = connection.frame(HEARTBEAT, _HEARTBEAT_VERSION, HeartbeatRequest(group_id="nobody", member_id="m"))
    return lambda: frame


KINDS = {"produce": produce, "fetch": fetch, "poll": poll, "heartbeat": heartbeat}


async def run(
    broker: Broker,
    kind: str,
    requests: int,
    port: int = 0,
    log_in: Callable[[RawConnection], Awaitable[None]] | None = None,
) -> float:
    """Processor seconds of the broker for so many requests, after some that are not counted.

    With `port`, by another listener than the first one; `log_in` is what its connections begin with.
    """
    load = await Load.begin(broker, kind, port, log_in)
    await load.turn(int(requests * WARM_UP_SHARE))
    spent = await load.turn(requests)
    load.end()
    return spent


class Load:
    """Connections that send requests of one kind, each when the last one has been answered."""

    def __init__(self, broker: Broker, connections: Sequence[RawConnection], frames: Sequence[NextFrame]) -> None:
        self._broker = broker
        self._connections = connections
        self._frames = frames

    @staticmethod
    async def begin(
        broker: Broker, kind: str, port: int = 0, log_in: Callable[[RawConnection], Awaitable[None]] | None = None
    ) -> Load:
        """As for `run`."""
        connections = await connect_many(HOST, port or broker.port, CONNECTIONS)
        if log_in is not None:
            for connection in connections:
                await log_in(connection)
        topic = f"requests-{secrets.token_hex(4)}"
        creation = CreateTopicsRequest(
            topics=[CreatableTopic(name=topic, num_partitions=1, replication_factor=1)], timeout_ms=30_000
        )
        answer = await connections[0].call(CREATE_TOPICS, _CREATE_VERSION, creation)
        check(answer.topics[0].error_code, "no topic")
        return Load(broker, connections, [await KINDS[kind](connection, topic) for connection in connections])

    async def turn(self, requests: int) -> float:
        """Send so many requests; processor seconds of the broker."""
        before = self._broker.cpu_s()
        await _turn(self._connections, self._frames, requests)
        return self._broker.cpu_s() - before

    def end(self) -> None:
        for connection in self._connections:
            connection.close()


async def _turn(connections: Sequence[RawConnection], frames: Sequence[NextFrame], requests: int) -> None:
    """Closed loops, one for each connection."""
    left = requests
    unanswered = 0
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(connection: RawConnection, frame: NextFrame) -> None:
        nonlocal left, unanswered
        left -= 1
        unanswered += 1
        connection.send(frame(), lambda _: answered(connection, frame))

    def answered(connection: RawConnection, frame: NextFrame) -> None:
        nonlocal unanswered
        unanswered -= 1
        if left > 0:
            send(connection, frame)
        elif not unanswered:
            done.set_result(None)

    for connection, frame in zip(connections, frames, strict=True):
        send(connection, frame)
    ends: set[asyncio.Future[None]] = {done, *(connection.lost for connection in connections)}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not done.done():
        raise ConnectionError("the broker closed a connection")


@contextmanager
def _brokers(checkouts: dict[str, Path]) -> Iterator[dict[str, Broker]]:
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgk-bench-", dir="/tmp")))
        root.chmod(0o711)  # PostgreSQL, which does not run as root, must pass
        brokers = {}
        for name, checkout in checkouts.items():
            folder = root / name
            folder.mkdir()
            folder.chmod(0o711)
            brokers[name] = Broker(checkout.resolve(), folder, free_port())
            stack.callback(brokers[name].stop)
        yield brokers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.requests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--new", type=Path, default=HERE)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--kind", action="append", choices=KINDS, default=[])
    options = parser.parse_args(arguments)
    kinds = options.kind or list(KINDS)
    print(f"processor seconds of the broker for {options.requests:,} requests")
    with _brokers({"old": options.old, "new": options.new}) as brokers:
        for kind in kinds:
            found: dict[str, list[float]] = {"old": [], "new": []}
            for number in range(options.pairs):
                for name in ("old", "new") if number % 2 == 0 else ("new", "old"):
                    found[name].append(uvloop.run(run(brokers[name], kind, options.requests)))
                print(f"{kind:10} pair {number + 1:2}   old {found['old'][-1]:7.2f}   new {found['new'][-1]:7.2f}")
            ratios = [new / old for old, new in zip(found["old"], found["new"], strict=True)]
            old, new, ratio = (
                statistics.median(found["old"]),
                statistics.median(found["new"]),
                statistics.median(ratios),
            )
            print(
                f"{kind:10} median    old {old:7.2f}   new {new:7.2f}"
                f"   new/old {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
