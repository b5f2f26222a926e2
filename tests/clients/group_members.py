"""Members of consumer groups in one process, driven over stdin and stdout with one JSON object a line.

    python group_members.py confluent-kafka

Programs in other languages (`java/GroupMembers.java`, `go/members.go`, `node/members.js`) understand the same:
`{"op": "join", "member": NAME, ...settings}`, `{"op": "leave", ...}`, `{"op": "pause", ...}` (stop polling),
`{"op": "resume", ...}`. Each event has `member`, `at` (ms of the wall clock), `what` and more: `owned` (all partitions it
owns from now on), `records` (partition, first and last offset), `committed` (partition, offset), `refused` (a commit was),
`paused`, `resumed`, `left`, `failed`. `generation` is the member's generation or epoch, None where the library hides it.
A member commits what it has read after each poll, waits for the answer, and starts at the earliest record.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterable
from typing import Any

_writing = threading.Lock()
POLL_S = 0.1
MOST_RECORDS = 500


class Member(threading.Thread):
    """One member; `run` lives until it is told to leave."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.member = name
        self.settings = settings
        self.topic: str = settings["topic"]
        self.leaving = False
        self.paused = False
        self.owned: set[int] = set()

    def tell(self, what: str, **more: Any) -> None:
        event = {"member": self.member, "at": int(time.time() * 1000), "what": what, **more}
        with _writing:
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()

    def run(self) -> None:
        try:
            self.live()
            self.tell("left")
        except Exception as failure:
            self.tell("failed", error=repr(failure))

    def live(self) -> None:
        raise AssertionError("every library has its own")

    def generation(self) -> int | None:
        return None

    def assigned(self, partitions: Iterable[int]) -> None:
        self.owned |= set(partitions)
        self.tell("owned", partitions=sorted(self.owned), generation=self.generation())

    def revoked(self, partitions: Iterable[int]) -> None:
        self.owned -= set(partitions)
        self.tell("owned", partitions=sorted(self.owned), generation=self.generation())

    def read(self, partition: int, first: int, last: int) -> None:
        self.tell("records", partition=partition, first=first, last=last, generation=self.generation())

    def committed(self, offsets: dict[int, int]) -> None:
        for partition, offset in offsets.items():
            self.tell("committed", partition=partition, offset=offset)

    def wait_while_paused(self) -> None:
        if self.paused:
            self.tell("paused")
            while self.paused:
                time.sleep(0.01)
            self.tell("resumed")


class ConfluentMember(Member):
    def live(self) -> None:
        import confluent_kafka

        given = self.settings
        settings = {
            "bootstrap.servers": given["bootstrap"],
            "group.id": given["group"],
            "client.id": self.member,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "group.protocol": given["protocol"],
            "max.poll.interval.ms": given["max_poll_interval_ms"],
            "fetch.wait.max.ms": 100,
            "reconnect.backoff.max.ms": 200,
            "log_level": 0,
            "error_cb": lambda error: None,
        }
        if given["protocol"] == "classic":
            settings["session.timeout.ms"] = given["session_timeout_ms"]
            settings["heartbeat.interval.ms"] = given["heartbeat_interval_ms"]
            settings["partition.assignment.strategy"] = given["assignor"]
        else:
            settings["group.remote.assignor"] = given["assignor"]
        if given["instance_id"] is not None:
            settings["group.instance.id"] = given["instance_id"]
        consumer = confluent_kafka.Consumer(settings)
        consumer.subscribe(
            [self.topic],
            on_assign=lambda _, places: self.assigned(place.partition for place in places),
            on_revoke=lambda _, places: self.revoked(place.partition for place in places),
            on_lost=lambda _, places: self.revoked(place.partition for place in places),
        )
        while not self.leaving:
            self.wait_while_paused()
            ends: dict[int, int] = {}
            for number in range(MOST_RECORDS):
                message = consumer.poll(0 if number else POLL_S)
                if message is None:
                    break
                if message.error() is None:
                    self.read(message.partition(), message.offset(), message.offset())
                    ends[message.partition()] = message.offset() + 1
            ends = {partition: offset for partition, offset in ends.items() if partition in self.owned}
            if not ends:
                continue
            places = [
                confluent_kafka.TopicPartition(self.topic, partition, offset) for partition, offset in ends.items()
            ]
            try:
                answered = consumer.commit(offsets=places, asynchronous=False)
                self.committed({place.partition: place.offset for place in answered if place.error is None})
            except confluent_kafka.KafkaException as failed:
                self.tell("refused", error=str(failed))
        consumer.close()


class KafkaPythonMember(Member):
    consumer: Any = None

    def generation(self) -> int | None:
        found = self.consumer._coordinator.generation_if_stable() if self.consumer is not None else None
        return None if found is None else found.generation_id

    def live(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import kafka
            import kafka.errors
            from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
            from kafka.coordinator.assignors.range import RangePartitionAssignor
            from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
        member = self
        assignors = {
            "range": RangePartitionAssignor,
            "roundrobin": RoundRobinPartitionAssignor,
            "cooperative-sticky": CooperativeStickyAssignor,
        }

        class Listener(kafka.ConsumerRebalanceListener):
            def on_partitions_assigned(self, assigned: Any) -> None:
                member.assigned(place.partition for place in assigned)

            def on_partitions_revoked(self, revoked: Any) -> None:
                member.revoked(place.partition for place in revoked)

        given = self.settings
        self.consumer = kafka.KafkaConsumer(
            bootstrap_servers=given["bootstrap"],
            group_id=given["group"],
            client_id=self.member,
            group_instance_id=given["instance_id"],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=given["session_timeout_ms"],
            heartbeat_interval_ms=given["heartbeat_interval_ms"],
            max_poll_interval_ms=given["max_poll_interval_ms"],
            partition_assignment_strategy=[assignors[given["assignor"]]],
            fetch_max_wait_ms=100,
            reconnect_backoff_max_ms=200,
            max_poll_records=MOST_RECORDS,
        )
        # It may join before it knows the topic, and again when it does; once in a hundred it then loses the answer and
        # owns nothing, with Apache Kafka too.
        self.consumer.partitions_for_topic(self.topic)
        self.consumer.subscribe([self.topic], listener=Listener())
        while not self.leaving:
            self.wait_while_paused()
            try:
                polled = self.consumer.poll(timeout_ms=int(POLL_S * 1000))
            except kafka.errors.KafkaConnectionError:  # the broker was killed
                time.sleep(POLL_S)
                continue
            ends = {}
            for place, messages in polled.items():
                self.read(place.partition, messages[0].offset, messages[-1].offset)
                ends[place] = kafka.OffsetAndMetadata(messages[-1].offset + 1, "", -1)
            if not ends:
                continue
            try:
                self.consumer.commit(ends)
                self.committed({place.partition: end.offset for place, end in ends.items()})
            except kafka.errors.KafkaError as failed:
                self.tell("refused", error=repr(failed))
        self.consumer.close(autocommit=False)


class AiokafkaMember(Member):
    consumer: Any = None

    def generation(self) -> int | None:
        return self.consumer._coordinator.generation if self.consumer is not None else None

    def live(self) -> None:
        asyncio.run(self.live_in_loop())

    async def live_in_loop(self) -> None:
        import aiokafka
        import aiokafka.errors
        from aiokafka.coordinator.assignors.range import RangePartitionAssignor
        from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

        member = self
        assignors = {"range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor}

        class Listener(aiokafka.ConsumerRebalanceListener):
            def on_partitions_assigned(self, assigned: Any) -> None:
                member.assigned(place.partition for place in assigned)

            def on_partitions_revoked(self, revoked: Any) -> None:
                member.revoked(place.partition for place in revoked)

        given = self.settings
        self.consumer = consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=given["bootstrap"],
            group_id=given["group"],
            client_id=self.member,
            group_instance_id=given["instance_id"],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=given["session_timeout_ms"],
            heartbeat_interval_ms=given["heartbeat_interval_ms"],
            max_poll_interval_ms=given["max_poll_interval_ms"],
            rebalance_timeout_ms=given["max_poll_interval_ms"],
            partition_assignment_strategy=[assignors[given["assignor"]]],
            fetch_max_wait_ms=100,
        )
        consumer.subscribe([self.topic], listener=Listener())
        await consumer.start()
        while not self.leaving:
            if self.paused:
                self.tell("paused")
                while self.paused:  # noqa: ASYNC110 - set by another thread
                    await asyncio.sleep(0.01)
                self.tell("resumed")
            try:
                polled = await consumer.getmany(timeout_ms=int(POLL_S * 1000), max_records=MOST_RECORDS)
            except aiokafka.errors.KafkaError as failed:
                self.tell("refused", error=repr(failed))
                await asyncio.sleep(POLL_S)
                continue
            ends = {}
            for place, messages in polled.items():
                self.read(place.partition, messages[0].offset, messages[-1].offset)
                ends[place] = messages[-1].offset + 1
            if not ends:
                continue
            try:
                await consumer.commit(ends)
                self.committed({place.partition: offset for place, offset in ends.items()})
            except aiokafka.errors.KafkaError as failed:
                self.tell("refused", error=repr(failed))
        await consumer.stop()


LIBRARIES = {"confluent-kafka": ConfluentMember, "kafka-python": KafkaPythonMember, "aiokafka": AiokafkaMember}


def main() -> None:
    logging.disable(logging.CRITICAL)  # they tell of every rebalance
    kind = LIBRARIES[sys.argv[1]]
    members: dict[str, Member] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["member"]
        match request["op"]:
            case "join":
                members[name] = kind(name, request)
                members[name].start()
            case "leave":
                members[name].leaving = True
            case "pause":
                members[name].paused = True
            case "resume":
                members[name].paused = False


if __name__ == "__main__":
    main()
