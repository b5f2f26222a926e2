"""What transactional producers ask of the coordinator: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn,
TxnOffsetCommit, EndTxn. Each case in each version has transactional ids of its own."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.broker.rawclient import INIT_PRODUCER_ID, PRODUCE, SomeTopic, batch, producing
from tests.broker.transactor import ADD_OFFSETS, ADD_PARTITIONS, COMMIT_OFFSETS, END, NEWER, OLDER, Transactor
from tests.compare import cases_groups as groups
from tests.compare.cases_groups import (
    CONSUMER_GROUP_HEARTBEAT,
    DELETE_GROUPS,
    OFFSET_COMMIT,
    OFFSET_DELETE,
    OFFSET_FETCH,
)
from tests.compare.cases_log import NOWHERE
from tests.compare.scene import Scene, case, sized
from tests.compare.transactional import (
    STYLES,
    adding,
    adding_offsets,
    at_rest,
    begun,
    committing,
    ended,
    ending,
    initialised,
    initialising,
    of_one,
    once_over,
    wrong_identities,
)

from pg_kafka.wire.messages.add_partitions_to_txn import AddPartitionsToTxnRequest
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, RequestTopicPartitions
from pg_kafka.wire.messages.delete_groups import DeleteGroupsRequest
from pg_kafka.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)

# Versions that know another error than those before them, besides those that change a message.
INIT_VERSIONS = (0, 2, 3, 4, 5)
ADD_PARTITIONS_VERSIONS = (0, 1, 2, 3, 4, 5)
ADD_OFFSETS_VERSIONS = (0, 1, 2, 3, 4)
COMMIT_VERSIONS = (0, 1, 2, 3, 4, 5, 6)
END_VERSIONS = (0, 1, 2, 3, 4, 5)
_NEWER_END = _NEWER_COMMIT = 5
_MAX_TIMEOUT_MS = 900_000


def style_of_end(scene: Scene) -> int:
    """How a producer that uses this version of EndTxn does the rest."""
    return NEWER if scene.version >= _NEWER_END else OLDER


# InitProducerId


@case("init-timeouts", INIT_PRODUCER_ID, INIT_VERSIONS)
async def _(scene: Scene) -> Any:
    return {
        str(timeout): await initialised(scene, scene.fresh(str(timeout)), transaction_timeout_ms=timeout)
        for timeout in (_MAX_TIMEOUT_MS, 1, 0, -1, _MAX_TIMEOUT_MS + 1, 2**31 - 1)
    }


@case("init-again", INIT_PRODUCER_ID, INIT_VERSIONS)
async def _(scene: Scene) -> Any:
    id = scene.fresh()
    return {str(number): await initialised(scene, id) for number in range(3)}


@case("init-with-epoch", INIT_PRODUCER_ID, since=3)
async def _(scene: Scene) -> Any:
    one = await begun(scene)
    seen = {}
    for step, (producer_id, epoch) in {
        "its own": (one.producer_id, 0),
        "its own, once more": (one.producer_id, 0),
        "the next": (one.producer_id, 1),
        "two ago": (one.producer_id, 0),
        "to come": (one.producer_id, 9),
        "another producer": (one.producer_id + 1_000, 2),
        "an id alone": (one.producer_id, -1),
        "an epoch alone": (-1, 2),
        "negative": (-7, -7),
        "none": (-1, -1),
        "after that": (one.producer_id, 2),
        "now": (one.producer_id, 3),
    }.items():
        seen[step] = await scene.ask(initialising(one.id, producer_id=producer_id, producer_epoch=epoch))
    return seen


@case("init-4-with-epoch", INIT_PRODUCER_ID, (4,))
async def _(scene: Scene) -> Any:
    one = await begun(scene)
    return {
        str(epoch): await scene.ask(initialising(one.id, producer_id=one.producer_id, producer_epoch=epoch))
        for epoch in (7, 0, 1, 0)
    }


@case("init-unknown-with-epoch", INIT_PRODUCER_ID, since=3)
async def _(scene: Scene) -> Any:
    return await initialised(scene, scene.fresh(), producer_id=4_711, producer_epoch=3)


@case("init-refused-stays-unknown", INIT_PRODUCER_ID, (0, 5))
async def _(scene: Scene) -> Any:
    """What is refused leaves nothing behind."""
    one = Transactor(scene.client, scene.fresh(), producer_id=1)
    refused = await initialised(scene, one.id, transaction_timeout_ms=0)
    return {"init": refused, "end": await scene.ask(ending(one, commit=False), 3, END)}


@case("init-long-id", INIT_PRODUCER_ID)
async def _(scene: Scene) -> Any:
    return {
        "2000": await initialised(scene, (scene.fresh() + "x" * 2_000)[:2_000]),
        "3000": await initialised(scene, (scene.fresh() + "x" * 3_000)[:3_000]),
        "nul": await initialised(scene, scene.fresh() + "\0"),
        "space": await initialised(scene, f" {scene.fresh()} é "),
    }


def _add_takeover(name: str, style: int) -> None:
    @case(f"init-fences-{name}", INIT_PRODUCER_ID, INIT_VERSIONS)
    async def ask(scene: Scene) -> Any:
        """A new producer of the id ends what the old one had begun, and the old one can do nothing more."""
        topic, old = await scene.topic(), await begun(scene, style=style)
        assert await old.send(topic, b"x") == 0
        seen = {"busy": await scene.ask(initialising(old.id)), "then": await initialised(scene, old.id)}
        seen |= await _of_a_zombie(scene, old)
        again = initialising(old.id, producer_id=old.producer_id, producer_epoch=old.epoch)
        return seen | {"init of the old": await scene.ask(again)}


async def _of_a_zombie(scene: Scene, old: Transactor) -> dict[str, Any]:
    """Requests with an epoch that is over."""
    topic = await scene.topic()
    records = batch([b"z"], producer=(old.producer_id, old.epoch, 1), is_transactional=True)
    write = producing(topic, {0: records}, transactional_id=old.id)
    offsets = committing(old, "of-a-zombie", topic)
    return {
        **{f"add {v}": await scene.ask(adding(old, {topic.name: [0]}), v, ADD_PARTITIONS) for v in (1, 3, 5)},
        **{f"offsets {v}": await scene.ask(adding_offsets(old, "g"), v, ADD_OFFSETS) for v in (1, 4)},
        **{f"commit offsets {v}": await scene.ask(offsets, v, COMMIT_OFFSETS) for v in (1, 3, 5)},
        **{f"produce {v}": await scene.ask(write, v, PRODUCE) for v in (9, 11, 12)},
        **{f"end {v}": await scene.ask(ending(old, commit=True), v, END) for v in (1, 3, 5)},
        **{f"abort {v}": await scene.ask(ending(old, commit=False), v, END) for v in (1, 3, 5)},
    }


for _name, _style in STYLES.items():
    _add_takeover(_name, _style)


@case("init-recovers", INIT_PRODUCER_ID, since=3)
async def _(scene: Scene) -> Any:
    """Its own producer goes on after an error (KIP-360): the open transaction is aborted."""
    topic, one = await scene.topic(), await begun(scene)
    assert await one.send(topic, b"x") == 0
    own = {"producer_id": one.producer_id, "producer_epoch": one.epoch}
    return {
        "busy": await scene.ask(initialising(one.id, **own)),
        "then": await initialised(scene, one.id, **own),
        "again": await initialised(scene, one.id, **own),
    }


def _add_timeout(name: str, style: int) -> None:
    @case(f"init-after-timeout-{name}", INIT_PRODUCER_ID, (3, 4, 5))
    async def ask(scene: Scene) -> Any:
        """A transaction that took too long is aborted, its producer fenced; it may begin again (KIP-588)."""
        topic, one = await scene.topic(), await begun(scene, style=style, timeout_ms=50)
        assert await one.send(topic, b"x") == 0
        await at_rest(scene, one)
        seen = await _of_a_zombie(scene, one)
        own = {"producer_id": one.producer_id, "producer_epoch": one.epoch}
        return seen | {
            "init": await initialised(scene, one.id, **own),
            "once more": await initialised(scene, one.id, **own),
            "end of the former": await scene.ask(ending(one, commit=False), 5, END),
        }


for _name, _style in STYLES.items():
    _add_timeout(_name, _style)


# AddPartitionsToTxn


@case("add-partitions", ADD_PARTITIONS, ADD_PARTITIONS_VERSIONS)
async def _(scene: Scene) -> Any:
    topic, other, one = await scene.topic(partitions=3), await scene.topic("other"), await begun(scene)
    return {
        "two topics": await scene.ask(adding(one, {topic.name: [0, 2], other.name: [0]})),
        "same again": await scene.ask(adding(one, {topic.name: [0, 2]})),
        "one more": await scene.ask(adding(one, {topic.name: [1, 2]})),
        "named twice": await scene.ask(adding(one, {topic.name: [1, 1]})),
        "no partitions": await scene.ask(adding(one, {topic.name: []})),
        "no topics": await scene.ask(adding(one, {})),
        "described": await one.describe(),
    }


@case("add-partitions-unknown", ADD_PARTITIONS, ADD_PARTITIONS_VERSIONS)
async def _(scene: Scene) -> Any:
    topic, one = await scene.topic(partitions=2), await begun(scene)
    return {
        "topic": await scene.ask(adding(one, {topic.name: [0], NOWHERE.name: [0]})),
        "partition": await scene.ask(adding(one, {topic.name: [0, 7]})),
        "negative": await scene.ask(adding(one, {topic.name: [-1]})),
        "unnamed": await scene.ask(adding(one, {"": [0]})),
        "of nobody": await scene.ask(adding(one, {topic.name: [0, 7]}, transactional_id="")),
        "described": await one.describe(),
    }


@case("add-partitions-wrong", ADD_PARTITIONS, ADD_PARTITIONS_VERSIONS)
async def _(scene: Scene) -> Any:
    topic, one = await scene.topic(), await begun(scene, epoch=1)
    return {
        what: await scene.ask(adding(one, {topic.name: [0]}, **fields))
        for what, fields in wrong_identities(one).items()
    }


@case("add-partitions-of-several", ADD_PARTITIONS, since=4)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=2)
    one, two, three = [await begun(scene, label) for label in ("a", "b", "c")]
    assert await three.add(topic) == {0: 0}
    asked = [
        of_one(one, {topic.name: [0, 1]}),
        of_one(two, {topic.name: [0], NOWHERE.name: [0]}),
        of_one(three, {topic.name: [0, 1]}, verify_only=True),
    ]
    wrong = [
        of_one(one, {topic.name: [0]}, **wrong_identities(one)["older epoch"]),
        of_one(two, {topic.name: [0]}, **wrong_identities(two)["unknown transactional id"]),
        of_one(three, {}),
    ]
    return {
        "good": await scene.ask(AddPartitionsToTxnRequest(transactions=asked)),
        "wrong": await scene.ask(AddPartitionsToTxnRequest(transactions=wrong)),
        "described": {one.id: await one.describe() for one in (one, two, three)},
    }


@case("add-partitions-none", ADD_PARTITIONS, (4,))
async def _(scene: Scene) -> Any:
    return await scene.tell(sized(scene.frame(AddPartitionsToTxnRequest())), (ADD_PARTITIONS, scene.version))


@case("add-partitions-verify", ADD_PARTITIONS, since=4)
async def _(scene: Scene) -> Any:
    topic, one = await scene.topic(partitions=2), await begun(scene, epoch=1)
    whole = {topic.name: [0, 1]}
    seen = {"before": await scene.ask(adding(one, whole, verify_only=True))}
    assert await one.add(topic) == {0: 0}
    seen["one of two"] = await scene.ask(adding(one, whole, verify_only=True))
    seen["unknown"] = await scene.ask(adding(one, {topic.name: [0], NOWHERE.name: [0]}, verify_only=True))
    for what, fields in wrong_identities(one).items():
        seen[what] = await scene.ask(adding(one, whole, verify_only=True, **fields))
    await ended(scene, one, commit=True)
    return seen | {"after": await scene.ask(adding(one, whole, verify_only=True))}


# AddOffsetsToTxn


@case("add-offsets", ADD_OFFSETS, ADD_OFFSETS_VERSIONS)
async def _(scene: Scene) -> Any:
    one = await begun(scene, epoch=1)
    wrong = {
        what: await scene.ask(adding_offsets(one, "g", **fields)) for what, fields in wrong_identities(one).items()
    }
    return wrong | {
        "new": await scene.ask(adding_offsets(one, groups.named(scene))),
        "again": await scene.ask(adding_offsets(one, groups.named(scene))),
        "another": await scene.ask(adding_offsets(one, groups.named(scene, "other"))),
        "unnamed group": await scene.ask(adding_offsets(one, "")),
        "state": (await one.describe()).transaction_state,
    }


@case("add-offsets-odd-group", ADD_OFFSETS)
async def _(scene: Scene) -> Any:
    one = await begun(scene)
    return {
        "nul": await scene.ask(adding_offsets(one, groups.named(scene) + "\0")),
        "long": await scene.ask(adding_offsets(one, (groups.named(scene) + "x" * 3_000)[:3_000])),
    }


# TxnOffsetCommit


async def _fetched(scene: Scene, group: str, *topics: Any) -> dict[str, Any]:
    wanted = [(topic, [0, 1]) for topic in topics]
    asked = {
        "any": groups.fetching(scene, group, topics=wanted),
        "stable": groups.fetching(scene, group, topics=wanted, require_stable=True),
        "all stable": groups.fetching(scene, group, topics=None, require_stable=True),
    }
    return {what: await scene.ask(request, 9, OFFSET_FETCH) for what, request in asked.items()}


async def _with_offsets(scene: Scene, *, label: str = "p", epoch: int = 0) -> tuple[Transactor, str]:
    """A producer that, where its version does not do that by itself, has added a group."""
    style = NEWER if scene.version >= _NEWER_COMMIT else OLDER
    one, group = await begun(scene, label, style, epoch=epoch), groups.named(scene, label)
    if one.style == OLDER:
        assert await one.add_offsets(group) == 0
    return one, group


@case("commit-offsets", COMMIT_OFFSETS, COMMIT_VERSIONS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=3)
    seen = {}
    for commit in (True, False):
        one, group = await _with_offsets(scene, label="commit" if commit else "abort")
        await groups.commit(scene, group, topic, 1)
        seen[f"{commit}"] = {
            "answer": await scene.ask(committing(one, group, topic, 5, 6)),
            "pending": await _fetched(scene, group, topic),
            "changed": await scene.ask(committing(one, group, topic, 7)),
            "end": (await one.end(commit=commit), await at_rest(scene, one))[0],
            "over": await _fetched(scene, group, topic),
        }
    return seen


@case("commit-offsets-odd-metadata", COMMIT_OFFSETS, (0, 3, 5))
async def _(scene: Scene) -> Any:
    """Text with a NUL, as librdkafka's clients send it, and bytes that are no text."""
    topic = await scene.topic()
    seen = {}
    for number, text in enumerate(groups.ODD_TEXTS):
        one, group = await _with_offsets(scene, label=f"t{number}")
        answer = await scene.tell_text(text, partial(_committing_with, one, group, topic))
        await ended(scene, one, commit=True)
        seen[text.hex()] = {"answer": answer, "over": await _fetched(scene, group, topic)}
    return seen


def _committing_with(one: Transactor, group: str, topic: SomeTopic, metadata: str) -> Any:
    return committing(one, group, topic, metadata=metadata)


@case("commit-offsets-overtaken", COMMIT_OFFSETS, (3, 5))
async def _(scene: Scene) -> Any:
    """A plain commit comes between that of the transaction and its end."""
    topic = await scene.topic(partitions=2)
    one, group = await _with_offsets(scene)
    seen = {
        "first": await scene.ask(committing(one, group, topic, 5, 5)),
        "plain": await scene.ask(groups.committing(group, topic, 9), 7, OFFSET_COMMIT),
        "pending": await _fetched(scene, group, topic),
    }
    await ended(scene, one, commit=True)
    return seen | {"over": await _fetched(scene, group, topic)}


@case("commit-offsets-deleted", COMMIT_OFFSETS, (3, 5))
async def _(scene: Scene) -> Any:
    """Offsets that wait for a transaction, and the group that has nothing else, are deleted."""
    topic = await scene.topic(partitions=2)
    one, group = await _with_offsets(scene)
    partitions = [OffsetDeleteRequestPartition(partition_index=0)]
    deleting = OffsetDeleteRequest(
        group_id=group, topics=[OffsetDeleteRequestTopic(name=topic.name, partitions=partitions)]
    )
    other, other_group = await _with_offsets(scene, label="other")
    await groups.commit(scene, other_group, topic, 1)
    seen = {
        "answer": await scene.ask(committing(one, group, topic, 5, 5)),
        "of a part": await scene.ask(deleting, 0, OFFSET_DELETE),
        "pending": await _fetched(scene, group, topic),
        "other": await scene.ask(committing(other, other_group, topic, 5)),
        "of the other": await scene.ask(DeleteGroupsRequest(groups_names=[other_group]), 2, DELETE_GROUPS),
    }
    await ended(scene, one, commit=True)
    await ended(scene, other, commit=True)
    return seen | {"over": await _fetched(scene, group, topic), "other over": await _fetched(scene, other_group, topic)}


@case("commit-offsets-not-added", COMMIT_OFFSETS, COMMIT_VERSIONS)
async def _(scene: Scene) -> Any:
    topic, one, group = await scene.topic(), await begun(scene), groups.named(scene)
    seen = {"nothing is open": await scene.ask(committing(one, group, topic))}
    assert await one.add_offsets(groups.named(scene, "other")) == 0
    return seen | {"another group is added": await scene.ask(committing(one, group, topic))}


@case("commit-offsets-wrong", COMMIT_OFFSETS, COMMIT_VERSIONS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=2)
    one, group = await _with_offsets(scene, epoch=1)
    seen = {
        what: await scene.ask(committing(one, group, topic, **fields)) for what, fields in wrong_identities(one).items()
    }
    return seen | {
        "unnamed group": await scene.ask(committing(one, "", topic)),
        "unknown topic": await scene.ask(committing(one, group, NOWHERE)),
        "unknown partition": await scene.ask(committing(one, group, topic, 1, 2, 3)),
        "nothing": await scene.ask(committing(one, group, topic, topics=[])),
        "long metadata": await scene.ask(committing(one, group, topic, metadata="x" * 4097)),
        "no metadata": await scene.ask(committing(one, group, topic, metadata=None)),
        "negative offset": await scene.ask(committing(one, group, topic, -5)),
    }


@case("commit-offsets-odd-group", COMMIT_OFFSETS)
async def _(scene: Scene) -> Any:
    topic, one = await scene.topic(), await begun(scene)
    return {"nul": await scene.ask(committing(one, groups.named(scene) + "\0", topic))}


@case("commit-offsets-of-a-member", COMMIT_OFFSETS, since=3)
async def _(scene: Scene) -> Any:
    """The group looks at who commits, where that is said (KIP-447)."""
    topic = await scene.topic()
    one, group = await _with_offsets(scene)
    nobody = {"generation_id_or_member_epoch": 3, "member_id": "nobody"}
    seen = {"no group": await scene.ask(committing(one, group, topic, **nobody))}
    there = await groups.stable(scene, group, group_instance_id="static")
    itself = {"generation_id_or_member_epoch": there.generation, "member_id": there.member}
    for what, fields in {
        "member": itself,
        "static member": itself | {"group_instance_id": "static"},
        "unnamed": {},
        "generation alone": {"generation_id_or_member_epoch": there.generation},
        "member alone": {"member_id": there.member},
        "nobody": itself | {"member_id": "nobody"},
        "older generation": itself | {"generation_id_or_member_epoch": there.generation - 1},
        "newer generation": itself | {"generation_id_or_member_epoch": there.generation + 1},
        "unknown instance": itself | {"group_instance_id": "other"},
        "another of the instance": itself | {"group_instance_id": "static", "member_id": "nobody"},
        "wrong epoch too": itself | {"member_id": "nobody", "producer_epoch": one.epoch + 1},
    }.items():
        seen[what] = await scene.ask(committing(one, group, topic, **fields))
    await groups.leave(scene, there)
    return seen | {
        "after it left": await scene.ask(committing(one, group, topic, **itself)),
        "unnamed after": await scene.ask(committing(one, group, topic)),
    }


@case("commit-offsets-of-a-consumer", COMMIT_OFFSETS, since=3)
async def _(scene: Scene) -> Any:
    """The same in the consumer protocol (KIP-848), where the generation is the member's epoch."""
    topic = await scene.topic()
    one, group = await _with_offsets(scene)
    beat = ConsumerGroupHeartbeatRequest(
        group_id=group,
        member_id="somebody",
        member_epoch=0,
        rebalance_timeout_ms=30_000,
        subscribed_topic_names=[topic.name],
        topic_partitions=list[RequestTopicPartitions](),
    )
    joined = await scene.ask(beat, 0, CONSUMER_GROUP_HEARTBEAT)
    assert joined.error_code == 0, joined
    itself = {"generation_id_or_member_epoch": joined.member_epoch, "member_id": "somebody"}
    return {
        what: await scene.ask(committing(one, group, topic, **fields))
        for what, fields in {
            "member": itself,
            "unnamed": {},
            "nobody": itself | {"member_id": "nobody"},
            "older epoch": itself | {"generation_id_or_member_epoch": joined.member_epoch - 1},
            "newer epoch": itself | {"generation_id_or_member_epoch": joined.member_epoch + 1},
            "epoch alone": {"generation_id_or_member_epoch": joined.member_epoch},
        }.items()
    }


# EndTxn


def _add_nothing(commit: bool) -> None:
    @case(f"end-nothing-{'commit' if commit else 'abort'}", END, END_VERSIONS)
    async def ask(scene: Scene) -> Any:
        one = await begun(scene)
        first = await scene.ask(ending(one, commit=commit))
        await at_rest(scene, one)
        return {"first": first, "described": await one.describe(), "again": await scene.ask(ending(one, commit=commit))}


def _add_end(commit: bool) -> None:
    name = "commit" if commit else "abort"

    @case(f"end-{name}", END, END_VERSIONS)
    async def ask(scene: Scene) -> Any:
        """An end, and what comes after it with the same epoch."""
        topic, one = await scene.topic(), await begun(scene, style=style_of_end(scene))
        assert await one.send(topic, b"x") == 0
        seen = {"first": await scene.ask(ending(one, commit=commit))}
        await at_rest(scene, one)
        seen |= {
            "described": await one.describe(),
            "again": await once_over(scene, ending(one, commit=commit)),
            "the other": await once_over(scene, ending(one, commit=not commit)),
        }
        seen |= {
            f"{what} with the next epoch": await once_over(
                scene, ending(one, commit=outcome, producer_epoch=one.epoch + 1)
            )
            for what, outcome in (("commit", True), ("abort", False))
        }
        await at_rest(scene, one)
        return seen | {"then": await _fetch_all(scene)}

    @case(f"end-{name}-of-offsets", END, END_VERSIONS)
    async def offsets(scene: Scene) -> Any:
        topic, one, group = await scene.topic(), await begun(scene, style=style_of_end(scene)), groups.named(scene)
        assert await one.commit_offsets(group, topic, {0: 5}) == {0: 0}
        answer = await scene.ask(ending(one, commit=commit))
        await at_rest(scene, one)
        return {"end": answer, "offsets": await _fetched(scene, group, topic)}


async def _fetch_all(scene: Scene) -> Any:
    answer = await scene.client.fetch(await scene.topic(), 0, isolation_level=1)
    return {"stable": answer.last_stable_offset, "high": answer.high_watermark}


for _commit in (True, False):
    _add_nothing(_commit)
    _add_end(_commit)


@case("end-wrong", END, END_VERSIONS)
async def _(scene: Scene) -> Any:
    topic, one = await scene.topic(), await begun(scene, epoch=1)
    assert await one.send(topic, b"x") == 0
    seen = {what: await scene.ask(ending(one, commit=True, **fields)) for what, fields in wrong_identities(one).items()}
    return seen | {"described": await one.describe()}


def _add_mixed(name: str, style: int) -> None:
    @case(f"end-begun-{name}", END, END_VERSIONS)
    async def ask(scene: Scene) -> Any:
        """Each version ends what either kind of client has begun, and the next transaction goes on from there."""
        topic, one = await scene.topic(), await begun(scene, style=style)
        seen = {}
        for number in range(2):
            assert await one.send(topic, b"x") == 0
            answer = await scene.ask(ending(one, commit=bool(number)))
            if not answer.error_code and answer.producer_epoch > one.epoch:
                one.epoch = answer.producer_epoch
                one.sequences.clear()
            await at_rest(scene, one)
            seen[str(number)] = {"answer": answer, "described": await one.describe(), "then": await _fetch_all(scene)}
        return seen


for _name, _style in STYLES.items():
    _add_mixed(_name, _style)


@case("end-after-a-newer-end", END, END_VERSIONS)
async def _(scene: Scene) -> Any:
    """With an end of version 5 the epoch before it is over."""
    topic, one = await scene.topic(), await begun(scene)
    assert await one.send(topic, b"x") == 0
    old = Transactor(scene.client, one.id, NEWER, producer_id=one.producer_id, epoch=one.epoch)
    await ended(scene, one, commit=True)
    seen = {
        **{f"{commit}": await scene.ask(ending(old, commit=commit)) for commit in (True, False)},
        "in order": await one.send(topic, b"y"),
        **{f"{commit} while open": await scene.ask(ending(old, commit=commit)) for commit in (True, False)},
    }
    return seen | await _of_a_zombie(scene, old) | {"described": await one.describe()}
