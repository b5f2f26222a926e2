"""What ACLs and SCRAM together cost the broker's process for each request: processor seconds with both against neither.

    python -m bench.acls                         ten pairs of 100,000 requests of each kind
    python -m bench.acls --kind fetch --pairs 3 --requests 20000

Two brokers, each on an embedded PostgreSQL of its own, have work in turns; who begins changes from pair to pair. One lets
everybody do everything. On the other one the client has logged in by SCRAM, and 10,000 access control lists say what it may
do. What the kinds are: `bench/requests.py`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop

from bench.raw import check, connect_many
from bench.requests import HERE, HOST, KINDS, Broker, free_port, run
from bench.sasl import NAME, log_in, make_user, wait_for_user
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.wire.messages.create_acls import AclCreation, CreateAclsRequest

CREATE_ACLS = 30
ACLS = 10_000
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.acls", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--kind", action="append", choices=KINDS, default=[])
    options = parser.parse_args(arguments)
    without, open_port, scram_port = free_port(), free_port(), free_port()
    settings = {
        "PG_KAFKA_LISTENERS": f"PLAINTEXT://{HOST}:{open_port},SASL://{HOST}:{scram_port}",
        "PG_KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT",
        "PG_KAFKA_AUTHORIZER": "acl",
        "PG_KAFKA_SUPER_USERS": "User:ANONYMOUS",  # who makes the user and the ACLs
    }
    print(f"processor seconds of the broker for {options.requests:,} requests")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgk-bench-", dir="/tmp")))
        root.chmod(0o711)  # PostgreSQL, which does not run as root, must pass
        brokers: list[Broker] = []
        for name, port, more in (("without", without, None), ("with", open_port, settings)):
            folder = root / name
            folder.mkdir()
            folder.chmod(0o711)
            brokers.append(Broker(HERE, folder, port, more))
            stack.callback(brokers[-1].stop)
        uvloop.run(make_user(open_port))
        uvloop.run(wait_for_user(scram_port))
        uvloop.run(make_acls(open_port))
        for kind in options.kind or list(KINDS):
            _compare(brokers, kind, (without, scram_port), options.pairs, options.requests)
    return 0


def _compare(brokers: Sequence[Broker], kind: str, ports: tuple[int, int], pairs: int, requests: int) -> None:
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(pairs):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            begin = log_in if which else None
            found[which].append(uvloop.run(run(brokers[which], kind, requests, ports[which], begin)))
        print(f"{kind:10} pair {number + 1:2}   without {found[0][-1]:6.2f}   with {found[1][-1]:6.2f}", flush=True)
    ratios = [on / off for off, on in zip(*found, strict=True)]
    off, on = map(statistics.median, found)
    print(
        f"{kind:10} median    without {off:6.2f}   with {on:6.2f}"
        f"   with/without {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
