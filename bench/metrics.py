"""What metrics cost the broker's process for each request: processor seconds with `--metrics` against without.

    python -m bench.metrics                          ten pairs of 100,000 requests of each kind
    python -m bench.metrics --kind fetch --pairs 3 --requests 20000
    python -m bench.metrics --slow                   with pg_kafka.slow_request_ms instead of --metrics

Two brokers of this checkout, each on an embedded PostgreSQL of its own, have work in turns; who begins changes from pair to
pair. The one with metrics is asked for its page every so many seconds of work, as by Prometheus. What the kinds are:
`bench/requests.py`. The quickest requests show the most: the work for one of them is the same whatever it is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop

from bench.requests import HERE, HOST, KINDS, Broker, free_port, run

SCRAPE_S = 15.0


class Scrapes:
    """Somebody asks for the page each so many seconds of the turns in which the broker has work, as Prometheus does."""

    def __init__(self, port: int, every_s: float) -> None:
        self._port = port
        self._every_s = every_s
        self._left_s = 0.0

    @contextlib.asynccontextmanager
    async def on(self) -> AsyncIterator[None]:
        """For one turn."""
        begun_s = time.monotonic()
        task = asyncio.create_task(self._scrape())
        try:
            yield
        finally:
            if task.done():
                task.result()
            task.cancel()
            self._left_s -= time.monotonic() - begun_s

    async def _scrape(self) -> None:
        while True:
            await asyncio.sleep(self._left_s)
            reader, writer = await asyncio.open_connection(HOST, self._port)
            writer.write(f"GET /metrics HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            page = await reader.read()
            writer.close()
            if b" 200 " not in page[:20]:
                raise RuntimeError(f"no metrics: {page[:200]!r}")
            self._left_s += self._every_s


async def _measured(broker: Broker, kind: str, requests: int, scrapes: Scrapes | None) -> float:
    if scrapes is None:
        return await run(broker, kind, requests)
    async with scrapes.on():
        return await run(broker, kind, requests)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.metrics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--scrape-s", type=float, default=SCRAPE_S)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--kind", action="append", choices=KINDS, default=[])
    options = parser.parse_args(arguments)
    ports = {"without": free_port(), "with": free_port()}
    metrics_port = 0 if options.slow else free_port()
    scrapes = None if options.slow else Scrapes(metrics_port, options.scrape_s)
    more = {"PG_KAFKA_SLOW_REQUEST_MS": "60000"} if options.slow else {"PG_KAFKA_METRICS": f"{HOST}:{metrics_port}"}
    print(f"processor seconds of the broker for {options.requests:,} requests")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgk-bench-", dir="/tmp")))
        root.chmod(0o711)  # PostgreSQL, which does not run as root, must pass
        brokers: dict[str, Broker] = {}
        for name, port in ports.items():
            folder = root / name
            folder.mkdir()
            folder.chmod(0o711)
            settings = {"PG_KAFKA_LISTENERS": f"PLAINTEXT://{HOST}:{port}"} | (more if name == "with" else {})
            brokers[name] = Broker(HERE, folder, port, settings)
            stack.callback(brokers[name].stop)
        for kind in options.kind or list(KINDS):
            found: dict[str, list[float]] = {"without": [], "with": []}
            for number in range(options.pairs):
                for name in ("without", "with") if number % 2 == 0 else ("with", "without"):
                    asked = scrapes if name == "with" else None
                    found[name].append(uvloop.run(_measured(brokers[name], kind, options.requests, asked)))
                last = {name: values[-1] for name, values in found.items()}
                print(
                    f"{kind:10} pair {number + 1:2}   without {last['without']:7.2f}   with {last['with']:7.2f}",
                    flush=True,
                )
            ratios = [after / before for before, after in zip(found["without"], found["with"], strict=True)]
            print(
                f"{kind:10} median    without {statistics.median(found['without']):7.2f}"
                f"   with {statistics.median(found['with']):7.2f}"
                f"   with/without {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
