"""Kafka's own clients: the producer perf tool, one or several producers in a JVM, and a consumer."""

from __future__ import annotations

import hashlib
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.kafka_reference import BUILD_DIR, ToolMissing, class_path, java, need

SOURCES = Path(__file__).parent / "java"
# What bin/kafka-producer-perf-test.sh gives its JVM.
JVM = ("-Xmx512m", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")
# Java's default: batches that are full leave at once, so it matters at low load only.
LINGER_MS = 5
# A tool gives up by itself after 30 s without progress; this is for one that hangs.
TIMEOUT_S = 1800
_WARM_UP_SHARE = 0.2

__all__ = ["ToolMissing"]


@dataclass(frozen=True)
class ProducerRun:
    """What to send and how."""

    topic: str
    payload: Path
    records: int  # of all producers together
    producers: int = 1
    batch_bytes: int = 65_536
    codec: str = "none"
    records_per_s: int = -1  # of all producers together; -1: as fast as it goes


@dataclass(frozen=True)
class Consumed:
    """What the consumer says at its end."""

    records: int
    payload_bytes: int
    seconds: float
    seconds_from_first: float


@cache
def compiled() -> Path:
    """The folder of our classes. Raises ToolMissing without a JDK."""
    files = sorted(SOURCES.glob("*.java"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    folder = BUILD_DIR / f"bench-{digest}"
    if not folder.exists():
        fresh = folder.with_suffix(".new")
        compiler = need("javac", "apt-get install openjdk-17-jdk-headless")
        subprocess.run([compiler, "-d", str(fresh), "-cp", class_path(), *map(str, files)], check=True)
        fresh.rename(folder)
    return folder


def command(main: str, *arguments: str) -> list[str]:
    """A main class of ours or of Kafka's, as a process."""
    words = java(main, *arguments, options=JVM)
    place = words.index("-cp") + 1
    words[place] = f"{compiled()}:{words[place]}"
    return words


def output_of(words: Sequence[str]) -> str:
    """What a client prints; raises RuntimeError when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0 or "Exception" in done.stdout + done.stderr:
        raise RuntimeError(f"{' '.join(words[-8:])} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def produce(bootstrap: str, run: ProducerRun) -> dict[str, float]:
    """Records a second (all, and without the first fifth) and latencies (without the first fifth), by name."""
    each = run.records // run.producers
    output = output_of(
        command(
            "org.apache.kafka.tools.ManyProducers",
            str(run.producers),
            *("--bootstrap-server", bootstrap, "--topic", run.topic),
            *("--throughput", str(run.records_per_s // run.producers if run.records_per_s > 0 else -1)),
            *("--num-records", str(each), "--payload-file", str(run.payload)),
            *("--warmup-records", str(int(each * _WARM_UP_SHARE))),
            *("--command-property", "acks=all", "enable.idempotence=true", f"batch.size={run.batch_bytes}"),
            *(f"linger.ms={LINGER_MS}", f"compression.type={run.codec}"),
        )
    )
    return figures(output, each, run.producers)


def figures(output: str, each: int, producers: int) -> dict[str, float]:
    """From what the perf tools have printed. Raises RuntimeError when one has not finished."""
    wholes = re.findall(rf"^{each} records sent, [\d.]+ records/sec.*", output, re.MULTILINE)
    steadies = re.findall(r"^\d+ steady state records sent, [\d.]+ records/sec.*", output, re.MULTILINE)
    if len(wholes) != producers or len(steadies) != producers:
        raise RuntimeError(f"the perf tool ended with: {output[-800:]}")
    latencies = [
        {name: float(value) for value, name in re.findall(r"([\d.]+) ms ([\d.]+th)", line)} for line in steadies
    ]
    # They start together, each when its client is made: that of the slowest is the time of all.
    slowest = min(_rate(line) for line in wholes)
    names = {"50th": "p50_ms", "99th": "p99_ms", "99.9th": "p99.9_ms"}
    return {
        "records_per_s": slowest * producers,
        "steady_per_s": sum(map(_rate, steadies)),
        **{ours: statistics.median(one[theirs] for one in latencies) for theirs, ours in names.items()},
    }


def _rate(line: str) -> float:
    return float(line.split(", ")[1].split()[0])


class Consumer:
    """A consumer process. `wait_ready` returns when its partitions are assigned, `result` when it has read all."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, records: int, group: str = "") -> None:
        words = command("Consumer", bootstrap, topic, str(partitions), str(records), group)
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise self._failure("")

    def result(self) -> Consumed:
        output, errors = self._process.communicate(timeout=TIMEOUT_S)
        found = re.search(r"(\d+) records, (\d+) bytes, ([\d.]+) s, ([\d.]+) s", output)
        if found is None or self._process.returncode != 0:
            raise self._failure(output + errors)
        return Consumed(int(found[1]), int(found[2]), float(found[3]), float(found[4]))

    def _failure(self, output: str) -> RuntimeError:
        if not output:
            output = "".join(self._process.communicate(timeout=TIMEOUT_S))
        return RuntimeError(f"the consumer ended with: {output[-2000:]}")
