"""What SASL costs the broker's process for each request: processor seconds by a listener with SCRAM against one without.

    python -m bench.sasl                         ten pairs of 100,000 requests of each kind
    python -m bench.sasl --kind poll --pairs 3 --requests 20000

Both are listeners of one broker, on an embedded PostgreSQL, and have work in turns; who begins changes from pair to pair.
Sessions of the listener with SCRAM end after an hour, so that each request is looked at for that. What the kinds are:
`bench/requests.py`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import secrets
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench.raw import RawConnection, check, connect_many
from bench.requests import HERE, HOST, KINDS, Broker, free_port, run
from pg_kafka.security.scram import SHA_512, salted_password
from pg_kafka.wire.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    ScramCredentialUpsertion,
)
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest

HANDSHAKE, AUTHENTICATE, ALTER_USERS = 17, 36, 51
NAME, PASSWORD, SALT, ITERATIONS = "bench", "secret", b"salt of twenty bytes", 4096
# A user is known to the broker within a second.
ATTEMPTS = 100
_SALTED = salted_password(SHA_512, PASSWORD, SALT, ITERATIONS)


async def make_user(port: int) -> None:
    (connection,) = await connect_many(HOST, port, 1)
    user = ScramCredentialUpsertion(
        name=NAME, mechanism=SHA_512.number, iterations=ITERATIONS, salt=SALT, salted_password=_SALTED
    )
    answer = await connection.call(ALTER_USERS, 0, AlterUserScramCredentialsRequest(upsertions=[user]))
    check(answer.results[0].error_code, "no user")
    connection.close()


async def log_in(connection: RawConnection) -> None:
    """SCRAM-SHA-512."""
    answer = await connection.call(HANDSHAKE, 1, SaslHandshakeRequest(mechanism=SHA_512.name))
    check(answer.error_code, "no mechanism")
    first = f"n={NAME},r={secrets.token_urlsafe(18)}"
    answer = await connection.call(AUTHENTICATE, 2, SaslAuthenticateRequest(auth_bytes=f"n,,{first}".encode()))
    check(answer.error_code, "no challenge")
    challenge = answer.auth_bytes.decode()
    final = f"c=biws,{challenge.partition(',')[0]}"
    client_key = hmac.digest(_SALTED, b"Client Key", "sha512")
    signature = hmac.digest(hashlib.sha512(client_key).digest(), f"{first},{challenge},{final}".encode(), "sha512")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature, strict=True))).decode()
    answer = await connection.call(AUTHENTICATE, 2, SaslAuthenticateRequest(auth_bytes=f"{final},p={proof}".encode()))
    check(answer.error_code, "not authenticated")


async def wait_for_user(port: int) -> None:
    for attempt in range(ATTEMPTS):
        (connection,) = await connect_many(HOST, port, 1)
        try:
            await log_in(connection)
        except RuntimeError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return
        finally:
            connection.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.sasl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--kind", action="append", choices=KINDS, default=[])
    options = parser.parse_args(arguments)
    ports = {"without": free_port(), "SCRAM": free_port()}
    settings = {
        "PG_KAFKA_LISTENERS": f"PLAINTEXT://{HOST}:{ports['without']},SASL://{HOST}:{ports['SCRAM']}",
        "PG_KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT",
        "PG_KAFKA_CONNECTIONS_MAX_REAUTH_MS": "3600000",
    }
    print(f"processor seconds of the broker for {options.requests:,} requests")
    with tempfile.TemporaryDirectory(prefix="pgk-bench-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL, which does not run as root, must pass
        broker = Broker(HERE, Path(folder), ports["without"], settings)
        try:
            uvloop.run(make_user(ports["without"]))
            uvloop.run(wait_for_user(ports["SCRAM"]))
            for kind in options.kind or list(KINDS):
                compare(broker, kind, ports, options.pairs, options.requests)
        finally:
            broker.stop()
    return 0


def compare(broker: Broker, kind: str, ports: dict[str, int], pairs: int, requests: int) -> None:
    found: dict[str, list[float]] = {"without": [], "SCRAM": []}
    for number in range(pairs):
        for name in ("without", "SCRAM") if number % 2 == 0 else ("SCRAM", "without"):
            begin = log_in if name == "SCRAM" else None
            found[name].append(uvloop.run(run(broker, kind, requests, ports[name], begin)))
        print(f"{kind:10} pair {number + 1:2}   without {found['without'][-1]:6.2f}   SCRAM {found['SCRAM'][-1]:6.2f}")
    ratios = [on / off for off, on in zip(found["without"], found["SCRAM"], strict=True)]
    print(
        f"{kind:10} median    without {statistics.median(found['without']):6.2f}"
        f"   SCRAM {statistics.median(found['SCRAM']):6.2f}"
        f"   SCRAM/without {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    sys.exit(main())
