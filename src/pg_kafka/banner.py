"""What a person sees when the broker is ready. Plain text on stdout, flushed, so that a supervisor can wait for it."""

from __future__ import annotations

from pg_kafka import __version__, checks
from pg_kafka.cluster.view import Peer
from pg_kafka.config import Address, Config
from pg_kafka.embedded import Postgres

_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def show(config: Config, postgres: Postgres, listening: tuple[str, int], advice: list[str]) -> None:
    """Say where the broker is, what it stands on, and how to look at it from both sides."""
    address = Address(*listening[:2])
    # A wildcard is no address to connect to.
    shown = config.advertise or Address(_LOCAL.get(address.host, address.host), address.port)
    lines = [
        f"pg-kafka {__version__} is ready",
        f"  Kafka clients   {address}" + (f", advertised as {config.advertise}" if config.advertise else ""),
        f"  kept in         {postgres.description}",
        f"  SQL             {postgres.psql_command}",
        f"  try             echo hello | kcat -b {shown} -t greetings -P",
        f"                  kcat -b {shown} -t greetings -C -e",
    ]
    lines += [f"  note            {note}" for note in [*checks.address_advice(config), *advice]]
    print("\n".join(lines), flush=True)


def show_waiting(leader: Peer) -> None:
    """Say that another broker serves this database."""
    other = Address(leader.host, leader.port)
    print(f"pg-kafka: another broker ({other}) serves this database; waiting to take over", flush=True)
    if not leader.is_reachable:
        print(
            f"pg-kafka: {other} is no address to connect to, so clients cannot be sent there until then;"
            " give that broker --advertise",
            flush=True,
        )
