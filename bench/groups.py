"""Groups at scale, by a raw-protocol client: python -m bench.groups, or make bench BENCH=groups.

    join        1,000 members join one group of the classic protocol at once: seconds until all have the same generation and
                an assignment
    join (848)  the same with the consumer protocol (KIP-848): seconds until the members have all partitions between them
    singles     2,000 groups of one member each
    commits     those groups commit 20,000 partition offsets a second, 50 a request, at a fixed rate: latency of a request
                from the moment it is due

    --system NAME, --bootstrap HOST:PORT (a broker that runs; no processor time and memory of it then), --members,
    --groups, --rate, --seconds, --rounds

A connection for each member, heartbeats included. A broker that does not serve an API is told and left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench import results, tables, turns
from bench.classic_groups import OFFSETS_A_REQUEST, join_many_groups, join_one_group
from bench.consumer_groups import join_consumer_group
from bench.measurements import Measurement, summarize
from bench.meter import memory
from bench.payloads import Payloads
from bench.raw import CONSUMER_GROUP_HEARTBEAT, JOIN_GROUP, in_process
from bench.systems import SYSTEMS, System, running
from bench.turn import Turn
from pg_kafka.config.address import Address

# Kafka waits that long for more members before the first rebalance; the reference in tests has 0.
KAFKA_SETTINGS = {"group.initial.rebalance.delay.ms": "3000"}


@dataclass(frozen=True)
class Groups:
    """Sizes of all parts."""

    members: int = 1_000
    groups: int = 2_000
    offsets_per_s: int = 20_000
    seconds: float = 10.0

    def run(self, turn: Turn) -> Iterator[Measurement]:
        """What the turn's system serves of it."""
        roles = turn.system.roles()
        place = (turn.system.host, turn.system.port)
        partitions = 2 * self.members
        wide = turn.topic(partitions)
        name = f"{self.members:,} members join one group"
        for api_key, join, what in (
            (JOIN_GROUP, join_one_group, name),
            (CONSUMER_GROUP_HEARTBEAT, join_consumer_group, f"{name} (KIP-848)"),
        ):
            if turn.serves(api_key):
                found, _ = in_process(join, *place, wide, partitions, self.members, roles)
                yield turn.found("groups", what, {**found, **memory(turn.system)})
            else:
                turn.say(f"{turn.system.name} does not serve what this needs: {what}")
        if turn.serves(JOIN_GROUP):
            narrow = turn.topic(OFFSETS_A_REQUEST)
            sizes = (self.groups, self.offsets_per_s, self.seconds)
            (joined, committed), _ = in_process(join_many_groups, *place, narrow, *sizes, roles)
            held = memory(turn.system)
            yield turn.found("groups", f"{self.groups:,} groups of one member", {**joined, **held})
            what = f"{self.offsets_per_s:,} offsets/s, {OFFSETS_A_REQUEST} a request"
            yield turn.found("commits", what, {**committed, **held})


class RunningBroker(System):
    """A broker that somebody else has started."""

    def __init__(self, place: Address) -> None:
        super().__init__(str(place), place.port)
        self.host = place.host

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def roles(self) -> dict[str, int]:
        return {}

    def data_folders(self) -> Sequence[Path]:
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", action="append", default=[], metavar="NAME")
    parser.add_argument("--bootstrap", metavar="HOST:PORT")
    parser.add_argument("--members", type=int, default=Groups.members)
    parser.add_argument("--groups", type=int, default=Groups.groups)
    parser.add_argument("--rate", type=int, default=Groups.offsets_per_s, help="partition offsets a second")
    parser.add_argument("--seconds", type=float, default=Groups.seconds)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    sizes = Groups(options.members, options.groups, options.rate, options.seconds)
    measurements: list[Measurement] = []
    failures: list[str] = []
    flushes: list[float] = []
    start = time.monotonic()

    def measure(system: System, number: int, folder: Path) -> None:
        turn = Turn(system, number, Payloads(folder), folder, console.print)
        try:
            for one in sizes.run(turn):
                measurements.append(one)
                console.print(turns.line(one), highlight=False)
        except Exception as error:  # the other systems are worth having
            failures.append(f"{system.name}: {type(error).__name__}: {error}")
            console.print(f"[red]failed[/] {failures[-1]}")

    with tempfile.TemporaryDirectory(prefix="pgk-groups-", dir="/tmp") as root:
        Path(root).chmod(0o711)
        if options.bootstrap:
            measure(RunningBroker(Address.parse(options.bootstrap)), 0, Path(root))
        else:
            wanted = [name for name in SYSTEMS if _is_named(name, options.system)]
            for number in range(options.rounds):
                flushes.append(turns.flush_ms(Path(root)))
                for name in wanted:
                    folder = Path(root) / f"turn-{number}-{len(measurements)}-{wanted.index(name)}"
                    folder.mkdir(mode=0o711)
                    with running(name, folder, KAFKA_SETTINGS if name.startswith("Kafka") else {}) as system:
                        measure(system, number, folder)
    sheets = tables.sheets(summarize(measurements))
    for sheet in sheets:
        console.print(sheet.as_table())
    if measurements:
        path = results.save("groups", measurements, failures, flushes, time.monotonic() - start)
        path.with_suffix(".md").write_text("\n".join(sheet.as_markdown() for sheet in sheets))
        console.print(path)
    return 1 if failures else 0


def _is_named(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(part.lower() in name.lower() for part in wanted)


if __name__ == "__main__":
    sys.exit(main())
