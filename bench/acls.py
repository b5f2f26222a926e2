"""What ACLs and SCRAM together cost the broker's process for each request: processor seconds with both against neither.

    python -m bench.acls                         ten pairs of 100,000 requests of each kind
    python -m bench.acls --kind fetch --pairs 4 --requests 20000

Two brokers, each on an embedded PostgreSQL of its own, have work in turns. One lets everybody do everything. On the other
one the client has logged in by SCRAM, and 10,000 access control lists say what it may do. What the kinds are:
`bench/requests.py`.

The requests of a pair are sent in a hundred turns, which are short, so that both brokers meet the same machine: others that
use its processors slow down both alike. Two processes of the very same program differ by some percent for as long as they
live, by where their memory lies. So every second pair has two new brokers, and --same shows how much two brokers without
anything differ, which is what can not be measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from bench.raw import check, connect_many
from bench.requests import HERE, HOST, KINDS, WARM_UP_SHARE, Broker, Load, free_port
from bench.sasl import NAME, log_in, make_user, wait_for_user
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.wire.messages.create_acls import AclCreation, CreateAclsRequest

CREATE_ACLS = 30
ACLS = 10_000
TURNS = 50
PAIRS_OF_BROKERS = 2
LITERAL, ALLOW = 3, 3
_ALLOWED = (
    (ResourceType.TOPIC, Operation.READ),
    (ResourceType.TOPIC, Operation.WRITE),
    (ResourceType.TOPIC, Operation.CREATE),
    (ResourceType.GROUP, Operation.READ),
)


def _acl(user: str, resource: ResourceType, operation: Operation, name: str) -> AclCreation:
    return AclCreation(
        resource_type=resource,
        resource_name=name,
        resource_pattern_type=LITERAL,
        principal=f"User:{user}",
        host="*",
        operation=operation,
        permission_type=ALLOW,
    )


async def make_acls(port: int) -> None:
    (connection,) = await connect_many(HOST, port, 1)
    acls = [_acl(NAME, resource, operation, "*") for resource, operation in _ALLOWED]
    for number in range(ACLS - len(acls)):
        acls.append(_acl(f"user-{number % 500}", ResourceType.TOPIC, Operation.READ, f"topic-{number}"))
    answer = await connection.call(CREATE_ACLS, 3, CreateAclsRequest(creations=acls))
    for result in answer.results:
        check(result.error_code, "no ACL")
    connection.close()


@contextmanager
def _brokers(*, are_same: bool) -> Iterator[tuple[list[Broker], list[int]]]:
    """One without and one with, and the ports to ask; or two without."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgk-bench-", dir="/tmp")))
        root.chmod(0o711)  # PostgreSQL, which does not run as root, must pass
        brokers: list[Broker] = []

        def start(settings: Mapping[str, str] | None, port: int) -> None:
            folder = root / str(len(brokers))
            folder.mkdir()
            folder.chmod(0o711)
            brokers.append(Broker(HERE, folder, port, settings))
            stack.callback(brokers[-1].stop)

        without, other, scram = free_port(), free_port(), free_port()
        start(None, without)
        if are_same:
            start(None, other)
            yield brokers, [without, other]
            return
        start(
            {
                "PG_KAFKA_LISTENERS": f"PLAINTEXT://{HOST}:{other},SASL://{HOST}:{scram}",
                "PG_KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT",
                "PG_KAFKA_AUTHORIZER": "acl",
                "PG_KAFKA_SUPER_USERS": "User:ANONYMOUS",  # who makes the user and the ACLs
            },
            other,
        )
        uvloop.run(make_user(other))
        uvloop.run(wait_for_user(scram))
        uvloop.run(make_acls(other))
        yield brokers, [without, scram]


async def _pairs(
    brokers: Sequence[Broker], ports: Sequence[int], kind: str, pairs: int, requests: int, *, are_same: bool
) -> list[tuple[float, float]]:
    logins = (None, None) if are_same else (None, log_in)
    loads = [
        await Load.begin(broker, kind, port, login) for broker, port, login in zip(brokers, ports, logins, strict=True)
    ]
    for load in loads:
        await load.turn(int(requests * WARM_UP_SHARE))
    found = []
    for _ in range(pairs):
        spent = [0.0, 0.0]
        for turn in range(TURNS):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                spent[which] += await loads[which].turn(requests // TURNS)
        found.append((spent[0], spent[1]))
    for load in loads:
        load.end()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.acls", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--kind", action="append", choices=KINDS, default=[])
    parser.add_argument("--same", action="store_true", help="two brokers without anything")
    options = parser.parse_args(arguments)
    kinds = options.kind or list(KINDS)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    print(f"processor seconds of the broker for {options.requests:,} requests")
    for begun in range(0, options.pairs, PAIRS_OF_BROKERS):
        pairs = min(PAIRS_OF_BROKERS, options.pairs - begun)
        with _brokers(are_same=options.same) as (brokers, ports):
            for kind in kinds:
                some = uvloop.run(_pairs(brokers, ports, kind, pairs, options.requests, are_same=options.same))
                for number, (without, other) in enumerate(some, len(found[kind]) + 1):
                    print(f"{kind:10} pair {number:2}   without {without:7.3f}   with {other:7.3f}", flush=True)
                found[kind] += some
    for kind in kinds:
        ratios = [other / without for without, other in found[kind]]
        without, other = (statistics.median(side) for side in zip(*found[kind], strict=True))
        print(
            f"{kind:10} median    without {without:7.3f}   with {other:7.3f}"
            f"   with/without {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
