"""pg_kafka and Apache Kafka in turns on this machine: one Java producer, then one Java consumer.

    make bench BENCH=bench/compare.py                      some 4 minutes
    python bench/compare.py --profile full                 longer runs and more rounds
    python bench/compare.py --only pg_kafka --rounds 1     one system, quickly

Every turn starts a broker on an empty folder, warms it up, runs all workloads, stops it and removes its data, so that no
system pays for another's dirty pages. The order rotates from round to round. The producer is Kafka's own perf tool with
acks=all, idempotence (Java's default) and the same settings for all; the consumer assigns the partition itself.
A rate is that of the whole run, the client's own start-up included; "steady" leaves out its first fifth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.kafka_reference import HOST, ApacheKafka, ToolMissing, end, free_port, java, spawn, wait_until_served  # noqa: E402

RESULTS = ROOT / "bench" / "results"
COMMAND = Path(sys.executable).parent / "pg-kafka"
CONSUMER = ROOT / "bench" / "AssignedConsumer.java"

# Java's default: batches that are full leave at once, so it matters at low load only.
LINGER_MS = 5
# What bin/kafka-producer-perf-test.sh gives its JVM.
CLIENT_JVM = ("-Xmx512m", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")
RUN_TIMEOUT_S = 300


@dataclass(frozen=True)
class Workload:
    """A number of records of one size, and the producer's batch.size."""

    name: str
    record_bytes: int
    batch_bytes: int
    records: int
    is_consumed: bool = False

    def times(self, factor: float) -> Workload:
        return Workload(self.name, self.record_bytes, self.batch_bytes, int(self.records * factor), self.is_consumed)


WORKLOADS = (
    Workload("100 B, 64 kB", 100, 65_536, 1_500_000, is_consumed=True),
    Workload("100 B, 16 kB", 100, 16_384, 700_000),
    Workload("1 kB, 64 kB", 1_000, 65_536, 200_000, is_consumed=True),
)
# What a broker gets before it is measured: Apache Kafka's JVM is slow at first.
WARM_UP = Workload("warm-up", 100, 65_536, 300_000)
WARM_UP_SHARE = 0.2
PROFILES = {"smoke": (1, 0.1), "short": (3, 1.0), "full": (7, 3.0)}  # rounds, factor on the records


@dataclass(frozen=True)
class Measurement:
    """One run of one workload on one system."""

    system: str
    workload: str
    direction: str
    round: int
    records_per_s: float
    steady_records_per_s: float
    broker_cpu_s: float
    records: int
    latency_ms: dict[str, float]


class PgKafka:
    """`pg-kafka serve` with its embedded PostgreSQL and default settings."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.bootstrap = f"{HOST}:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir()
        self._folder.chmod(0o711)  # as root, PostgreSQL runs as another user
        log = self._folder / "pg-kafka.log"
        command = [str(COMMAND), "serve", "--listen", self.bootstrap, "--data", str(self._folder / "data")]
        self._process = spawn(command, log)
        wait_until_served(self.port, self._process, log)

    def stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            end(process)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class Kafka(ApacheKafka):
    """Apache Kafka with the JVM options of its own start script."""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


SYSTEMS: dict[str, Callable[[Path], PgKafka | Kafka]] = {
    "pg_kafka": PgKafka,
    "Kafka, flush.messages=1": lambda folder: Kafka(folder, {"log.flush.interval.messages": "1"}),
    "Kafka as shipped": Kafka,
}
OURS, FLUSHING, SHIPPED = SYSTEMS


def cpu_s(pid: int) -> float:
    """Processor time of a process and all below it, those that have ended included."""
    total = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def run(command: Sequence[str]) -> str:
    """What a client prints; raises when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[-8:])} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def produce(bootstrap: str, topic: str, workload: Workload) -> tuple[float, float, dict[str, float]]:
    """Records a second, without the first ones, and the latencies that the perf tool reports."""
    output = run(
        java(
            "org.apache.kafka.tools.ProducerPerformance",
            *("--bootstrap-server", bootstrap, "--topic", topic, "--throughput", "-1"),
            *("--num-records", str(workload.records), "--record-size", str(workload.record_bytes)),
            *("--warmup-records", str(int(workload.records * WARM_UP_SHARE))),
            *("--command-property", "acks=all", f"batch.size={workload.batch_bytes}", f"linger.ms={LINGER_MS}"),
            options=CLIENT_JVM,
        )
    )
    whole = re.search(rf"^{workload.records} records sent, ([\d.]+) records/sec.*", output, re.MULTILINE)
    steady = re.search(r"^\d+ steady state records sent, ([\d.]+) records/sec", output, re.MULTILINE)
    if whole is None or steady is None:
        raise RuntimeError(f"the perf tool ended with: {output[-500:]}")
    latencies = {name: float(value) for value, name in re.findall(r"([\d.]+) ms ([\w.]+)", whole[0])}
    return float(whole[1]), float(steady[1]), latencies


def consume(bootstrap: str, topic: str, workload: Workload) -> float:
    """Records a second."""
    output = run(java(str(CONSUMER), bootstrap, topic, str(workload.records), options=CLIENT_JVM))
    found = re.search(r"(\d+) records, (\d+) bytes, ([\d.]+) records/sec", output)
    if found is None or int(found[2]) != workload.records * workload.record_bytes:
        raise RuntimeError(f"the consumer ended with: {output}")
    return float(found[3])


@contextmanager
def running(name: str, folder: Path) -> Iterator[PgKafka | Kafka]:
    """A broker on an empty folder; afterwards nothing of it is left, in memory or on disk."""
    broker = SYSTEMS[name](folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()


def turn(name: str, number: int, workloads: Sequence[Workload], folder: Path) -> Iterator[Measurement]:
    """All workloads on one system."""
    with running(name, folder) as broker:
        produce(broker.bootstrap, "warm-up", WARM_UP)
        for place, workload in enumerate(workloads):
            topic = f"bench-{place}"
            before = cpu_s(broker.pid)
            rate, steady, latencies = produce(broker.bootstrap, topic, workload)
            used = cpu_s(broker.pid) - before
            yield Measurement(name, workload.name, "produce", number, rate, steady, used, workload.records, latencies)
            if workload.is_consumed:
                before = cpu_s(broker.pid)
                rate = consume(broker.bootstrap, topic, workload)
                used = cpu_s(broker.pid) - before
                yield Measurement(name, workload.name, "consume", number, rate, rate, used, workload.records, {})


def table(measurements: Sequence[Measurement]) -> str:
    """Medians with their spread, what pg_kafka is in relation, and processor time."""
    titles = f"{'k rec/s':>9}  {'(min - max)':15}{'steady':>8}{'pg_kafka is':>13}"
    lines = [f"{'':50}{titles}{'CPU us/rec':>12}{'p50 ms':>9}{'p99 ms':>9}"]
    groups: dict[tuple[str, str], dict[str, list[Measurement]]] = {}
    for one in measurements:
        groups.setdefault((one.direction, one.workload), {}).setdefault(one.system, []).append(one)
    for (direction, workload), systems in sorted(groups.items(), key=lambda item: item[0][0], reverse=True):
        ours = median(systems[OURS]) if OURS in systems else None
        for place, (system, runs) in enumerate((name, systems[name]) for name in SYSTEMS if name in systems):
            rates = [one.records_per_s / 1000 for one in runs]
            steady = statistics.median(one.steady_records_per_s for one in runs) / 1000
            ratio = f"{ours / median(runs):.2f} x" if ours is not None and system != OURS else ""
            cpu = statistics.median(one.broker_cpu_s / one.records * 1e6 for one in runs)
            latencies = [
                f"{statistics.median(one.latency_ms[name] for one in runs):.0f}" if runs[0].latency_ms else ""
                for name in ("50th", "99th")
            ]
            title = f"{direction} {workload}" if place == 0 else ""
            spread = f"({min(rates):.0f} - {max(rates):.0f})"
            lines.append(
                f"{title:24}{system:26}{median(runs) / 1000:9.0f}  {spread:15}{steady:8.0f}{ratio:>13}{cpu:12.2f}"
                f"{latencies[0]:>9}{latencies[1]:>9}"
            )
    return "\n".join(lines)


def median(runs: Sequence[Measurement]) -> float:
    return statistics.median(one.records_per_s for one in runs)


def save(measurements: Sequence[Measurement], profile: str) -> Path:
    """A JSON file in bench/results."""
    RESULTS.mkdir(exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    now = datetime.now(UTC)
    path = RESULTS / f"compare-{now:%Y%m%dT%H%M%S}.json"
    content = {
        "at": now.isoformat(timespec="seconds"),
        "profile": profile,
        "commit": commit.stdout.strip(),
        "machine": {"cores": os.cpu_count(), "memory": psutil.virtual_memory().total, "system": platform.platform()},
        "settings": {"acks": "all", "linger.ms": LINGER_MS, "client JVM": CLIENT_JVM},
        "measurements": [asdict(one) for one in measurements],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=PROFILES, default="short")
    parser.add_argument("--rounds", type=int, help="instead of the profile's")
    parser.add_argument("--only", action="append", metavar="NAME", help="systems whose name contains NAME; repeatable")
    parser.add_argument("--workload", metavar="NAME", default="", help="workloads whose name contains NAME")
    options = parser.parse_args()
    rounds, factor = PROFILES[options.profile]
    names = [name for name in SYSTEMS if not options.only or any(part in name for part in options.only)]
    workloads = [workload.times(factor) for workload in WORKLOADS if options.workload in workload.name]
    # A signal must take the same way out as an error, past `running`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    measurements: list[Measurement] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pgk-bench-", dir="/tmp") as root:
        Path(root).chmod(0o711)
        for number in range(options.rounds or rounds):
            shift = number % len(names)
            for place, name in enumerate(itertools.islice(itertools.cycle(names), shift, shift + len(names))):
                try:
                    for one in turn(name, number, workloads, Path(root) / f"{number}-{place}"):
                        measurements.append(one)
                        print(
                            f"round {number + 1}: {one.direction} {one.workload:14} {name:24} "
                            f"{one.records_per_s / 1000:7.0f} k rec/s",
                            flush=True,
                        )
                except ToolMissing as missing:
                    print(f"compare needs Java and Maven, {missing}")
                    return 0
    print(f"\n{table(measurements)}\n\n{time.monotonic() - start:.0f} s, {save(measurements, options.profile)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
