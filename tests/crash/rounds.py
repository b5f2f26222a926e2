"""Rounds of faults under load: `play` plays one; as a program, many at random until it is told to stop.

    python -m tests.crash.rounds [--rounds N] [--kinds a,b] [--each] [--seed S] [--results FILE]

Each round: a new topic, producers of two clients with and without idempotence, a consumer, a watcher, one fault, service
again, and the account. A seed and a kind make the same choices again, not the same timing.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.broker.rawclient import RawClient
from tests.crash.account import Findings, Ledger, Loss, check
from tests.crash.faults import KINDS, Kind, NotHere, Round
from tests.crash.load import PARTITIONS, Load, read_all
from tests.crash.servers import System, is_leader

SERVED_AGAIN_S = 45.0
STOPPED_S = 150.0
ROUNDS_PER_SYSTEM = 15


@dataclass
class Report:
    """What became of a round."""

    kind: str
    seed: int
    seconds: float = 0.0
    acknowledged: int = 0
    refused: int = 0
    silence_s: float = 0.0
    findings: Findings = field(default_factory=Findings)
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        return self.findings.faults

    def line(self) -> str:
        result = "FAILED" if self.faults else "ok"
        notes = "".join(f", {name} {value}" for name, value in self.notes.items())
        return (
            f"{self.kind} seed {self.seed}: {result} in {self.seconds:.0f} s, {self.acknowledged} acknowledged, "
            f"{self.refused} refused, silent for {self.silence_s:.1f} s, {self.findings.duplicates} plain duplicates, "
            f"{self.findings.lost} lost with the database{notes}"
        )


async def play(kind: Kind, system: System, seed: int) -> Report:
    """One round on a system that is open."""
    started = time.monotonic()
    report = Report(kind.name, seed)
    ledger = Ledger()
    chance = random.Random(seed)
    complaints = [len(broker.complaints()) for broker in system.brokers]
    place = await system.serving()
    async with await RawClient.connect(place) as client:
        topic = (await client.create_topic(PARTITIONS)).name
    load = Load(system.bootstrap, system.places, topic, ledger, may_lose=kind.may_lose)
    load.start()
    r = Round(system, load, topic, chance, report.notes)
    loss: Loss | None = None
    try:
        await load.served_since(time.monotonic(), 20)
        await asyncio.sleep(chance.uniform(0.3, 1.0))
        loss = await kind.fault(r)
        await load.served_since(time.monotonic(), SERVED_AGAIN_S)
        await asyncio.sleep(0.5)
    except Exception as error:
        report.faults.append(f"{type(error).__name__}: {error}")
        if not isinstance(error, (TimeoutError, AssertionError)):
            report.faults.append(traceback.format_exc())
    try:
        async with asyncio.timeout(STOPPED_S):
            await load.stop()
    except TimeoutError:
        report.faults.append("clients did not come to an end")
    report.acknowledged, report.refused = len(ledger.acks), len(ledger.refused)
    report.silence_s = ledger.longest_silence_s()
    try:
        report.findings = await _account(system, topic, ledger, loss, report.findings)
    except Exception:
        report.faults.append(f"no account: {traceback.format_exc()}")
    refusals = Counter(f"{name}: {reason}" for name, _, reason, _ in ledger.refused)
    told = [f"{count} records refused, {what}" for what, count in refusals.items()]
    if report.faults or not kind.may_lose:
        report.faults.extend(told)
    for broker, before in zip(system.brokers, complaints, strict=True):
        report.faults.extend(broker.complaints()[before:])
    report.seconds = time.monotonic() - started
    return report


async def _account(system: System, topic: str, ledger: Ledger, loss: Loss | None, so_far: Findings) -> Findings:
    place = await _leader(system)
    by_kafka = await read_all(place, topic)
    by_sql: dict[int, list[tuple[int, bytes | None]]] = defaultdict(list)
    async with system.sql() as connection:
        rows = await connection.fetch(
            "SELECT m.partition_id, m.partition_offset, m.value FROM kafka.messages m JOIN kafka.topics t ON t.id = m.topic_id "
            "WHERE t.name = $1 ORDER BY m.partition_id, m.partition_offset",
            topic,
        )
        for row in rows:
            by_sql[row["partition_id"]].append((row["partition_offset"], row["value"]))
        late = await connection.fetch(
            "SELECT * FROM (SELECT l.partition, l.base_offset, l.leader_epoch, lag(l.leader_epoch) OVER w AS before "
            "FROM kafka.log l JOIN kafka.topics t ON t.id = l.topic WHERE t.name = $1 "
            "WINDOW w AS (PARTITION BY l.partition ORDER BY l.base_offset)) s WHERE before > leader_epoch",
            topic,
        )
    found = check(ledger, by_kafka, by_sql, loss)
    found.faults[:0] = so_far.faults
    found.faults += [f"a row of an older leader: {dict(row)}" for row in late]
    return found


async def _leader(system: System) -> object:
    """The broker that leads, of those that run."""
    for place, broker in zip(system.places, system.brokers, strict=True):
        if broker.is_running() and await is_leader(place):
            return place
    raise RuntimeError("no broker serves")


async def soak(kinds: list[Kind], rounds: int, seed: int, results: Path | None, *, each: bool = False) -> int:
    """Play rounds at random, rare kinds every tenth, or one of `each` kind; returns how many failed."""
    chance = random.Random(seed)
    left = list(kinds)
    common = [kind for kind in kinds if not kind.rare] or kinds
    rare = [kind for kind in kinds if kind.rare] or kinds
    systems: dict[object, tuple[System, int]] = {}
    played: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        while not stop.is_set() and sum(played.values()) < rounds and (left or not each):
            is_tenth = sum(played.values()) % 10 == 9
            kind = left.pop(0) if each else chance.choice(rare if is_tenth else common)
            round_seed = chance.randrange(1 << 30)
            if kind.system not in systems:
                try:
                    system = kind.system()
                except NotHere as reason:
                    print(f"{kind.name}: left out, {reason}", flush=True)
                    rare = [other for other in rare if other is not kind] or common
                    continue
                await system.open()
                systems[kind.system] = (system, 0)
            system, used = systems[kind.system]
            systems[kind.system] = (system, used + 1)
            report = await play(kind, system, round_seed)
            played[kind.name] += 1
            failed[kind.name] += bool(report.faults)
            print(report.line(), *report.faults[:10], sep="\n    ", flush=True)
            if results is not None:
                _append(results, report)
            if kind.once or report.faults or used + 1 >= ROUNDS_PER_SYSTEM:
                del systems[kind.system]
                if report.faults:
                    keep_logs(system, report)
                await system.close()
    finally:
        for system, _ in systems.values():
            await system.close()
    print(f"{sum(played.values())} rounds, {sum(failed.values())} failed")
    return sum(failed.values())


def keep_logs(system: System, report: Report) -> None:
    """Put the logs of a failed round where they outlive the system."""
    folder = Path("build/crash") / f"{report.kind}-{report.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for broker in system.brokers:
        if broker.log.exists():
            (folder / broker.log.name).write_text(broker.log.read_text(errors="replace"))
    server = getattr(system, "server", None)
    if server is not None:
        (folder / "postgresql.log").write_text(server.log)


def _append(results: Path, report: Report) -> None:
    if not results.exists():
        results.write_text(HEAD)
    notes = " ".join(f"{name}={value}" for name, value in report.notes.items())
    faults = "; ".join(" ".join(fault.split())[:200] for fault in report.faults[:3]).replace("|", "/")
    with results.open("a") as file:
        file.write(
            f"| {report.kind} | {report.seed} | {'FAILED' if report.faults else 'ok'} | {report.acknowledged} "
            f"| {report.silence_s:.1f} | {notes} | {faults} |\n"
        )


HEAD = """# Rounds of faults

Appended to by `make soak` (`tests/crash/rounds.py`), a line for each round: see docs/testing.md, "Crash tests".

| fault | seed | result | acknowledged records | longest silence, s | measured | what was wrong |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=1 << 30)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--seed", type=int, default=time.time_ns() % (1 << 30))
    parser.add_argument("--results", type=Path, default=None)
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells of every refused connection
    kinds = [KINDS[name] for name in given.kinds.split(",")]
    return min(1, asyncio.run(soak(kinds, given.rounds, given.seed, given.results, each=given.each)))


if __name__ == "__main__":
    sys.exit(main())
