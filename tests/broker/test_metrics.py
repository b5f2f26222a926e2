"""What a broker tells of itself: metrics while it leads and waits, over take-overs, and whether it is ready."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.broker.command import Serving, run, wait_until
from tests.broker.groupclient import Member, commit
from tests.broker.metrics import Metrics
from tests.broker.rawclient import RawClient, batch, producing
from tests.broker.saslpeer import SaslPeer, sasl_broker
from tests.crash.proxy import Proxy
from tests.kafka_reference import free_port
from tests.postgres import Database, PostgresServer

from pg_kafka.metrics.catalogue import CATALOGUE, Kind
from pg_kafka.metrics.counters import OTHER
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest

PRODUCE, CREATE_TOPICS = 0, 19
ANY_PORT = "127.0.0.1:0"
# What the catalogue says of metrics that are not there in an ordinary run.
LATER = ("after a failure", "once there are some", "with pg_kafka.slow_request_ms")


@pytest.fixture
def serve(pg_database: Database) -> Any:
    """Starts brokers with metrics on one database."""
    started: list[Serving] = []

    def start(database: str = pg_database.dsn, **settings: str) -> tuple[Serving, Metrics]:
        metrics = f"127.0.0.1:{free_port()}"
        arguments = ("--listen", ANY_PORT, "--database", database, "--metrics", metrics)
        started.append(Serving(*arguments, settings={"LOG_RETENTION_MS": "-1", **settings}))
        return started[-1], Metrics(metrics)

    yield start
    for broker in started:
        broker.__exit__(None, None, None)


async def topics_of(broker: Serving, *names: str, partitions: int = 1) -> None:
    async with await RawClient.connect(broker) as client:
        topics = [CreatableTopic(name=name, num_partitions=partitions, replication_factor=1) for name in names]
        answer = await client.call(CreateTopicsRequest(topics=topics, timeout_ms=60_000), CREATE_TOPICS, 7, 60)
        assert {topic.error_code for topic in answer.topics} == {0}


async def sql(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_leader_tells_all_that_the_catalogue_has_and_nothing_else(serve: Any) -> None:
    broker, metrics = serve(METRICS_PER_PARTITION="true")
    broker.ready()
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic()
        await client.produce(topic, batch())
        assert await commit(client, "readers", topic, {0: 1}) == {0: 0}
    wait_until(lambda: metrics.series("kafka_consumergroup_lag"), "groups are looked at from time to time")
    told = metrics.families()
    names = {name if family.type != "counter" else f"{name}_total" for name, family in told.items()}
    assert names <= set(CATALOGUE)
    for name, family in CATALOGUE.items():
        if family.only in LATER:
            assert name not in names, f"{name} is there without {family.only}"
            continue
        assert name in names, name
        found = told[name.removesuffix("_total") if family.kind is Kind.COUNTER else name]
        assert (found.type, found.documentation) == (family.kind.value, family.help)
        for sample in found.samples:
            assert set(sample.labels) - {"le"} == set(family.labels), sample
    openmetrics = metrics.families(openmetrics=True)
    assert openmetrics.keys() == told.keys()


async def test_topic_is_summed_up_until_its_partitions_are_asked_for(serve: Any, pg_dsn: str) -> None:
    broker, metrics = serve()
    broker.ready()
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic(partitions=3)
        for partition, count in enumerate((1, 2, 4)):
            await client.call(producing(topic, {partition: batch([b"v"] * count)}), PRODUCE, 9)
    name = topic.name
    assert metrics.value("kafka_topic_partitions", topic=name) == 3
    assert metrics.value("kafka_topic_partition_current_offset", topic=name) == 7
    assert metrics.value("kafka_topic_partition_oldest_offset", topic=name) == 0
    assert metrics.value("kafka_topic_partition_replicas", topic=name) == 3
    assert metrics.value("kafka_topic_partition_under_replicated_partition", topic=name) == 0
    assert metrics.value("kafka_brokers") == 1
    assert metrics.value("kafka_broker_info", id="1", address=broker.bootstrap) == 1

    await sql(pg_dsn, "SELECT kafka.set_config('pg_kafka.metrics_per_partition', 'true')")
    offset = "kafka_topic_partition_current_offset"
    wait_until(lambda: metrics.value(offset, topic=name, partition="2") == 4, "metrics by partition")
    assert metrics.value(offset, topic=name) is None
    assert metrics.value("kafka_topic_partition_leader", topic=name, partition="0") == 1


async def test_group_has_its_members_and_its_state(serve: Any) -> None:
    broker, metrics = serve(GROUP_INITIAL_REBALANCE_DELAY_MS="0")
    broker.ready()
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic()
        await commit(client, "without members", topic, {0: 0})
        member = Member(client, "with a member")
        await member.become_stable()
        assert metrics.value("kafka_consumergroup_members", consumergroup="without members") == 0
        assert metrics.value("kafka_consumergroup_members", consumergroup="with a member") == 1
        assert metrics.value("pg_kafka_consumergroups", protocol="classic", state="Empty") == 1
        assert metrics.value("pg_kafka_consumergroups", protocol="classic", state="Stable") == 1
        await member.leave()
        assert metrics.value("kafka_consumergroup_members", consumergroup="with a member") == 0


@pytest.mark.slow
async def test_ten_thousand_topics_make_few_series_unless_asked(serve: Any, pg_dsn: str) -> None:
    broker, metrics = serve()
    broker.ready()
    for start in range(0, 10_000, 2_500):
        await topics_of(broker, *(f"topic-{number}" for number in range(start, start + 2_500)))
    offset = "kafka_topic_partition_current_offset"
    wait_until(lambda: metrics.value("kafka_topic_partitions", topic=OTHER) == 9_500, "all topics are known")
    wait_until(lambda: metrics.series(offset) == 501, "their offsets are known")
    assert metrics.series() < 10_000
    assert metrics.value("pg_kafka_topics") == 10_000
    assert metrics.value("pg_kafka_metrics_left_out", what="topics") == 9_500
    await sql(pg_dsn, "SELECT kafka.set_config('pg_kafka.metrics_max_series', '20000')")
    wait_until(lambda: metrics.series(offset) == 10_000, "a series for each topic")
    assert metrics.value("kafka_topic_partitions", topic=OTHER) is None


async def test_connections_and_what_refused_them_are_counted(serve: Any) -> None:
    broker, metrics = serve(MAX_CONNECTIONS_PER_IP="2")
    broker.ready()
    kept = [await RawClient.connect(broker) for _ in range(2)]
    refused = await RawClient.connect(broker)
    assert await refused.is_closed_by_peer()
    assert metrics.value("pg_kafka_connections", listener="PLAINTEXT") == 2
    assert metrics.value("pg_kafka_connections_refused_total", limit="max.connections.per.ip") == 1
    assert metrics.value("pg_kafka_connections_opened_total", listener="PLAINTEXT") == 3
    for client in (*kept, refused):
        await client.close()


async def test_who_waits_is_ready_and_keeps_its_counters_when_it_leads(serve: Any) -> None:
    leader, first = serve()
    leader.ready()
    assert first.get("/readyz")[:2] == (200, "leading: this broker serves clients\n")
    waiting, second = serve()
    waiting.wait_for("waiting to take over")
    wait_until(lambda: second.get("/readyz").status == 200, "it answers")
    assert second.get("/readyz").text == f"waiting: {leader.bootstrap} leads, and clients are told so\n"
    assert second.get("/healthz")[:2] == (200, "alive, and waiting\n")
    assert second.value("pg_kafka_state", state="waiting") == 1
    assert second.series("pg_kafka_topics") == 0
    wait_until(lambda: first.value("kafka_brokers") == 2, "the leader knows it")

    leader.stop(signal.SIGKILL)
    waiting.ready()
    wait_until(lambda: second.value("pg_kafka_state", state="leading") == 1, "it leads")
    scrapes = second.value("pg_kafka_metrics_scrapes_total")
    assert scrapes is not None and scrapes > 1
    async with await RawClient.connect(waiting) as client:
        await client.create_topic()
    opened = second.value("pg_kafka_connections_opened_total", listener="PLAINTEXT")
    assert opened is not None and opened >= 1
    assert second.value("pg_kafka_topics") == 1


async def test_counters_outlive_a_take_over_in_the_same_process(serve: Any, pg_superuser_dsn: str) -> None:
    broker, metrics = serve()
    broker.ready()
    for _ in range(3):
        async with await RawClient.connect(broker) as client:
            await client.create_topic()
    opened = metrics.value("pg_kafka_connections_opened_total", listener="PLAINTEXT")
    fence = "UPDATE kafka.brokers SET status = 'fenced', ended_at = clock_timestamp() WHERE status = 'live'"
    await sql(pg_superuser_dsn, fence)
    wait_until(lambda: "leadership ended" in broker.err, "it sees that it is fenced")
    wait_until(lambda: metrics.value("pg_kafka_state", state="leading") == 1, "it leads again")
    wait_until(lambda: metrics.value("pg_kafka_topics") == 3, "with what there was")
    assert metrics.value("pg_kafka_connections_opened_total", listener="PLAINTEXT") == opened


@asynccontextmanager
async def proxied(postgres: PostgresServer, database: Database) -> AsyncIterator[tuple[Proxy, str]]:
    """A way to the database that can be cut, and the address by it."""
    proxy = Proxy(("127.0.0.1", postgres.port))
    await proxy.start()
    try:
        name, password = database.name, postgres.password
        yield proxy, f"postgresql://{name}:{password}@127.0.0.1:{proxy.port}/{name}?sslmode=disable"
    finally:
        await proxy.stop()


async def until_ready(metrics: Metrics, status: int) -> str:
    """Its sentence, once /readyz answers so. Beside the event loop, on which the proxy is."""
    seen: list[str] = []

    def is_so() -> bool:
        answer = metrics.get("/readyz")
        seen.append(answer.text)
        return answer.status == status

    await asyncio.to_thread(wait_until, is_so, f"/readyz says {status}")
    return seen[-1]


async def test_broker_whose_database_is_gone_lives_and_is_not_ready(
    serve: Any, postgres_server: PostgresServer, pg_database: Database
) -> None:
    async with proxied(postgres_server, pg_database) as (proxy, dsn):
        broker, metrics = serve(dsn, EVICTION_MS="1000", HEARTBEAT_MS="100")
        await asyncio.to_thread(broker.ready)
        assert await until_ready(metrics, 200) == "leading: this broker serves clients\n"
        proxy.refuses = True
        proxy.cut()
        sentence = await until_ready(metrics, 503)
        assert "PostgreSQL" in sentence or "cannot lead" in sentence
        assert (await asyncio.to_thread(metrics.get, "/healthz")).status == 200
        families = await asyncio.to_thread(metrics.families)
        assert "pg_kafka_build_info" in families
        proxy.refuses = False
        assert await until_ready(metrics, 200) == "leading: this broker serves clients\n"
        await asyncio.to_thread(broker.stop)


def test_health_is_told_from_the_start_of_the_process(embedded_folder: Path) -> None:
    place = f"127.0.0.1:{free_port()}"
    with Serving("--listen", ANY_PORT, "--data", str(embedded_folder / "data"), "--metrics", place) as broker:
        metrics, seen = Metrics(place), set[tuple[int, str]]()

        def is_ready() -> bool:
            try:
                answer = metrics.get("/readyz")
            except OSError:
                return False
            seen.add((answer.status, answer.text))
            return answer.status == 200

        wait_until(is_ready, "ready")
        assert (503, "starting: PostgreSQL is not reached yet\n") in seen  # initdb takes a while
        assert broker.line("metrics") == f"http://{place}/metrics"


def test_taken_address_is_refused_with_a_sentence(serve: Any, pg_dsn: str) -> None:
    broker, metrics = serve()
    broker.ready()
    done = run("serve", "--listen", ANY_PORT, "--database", pg_dsn, "--metrics", metrics.place)
    assert done.code == 1
    assert done.err == f"pg-kafka: cannot listen on {metrics.place}: Address already in use\n"


@pytest.mark.parametrize("given", ["9308", "127.0.0.1", "127.0.0.1:metrics", ":9308"])
def test_address_for_metrics_is_checked(given: str, pg_dsn: str) -> None:
    done = run("serve", "--database", pg_dsn, "--metrics", given)
    assert done.code == 1
    assert done.err == f"pg-kafka: --metrics wants HOST:PORT, as in 127.0.0.1:9308, not {given!r}\n"


def test_doctor_says_who_can_read_metrics(pg_dsn: str) -> None:
    done = run("doctor", "--listen", ANY_PORT, "--database", pg_dsn, "--metrics", f"0.0.0.0:{free_port()}")
    assert "is free for metrics" in done.out
    assert "can be read by everybody who reaches that address" in done.out


async def test_clients_of_kafka_leave_files_for_metrics(start_broker: Callable[..., Any]) -> None:
    metrics = Metrics(f"127.0.0.1:{free_port()}")
    broker = start_broker(files=150, METRICS=metrics.place)
    clients = [await RawClient.connect(broker) for _ in range(300)]
    try:
        assert await clients[-1].is_closed_by_peer()
        readers = [Metrics(metrics.place) for _ in range(10)]
        answers = await asyncio.gather(*(asyncio.to_thread(reader.get, "/metrics") for reader in readers))
        assert {answer.status for answer in answers} == {200}
        refused = await asyncio.to_thread(metrics.value, "pg_kafka_connections_refused_total", limit="open files")
        assert refused is not None and refused > 100
    finally:
        for client in clients:
            client.writer.transport.abort()


async def test_partitions_beyond_the_bound_are_summed_up(start_broker: Callable[..., Any]) -> None:
    metrics = Metrics(f"127.0.0.1:{free_port()}")
    broker = start_broker(METRICS=metrics.place, METRICS_PER_PARTITION="true", METRICS_MAX_SERIES="10")
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic(partitions=25)
        for partition in range(25):
            await client.call(producing(topic, {partition: batch([b"v"] * 2)}), PRODUCE, 9)
    name = "kafka_topic_partition_current_offset"
    wait_until(lambda: metrics.series(name) == 11, "ten partitions and the others")
    assert metrics.value(name, topic=OTHER, partition=OTHER) == 30
    assert metrics.series("kafka_topic_partition_leader") == 10
    assert metrics.value("pg_kafka_metrics_left_out", what="partitions") == 15
    assert metrics.value("kafka_topic_partitions", topic=topic.name) == 25


async def test_logins_are_counted_by_mechanism_and_result(postgres15: PostgresServer) -> None:
    async with sasl_broker(postgres15, connection_failed_authentication_delay_ms=0) as broker:
        await broker.create_user("alice", "secret")
        for password in ("secret", "wrong", "secret"):
            async with await SaslPeer.connect(broker) as peer:
                await peer.scram("alice", password, "SCRAM-SHA-256")
        async with await SaslPeer.connect(broker) as peer:
            await peer.handshake("GSSAPI")
            assert await peer.is_closed_by_peer()
        assert dict(broker.inside.term._observed.connections.logins) == {
            ("SASL", "SCRAM-SHA-256", "success"): 2,
            ("SASL", "SCRAM-SHA-256", "failure"): 1,
            ("SASL", "none", "failure"): 1,
        }
