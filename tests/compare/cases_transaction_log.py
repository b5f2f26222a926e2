"""What transactions leave in the log and how it is asked for: Produce, Fetch, ListOffsets, WriteTxnMarkers,
DescribeProducers, DescribeTransactions, ListTransactions."""

from __future__ import annotations

from typing import Any

from tests.broker.rawclient import FETCH, LIST_OFFSETS, NOW_MS, PRODUCE, SomeTopic, batch, fetching, producing
from tests.broker.transactor import (
    DESCRIBE_PRODUCERS,
    DESCRIBE_TRANSACTIONS,
    LIST_TRANSACTIONS,
    NEWER,
    OLDER,
    READ_COMMITTED,
    WRITE_MARKERS,
    Transactor,
)
from tests.compare.answers import RECORDS_END_MS
from tests.compare.cases_log import NOWHERE, looking_up, with_attributes
from tests.compare.scene import Scene, case
from tests.compare.transactional import STYLES, at_rest, begun, ended, wrong_identities

from pg_kafka.wire.messages.describe_producers import DescribeProducersRequest, TopicRequest
from pg_kafka.wire.messages.describe_transactions import DescribeTransactionsRequest
from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition
from pg_kafka.wire.messages.list_transactions import ListTransactionsRequest
from pg_kafka.wire.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from pg_kafka.wire.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
)

# Produce: 11 knows TRANSACTION_ABORTABLE, 12 registers partitions by itself.
VERSIONS = (3, 9, 10, 11, 12, 13)
_NEWER_PRODUCE = 12
# Markers have the time of day, and Kafka would begin a segment where records are much older.
ONE_SEGMENT = {"segment_ms": str(2**62)}


def written_by(who: Transactor, sequence: int = 0, *values: bytes, **fields: Any) -> bytes:
    """A batch of the transaction, with anything wrong in it."""
    producer = (fields.get("producer_id", who.producer_id), fields.get("producer_epoch", who.epoch), sequence)
    return batch(values or (b"x",), producer=producer, is_transactional=fields.get("is_transactional", True))


def writing(who: Transactor, topic: SomeTopic, records: bytes, partition: int = 0) -> ProduceRequest:
    return producing(topic, {partition: records}, transactional_id=who.id)


async def _ready(
    scene: Scene, topic: SomeTopic, *, label: str = "p", partitions: tuple[int, ...] = (0,), epoch: int = 0
) -> Transactor:
    """A producer that, where its version does not do that by itself, has added partitions."""
    one = await begun(scene, label, NEWER if scene.version >= _NEWER_PRODUCE else OLDER, epoch=epoch)
    if one.style == OLDER:
        assert not any((await one.add(topic, partitions)).values())
    return one


# Produce


@case("produce-txn", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=2)
    one = await _ready(scene, topic)
    seen = {
        "first": await scene.ask(writing(one, topic, written_by(one))),
        "again": await scene.ask(writing(one, topic, written_by(one))),
        "next": await scene.ask(writing(one, topic, written_by(one, 1))),
        "gap": await scene.ask(writing(one, topic, written_by(one, 5))),
        "another partition": await scene.ask(writing(one, topic, written_by(one), 1)),
        "unknown partition": await scene.ask(writing(one, topic, written_by(one), 7)),
        "described": await one.describe(),
    }
    await ended(scene, one, commit=True)
    return seen | {"after the end": await scene.ask(writing(one, topic, written_by(one, 2)))}


@case("produce-txn-not-added", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    topic, one = await scene.topic(partitions=2), await begun(scene)
    seen = {"nothing is open": await scene.ask(writing(one, topic, written_by(one)))}
    assert await one.add(topic, [1]) == {1: 0}
    seen["another is added"] = await scene.ask(writing(one, topic, written_by(one, 1)))
    return seen | {"described": await one.describe()}


@case("produce-txn-unknown-topic", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    one = await begun(scene)
    return {"answer": await scene.ask(writing(one, NOWHERE, written_by(one))), "described": await one.describe()}


@case("produce-txn-wrong", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    one = await _ready(scene, topic, epoch=1)
    seen = {}
    for what, fields in wrong_identities(one).items():
        if -1 in fields.values():
            continue
        request = writing(one, topic, written_by(one, **fields))
        request.transactional_id = fields.get("transactional_id", one.id)
        seen[what] = await scene.ask(request)
    request.transactional_id = None
    seen["no transactional id"] = await scene.ask(request)
    other = await begun(scene, "other")
    request.transactional_id = other.id
    seen["another's transactional id"] = await scene.ask(request)
    return seen | {"right": await scene.ask(writing(one, topic, written_by(one)))}


@case("produce-txn-of-nobody", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    """Transactional batches that say no producer, or no epoch."""
    topic = await scene.topic()
    one = await _ready(scene, topic)
    return {
        "no epoch": await scene.ask(writing(one, topic, written_by(one, producer_epoch=-1))),
        "no producer": await scene.ask(writing(one, topic, written_by(one, producer_id=-1, producer_epoch=-1))),
    }


@case("produce-txn-begins-in-the-middle", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    one = await _ready(scene, topic)
    return await scene.ask(writing(one, topic, written_by(one, 7)))


@case("produce-txn-plain", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    """Plain batches by the producer of a transaction, before, in and after it."""
    topic = await scene.topic()
    one = await _ready(scene, topic)

    async def plain(sequence: int, transactional_id: str | None) -> Any:
        request = writing(one, topic, written_by(one, sequence, is_transactional=False))
        request.transactional_id = transactional_id
        return await scene.ask(request)

    seen = {"before": await plain(0, one.id), "before, without id": await plain(1, None)}
    seen["in order"] = await scene.ask(writing(one, topic, written_by(one, 2)))
    seen |= {"in it": await plain(3, one.id), "in it, without id": await plain(3, None)}
    seen["without a producer"] = await scene.ask(writing(one, topic, batch([b"n"])))
    await ended(scene, one, commit=True)
    sequence = 3 if one.style == OLDER else 0
    return seen | {"after": await plain(sequence, one.id), "after, without id": await plain(sequence + 1, None)}


@case("produce-txn-mixed", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    """Batches that do not belong together in one request."""
    topic = await scene.topic(partitions=3)
    one = await _ready(scene, topic, partitions=(0, 1, 2))
    two = await _ready(scene, topic, label="two", partitions=(0, 1))
    plain = batch([b"n"])
    mixed = producing(topic, {0: plain, 1: written_by(one)}, transactional_id=one.id)
    of_two = producing(topic, {0: written_by(two), 1: written_by(one, 1)}, transactional_id=one.id)
    of_two_ids = producing(topic, {0: written_by(two), 1: plain}, transactional_id=one.id)
    epochs = {0: written_by(one, producer_epoch=one.epoch + 1), 1: written_by(one, 1)}
    return {
        "plain and transactional": await scene.ask(mixed),
        "of two producers": await scene.ask(of_two),
        "of the other": await scene.ask(of_two_ids),
        "two epochs": await scene.ask(producing(topic, epochs, transactional_id=one.id)),
        "one partition fails": await scene.ask(
            producing(topic, {2: written_by(one), 9: written_by(one)}, transactional_id=one.id)
        ),
        "described": {"one": await one.describe(), "two": await two.describe()},
    }


@case("produce-txn-wrong-batch", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    one = await _ready(scene, topic)
    good = written_by(one)
    damaged = good[:17] + b"\1\2\3\4" + good[21:]
    return {
        "wrong crc": await scene.ask(writing(one, topic, damaged)),
        "control": await scene.ask(writing(one, topic, with_attributes(good, 0x30))),
        "two batches": await scene.ask(writing(one, topic, good + written_by(one, 1))),
        "described": await one.describe(),
    }


@case("produce-txn-acks", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    one = await _ready(scene, topic)
    data = [
        TopicProduceData(
            name=topic.name,
            topic_id=topic.id,
            partition_data=[PartitionProduceData(index=0, records=written_by(one, sequence))],
        )
        for sequence in range(2)
    ]
    requests = [
        ProduceRequest(transactional_id=one.id, acks=acks, timeout_ms=10_000, topic_data=[one_of])
        for acks, one_of in zip((1, 0), data, strict=True)
    ]
    seen = {"acks 1": await scene.ask(requests[0]), "acks 0": await scene.ask_unanswered(requests[1])}
    await ended(scene, one, commit=True)
    answer = await scene.client.fetch(topic, 0, isolation_level=READ_COMMITTED)
    return seen | {"committed": answer.last_stable_offset}


@case("produce-txn-newer-epoch", PRODUCE, VERSIONS)
async def _(scene: Scene) -> Any:
    """Sequences begin anew with the epoch that an end, or InitProducerId, has given."""
    topic = await scene.topic()
    one = await _ready(scene, topic)
    assert await one.produce(topic, b"a") == 0
    await ended(scene, one, commit=True)
    seen = {}
    if one.style == OLDER:
        assert await one.init() == 0
        assert await one.add(topic) == {0: 0}
    seen["in the middle"] = await scene.ask(writing(one, topic, written_by(one, 1)))
    seen["from the start"] = await scene.ask(writing(one, topic, written_by(one, 0)))
    return seen


# Fetch and ListOffsets, on partitions in all stages


async def _stages(scene: Scene) -> SomeTopic:
    """Committed, aborted and open transactions of several producers, with plain records among them; four partitions."""
    is_new = f"{scene.case}-t" not in scene.side.topics
    topic = await scene.topic(partitions=4, **ONE_SEGMENT)
    if is_new:
        one, two, three = [await begun(scene, label, OLDER) for label in ("a", "b", "c")]
        for partition in (0, 1):
            await one.send(topic, b"a0", b"a1", partition=partition)
            await two.send(topic, b"b0", partition=partition)
            await scene.client.produce(topic, batch([b"plain"], timestamps=[NOW_MS + 50]), partition)
            await one.send(topic, b"a2", partition=partition)
        await ended(scene, two, commit=False)
        await ended(scene, one, commit=True)
        await one.send(topic, b"a3")
        await ended(scene, one, commit=False)
        await two.send(topic, b"b1")
        await ended(scene, two, commit=True)
        await three.send(topic, b"c0")
        await scene.client.produce(topic, batch([b"after"], timestamps=[NOW_MS + 90]))
        await three.send(topic, b"c1", partition=2)
    return topic


@case("fetch-txn", FETCH)
async def _(scene: Scene) -> Any:
    topic = await _stages(scene)
    return {
        f"level {level}": await scene.ask(fetching(topic, dict.fromkeys(range(4), 0), isolation_level=level))
        for level in (0, 1)
    } | {
        f"level {level} from {offset}": await scene.ask(fetching(topic, {0: offset}, isolation_level=level))
        for level in (0, 1)
        for offset in (3, 5, 6, 7, 9, 11, 12, 13)
    }


@case("fetch-txn-small", FETCH, (4, 12, 18))
async def _(scene: Scene) -> Any:
    """Batch by batch: which transactions are named is decided by what is given, not by what is there."""
    topic = await _stages(scene)
    return {
        str(offset): await scene.ask(
            fetching(topic, {0: offset}, isolation_level=1, max_bytes=1, partition_max_bytes=1)
        )
        for offset in (0, 2, 3, 4, 5, 6, 7, 8)
    }


@case("fetch-txn-session", FETCH, since=7)
async def _(scene: Scene) -> Any:
    """A session hears of the last stable offset that moves."""
    topic = await scene.topic(f"v{scene.version}", **ONE_SEGMENT)
    one = await begun(scene)
    assert await one.send(topic, b"x") == 0
    first = await scene.ask(fetching(topic, {0: 0}, session=(0, 0), isolation_level=1))
    still = await scene.ask(fetching(topic, {}, session=(first.session_id, 1), isolation_level=1))
    await ended(scene, one, commit=True)
    moved = await scene.ask(fetching(topic, {}, session=(first.session_id, 2), isolation_level=1, max_wait_ms=2_000))
    return {"first": first, "still": still, "moved": moved}


@case("fetch-txn-marker-bytes", FETCH, (12,))
async def _(scene: Scene) -> Any:
    """A marker byte by byte, without what is the broker's own: epochs, CRC, times, producer."""
    topic, one = await scene.topic(), await begun(scene, style=OLDER)
    seen = {}
    for commit in (True, False):
        assert await one.send(topic, b"x") == 0
        await ended(scene, one, commit=commit)
        end = (await scene.client.offset_at(topic, -1)).offset
        data = bytes((await scene.client.fetch(topic, end - 1)).records or b"")  # type: ignore[arg-type]
        cut = bytearray(data)
        for start, size in ((12, 4), (17, 4), (27, 8), (35, 8), (43, 8), (len(cut) - 5, 4)):
            cut[start : start + size] = bytes(size)
        seen[f"{commit}"] = cut.hex()
    return seen


@case("list-offsets-txn", LIST_OFFSETS)
async def _(scene: Scene) -> Any:
    topic = await _stages(scene)
    seen = {}
    for level in (0, 1):
        for timestamp in (-1, -2, NOW_MS, NOW_MS + 2, NOW_MS + 50, NOW_MS + 90, NOW_MS + 91):
            asked = [ListOffsetsPartition(partition_index=index, timestamp=timestamp) for index in range(4)]
            answer = await scene.ask(looking_up(topic, *asked, isolation_level=level))
            for one in answer.topics[0].partitions:
                if one.timestamp > RECORDS_END_MS:  # a marker's
                    one.timestamp = 0
            seen[f"level {level} at {timestamp}"] = answer
    return seen


@case("list-offsets-txn-max-timestamp", LIST_OFFSETS, since=7)
async def _(scene: Scene) -> Any:
    """The record with the greatest timestamp is one that is not committed."""
    topic = await scene.topic()
    if not (await scene.client.offset_at(topic, -1)).offset:
        one = await begun(scene)
        await scene.client.produce(topic, batch([b"plain"]))
        await one.produce(topic, b"x", b"y")
    at = ListOffsetsPartition(partition_index=0, timestamp=-3)
    return {f"level {level}": await scene.ask(looking_up(topic, at, isolation_level=level)) for level in (0, 1)}


# WriteTxnMarkers, as Kafka's transactions tool sends it


def marking(topic: SomeTopic, who: Transactor, *partitions: int, **fields: Any) -> WriteTxnMarkersRequest:
    marker = WritableTxnMarker(
        **{
            "producer_id": who.producer_id,
            "producer_epoch": who.epoch,
            "transaction_result": False,
            "topics": [WritableTxnMarkerTopic(name=topic.name, partition_indexes=partitions or (0,))],
            "coordinator_epoch": 0,
            **fields,
        }
    )
    return WriteTxnMarkersRequest(markers=[marker])


async def _read(scene: Scene, topic: SomeTopic) -> Any:
    return await scene.client.fetch(topic, 0, isolation_level=READ_COMMITTED)


def _add_markers(name: str, style: int) -> None:
    @case(f"markers-{name}", WRITE_MARKERS)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic(f"v{scene.version}", partitions=2, **ONE_SEGMENT)
        one = await begun(scene, style=style, epoch=1)
        assert await one.send(topic, b"x") == 0
        version = {"transaction_version": style}
        seen = {
            "older epoch": await scene.ask(marking(topic, one, producer_epoch=one.epoch - 1, **version)),
            "unknown": await scene.ask(marking(topic, one, 0, 7, **version)),
            "unknown topic": await scene.ask(marking(NOWHERE, one, **version)),
            "same epoch": await scene.ask(marking(topic, one, **version)),
            "read": await _read(scene, topic),
            "next epoch": await scene.ask(marking(topic, one, producer_epoch=one.epoch + 1, **version)),
            "commit": await scene.ask(
                marking(topic, one, producer_epoch=one.epoch + 2, transaction_result=True, **version)
            ),
            "then": await _read(scene, topic),
        }
        return seen | {"of the producer": await scene.ask(writing(one, topic, written_by(one, 1)), 9, PRODUCE)}


for _name, _style in STYLES.items():
    _add_markers(_name, _style)


@case("markers-of-nobody", WRITE_MARKERS)
async def _(scene: Scene) -> Any:
    """Where no transaction is open, or nobody is known by that id."""
    topic = await scene.topic(f"v{scene.version}", **ONE_SEGMENT)
    one = await begun(scene)
    stranger = Transactor(scene.client, "", producer_id=one.producer_id + 5_000, epoch=3)
    return {
        "no transaction": await scene.ask(marking(topic, one)),
        "stranger": await scene.ask(marking(topic, stranger, transaction_result=True)),
        "none": await scene.ask(marking(topic, Transactor(scene.client, "", producer_id=-1, epoch=-1))),
        "no epoch": await scene.ask(marking(topic, one, producer_epoch=-1)),
        "nothing": await scene.ask(WriteTxnMarkersRequest()),
        "no topics": await scene.ask(marking(topic, one, topics=[])),
        "read": await _read(scene, topic),
    }


@case("markers-coordinator-epoch", WRITE_MARKERS)
async def _(scene: Scene) -> Any:
    topic, one = await scene.topic(f"v{scene.version}", **ONE_SEGMENT), await begun(scene, style=OLDER)
    assert await one.send(topic, b"x") == 0
    return {
        "newer": await scene.ask(marking(topic, one, coordinator_epoch=5)),
        "older": await scene.ask(marking(topic, one, coordinator_epoch=4)),
        "negative": await scene.ask(marking(topic, one, coordinator_epoch=-1)),
        "read": await _read(scene, topic),
    }


# DescribeProducers, DescribeTransactions, ListTransactions


@case("describe-producers", DESCRIBE_PRODUCERS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=3)
    one, two = await begun(scene, "a"), await begun(scene, "b")

    async def described(*indexes: int, name: str = topic.name) -> Any:
        asked = [TopicRequest(name=name, partition_indexes=indexes)]
        return await scene.ask(DescribeProducersRequest(topics=asked))

    seen = {"empty": await described(0, 1, 2)}
    await scene.client.produce(topic, batch([b"plain"]))
    await scene.client.produce(topic, batch([b"a", b"b"], producer=(await scene.client.new_producer_id(), 0, 0)), 2)
    assert await one.send(topic, b"x", b"y") == 0
    assert await two.send(topic, b"z", partition=1) == 0
    seen["open"] = await described(0, 1, 2)
    await ended(scene, one, commit=True)
    await ended(scene, two, commit=False)
    return seen | {
        "over": await described(0, 1, 2),
        "unknown partition": await described(0, 7, -1),
        "unknown topic": await described(0, name=NOWHERE.name),
        "unnamed topic": await described(0, name=""),
        "impossible topic": await described(0, name="a b"),
        "no partitions": await described(),
        "nothing": await scene.ask(DescribeProducersRequest()),
    }


@case("describe-transactions", DESCRIBE_TRANSACTIONS)
async def _(scene: Scene) -> Any:
    topic, other = await scene.topic(partitions=3), await scene.topic("other")
    one, two, three = [await begun(scene, label) for label in ("a", "b", "c")]

    async def described(*ids: str) -> Any:
        return await scene.ask(DescribeTransactionsRequest(transactional_ids=ids))

    assert await one.add(topic, [0, 2]) == {0: 0, 2: 0}
    assert await one.add(other) == {0: 0}
    assert await two.add(topic) == {0: 0}
    seen = {"open": await described(one.id, two.id, three.id)}
    await ended(scene, one, commit=True)
    await ended(scene, two, commit=False)
    return seen | {
        "over": await described(one.id, two.id),
        "twice": await described(one.id, one.id),
        "unknown": await described(one.id, "nobody's"),
        "unnamed": await described("", one.id),
        "nothing": await described(),
    }


@case("describe-transactions-of-offsets", DESCRIBE_TRANSACTIONS)
async def _(scene: Scene) -> Any:
    one = await begun(scene)
    assert await one.add_offsets(scene.fresh("group")) == 0
    return await one.describe()


@case("list-transactions", LIST_TRANSACTIONS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    idle, busy, committed, aborted = [await begun(scene, label) for label in ("idle", "busy", "done", "undone")]
    for one in (busy, committed, aborted):
        assert await one.send(topic, b"x") == 0
    await ended(scene, committed, commit=True)
    await ended(scene, aborted, commit=False)
    await at_rest(scene, idle)

    async def listed(**filters: Any) -> Any:
        """Of this case alone."""
        answer = await scene.ask(ListTransactionsRequest(**filters))
        if not isinstance(answer, str):
            own = [one for one in answer.transaction_states if one.transactional_id.startswith(scene.fresh(""))]
            answer.transaction_states = own
        return answer

    asked: dict[str, dict[str, Any]] = {
        "all": {},
        "busy": {"state_filters": ["Ongoing"]},
        "two states": {"state_filters": ["Ongoing", "Empty"]},
        "over": {"state_filters": ["CompleteCommit", "CompleteAbort"]},
        "unknown state": {"state_filters": ["Odd"]},
        "known and unknown": {"state_filters": ["Odd", "Ongoing", "", "ongoing"]},
        "rare states": {"state_filters": ["Dead", "PrepareEpochFence", "PrepareCommit", "PrepareAbort"]},
        "of a producer": {"producer_id_filters": [busy.producer_id]},
        "of two producers": {"producer_id_filters": [busy.producer_id, idle.producer_id]},
        "of nobody": {"producer_id_filters": [-1]},
        "of an idle one that is busy": {"producer_id_filters": [idle.producer_id], "state_filters": ["Ongoing"]},
    }
    if scene.version >= 1:
        asked |= {f"for {ms}": {"duration_filter": ms} for ms in (0, 600_000, -1, -5)}
    if scene.version >= 2:
        asked |= {
            f"named {pattern.replace(scene.fresh(''), '')}": {"transactional_id_pattern": pattern}
            for pattern in (
                scene.fresh("idle"),
                scene.fresh(".*e"),
                scene.fresh("(busy|idle)"),
                scene.fresh("bus"),
                "busy",
                "(",
                "",
                "(?=x)",
                "[[:alpha:]]*",
            )
        }
    return {what: await listed(**filters) for what, filters in asked.items()}
