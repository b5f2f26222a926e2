"""The account of a round: what was sent, what was acknowledged, and whether the log agrees.

A record's payload is its producer's name and number and bytes that follow from these, so that content is checked
without being kept. Everything here is called from several threads.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Log = Mapping[int, Sequence[tuple[int, bytes | None]]]  # partition: (offset, value) in the order of the log

_NOISE = random.Random(4).randbytes(1 << 20)
_LARGE_EVERY = 101
_LARGE_BYTES = 150_000


def payload(producer: str, number: int) -> bytes:
    """Mostly small, now and then large."""
    size = _LARGE_BYTES if number % _LARGE_EVERY == 0 else number * 37 % 700
    start = number * 1009 % (len(_NOISE) - _LARGE_BYTES)
    return b"%s/%d/" % (producer.encode(), number) + _NOISE[start : start + size]


def identify(value: bytes | None) -> tuple[str, int] | None:
    """Producer and number of a payload; None when it is not exactly what that producer sent under that number."""
    parts = (value or b"").split(b"/", 2)
    if len(parts) != 3 or not parts[1].isdigit():
        return None
    producer, number = parts[0].decode(errors="replace"), int(parts[1])
    return (producer, number) if value == payload(producer, number) else None


@dataclass(frozen=True, slots=True)
class Ack:
    producer: str
    number: int
    partition: int
    offset: int
    at: float


@dataclass(slots=True)
class Sample:
    """What a broker said of a partition at a time."""

    at: float
    broker: int
    partition: int
    epoch: int
    high_watermark: int


@dataclass
class Ledger:
    """What the producers and the watcher of one round have seen. Times are time.monotonic()."""

    acks: list[Ack] = field(default_factory=list)
    refused: list[tuple[str, int, str, float]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    idempotent: set[str] = field(default_factory=set)
    seen: dict[int, list[tuple[int, bytes | None]]] = field(default_factory=lambda: defaultdict(list))
    reader_errors: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sent: dict[tuple[str, int], float] = field(default_factory=dict)
    _newest: dict[str, float] = field(default_factory=dict)
    _under_way: Counter[str] = field(default_factory=Counter)

    def send(self, producer: str, number: int) -> None:
        with self._lock:
            self._sent[producer, number] = time.monotonic()
            self._under_way[producer] += 1

    def acknowledge(self, producer: str, number: int, partition: int, offset: int) -> None:
        with self._lock:
            self.acks.append(Ack(producer, number, partition, offset, time.monotonic()))
            client = client_of(producer)
            sent = self._sent.pop((producer, number), 0.0)
            self._under_way[producer] -= 1
            self._newest[client] = max(self._newest.get(client, 0.0), sent)

    def refuse(self, producer: str, number: int, reason: str) -> None:
        """No acknowledgement: the record is in the log or it is not."""
        with self._lock:
            self._sent.pop((producer, number), None)
            self._under_way[producer] -= 1
            self.refused.append((producer, number, reason, time.monotonic()))

    def under_way(self, producer: str) -> int:
        return self._under_way[producer]

    def newest(self, client: str) -> float:
        """When that record was sent that was sent last of all that are acknowledged."""
        return self._newest.get(client, 0.0)

    def longest_silence_s(self) -> float:
        times = sorted(ack.at for ack in self.acks)
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    def first_after(self, at: float) -> float | None:
        """When the first record was acknowledged after a time."""
        return min((ack.at for ack in self.acks if ack.at > at), default=None)


def client_of(producer: str) -> str:
    """A producer that had to start over has a number after its client's name."""
    return producer.partition("#")[0]


@dataclass(frozen=True)
class Loss:
    """Where the database went back in time: acknowledgements before `at` hold below these offsets only."""

    at: float
    survived: Mapping[int, int]

    def excuses(self, ack: Ack) -> bool:
        return ack.at <= self.at and ack.offset >= self.survived[ack.partition]


@dataclass
class Findings:
    """Faults are what must never be; the rest is told."""

    faults: list[str] = field(default_factory=list)
    duplicates: int = 0
    lost: int = 0


def check(ledger: Ledger, by_kafka: Log, by_sql: Log, loss: Loss | None) -> Findings:
    """Compare the log, read in two ways after the round, with the account."""
    found = Findings()
    for partition, records in by_kafka.items():
        _check_offsets(found, partition, records)
        if list(records) != list(by_sql.get(partition, ())):
            found.faults.append(f"partition {partition}: {_first_difference(records, by_sql.get(partition, ()))}")
    stored = {partition: dict(records) for partition, records in by_kafka.items()}
    _check_acks(found, ledger, stored, loss)
    _check_copies(found, ledger, by_kafka)
    _check_samples(found, ledger, stored, loss)
    _check_reader(found, ledger, stored, loss)
    return found


def _check_offsets(found: Findings, partition: int, records: Sequence[tuple[int, bytes | None]]) -> None:
    for expected, (offset, value) in enumerate(records):
        if offset != expected:
            found.faults.append(f"partition {partition}: offset {offset} where {expected} comes next")
            return
        if identify(value) is None:
            found.faults.append(f"partition {partition}: the record at {offset} is not what was sent: {value!r:.80}")
            return


def _first_difference(kafka: Sequence[object], sql: Sequence[object]) -> str:
    place = next((i for i, (a, b) in enumerate(zip(kafka, sql, strict=False)) if a != b), min(len(kafka), len(sql)))
    return f"Kafka reads {len(kafka)} records and SQL {len(sql)}, they differ from {place} on"


def _check_acks(
    found: Findings, ledger: Ledger, stored: Mapping[int, Mapping[int, bytes | None]], loss: Loss | None
) -> None:
    wrong = []
    for ack in ledger.acks:
        value = stored.get(ack.partition, {}).get(ack.offset)
        if value is not None and value == payload(ack.producer, ack.number):
            continue
        if loss is not None and loss.excuses(ack):
            found.lost += 1
            continue
        there = "nothing" if value is None else str(identify(value))
        wrong.append(f"{ack.producer}/{ack.number} was acknowledged at {ack.partition}:{ack.offset}, there is {there}")
    if wrong:
        found.faults.append(f"{len(wrong)} acknowledged records are not at their offsets: {'; '.join(wrong[:5])}")


def _check_copies(found: Findings, ledger: Ledger, by_kafka: Log) -> None:
    copies = Counter(identify(value) for records in by_kafka.values() for _, value in records)
    for which, count in copies.items():
        if which is None or count == 1:
            continue
        found.duplicates += count - 1
        if which[0] in ledger.idempotent:
            found.faults.append(f"{which[0]} is idempotent, and its record {which[1]} is there {count} times")
    for partition, records in by_kafka.items():
        last: dict[str, int] = {}
        for offset, value in records:
            name, number = identify(value) or ("", 0)
            if name in ledger.idempotent and number <= last.get(name, -1):
                found.faults.append(f"{partition}:{offset}: {name}/{number} comes after {name}/{last[name]}")
            last[name] = number


def _check_samples(
    found: Findings, ledger: Ledger, stored: Mapping[int, Mapping[int, bytes | None]], loss: Loss | None
) -> None:
    highest: dict[int, tuple[int, int]] = {}  # partition: epoch, high watermark
    epochs_of: dict[tuple[int, int], int] = {}  # broker, partition: epoch
    for sample in ledger.samples:
        epoch, mark = highest.get(sample.partition, (-1, 0))
        before = epochs_of.get((sample.broker, sample.partition), -1)
        if sample.epoch < before:
            found.faults.append(f"broker {sample.broker} went back from epoch {before} to {sample.epoch}")
        epochs_of[sample.broker, sample.partition] = max(before, sample.epoch)
        if sample.epoch < epoch:
            continue  # a frozen broker that does not know yet: clients go by the epoch
        went_back = sample.high_watermark < mark
        if went_back and not (loss is not None and sample.epoch >= epoch + 1000):
            found.faults.append(
                f"partition {sample.partition}: the high watermark went back from {mark} (epoch {epoch}) "
                f"to {sample.high_watermark} (epoch {sample.epoch})"
            )
        highest[sample.partition] = (sample.epoch, sample.high_watermark)
    for partition, (_, mark) in highest.items():
        if mark > len(stored.get(partition, {})):
            found.faults.append(f"partition {partition}: the high watermark was {mark}, the log has less")


def _check_reader(
    found: Findings, ledger: Ledger, stored: Mapping[int, Mapping[int, bytes | None]], loss: Loss | None
) -> None:
    """A consumer that read all the time saw nothing that is not in the log, and skipped nothing."""
    found.faults += [f"the consumer failed: {error}" for error in ledger.reader_errors]
    for partition, records in ledger.seen.items():
        log = stored.get(partition, {})
        expected = 0
        for offset, value in records:
            if offset != expected and (loss is None or not loss.survived[partition] <= expected):
                found.faults.append(f"the consumer got {partition}:{offset} where {expected} comes next")
                break
            expected = offset + 1
            if log.get(offset) != value and not (loss is not None and offset >= loss.survived[partition]):
                found.faults.append(f"the consumer got {identify(value)} at {partition}:{offset}, the log has another")
                break
