"""Requests about records: Produce, Fetch, ListOffsets, OffsetForLeaderEpoch, InitProducerId."""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from typing import Any
from uuid import UUID

from tests.broker.rawclient import (
    FETCH,
    INIT_PRODUCER_ID,
    LIST_OFFSETS,
    NOW_MS,
    OFFSET_FOR_LEADER_EPOCH,
    PRODUCE,
    SomeTopic,
    batch,
    fetching,
    patched,
    producing,
)
from tests.compare.scene import READY_S, Scene, case
from tests.compressed_streams import STREAMS, Stream

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.fetch import FetchPartition, ForgottenTopic
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest
from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from pg_kafka.wire.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from pg_kafka.wire.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

THREE = batch([b"a", b"b", b"c"])
NOWHERE = SomeTopic("nowhere", UUID("00000000-0000-4000-8000-000000000001"))

# Where the fields of a record batch begin.
LEADER_EPOCH, MAGIC, ATTRIBUTES, LAST_DELTA, BASE_SEQUENCE, COUNT = 12, 16, 21, 23, 53, 57


def with_attributes(records: bytes, attributes: int) -> bytes:
    return patched(records, ATTRIBUTES, struct.pack(">h", attributes))


def with_content(content: bytes, *, codec: int = 0, count: int = 1) -> bytes:
    """A batch with a right header before any bytes at all."""
    head = bytearray(batch([b"x"])[:61])
    struct.pack_into(">i", head, 8, 49 + len(content))
    struct.pack_into(">i", head, LAST_DELTA, count - 1)
    struct.pack_into(">i", head, COUNT, count)
    return with_attributes(bytes(head) + content, codec)


# Produce: one batch to one partition. What is appended by several versions goes on at the next offset on both sides.

BATCHES: dict[str, bytes | None] = {
    "one": batch([b"a"]),
    "three": THREE,
    "no-key-no-value": batch([None], keys=[None]),
    "gzip": batch([b"a"] * 20, compression=1),
    "snappy": batch([b"a"] * 20, compression=2),
    "lz4": batch([b"a"] * 20, compression=3),
    "zstd": batch([b"a"] * 20, compression=4),
    "null": None,
    "empty": b"",
    "half-a-header": THREE[:30],
    "cut": THREE[:-3],
    "length-beyond": patched(THREE, 8, struct.pack(">i", len(THREE) + 100)),
    "length-negative": patched(THREE, 8, struct.pack(">i", -1)),
    "bytes-after": THREE + b"\0\0\0",
    "two-batches": THREE + THREE,
    "wrong-crc": THREE[:17] + b"\1\2\3\4" + THREE[21:],
    "magic-0": patched(THREE, MAGIC, b"\0"),
    "magic-1": patched(THREE, MAGIC, b"\1"),
    "magic-3": patched(THREE, MAGIC, b"\3"),
    "base-offset": patched(THREE, 0, struct.pack(">q", 7)),
    "leader-epoch": patched(THREE, LEADER_EPOCH, struct.pack(">i", 99)),
    "count-0": with_content(b"", count=0),
    "count-low": patched(THREE, COUNT, struct.pack(">i", 2)),
    "count-high": patched(THREE, COUNT, struct.pack(">i", 4)),
    "count-negative": patched(THREE, COUNT, struct.pack(">i", -1)),
    "last-delta": patched(THREE, LAST_DELTA, struct.pack(">i", 5)),
    "sparse": patched(patched(THREE, len(THREE) - 10 + 2, b"\x08"), LAST_DELTA, struct.pack(">i", 4)),
    "record-length": patched(THREE, 61, b"\x7e"),
    "record-bytes-after": with_content(THREE[61:] + b"\0\0", count=3),
    "codec-5": with_attributes(THREE, 5),
    "codec-7": with_attributes(THREE, 7),
    "bad-gzip": with_content(b"no gzip at all, really", codec=1),
    "bad-snappy": with_content(b"\xff\xff\xff\xff\xff no snappy", codec=2),
    "bad-lz4": with_content(b"no lz4 at all, really", codec=3),
    "bad-zstd": with_content(b"no zstd at all, really", codec=4),
    "control": with_attributes(THREE, 0x20),
    "unknown-attributes": with_attributes(THREE, 0x80),
    "delete-horizon": with_attributes(THREE, 0x40),
    "says-log-append-time": with_attributes(THREE, 0x08),
    "transactional": batch([b"a"], producer=(4_000, 0, 0), is_transactional=True),
    "sequence-negative": patched(batch([b"a"], producer=(4_001, 0, 0)), BASE_SEQUENCE, struct.pack(">i", -1)),
    "epoch-negative": batch([b"a"], producer=(4_002, -1, 0)),
    "epoch-without-id": batch([b"a"], producer=(-1, 0, 0)),
    "begins-in-the-middle": batch([b"a"], producer=(4_003, 0, 17)),
    "timestamp-none": batch([b"a"], timestamps=[-1]),
    "timestamp-negative": batch([b"a"], timestamps=[-5]),
    "timestamp-future": batch([b"a"], timestamps=[NOW_MS * 2]),
}


def _add_batch(name: str, records: bytes | None, versions: tuple[int, ...] = ()) -> None:
    @case(f"produce-{name}", PRODUCE, versions)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic()
        answer = await scene.ask(producing(topic, {0: records}))
        if isinstance(answer, str):
            return answer
        read = await scene.client.call(fetching(topic, {0: 0}), FETCH, 12, READY_S)
        return {"produce": answer, "fetch": read.responses[0].partitions[0]}


for _name, _records in BATCHES.items():
    # Kafka never answers a batch that is null: waiting for that takes long.
    _add_batch(_name, _records, () if _records is not None else (3, 13))

# Enough for several blocks of 64 kB.
_STREAMED = batch([b"first", *[b"%06d|" % number * 1000 for number in range(20)], b"last"])[61:]
for _name, _stream in STREAMS.items():

    @case(f"produce-stream-{_name}", PRODUCE, (9,))
    async def _(scene: Scene, stream: Stream = _stream) -> Any:
        records = with_content(stream.make(_STREAMED), codec=stream.codec, count=22)
        return await scene.ask(producing(await scene.topic(), {0: records}))


@case("produce-zstd-early", PRODUCE, (3, 6, 7))
async def _(scene: Scene) -> Any:
    return await scene.ask(producing(await scene.topic(), {0: batch([b"a"] * 20, compression=4)}))


@case("produce-several", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=3)
    wrong = THREE[:17] + b"\1\2\3\4" + THREE[21:]
    return await scene.ask(producing(topic, {0: THREE, 1: wrong, 2: THREE, 3: THREE}))


@case("produce-unknown-topic", PRODUCE)
async def _(scene: Scene) -> Any:
    return await scene.ask(producing(NOWHERE, {0: THREE}))


@case("produce-no-topic-name", PRODUCE)
async def _(scene: Scene) -> Any:
    return await scene.ask(producing(SomeTopic("", UUID(int=0)), {0: THREE}))


@case("produce-unknown-partition", PRODUCE)
async def _(scene: Scene) -> Any:
    return await scene.ask(producing(await scene.topic(), {1: THREE, -1: THREE}))


@case("produce-nothing", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    return {
        "no topics": await scene.ask(ProduceRequest(acks=-1, timeout_ms=1000)),
        "no partitions": await scene.ask(producing(topic, {})),
    }


@case("produce-partition-twice", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    twice = [PartitionProduceData(index=0, records=THREE)] * 2
    data = [TopicProduceData(name=topic.name, topic_id=topic.id, partition_data=twice)]
    return await scene.ask(ProduceRequest(acks=-1, timeout_ms=10_000, topic_data=data))


@case("produce-topic-twice", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=2)
    data = [
        TopicProduceData(
            name=topic.name, topic_id=topic.id, partition_data=[PartitionProduceData(index=index, records=THREE)]
        )
        for index in (0, 1)
    ]
    return await scene.ask(ProduceRequest(acks=-1, timeout_ms=10_000, topic_data=data))


@case("produce-acks", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    return {
        f"acks {acks}": await scene.ask(producing(topic, {0: THREE, 1: THREE}, acks=acks)) for acks in (1, 2, -2, 32767)
    }


@case("produce-acks-0", PRODUCE)
async def _(scene: Scene) -> Any:
    return await scene.ask_unanswered(producing(await scene.topic(), {0: THREE}, acks=0))


@case("produce-acks-0-unknown-topic", PRODUCE)
async def _(scene: Scene) -> Any:
    return await scene.ask_unanswered(producing(NOWHERE, {0: THREE}, acks=0))


@case("produce-acks-0-wrong-crc", PRODUCE)
async def _(scene: Scene) -> Any:
    wrong = THREE[:17] + b"\1\2\3\4" + THREE[21:]
    return await scene.ask_unanswered(producing(await scene.topic(), {0: wrong}, acks=0))


@case("produce-timeout", PRODUCE)
async def _(scene: Scene) -> Any:
    request = producing(await scene.topic(), {0: THREE})
    request.timeout_ms = -1
    return await scene.ask(request)


@case("produce-transactional-id", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    plain = producing(topic, {0: THREE}, transactional_id="t")
    records = batch([b"a"], producer=(4_100, 0, 0), is_transactional=True)
    return {
        "plain batch": await scene.ask(plain),
        "transactional batch": await scene.ask(producing(topic, {0: records}, transactional_id="t")),
        "empty id": await scene.ask(producing(topic, {0: THREE}, transactional_id="")),
    }


@case("produce-too-large", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(max_message_bytes="200")
    return await scene.ask(producing(topic, {0: batch([b"x" * 200])}))


@case("produce-too-large-and-damaged", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(max_message_bytes="200")
    records = batch([b"x" * 200])
    return await scene.ask(producing(topic, {0: records[:17] + b"\1\2\3\4" + records[21:]}))


@case("produce-compacted", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(cleanup_policy="compact")
    return {
        "with keys": await scene.ask(producing(topic, {0: THREE})),
        "without": await scene.ask(producing(topic, {0: batch([b"a", b"b", b"c"], keys=[b"k", None, None])})),
    }


@case("produce-timestamp-bounds", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(message_timestamp_before_max_ms="10000", message_timestamp_after_max_ms="10000")
    now = int(time.time() * 1000)
    return {
        "good": await scene.ask(producing(topic, {0: batch([b"a"], timestamps=[now])})),
        "none": await scene.ask(producing(topic, {0: batch([b"a"], timestamps=[-1])})),
        "old": await scene.ask(producing(topic, {0: batch([b"a", b"b"], timestamps=[now, now - 60_000])})),
        "new": await scene.ask(producing(topic, {0: batch([b"a", b"b"], timestamps=[now + 60_000, now])})),
    }


@case("produce-keyless-and-late", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(message_timestamp_after_max_ms="10000", cleanup_policy="compact")
    late = int(time.time() * 1000) + 60_000
    return await scene.ask(producing(topic, {0: batch([b"a", b"b"], keys=[None, b"k"], timestamps=[late, late])}))


@case("produce-log-append-time", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(message_timestamp_type="LogAppendTime")
    return {
        "create time": await scene.ask(producing(topic, {0: THREE})),
        "append time": await scene.ask(producing(topic, {0: with_attributes(THREE, 0x08)})),
        "far future": await scene.ask(producing(topic, {0: batch([b"a"], timestamps=[NOW_MS * 2])})),
    }


@case("produce-other-codec", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(compression_type="lz4")
    answer = await scene.ask(producing(topic, {0: batch([b"a"] * 20)}))
    read = await scene.client.call(fetching(topic, {0: 0}), FETCH, 12, READY_S)
    return {"produce": answer, "fetch": read.responses[0].partitions[0]}


@case("produce-idempotent", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    id = 5_000 + scene.version
    seen = {}
    for step, (epoch, sequence, count) in {
        "first": (3, 0, 2),
        "next": (3, 2, 3),
        "same again": (3, 2, 3),
        "first again": (3, 0, 2),
        "part of it": (3, 2, 2),
        "overlapping": (3, 4, 3),
        "gap": (3, 9, 1),
        "old epoch": (2, 5, 1),
        "new epoch in the middle": (4, 5, 1),
        "new epoch": (4, 0, 1),
        "two epochs on": (6, 0, 1),
        "old epoch again": (4, 1, 1),
    }.items():
        records = batch([b"x"] * count, producer=(id, epoch, sequence))
        seen[step] = await scene.ask(producing(topic, {0: records}))
    return seen


@case("produce-duplicate-of-six-ago", PRODUCE)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    id = 6_000 + scene.version
    for sequence in range(6):
        await scene.ask(producing(topic, {0: batch([b"x"], producer=(id, 0, sequence))}))
    return {
        f"sequence {sequence}": await scene.ask(producing(topic, {0: batch([b"x"], producer=(id, 0, sequence))}))
        for sequence in (0, 1, 5)
    }


# Fetch

STORED = batch([b"a", b"b", b"c", b"d"], timestamps=[NOW_MS, NOW_MS + 20, NOW_MS + 10, NOW_MS + 30])


def _add_fetch(name: str, offsets: dict[int, int], since: int = 4, **more: Any) -> None:
    @case(f"fetch-{name}", FETCH, since=since)
    async def ask(scene: Scene) -> Any:
        return await scene.ask(fetching(await scene.filled(STORED), offsets, **more))


_add_fetch("all", {0: 0})
_add_fetch("middle", {0: 2})
_add_fetch("end", {0: 4})
_add_fetch("beyond", {0: 5})
_add_fetch("far-beyond", {0: 2**62})
_add_fetch("negative", {0: -1})
_add_fetch("unknown-partition", {0: 0, 1: 0, -1: 0})
_add_fetch("no-partitions", {})
_add_fetch("max-bytes-0", {0: 0}, max_bytes=0)
_add_fetch("max-bytes-negative", {0: 0}, max_bytes=-1)
_add_fetch("partition-max-bytes-0", {0: 0}, partition_max_bytes=0)
_add_fetch("partition-max-bytes-negative", {0: 0}, partition_max_bytes=-1)
_add_fetch("min-bytes-0", {0: 4}, min_bytes=0, max_wait_ms=500)
_add_fetch("waits-in-vain", {0: 4}, min_bytes=1, max_wait_ms=50)
_add_fetch("negative-wait", {0: 4}, min_bytes=1, max_wait_ms=-1)
_add_fetch("committed", {0: 0}, isolation_level=1)
_add_fetch("committed-end", {0: 4}, isolation_level=1)
_add_fetch("committed-beyond", {0: 5}, isolation_level=1)
_add_fetch("isolation-2", {0: 0}, isolation_level=2)
_add_fetch("as-replica", {0: 0}, replica_id=5)
_add_fetch("as-debugger", {0: 0}, replica_id=-2)
_add_fetch("epoch-unknown", {0: 0}, since=9, current_leader_epoch=99_999)
_add_fetch("fetched-epoch-unknown", {0: 0}, since=12, last_fetched_epoch=99_999)
_add_fetch("fetched-epoch-unknown-beyond", {0: 9}, since=12, last_fetched_epoch=99_999)
_add_fetch("session-unknown", {0: 0}, since=7, session=(4711, 1))
_add_fetch("session-final", {0: 0}, since=7, session=(0, -1))
_add_fetch("session-final-unknown", {0: 0}, since=7, session=(4711, -1))
_add_fetch("session-epoch-negative", {0: 0}, since=7, session=(0, -2))
_add_fetch("session-without-id", {0: 0}, since=7, session=(0, 5))
_add_fetch("session-first-with-id", {0: 0}, since=7, session=(4711, 0))
_add_fetch("session-without-partitions", {}, since=7, session=(0, 0))


@case("fetch-unknown-topic", FETCH)
async def _(scene: Scene) -> Any:
    return await scene.ask(fetching(NOWHERE, {0: 0}))


@case("fetch-no-topic-name", FETCH)
async def _(scene: Scene) -> Any:
    return await scene.ask(fetching(SomeTopic("", UUID(int=0)), {0: 0}))


@case("fetch-partition-twice", FETCH)
async def _(scene: Scene) -> Any:
    request = fetching(await scene.filled(STORED), {0: 0})
    request.topics[0].partitions = [
        FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1000) for offset in (0, 4)
    ]
    return await scene.ask(request)


@case("fetch-fetched-epoch", FETCH, since=12)
async def _(scene: Scene) -> Any:
    topic = await scene.filled(STORED)
    newest = await scene.client.offset_at(topic, -1)
    return {
        "same": await scene.ask(fetching(topic, {0: 4}, last_fetched_epoch=newest.leader_epoch)),
        "same beyond": await scene.ask(fetching(topic, {0: 9}, last_fetched_epoch=newest.leader_epoch)),
    }


@case("fetch-session", FETCH, since=7)
async def _(scene: Scene) -> Any:
    topic, other = await scene.filled(STORED), await scene.filled(STORED, "other")
    first = await scene.ask(fetching(topic, {0: 4}, session=(0, 0)))
    id = first.session_id
    add = fetching(other, {0: 0, 7: 0}, session=(id, 1))
    forget = fetching(other, {}, session=(id, 3))
    forget.forgotten_topics_data = [ForgottenTopic(topic=other.name, topic_id=other.id, partitions=[0, 7])]
    return {
        "first": first,
        "added": await scene.ask(add),
        "again": await scene.ask(fetching(topic, {}, session=(id, 2))),
        "forgotten": await scene.ask(forget),
        "wrong epoch": await scene.ask(fetching(topic, {}, session=(id, 9))),
        "old epoch": await scene.ask(fetching(topic, {}, session=(id, 2))),
        "right epoch after that": await scene.ask(fetching(topic, {}, session=(id, 4))),
        "final": await scene.ask(fetching(topic, {0: 0}, session=(id, -1))),
        "gone": await scene.ask(fetching(topic, {}, session=(id, 5))),
    }


@case("fetch-session-deleted-topic", FETCH, since=7)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(f"v{scene.version}")
    first = await scene.ask(fetching(topic, {0: 0}, session=(0, 0)))
    await scene.client.delete_topic(topic)
    request = fetching(topic, {}, session=(first.session_id, 1))
    await scene.until_gone(topic.name)
    return {"first": first, "then": await scene.ask(request)}


@case("fetch-session-mixed", FETCH, (13,))
async def _(scene: Scene) -> Any:
    topic = await scene.filled(STORED)
    first = await scene.ask(fetching(topic, {0: 4}, session=(0, 0)), version=12)
    return await scene.ask(fetching(topic, {}, session=(first.session_id, 1)))


@case("fetch-headers", FETCH)
async def _(scene: Scene) -> Any:
    """Records come as they were sent, also behind others."""
    topic = await scene.filled(batch([b"x"], timestamps=[0]))
    made = await scene.client.call(producing(topic, {0: with_content(_record_with_headers())}), PRODUCE, 9)
    return await scene.ask(fetching(topic, {0: made.responses[0].partition_responses[0].base_offset}))


@case("fetch-error-ends-the-wait", FETCH, (4, 12, 18))
async def _(scene: Scene) -> Any:
    topic = await scene.filled(STORED)
    started = time.monotonic()
    answer = await scene.ask(fetching(topic, {0: 4, 1: 0}, min_bytes=100, max_wait_ms=1500))
    return {"answer": answer, "comes at once": time.monotonic() - started < 1}


def _record_with_headers() -> bytes:
    """No key, no value; a header twice, one without a value, one that is no text."""
    headers = b"\x08" + b"\x02h\x02\x31" + b"\x02h\x02\x32" + b"\x02n\x01" + b"\x02b\x04\xff\x00"
    body = b"\0\0\0\x01\x01" + headers
    return bytes([len(body) * 2]) + body


# ListOffsets

TIMES = {
    "latest": -1,
    "earliest": -2,
    "max-timestamp": -3,
    "earliest-local": -4,
    "latest-tiered": -5,
    "earliest-pending": -6,
    "unknown": -7,
    "most-negative": -(2**63),
    "before": 0,
    "exact": NOW_MS + 20,
    "between": NOW_MS + 5,
    "last": NOW_MS + 30,
    "after": NOW_MS + 31,
    "far": 2**62,
}


def looking_up(topic: SomeTopic, *partitions: ListOffsetsPartition, **more: Any) -> ListOffsetsRequest:
    return ListOffsetsRequest(
        **{"replica_id": -1, **more}, topics=[ListOffsetsTopic(name=topic.name, partitions=partitions)]
    )


def _add_time(name: str, timestamp: int) -> None:
    @case(f"list-offsets-{name}", LIST_OFFSETS)
    async def ask(scene: Scene) -> Any:
        wanted = ListOffsetsPartition(partition_index=0, timestamp=timestamp)
        return {
            "filled": await scene.ask(looking_up(await scene.filled(STORED), wanted)),
            "empty": await scene.ask(looking_up(await scene.topic("empty"), wanted)),
            "committed": await scene.ask(looking_up(await scene.filled(STORED), wanted, isolation_level=1)),
        }


for _time, _timestamp in TIMES.items():
    _add_time(_time, _timestamp)


def _add_look_up(name: str, since: int = 1, partitions: int = 1, **more: Any) -> None:
    fields = {key: more.pop(key) for key in ("partition_index", "current_leader_epoch", "timestamp") if key in more}

    @case(f"list-offsets-{name}", LIST_OFFSETS, since=since)
    async def ask(scene: Scene) -> Any:
        wanted = [ListOffsetsPartition(**{"timestamp": -1, **fields})] * partitions
        return await scene.ask(looking_up(await scene.filled(STORED), *wanted, **more))


_add_look_up("unknown-partition", partition_index=1)
_add_look_up("negative-partition", partition_index=-1)
_add_look_up("twice", partitions=2)
_add_look_up("no-partitions", partitions=0)
_add_look_up("epoch-fenced", since=4, current_leader_epoch=-2)
_add_look_up("epoch-unknown", since=4, current_leader_epoch=99_999)
_add_look_up("time-epoch-unknown", since=4, current_leader_epoch=99_999, timestamp=NOW_MS)
_add_look_up("as-replica", replica_id=5)
_add_look_up("as-debugger", replica_id=-2)
_add_look_up("isolation-2", since=2, isolation_level=2)


@case("list-offsets-unknown-topic", LIST_OFFSETS)
async def _(scene: Scene) -> Any:
    return await scene.ask(looking_up(NOWHERE, ListOffsetsPartition(timestamp=-1)))


@case("list-offsets-invalid-topic", LIST_OFFSETS)
async def _(scene: Scene) -> Any:
    return await scene.ask(looking_up(replace(NOWHERE, name="a b"), ListOffsetsPartition(timestamp=-1)))


@case("list-offsets-nothing", LIST_OFFSETS)
async def _(scene: Scene) -> Any:
    return await scene.ask(ListOffsetsRequest(replica_id=-1))


# OffsetForLeaderEpoch


def asking_epochs(topic: SomeTopic, asked: list[tuple[int, int, int]], **more: Any) -> OffsetForLeaderEpochRequest:
    """Partition, current leader epoch and the epoch that is asked for."""
    partitions = [
        OffsetForLeaderPartition(partition=partition, current_leader_epoch=current, leader_epoch=epoch)
        for partition, current, epoch in asked
    ]
    return OffsetForLeaderEpochRequest(
        **{"replica_id": -1, **more}, topics=[OffsetForLeaderTopic(topic=topic.name, partitions=partitions)]
    )


def _add_epoch(name: str, *asked: tuple[int, int, int], **more: Any) -> None:
    @case(f"epochs-{name}", OFFSET_FOR_LEADER_EPOCH)
    async def ask(scene: Scene) -> Any:
        return {
            "filled": await scene.ask(asking_epochs(await scene.filled(STORED), list(asked), **more)),
            "empty": await scene.ask(asking_epochs(await scene.topic("empty"), list(asked), **more)),
        }


_add_epoch("future", (0, -1, 99_999))
_add_epoch("none", (0, -1, -1))
_add_epoch("negative", (0, -1, -2))
_add_epoch("fenced", (0, -2, 0))
_add_epoch("unknown", (0, 99_999, 0))
_add_epoch("unknown-partition", (0, -1, 99_999), (1, -1, 0), (-1, -1, 0))
_add_epoch("twice", (0, -1, 99_999), (0, -1, -1))
_add_epoch("no-partitions")
_add_epoch("as-replica", (0, -1, 99_999), replica_id=5)


@case("epochs-current", OFFSET_FOR_LEADER_EPOCH)
async def _(scene: Scene) -> Any:
    topic, empty = await scene.filled(STORED), await scene.topic("empty")
    epoch = (await scene.client.offset_at(topic, -1)).leader_epoch
    return {
        "filled": await scene.ask(asking_epochs(topic, [(0, epoch, epoch)])),
        "empty": await scene.ask(asking_epochs(empty, [(0, epoch, epoch)])),
    }


@case("epochs-unknown-topic", OFFSET_FOR_LEADER_EPOCH)
async def _(scene: Scene) -> Any:
    return await scene.ask(asking_epochs(NOWHERE, [(0, -1, 0)]))


# InitProducerId

_NOT_YET = (ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)


def _add_producer_id(name: str, since: int = 0, **fields: Any) -> None:
    @case(f"producer-id-{name}", INIT_PRODUCER_ID, since=since)
    async def ask(scene: Scene) -> Any:
        request = InitProducerIdRequest(**{"transaction_timeout_ms": 60_000, **fields})
        return await scene.ask_until(
            lambda answer: isinstance(answer, str) or answer.error_code not in _NOT_YET, request
        )


_add_producer_id("idempotent", transactional_id=None)
_add_producer_id("again", since=3, transactional_id=None, producer_id=5, producer_epoch=0)
_add_producer_id("id-without-epoch", since=3, transactional_id=None, producer_id=5, producer_epoch=-1)
_add_producer_id("epoch-without-id", since=3, transactional_id=None, producer_id=-1, producer_epoch=0)
_add_producer_id("negative-id", since=3, transactional_id=None, producer_id=-7, producer_epoch=-7)
_add_producer_id("timeout", transactional_id=None, transaction_timeout_ms=-1)
_add_producer_id("empty-transactional-id", transactional_id="")


@case("producer-id-of-a-transaction", INIT_PRODUCER_ID)
async def _(scene: Scene) -> Any:
    id = scene.fresh()
    finding = FindCoordinatorRequest(key=id, key_type=1)  # makes Kafka create its topic
    await scene.ask_until(lambda answer: answer.error_code not in _NOT_YET, finding, version=1, api_key=10)
    request = InitProducerIdRequest(transactional_id=id, transaction_timeout_ms=60_000)
    return await scene.ask_until(lambda answer: answer.error_code not in _NOT_YET, request)
