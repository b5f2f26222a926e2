"""What a person sees when the broker is ready. Plain text on stdout, flushed, so that a supervisor can wait for it."""

from __future__ import annotations

from collections.abc import Sequence

from pg_kafka import __version__, checks
from pg_kafka.cluster.view import Peer
from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.config.listeners import Listener, SecurityProtocol
from pg_kafka.embedded import Postgres
from pg_kafka.secure import Secured

_LOCAL = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def show(
    config: Config, postgres: Postgres, listeners: Sequence[Listener], metrics: Address | None, advice: list[str]
) -> None:
    """Say where the broker is, what it stands on, and how to look at it from both sides."""
    first = listeners[0]
    # A wildcard is no address to connect to.
    shown = first.advertised or Address(_LOCAL.get(first.address.host, first.address.host), first.address.port)
    lines = [
        f"pg-kafka {__version__} is ready",
        *(f"  Kafka clients   {_place(listener)}" for listener in listeners),
        f"  kept in         {postgres.description}",
        f"  SQL             {postgres.psql_command}",
        *([] if metrics is None else [f"  metrics         http://{metrics}/metrics"]),
        *_first_steps(config, first, shown),
    ]
    lines += [f"  note            {note}" for note in [*checks.address_advice(config), *advice]]
    print("\n".join(lines), flush=True)


def _first_steps(config: Config, listener: Listener, shown: Address) -> list[str]:
    if config.secure:
        return Secured.of(config).lines(shown)
    if listener.protocol is not SecurityProtocol.PLAINTEXT:
        return [f"  try             kcat -b {shown} -X security.protocol={listener.protocol.value} -L"]
    return [
        f"  try             echo hello | kcat -b {shown} -t greetings -P",
        f"                  kcat -b {shown} -t greetings -C -e",
    ]


def _place(listener: Listener) -> str:
    """Where a listener is, and what it speaks unless that is PLAINTEXT."""
    text = str(listener.address) if listener.address.host else f"*:{listener.address.port}"
    if listener.advertised:
        text += f", advertised as {listener.advertised}"
    if listener.protocol is not SecurityProtocol.PLAINTEXT:
        text += f", {listener.protocol.value}"
    return text


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
