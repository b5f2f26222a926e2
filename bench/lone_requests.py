"""What a producer gains that has one request under way, when a lone row is inserted and not copied: two brokers, in turns.

    python -m bench.lone_requests [--rounds 3]

One broker is as it is, the other one takes COPY always. Both have an embedded server. The client is librdkafka:

- lone: one record, its acknowledgement, a millisecond's pause; milliseconds to the acknowledgement, median of a turn
- idempotent: as fast as it goes in batches of 64 kB, of which it has few under way; thousand records a second

The brokers take turns, A B B A. Shown are medians of the turns, their range, and the ratio to COPY with its range over pairs.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from bench.systems import PgKafka, spawn, wait_until_served

LONE_BYTES = (100, 4_000, 16_000, 60_000, 100_000)
IDEMPOTENT_BYTES = (100, 1_000)
_LONE_RECORDS, _WARM_UP = 200, 20
_IDEMPOTENT_S = 1.0
_COPY_ONLY = """
import sys
from pg_kafka.cli import main
from pg_kafka.storage.prepared import Prepared
Prepared.take = lambda self, statement: None
sys.argv[0] = "pg-kafka"
main()
"""


class CopyOnly(PgKafka):
    """A broker that never finds a prepared statement."""

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        self._folder.chmod(0o711)
        log = self._folder / "pg-kafka.log"
        command = [sys.executable, "-c", _COPY_ONLY, "serve", "--listen", self.bootstrap, *self._place()]
        self._process = spawn(command, log, os.environ | self._settings)
        wait_until_served(self.port, self._process, log)


def lone_ms(bootstrap: str, size: int) -> float:
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, "linger.ms": 0, "acks": "all"})
    value, answers, took = os.urandom(size), [], []
    for _ in range(_WARM_UP + _LONE_RECORDS):
        start = time.perf_counter()
        producer.produce("lone", value, on_delivery=lambda error, _: answers.append(error))
        while not answers:
            producer.poll(1)
        took.append(time.perf_counter() - start)
        if (error := answers.pop()) is not None:
            raise KafkaException(error)
        time.sleep(0.001)
    return statistics.median(took[_WARM_UP:]) * 1e3


def idempotent_k(bootstrap: str, size: int) -> float:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
            "linger.ms": 5,
            "enable.idempotence": True,
            "batch.size": 65_536,
        }
    )
    value, sent, start = os.urandom(size), 0, time.perf_counter()
    while time.perf_counter() < start + _IDEMPOTENT_S:
        try:
            producer.produce("idempotent", value)
            sent += 1
        except BufferError:
            producer.poll(0.01)
    if producer.flush(30):
        raise RuntimeError("not everything was acknowledged")
    return sent / (time.perf_counter() - start) / 1e3


def turn(bootstrap: str) -> dict[str, float]:
    found = {f"lone {size:,} B ms": lone_ms(bootstrap, size) for size in LONE_BYTES}
    return found | {f"idempotent {size:,} B k/s": idempotent_k(bootstrap, size) for size in IDEMPOTENT_BYTES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    # A signal must take the same way out as an error, past what stops the brokers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="pgk-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        systems = {
            "COPY": CopyOnly("COPY", Path(folder) / "copy", {}),
            "INSERT": PgKafka("INSERT", Path(folder) / "insert", {}),
        }
        try:
            for system in systems.values():
                system.start()
                admin = AdminClient({"bootstrap.servers": system.bootstrap})
                for made in admin.create_topics([NewTopic(name, 1, 1) for name in ("lone", "idempotent")]).values():
                    made.result()
                turn(system.bootstrap)
            for _ in range(options.rounds):
                for name in ("COPY", "INSERT", "INSERT", "COPY"):
                    for figure, value in turn(systems[name].bootstrap).items():
                        found[figure][name].append(value)
        finally:
            for system in systems.values():
                system.stop()
    table = Table(title=f"medians of {2 * options.rounds} turns, and their range")
    for title in ("", "COPY", "INSERT", "INSERT / COPY"):
        table.add_column(title, justify="right")
    for figure, values in found.items():
        ratios = [insert / copy for insert, copy in zip(values["INSERT"], values["COPY"], strict=True)]
        table.add_row(figure, spread(values["COPY"]), spread(values["INSERT"]), spread(ratios))
    Console(width=120).print(table)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
