"""A processor of the bank test: takes orders, books each as two entries, and commits both with its offsets.

    python -m tests.crash.teller SETTINGS (a JSON object; bank.py says which)

What it says, a line each: `began ATTEMPT PARTITION:OFFSET ...` with its orders, `committed ATTEMPT`, `aborted ATTEMPT`,
`failed REASON`. An attempt is a transaction, and its name stands in each of its entries. Ends in good order when its
input ends, with code 1 when it cannot go on. `Teller.java` does the same.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

CALL_TIMEOUT_S = 20.0
CLIENT_SETTINGS = {
    "log_level": 0,
    "error_cb": lambda error: None,
    "reconnect.backoff.max.ms": 200,
    # librdkafka 2.16, when its only broker has been away twice, may begin anew with it and never come to an end.
    "metadata.recovery.strategy": "none",
}


class Disliked(Exception):
    """An attempt that is aborted on purpose."""


class Teller:
    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._chance = random.Random(settings["name"])
        self._attempts = 0
        self._producer = Producer(
            {
                "bootstrap.servers": settings["bootstrap"],
                "transactional.id": settings["transactional_id"],
                "transaction.timeout.ms": settings["timeout_ms"],
                "linger.ms": 2,
                **CLIENT_SETTINGS,
            }
        )
        more = {"group.instance.id": settings["instance_id"]} if settings["instance_id"] else {}
        if settings["protocol"] == "classic":
            more["session.timeout.ms"] = settings["session_timeout_ms"]
            more["heartbeat.interval.ms"] = 300
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings["bootstrap"],
                "group.id": settings["group"],
                "group.protocol": settings["protocol"],
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
                **more,
                **CLIENT_SETTINGS,
            }
        )

    def work(self, ending: threading.Event) -> None:
        _persist(lambda: self._producer.init_transactions(CALL_TIMEOUT_S))
        self._consumer.subscribe([self._settings["orders"]])
        while not ending.is_set():
            orders = [message for message in self._consumer.consume(self._settings["batch"], 0.1) if _is_order(message)]
            if orders:
                self._attempt(orders)
        self._consumer.close()

    def _attempt(self, orders: Sequence[Message]) -> None:
        self._attempts += 1
        attempt = f"{self._settings['name']}/{self._attempts}"
        say("began", attempt + "".join(f" {one.partition()}:{one.offset()}" for one in orders))
        try:
            self._producer.begin_transaction()
            for message in orders:
                order, giver, taker, amount = message.value().decode().split()
                self._book(giver, f"{order} {giver} {-int(amount)} {attempt}")
                self._book(taker, f"{order} {taker} {amount} {attempt}")
            _persist(lambda: self._send_offsets(orders))
            if self._chance.random() < self._settings["abort_share"]:
                raise Disliked
            _persist(lambda: self._producer.commit_transaction(CALL_TIMEOUT_S))
            say("committed", attempt)
        except (Disliked, KafkaException) as error:
            if isinstance(error, KafkaException) and not error.args[0].txn_requires_abort():
                raise
            _persist(lambda: self._producer.abort_transaction(CALL_TIMEOUT_S))
            say("aborted", attempt)
            self._go_back()

    def _book(self, account: str, entry: str) -> None:
        partition = int(account) % self._settings["partitions"]
        self._producer.produce(self._settings["entries"], entry, key=account, partition=partition)

    def _send_offsets(self, orders: Sequence[Message]) -> None:
        ends = {message.partition(): message.offset() + 1 for message in orders}
        offsets = [TopicPartition(self._settings["orders"], partition, end) for partition, end in ends.items()]
        self._producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), CALL_TIMEOUT_S)

    def _go_back(self) -> None:
        """To the committed offsets, once they are known: an earlier transaction may not have ended."""
        while True:
            places = _persist(lambda: self._consumer.committed(self._consumer.assignment(), CALL_TIMEOUT_S))
            errors = [place.error for place in places if place.error is not None]
            if not errors:
                break
            if any(error.code() != KafkaError.UNSTABLE_OFFSET_COMMIT for error in errors):
                raise KafkaException(errors[0])
            time.sleep(0.1)
        for place in places:
            self._consumer.seek(place)


def _is_order(message: Message) -> bool:
    error = message.error()
    if error is not None and (error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET):
        raise KafkaException(error)
    return error is None


def _persist(call: Callable[[], Any]) -> Any:
    """The call's result; it is made again while its failure says that it may be."""
    while True:
        try:
            return call()
        except KafkaException as failure:
            if not failure.args[0].retriable():
                raise


def say(what: str, about: str) -> None:
    print(what, about, flush=True)


def main() -> int:
    ending = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ending.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    try:
        Teller(json.loads(sys.argv[1])).work(ending)
    except KafkaException as failure:
        say("failed", failure.args[0].str())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
