"""Requests about deleted records and the disk: DeleteRecords, DescribeLogDirs."""

from __future__ import annotations

from typing import Any

from tests.broker.rawclient import FETCH, LIST_OFFSETS, NOW_MS, SomeTopic, batch, fetching
from tests.compare.scene import Scene, case

from pg_kafka.wire.messages.delete_records import DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic
from pg_kafka.wire.messages.describe_log_dirs import DescribableLogDirTopic, DescribeLogDirsRequest
from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic

DELETE_RECORDS, DESCRIBE_LOG_DIRS = 21, 35
FIVE = batch([b"a", b"b", b"c", b"d", b"e"], timestamps=[NOW_MS + 1000 * n for n in (0, 4, 1, 3, 2)])


def deleting(topic: SomeTopic, *wanted: tuple[int, int]) -> DeleteRecordsRequest:
    partitions = [DeleteRecordsPartition(partition_index=index, offset=offset) for index, offset in wanted]
    return DeleteRecordsRequest(topics=[DeleteRecordsTopic(name=topic.name, partitions=partitions)], timeout_ms=10_000)


async def seen(scene: Scene, topic: SomeTopic, offset: int) -> dict[str, Any]:
    """What readers get of a partition now."""
    answers = {}
    for time in (-1, -2, NOW_MS, NOW_MS + 2500):
        wanted = [ListOffsetsPartition(partition_index=0, timestamp=time)]
        request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=topic.name, partitions=wanted)])
        answers[f"at {time}"] = await scene.ask(request, api_key=LIST_OFFSETS, version=7)
    fetch = fetching(topic, {0: offset})
    return answers | {
        "below": (await scene.ask(fetch, api_key=FETCH, version=12)).responses[0].partitions[0].error_code
    }


@case("delete-records", DELETE_RECORDS)
async def _(scene: Scene) -> Any:
    topic = await scene.filled(FIVE, f"v{scene.version}")
    moved = await scene.ask(deleting(topic, (0, 3)))
    return {"moved": moved, "seen": await seen(scene, topic, 2), "back": await scene.ask(deleting(topic, (0, 1)))}


@case("delete-records-all", DELETE_RECORDS)
async def _(scene: Scene) -> Any:
    topic = await scene.filled(FIVE, f"v{scene.version}")
    return {"moved": await scene.ask(deleting(topic, (0, -1))), "seen": await seen(scene, topic, 4)}


@case("delete-records-out-of-range", DELETE_RECORDS)
async def _(scene: Scene) -> Any:
    topic = await scene.filled(FIVE)
    return [await scene.ask(deleting(topic, (0, offset))) for offset in (6, -2, 2**63 - 1, 5, 0)]


@case("delete-records-unknown", DELETE_RECORDS)
async def _(scene: Scene) -> Any:
    topic = await scene.filled(FIVE)
    nowhere = SomeTopic("nowhere", topic.id)
    return [await scene.ask(deleting(topic, (0, 0), (1, 0), (-1, 0))), await scene.ask(deleting(nowhere, (0, 0)))]


@case("delete-records-compacted", DELETE_RECORDS)
async def _(scene: Scene) -> Any:
    answers = {}
    for policy in ("compact", "compact,delete", "delete"):
        topic = await scene.topic(policy.replace(",", "-"), cleanup_policy=policy)
        answers[policy] = [await scene.ask(deleting(topic, (0, offset))) for offset in (0, 1)]
    return answers


@case("delete-records-twice", DELETE_RECORDS)
async def _(scene: Scene) -> Any:
    topic = await scene.filled(FIVE, f"v{scene.version}")
    return await scene.ask(deleting(topic, (0, 9), (0, 2)))


@case("delete-records-nothing", DELETE_RECORDS)
async def _(scene: Scene) -> Any:
    topic = await scene.filled(FIVE)
    return [await scene.ask(deleting(topic)), await scene.ask(DeleteRecordsRequest(timeout_ms=1000))]


async def without_place(scene: Scene, *asked: tuple[str, list[int]]) -> Any:
    """Which directory it is, and how large its disk, belongs to the place."""
    topics = [DescribableLogDirTopic(topic=name, partitions=partitions) for name, partitions in asked]
    answer = await scene.ask(DescribeLogDirsRequest(topics=topics))
    for result in answer.results:
        result.log_dir = "named" if result.log_dir else "nameless"
        result.total_bytes = result.usable_bytes = 0
    return answer


@case("log-dirs", DESCRIBE_LOG_DIRS)
async def _(scene: Scene) -> Any:
    topic = await scene.filled(FIVE)
    await scene.topic("empty", partitions=2)
    return await without_place(scene, (topic.name, [0]), ("log-dirs-empty", [1, 0]))


@case("log-dirs-not-there", DESCRIBE_LOG_DIRS)
async def _(scene: Scene) -> Any:
    topic = await scene.filled(FIVE)
    return [
        await without_place(scene),
        await without_place(scene, ("nowhere", [0])),
        await without_place(scene, (topic.name, [0, 0, 7, -1])),
        await without_place(scene, (topic.name, [])),
    ]
