"""`pg-kafka bench`: a topic of its own, records in, records out, latency at a fixed rate, and the topic is gone again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pg_kafka.bench import load
from pg_kafka.bench.batches import BatchTemplate, values_for
from pg_kafka.bench.cluster import Topic, temporary_topic
from pg_kafka.bench.open_loop import OpenLoop
from pg_kafka.config.address import Address
from pg_kafka.wire import compression

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_SOURCE_BYTES = 1 << 20
_WARM_UP_S = 1.0
# At most in one request of the latency phase.
_LATENCY_BATCH_BYTES = 64 << 10


@dataclass(frozen=True)
class Options:
    """What to measure."""

    bootstrap: Address
    seconds: float = 10.0
    record_bytes: int = 100
    batch_bytes: int = 65_536
    producers: int = 1
    partitions: int = 1
    rate: int = 1_000
    codec: str = "none"


@dataclass(frozen=True)
class Report:
    """What was found. Latencies in ms."""

    produced_records: int
    produced_per_s: float
    produced_mb_per_s: float
    request_ms: dict[str, float]
    consumed_records: int
    consumed_per_s: float
    rate: int
    end_to_end_ms: dict[str, float]


def run(options: Options, console: Console) -> Report:
    """All phases. Raises BenchError."""
    place = (options.bootstrap.host, options.bootstrap.port)
    source = random.Random(0).randbytes(_SOURCE_BYTES)
    with temporary_topic(*place, options.partitions) as topic:
        template = BatchTemplate(
            values_for(options.batch_bytes, options.record_bytes, source), CODECS.index(options.codec)
        )
        with _counter(console, f"produce for {options.seconds:g} s") as progress:
            produced = load.produce(topic, template, options.producers, options.seconds, progress.add)
        with _counter(console, "consume from the beginning", produced.records) as progress:
            consumed = load.consume(topic, produced.records, progress.add)
    with temporary_topic(*place, 1) as topic:
        latencies = _latencies(options, topic, source, console)
    return Report(
        produced.records,
        produced.records / produced.seconds,
        produced.payload_bytes / produced.seconds / 1e6,
        produced.latency_ms.figures(),
        consumed.records,
        consumed.records / consumed.seconds,
        options.rate,
        latencies,
    )


def show(options: Options, report: Report, console: Console) -> None:
    """The report for a person."""
    batch = f"batches of {options.batch_bytes} bytes" + (f", {options.codec}" if options.codec != "none" else "")
    console.print(
        f"{options.bootstrap}: records of {options.record_bytes} bytes, {batch}, {options.producers} producer(s), "
        f"{options.partitions} partition(s), acks=all"
    )
    console.print(f"produce     {report.produced_per_s:12,.0f} records/s {report.produced_mb_per_s:10,.1f} MB/s")
    console.print(f"  a batch   {_line(report.request_ms)}")
    console.print(f"consume     {report.consumed_per_s:12,.0f} records/s")
    console.print(f"end to end  {_line(report.end_to_end_ms)}, at {report.rate:,} records/s, each sent when it is due")
    console.print("The client neither makes nor parses records while it measures: applications see less.", style="dim")


def as_json(options: Options, report: Report) -> str:
    """Options and report for a program."""
    asked = {**asdict(options), "bootstrap": str(options.bootstrap)}
    return json.dumps({"options": asked, "report": asdict(report)}, indent=1)


def _latencies(options: Options, topic: Topic, source: bytes, console: Console) -> dict[str, float]:
    template = BatchTemplate(values_for(_LATENCY_BATCH_BYTES, options.record_bytes, source), compression.NONE)
    total = int(options.rate * (options.seconds + _WARM_UP_S))
    with _counter(console, f"latency at {options.rate} records/s", total) as progress:
        measured = OpenLoop(topic, template, options.rate, options.seconds, _WARM_UP_S, progress.add).run()
    return measured.end_to_end_ms.figures()


class _Count:
    def __init__(self, progress: Progress, total: int | None, what: str) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=total)

    def add(self, records: int) -> None:
        self._progress.advance(self._task, records)


@contextmanager
def _counter(console: Console, what: str, total: int | None = None) -> Iterator[_Count]:
    """Progress on a terminal, nothing elsewhere; it leaves no trace."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Count(progress, total, what)


def _line(figures: dict[str, float]) -> str:
    return "  ".join(f"{name.removesuffix('_ms')} {value:.2f} ms" for name, value in figures.items())
