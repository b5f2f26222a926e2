"""Logins, handshakes, transactions, the audit log, forwarding and the storage as a broker's page of metrics tells them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.broker import tls_files
from tests.broker.inside import Inside, running
from tests.broker.rawclient import RawClient, batch
from tests.broker.saslpeer import SaslPeer, sasl_broker
from tests.broker.transactor import Transactor
from tests.postgres import PostgresServer

from pg_kafka.app import Seams, Term
from pg_kafka.broker import audit, tls
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.cluster.incarnation import History
from pg_kafka.config.address import Address
from pg_kafka.config.listeners import Endpoints, ProtocolMap
from pg_kafka.metrics.exposition import Form, text

PLAIN = Form(is_openmetrics=False, is_compressed=False)


def page(inside: Inside) -> dict[tuple[str, ...], float]:
    """Samples by their name and the values of their labels, in the order of the labels' names."""
    written = text(inside.term._observed.registry.collect(), PLAIN).decode()
    return {
        (sample.name, *(label for _, label in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(written)
        for sample in family.samples
    }


async def until(
    inside: Inside, condition: Callable[[dict[tuple[str, ...], float]], bool]
) -> dict[tuple[str, ...], float]:
    """The first page that has what is wanted."""
    async with asyncio.timeout(20):
        while not condition(found := page(inside)):  # noqa: ASYNC110 - a page tells nobody
            await asyncio.sleep(0.01)
    return found


# -- storage, seen from outside ------------------------------------------------------------------------------------------


async def test_records_that_clients_write_are_on_the_page(postgres15: PostgresServer) -> None:
    async with running(postgres15, Seams(), log_retention_ms=-1, metrics=Address("127.0.0.1", 0)) as inside:
        async with await RawClient.connect(inside) as client:
            topic = await client.create_topic()
            before = page(inside)
            for _ in range(3):
                assert (await client.produce(topic, batch([b"a", b"b"]))).error_code == 0
        later = [("pg_kafka_segments", "active"), ("pg_kafka_upkeep_steps_total", "janitor", "roll segments")]
        found = await until(inside, lambda now: all(name in now for name in later))
        assert found["pg_kafka_lane_records_total", "0"] - before["pg_kafka_lane_records_total", "0"] == 6
        assert found["pg_kafka_leader",] == 1
        assert found["pg_kafka_leader_epoch",] == 1
        assert found["pg_kafka_incarnations_total",] == 1
        assert found["pg_kafka_take_overs_total",] == 0
        assert found["pg_kafka_upkeep_steps_total", "janitor", "roll segments"] >= 1
        assert found["pg_kafka_postgres_sessions", "janitor"] == 1
        assert found["pg_kafka_audit_events_total", "topic created"] == 1
        assert found["pg_kafka_segments", "active"] == 1
    over = page(inside)
    assert over["pg_kafka_leader",] == 0
    assert over["pg_kafka_incarnations_ended_total", "stopped"] == 1
    assert over["pg_kafka_lane_records_total", "0"] == found["pg_kafka_lane_records_total", "0"]  # counters stay
    for gone in ("pg_kafka_heartbeat_age_seconds", "pg_kafka_backlog_bytes", "pg_kafka_survey_age_seconds"):
        assert (gone,) not in over


# -- logging in ----------------------------------------------------------------------------------------------------------


async def test_logins_are_counted_by_listener_mechanism_and_result(postgres15: PostgresServer) -> None:
    settings = {"connection_failed_authentication_delay_ms": 0, "authentication_timeout_ms": 1000}
    async with sasl_broker(postgres15, **settings) as broker:
        await broker.create_user("alice", "secret")
        for _ in range(2):
            async with await SaslPeer.connect(broker) as peer:
                assert (await peer.scram("alice", "secret")).error_code == 0
        for password in ("wrong", "wronger"):
            async with await SaslPeer.connect(broker) as peer:
                assert (await peer.plain("alice", password)).error_code != 0
        async with await SaslPeer.connect(broker) as peer:
            assert (await peer.handshake("GSSAPI")).error_code != 0
        async with await SaslPeer.connect(broker) as peer:
            peer.writer.write(b"\0\0\0\x08\0\x03\0\0\0\0\0\0")  # Metadata, which nobody asks before
            assert await peer.is_closed_by_peer()
        async with await SaslPeer.connect(broker) as peer:
            await peer.handshake("SCRAM-SHA-256")
            assert await peer.is_closed_by_peer()  # it says nothing more
        found = page(broker.inside)
        logins = {labels[1:]: value for labels, value in found.items() if labels[0] == "pg_kafka_logins_total"}
        assert logins == {
            ("SASL", "SCRAM-SHA-512", "success"): 2,
            ("SASL", "PLAIN", "failure"): 2,
            ("SASL", "none", "failure"): 2,
            ("SASL", "SCRAM-SHA-256", "timeout"): 1,
        }
        assert found["pg_kafka_audit_events_total", "login failed"] == 3


def _refuse_certificate(port: int, trusting_others: ssl.SSLContext) -> None:
    """As clients do: they say so by an alert, which asyncio's do not."""
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLCertVerificationError):
        trusting_others.wrap_socket(plain, server_hostname="localhost")


async def test_handshakes_are_counted_by_listener_and_result(
    postgres15: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.5)
    ours = tls_files.make(tmp_path / "ours", "alice")
    strangers = tls_files.make(tmp_path / "strangers", "alice")
    settings = {
        "listeners": Endpoints.parse("SECURE://127.0.0.1:0"),
        "listener_security_protocol_map": ProtocolMap.parse("SECURE:SSL"),
        "ssl_keystore_location": str(ours.broker),
        "ssl_truststore_location": str(ours.ca),
        "ssl_client_auth": "required",
    }
    async with running(postgres15, Seams(), **settings) as inside:
        port = inside.term.listeners[0].address.port
        good = tls_files.client_context(ours.ca, ours.clients[0])
        for _ in range(2):
            _, writer = await asyncio.open_connection("localhost", port, ssl=good)
            writer.close()
        unknown = tls_files.client_context(ours.ca, strangers.clients[0])
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            reader, writer = await asyncio.open_connection("localhost", port, ssl=unknown)
            await reader.read()
            writer.close()
        await asyncio.to_thread(_refuse_certificate, port, tls_files.client_context(strangers.ca, ours.clients[0]))
        _, writer = await asyncio.open_connection("localhost", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        reader, silent = await asyncio.open_connection("localhost", port)
        silent.write(b"\x16\x03\x01")
        await reader.read()  # until it is closed
        _, gone = await asyncio.open_connection("localhost", port)
        gone.write(b"\x16\x03\x01")
        gone.close()
        seen = inside.term._observed.connections.handshakes
        results = {"success": 2, "refused": 2, "not tls": 1, "timeout": 1, "gone": 1}
        wanted = {("SECURE", result): count for result, count in results.items()}
        with contextlib.suppress(TimeoutError):
            await until(inside, lambda _: seen == wanted)
        assert seen == wanted
        assert page(inside)["pg_kafka_tls_handshakes_total", "SECURE", "not tls"] == 1
        for one in (writer, silent):
            one.close()


# -- transactions --------------------------------------------------------------------------------------------------------


async def test_transactions_are_counted_by_how_they_end_and_told_while_they_are_open(
    postgres15: PostgresServer,
) -> None:
    async with running(postgres15, Seams(), log_retention_ms=-1) as inside:
        async with await RawClient.connect(inside) as client:
            topic = await client.create_topic()
            producers = [Transactor(client, timeout_ms=60_000) for _ in range(4)]
            for producer in producers:
                assert await producer.init() == 0
                assert await producer.send(topic, b"a") == 0
            found = page(inside)
            assert found["pg_kafka_open_transactions",] == found["pg_kafka_transactional_ids", "Ongoing"] == 4
            await until(inside, lambda now: now["pg_kafka_oldest_open_transaction_seconds",] >= 0.1)
            assert await producers[0].end(commit=True) == 0
            assert await producers[1].end(commit=False) == 0
            hasty = Transactor(client, timeout_ms=1)
            assert await hasty.init() == 0
            await hasty.send(topic, b"a")
            asked = asyncio.create_task(
                inside.term._transactions.abort(producers[2].id, producers[2].producer_id, producers[2].epoch)
            )
            assert await asked is None
            found = await until(inside, lambda now: now["pg_kafka_transactions_ended_total", "timed out"] == 1)
            ended = {
                result: found["pg_kafka_transactions_ended_total", result]
                for result in ("committed", "aborted", "operator")
            }
            assert ended == {"committed": 1, "aborted": 1, "operator": 1}
            found = await until(inside, lambda now: now["pg_kafka_open_transactions",] == 1)
            assert found["pg_kafka_transactional_ids", "CompleteAbort"] == 3
            assert found["pg_kafka_transactional_ids", "CompleteCommit"] == 1
            assert await producers[3].end(commit=True) == 0
            found = await until(inside, lambda now: now["pg_kafka_open_transactions",] == 0)
            assert found["pg_kafka_oldest_open_transaction_seconds",] == 0
            inside.term._transactions._fail("a test", next(iter(inside.term._transactions)))
            await until(inside, lambda now: now["pg_kafka_transactions_reloads_total",] == 1)
            after = await until(inside, lambda now: now["pg_kafka_transactional_ids", "CompleteCommit"] == 2)
            assert after["pg_kafka_transactions_ended_total", "committed"] == 2  # what was decided is not decided again


# -- the audit log and forwarding ----------------------------------------------------------------------------------------


async def test_audit_events_that_wait_are_told_and_those_that_are_lost_counted(
    postgres15: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "QUEUED", 3)
    async with running(postgres15, Seams()) as inside:
        log = inside.term._audit
        assert log is not None
        who = ConnectionInfo(1, ("10.0.0.1", 1), ("", 0))
        for number in range(5):
            log.note("topic created", who=who, resource=f"topic {number}")
        found = page(inside)
        assert found["pg_kafka_audit_queued_events",] == 3
        assert found["pg_kafka_audit_lost_events_total",] == 2
        assert found["pg_kafka_audit_events_total", "topic created"] == 5
        await until(inside, lambda now: now["pg_kafka_audit_queued_events",] == 0)


async def test_what_is_passed_to_the_leader_is_counted_on_both_sides(postgres15: PostgresServer) -> None:
    async with running(postgres15, Seams()) as leader:
        config = dataclasses.replace(leader.term._config, listen=Address("127.0.0.1", 0))
        waiting = Term(config, leader.term._postgres, History(), Seams())
        starting = asyncio.create_task(waiting.start())
        try:
            async with asyncio.timeout(20):
                while waiting._waiting is None:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.01)
            host, port = waiting.listeners[0].address
            other = Inside(host, port, waiting)
            async with await RawClient.connect(other) as client:
                assert await client.new_producer_id() >= 0
            found = page(other)
            assert found["pg_kafka_forwarded_requests_total", "answered", "waiting"] == 1
            assert found["pg_kafka_forwarded_requests_under_way", "waiting"] == 0
            assert found["pg_kafka_leader",] == 0
            found = await until(leader, lambda now: now["pg_kafka_forwarded_requests_total", "answered", "leader"] == 1)
            assert found["pg_kafka_forwarded_requests_under_way", "leader"] == 0
            await until(leader, lambda now: now["pg_kafka_waiting_brokers",] == 1)
        finally:
            starting.cancel()
            await asyncio.wait([starting])
            await waiting.stop()
