"""Fuzzer of a whole broker: bursts of hostile sessions, and after each the broker must be as good as new.

A broker on a PostgreSQL of its own, with a limit on its memory, serves real clients once through a recording proxy.
Then many connections at a time say what the clients said, made hostile. What they are answered must be answers to what
they asked, complete and in order. After a burst, clients that behave get what they wrote; the broker holds no
connection, request, task or file of the hostile ones; its memory is below the limit; its log tells of no failure.

`FUZZ_BURST=FILE` plays a burst again that a finding left behind; `FUZZ_KNOWN=REGEX` passes over log lines of findings
that are already known.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import aiokafka
import confluent_kafka
import psutil
from tests.broker.rawclient import RawClient, SomeTopic, only, records_of
from tests.broker.rawclient import batch as good_batch
from tests.fuzz.hostile_sessions import Ending, Member, Plan, Vocabulary, check_answers, expected, hurried, plans
from tests.fuzz.sessions import NAMES, SESSION_TIMEOUT_MS, RecordingProxy, Session, record
from tests.fuzz.target import Play, Target
from tests.kafka_reference import HOST, end, free_port, spawn, tail, wait_until_served
from tests.postgres import FLAVOURS, PostgresServer

from pg_kafka.broker.dispatch import APIS
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import FrameSplitter
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.delete_groups import DeleteGroupsRequest
from pg_kafka.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from pg_kafka.wire.messages.list_groups import ListGroupsRequest
from pg_kafka.wire.messages.metadata import MetadataRequest

MIB = 1 << 20
MAX_FRAME_BYTES = 4 * MIB
PEAK_BYTES = 600 * MIB
ADDRESS_SPACE_BYTES = 1536 * MIB
SETTINGS = {
    "SOCKET_REQUEST_MAX_BYTES": str(MAX_FRAME_BYTES),
    "QUEUED_MAX_REQUEST_BYTES": str(16 * MIB),
    "FETCH_MAX_BYTES": str(MIB),
    "TAIL_BYTES": str(16 * MIB),
    "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    "GROUP_MAX_SESSION_TIMEOUT_MS": "10000",
    "LOG_LEVEL": "info",
}
FAILURE = re.compile(
    r"traceback=|Traceback|level=(error|critical)|request failed|cannot be encoded|has no form|never retrieved"
)

# Nothing, unless somebody says what the run is to pass over.
KNOWN = re.compile(os.environ.get("FUZZ_KNOWN", r"(?!)"))

METADATA, LIST_GROUPS, CREATE_TOPICS, DELETE_TOPICS, DELETE_GROUPS = 3, 16, 19, 20, 42
CONNECTIONS = (1, 3, 10, 10, 30, 30, 80)
SEND_S = 3.0
# Machines that fuzz for hours are slow: what takes longer than this will not come.
ANSWER_S = 60.0
QUIET_S = 60.0
# For an answer that may take as long as it likes.
PATIENCE_S = 3.0
LAST_HELD = 4
CHECKED_RECORDS = 10
BURSTS_PER_CLIENT_CHECK = 8
BURSTS_PER_CLEANING = 5
BURST_FILE = Path("build/fuzz/burst.json")


class Place(NamedTuple):
    """An address, as RawClient wants it."""

    host: str
    port: int


class Fuzzed:
    """The broker, the recordings, and what has been seen."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self._folder = folder
        self._dsn = dsn
        self._place = Place(HOST, free_port())
        self._log = folder / "broker.log"
        self._log_read = 0
        self._proxy = RecordingProxy()
        self._sessions: list[Session] = []
        self._words = Vocabulary()
        self._bursts = 0
        self._checked: SomeTopic | None = None
        self._quiet: dict[str, Any] = {}

    async def open(self) -> None:
        await self._proxy.start()
        self._proxy.upstream = self._place
        settings = os.environ | {f"PG_KAFKA_{name}": value for name, value in SETTINGS.items()}
        serve = ["serve", "--listen", f"{HOST}:{self._place.port}", "--database", self._dsn]
        serve += ["--advertise", f"{HOST}:{self._proxy.port}"]
        program = [sys.executable, "-m", "tests.fuzz.watched_broker", str(self._window), str(ADDRESS_SPACE_BYTES)]
        self._process = spawn(
            [
                "env",
                *(f"{name}={settings[name]}" for name in settings if name.startswith("PG_KAFKA_")),
                *program,
                *serve,
            ],
            self._log,
        )
        await asyncio.to_thread(wait_until_served, self._place.port, self._process, self._log)
        self._sessions = [hurried(session) for session in await record(self._proxy)]
        self._words = Vocabulary.of(self._sessions)
        self._check_log("the recording of sessions")
        async with await RawClient.connect(self._place) as client:
            self._checked = await client.create_topic(2)
        requests = sum(len(session.frames) for session in self._sessions)
        print(f"{len(self._sessions)} sessions of {requests} requests", flush=True)

    async def close(self) -> None:
        await self._proxy.stop()
        if self._process.poll() is None:
            assert end(self._process, signal.SIGTERM) == 0, tail(self._log)
        self._check_log("the end of the broker")

    @property
    def _window(self) -> Path:
        return self._folder / "window"

    async def burst(self, rng: Random) -> int:
        played = self._plans(rng)
        _save(played)
        self._start_peak()
        over = asyncio.Event()
        waiting = [asyncio.create_task(self._converse(one, over)) for one in played if one.ending is Ending.WAIT]
        others = [asyncio.create_task(self._converse(one, over)) for one in played if one.ending is not Ending.WAIT]
        try:
            await asyncio.gather(*waiting)
            over.set()
            await asyncio.gather(*others)
        finally:
            for task in (*waiting, *others):
                task.cancel()
            await asyncio.gather(*waiting, *others, return_exceptions=True)
        self._bursts += 1
        await self._behaves(rng)
        return len(played)

    def _plans(self, rng: Random) -> list[Plan]:
        if (file := os.environ.get("FUZZ_BURST")) is not None:
            saved = json.loads(Path(file).read_text())
            return [
                Plan([bytes.fromhex(one) for one in parts], Ending[ending], reads, seed, mark)
                for parts, ending, reads, seed, mark in saved
            ]
        return plans(rng, rng.choice(CONNECTIONS), self._sessions, self._words, MAX_FRAME_BYTES)

    # -- a hostile connection ----------------------------------------------------------------------------------------

    async def _converse(self, one: Plan, over: asyncio.Event) -> None:
        if one.seed is not None:
            await self._converse_in_step(one, over)
            return
        wanted = expected(one.stream, MAX_FRAME_BYTES)
        answers: list[bytes] = []
        enough = asyncio.Event()
        reader, writer = await asyncio.open_connection(*self._place)
        reading = asyncio.create_task(self._read(reader, answers, wanted.at_once, enough)) if one.reads else None
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):
                for piece in one.pieces:
                    writer.write(piece)
                    async with asyncio.timeout(SEND_S):
                        await writer.drain()
            if one.ending is Ending.WAIT and reading is not None:
                await self._answered(one, reading, enough, must_close=wanted.is_refused and not wanted.waits)
            elif one.ending is Ending.LEAVE:
                await over.wait()
        finally:
            writer.transport.abort()
            if reading is not None:
                reading.cancel()
                await asyncio.wait([reading])
        check_answers(wanted.asked, answers)

    async def _converse_in_step(self, one: Plan, over: asyncio.Event) -> None:
        """A session that goes on with what it is told: as the member that it has become, with the producer id it got."""
        assert one.seed is not None
        member = Member(self._words, Random(one.seed), one.mark)
        reader, writer = await asyncio.open_connection(*self._place, limit=1 << 22)
        try:
            for recorded in one.pieces:
                frame = member.request(recorded)
                wanted = expected(len(frame).to_bytes(4) + frame, MAX_FRAME_BYTES)
                writer.write(len(frame).to_bytes(4) + frame)
                if wanted.is_refused:
                    async with asyncio.timeout(ANSWER_S):
                        assert not await reader.read(1), f"an answer to what cannot be read: {frame.hex()}"
                    return
                if not wanted.asked:
                    continue
                try:
                    async with asyncio.timeout(PATIENCE_S if wanted.waits else ANSWER_S):
                        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
                except TimeoutError:
                    assert wanted.waits, f"no answer for {ANSWER_S:.0f} s: {frame[:5000].hex()}"
                    return
                member.listen(check_answers(wanted.asked, [answer])[0])
            if one.ending is Ending.LEAVE:
                await over.wait()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # closed after an acks=0 that failed, or a request that has no failure of its own
        finally:
            writer.transport.abort()

    async def _read(
        self, reader: asyncio.StreamReader, answers: list[bytes], at_once: int, enough: asyncio.Event
    ) -> None:
        splitter = FrameSplitter((1 << 31) - 1)
        with contextlib.suppress(ConnectionError):
            if at_once == 0:
                enough.set()
            while data := await reader.read(1 << 16):
                answers += map(bytes, splitter.feed(data))
                if len(answers) >= at_once:
                    enough.set()

    async def _answered(
        self, one: Plan, reading: asyncio.Task[None], enough: asyncio.Event, *, must_close: bool
    ) -> None:
        answered = asyncio.create_task(enough.wait())
        try:
            await asyncio.wait(
                [reading] if must_close else [reading, answered], timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED
            )
            done = reading.done() or (answered.done() and not must_close)
            what = "not closed after what it cannot read" if must_close else "left without an answer"
            assert done, f"a connection {what} for {ANSWER_S:.0f} s: {one.stream[:5000].hex()}"
        finally:
            answered.cancel()

    # -- what must be so after a burst -------------------------------------------------------------------------------

    async def _behaves(self, rng: Random) -> None:
        assert self._process.poll() is None, f"the broker ended with {self._process.returncode}: {tail(self._log)}"
        self._check_log("a burst")
        async with await RawClient.connect(self._place) as client:
            await self._serves(client, rng)
            if self._bursts % BURSTS_PER_CLEANING == 0:
                await self._clean(client)
        if self._bursts % BURSTS_PER_CLIENT_CHECK == 0:
            async with asyncio.timeout(2 * ANSWER_S):
                await self._serves_clients(rng)
        peak = self._peak()
        _peaks.append(peak)
        assert peak < PEAK_BYTES, f"the broker's memory at its peak: {peak / MIB:.0f} MiB"
        await self._is_quiet()
        self._check_log("a burst")

    async def _serves(self, client: RawClient, rng: Random) -> None:
        """A record comes back."""
        assert self._checked is not None
        values = [rng.randbytes(rng.randrange(300)) for _ in range(CHECKED_RECORDS)]
        partition = rng.randrange(2)
        async with asyncio.timeout(ANSWER_S):
            produced = await client.produce(
                self._checked, good_batch(values, compression=rng.randrange(5)), partition, version=9
            )
            assert produced.error_code == 0, produced
            found = await client.fetch(self._checked, produced.base_offset, partition, max_wait_ms=0)
        wanted = [(produced.base_offset + index, value) for index, value in enumerate(values)]
        assert records_of(found)[: len(values)] == wanted, "other records than were written"

    async def _serves_clients(self, rng: Random) -> None:
        """What confluent-kafka writes is read by members of groups, of confluent-kafka and aiokafka."""
        topic = f"check-{secrets.token_hex(4)}"
        values = {rng.randbytes(20) for _ in range(CHECKED_RECORDS)}
        bootstrap = f"{HOST}:{self._proxy.port}"
        await asyncio.to_thread(_write_confluent, bootstrap, topic, values)
        for protocol in ("classic", "consumer"):
            found = await asyncio.to_thread(_read_confluent, bootstrap, topic, protocol, len(values))
            assert found == values, f"{len(found)} of {len(values)} records read by a group of the {protocol} protocol"
        consumer = aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=bootstrap, group_id=f"{topic}-aiokafka", auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            read = {(await consumer.getone()).value for _ in values}
        finally:
            await consumer.stop()
        assert read == values, "aiokafka read other records"

    async def _is_quiet(self) -> None:
        """The broker holds nothing of connections that are gone, and works on nothing."""
        deadline = time.monotonic() + QUIET_S
        while faults := self._restless(state := await self._state()):
            assert time.monotonic() < deadline, f"{', '.join(faults)} {QUIET_S:.0f} s after a burst: {state}"
            await asyncio.sleep(0.3)  # the window is asked; nothing tells
        if not self._quiet:
            self._quiet = state

    def _restless(self, state: dict[str, Any]) -> list[str]:
        held = state["held"]
        # What waits for work may still refer to the last that it did.
        bounds = {
            "connections": (state["connections"], 0),
            "bytes of requests": (state["request_bytes"], 0),
            "bytes to be written": (state["unwritten_bytes"], 0),
            "objects of connections": (held.get("Connection", 0), LAST_HELD),
            "requests": (held.get("Reply", 0) + held.get("Context", 0), 2 * LAST_HELD),
        }
        if self._quiet:
            # Of the broker's own tasks a few come and go; threads are made when they are first needed.
            bounds["tasks"] = (sum(state["tasks"].values()), sum(self._quiet["tasks"].values()) + 4)
            bounds["files"] = (state["files"], self._quiet["files"] + 10)
            bounds["threads"] = (state["threads"], self._quiet["threads"] + 8)
        return [f"{found} {name}" for name, (found, most) in bounds.items() if found > most]

    async def _state(self) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(str(self._window))
        try:
            async with asyncio.timeout(ANSWER_S):
                return dict(json.loads(await reader.read()))
        finally:
            writer.close()

    async def _clean(self, client: RawClient) -> None:
        """Delete what hostile sessions made, and make again what they deleted."""
        topics = {topic.name: topic for topic in (await client.call(MetadataRequest(topics=None), METADATA, 12)).topics}
        assert self._checked is not None
        assert self._checked.name in topics, "the topic of the well-behaved client is gone"
        keep = {NAMES.topic, self._checked.name}
        doomed = [DeleteTopicState(name=name) for name in topics if name not in keep]
        if doomed:
            request = DeleteTopicsRequest(topics=doomed, timeout_ms=30_000)
            answer = await client.call(request, DELETE_TOPICS, 6, ANSWER_S)
            codes = {one.error_code for one in answer.responses}
            assert codes <= {0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}, f"topics are not deleted: {codes}"
        if NAMES.topic not in topics:
            topic = CreatableTopic(name=NAMES.topic, num_partitions=4, replication_factor=1)
            made = only((await client.call(CreateTopicsRequest(topics=[topic]), CREATE_TOPICS, 7, ANSWER_S)).topics)
            assert made.error_code == 0, made
            self._rename(made.topic_id.bytes)
        if LIST_GROUPS in APIS:
            groups = (await client.call(ListGroupsRequest(), LIST_GROUPS, 4)).groups
            names = [group.group_id for group in groups]
            deleted = await client.call(DeleteGroupsRequest(groups_names=names), DELETE_GROUPS, 2, ANSWER_S)
            left = {one.error_code for one in deleted.results}
            passing = {0, ErrorCode.NON_EMPTY_GROUP, ErrorCode.GROUP_ID_NOT_FOUND}
            assert left <= passing, f"groups are not deleted: {left}"

    def _rename(self, now: bytes) -> None:
        renamed = self._words.renamed
        for one in self._words.uuids:
            if one.int and not renamed:
                renamed[one.bytes] = now
        for old in renamed:
            renamed[old] = now

    # -- log and memory ----------------------------------------------------------------------------------------------

    def _check_log(self, when: str) -> None:
        with self._log.open("rb") as file:
            file.seek(self._log_read)
            written = file.read()
        complete = written.rfind(b"\n") + 1
        self._log_read += complete
        for line in written[:complete].decode(errors="replace").splitlines():
            if FAILURE.search(line) is not None and KNOWN.search(line) is None:
                raise AssertionError(f"logged during {when}: {line[:6000]}")

    def _start_peak(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def _peak(self) -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self._process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def report(self) -> str:
        settled = psutil.Process(self._process.pid).memory_info().rss
        return f"{self._bursts} bursts, the broker's memory {settled / MIB:.0f} MiB"


_peaks: list[int] = [0]


def _save(played: list[Plan]) -> None:
    BURST_FILE.parent.mkdir(parents=True, exist_ok=True)
    saved = [[[piece.hex() for piece in one.pieces], one.ending.name, one.reads, one.seed, one.mark] for one in played]
    BURST_FILE.write_text(json.dumps(saved))


def _write_confluent(bootstrap: str, topic: str, values: set[bytes]) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "log_level": 0, "compression.type": "lz4"})
    errors: list[Any] = []
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error) if error else None)
    assert producer.flush(ANSWER_S) == 0 and not errors, f"records are not taken: {errors}"


def _read_confluent(bootstrap: str, topic: str, protocol: str, count: int) -> set[bytes]:
    group: dict[str, Any] = {"group.id": f"{topic}-{protocol}", "group.protocol": protocol}
    if protocol == "classic":
        group["session.timeout.ms"] = SESSION_TIMEOUT_MS
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "log_level": 0, "auto.offset.reset": "earliest"} | group
    )
    consumer.subscribe([topic])
    found: set[bytes] = set()
    deadline = time.monotonic() + ANSWER_S
    try:
        while len(found) < count and time.monotonic() < deadline:
            for message in consumer.consume(count, timeout=1):
                if message.error() is None:
                    found.add(message.value())
        consumer.commit(asynchronous=False)
    finally:
        consumer.close()
    return found


@contextlib.contextmanager
def opened() -> Iterator[Play]:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    binaries = FLAVOURS["postgresql-15"]()
    assert binaries is not None, "no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried"
    server = PostgresServer("postgresql-15", binaries, fsync=False, settings={})
    folder = Path(tempfile.mkdtemp(prefix="pgk-fuzz-"))
    try:
        server.create()
        database = server.create_database()
        with asyncio.Runner() as runner:
            fuzzed = Fuzzed(folder, database.dsn)
            try:
                runner.run(fuzzed.open())
                yield lambda rng: runner.run(fuzzed.burst(rng))
                print(fuzzed.report(), flush=True)
                runner.run(fuzzed.close())
            except BaseException:
                shutil.copy(folder / "broker.log", BURST_FILE.with_name("broker.log"))
                with contextlib.suppress(AttributeError, ProcessLookupError):
                    fuzzed._process.kill()
                raise
    finally:
        server.destroy()
        shutil.rmtree(folder, ignore_errors=True)


TARGET = Target(opened=opened, memory_bytes=2 << 30, round_deadline_s=600, peak_bytes=lambda: max(_peaks))
