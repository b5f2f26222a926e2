"""Alerts that fire on real brokers, and end when the matter is over: Prometheus scrapes them and knows our rules.

An hour cannot be waited for, so limits and times are lowered; `test_alert_rules.py` has them as they are.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import TopicPartition
from tests.broker.test_disk_reserve import RESERVE, small_disk  # noqa: F401
from tests.metrics.prometheus import Prometheus
from tests.metrics.scene import Clients, MeteredBroker, Scene
from tests.postgres import Database, PostgresServer

from pg_kafka.dashboards import alerts
from pg_kafka.dashboards.rules import as_dict

pytestmark = pytest.mark.timeout(300)


def rules(**limits: str) -> dict[str, Any]:
    """All rules, with no time to wait and with these limits in the place of what stands at the end of an expression."""
    known = as_dict(alerts.RULES)
    for rule in known["groups"][0]["rules"]:
        rule["for"] = "0s"
        if rule["alert"] in limits:
            rule["expr"], count = re.subn(r"(?<=[<>] )[\d.e]+$", limits.pop(rule["alert"]), rule["expr"])
            assert count == 1, rule["expr"]
    assert not limits
    return known


@pytest.fixture
def watch(promtool: str, tmp_path: Path) -> Callable[..., Any]:
    """`with watch([address, ...], PgKafkaConsumerLag="1") as prometheus:` with all rules."""

    @contextmanager
    def watching(targets: list[str], **limits: str) -> Iterator[Prometheus]:
        with Prometheus(tmp_path / "prometheus", targets, rules(**limits)) as running:
            running.wait_for_looks(len(targets), 2)
            yield running

    return watching


def is_filled_in(alert: dict[str, Any]) -> bool:
    """Whether what it says has no gaps."""
    return not re.search(r"no value|template|  |\{\{", " ".join(alert["annotations"].values()))


async def test_a_held_snapshot(watch: Any, pg_database: Database) -> None:
    with MeteredBroker("--database", pg_database.dsn).ready() as broker:
        with watch([broker.metrics_address], PgKafkaSnapshotHeld="2") as prometheus:
            assert "PgKafkaSnapshotHeld" not in prometheus.firing()
            session = await asyncpg.connect(pg_database.dsn)
            try:
                await session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM kafka.topics")
                alert = prometheus.wait_for_alert("PgKafkaSnapshotHeld")
                assert alert["labels"]["held_by"] == "session"
                assert "A session has held a snapshot for" in alert["annotations"]["summary"]
                assert is_filled_in(alert)
                # What it tells people to ask names the session.
                query = re.findall("`(SELECT .*?)`", alert["annotations"]["action"])[0]
                assert session.get_server_pid() in [row["pid"] for row in await session.fetch(query)]
            finally:
                await session.close()
            prometheus.wait_for_no_alert("PgKafkaSnapshotHeld")


def test_a_group_that_lags_and_a_transaction_that_stays_open(watch: Any, pg_dsn: str) -> None:
    with MeteredBroker("--database", pg_dsn).ready() as broker:
        clients = Clients(broker.address)
        for topic in ("orders", "payments"):
            clients.create(topic)
        clients.produce("orders", 0, 100)
        clients.commit("billing", [TopicPartition("orders", 0, 40)])
        producer = clients.open_transaction("payments", "cashier")
        limits = {"PgKafkaConsumerLag": "1", "PgKafkaTransactionOpen": "1"}
        with watch([broker.metrics_address], **limits) as prometheus:
            lag = prometheus.wait_for_alert("PgKafkaConsumerLag")
            assert (lag["labels"]["consumergroup"], lag["labels"]["topic"]) == ("billing", "orders")
            assert is_filled_in(lag)
            assert is_filled_in(prometheus.wait_for_alert("PgKafkaTransactionOpen"))
            clients.commit("billing", [TopicPartition("orders", 0, 100)])
            producer.abort_transaction(30)
            prometheus.wait_for_no_alert("PgKafkaConsumerLag")
            prometheus.wait_for_no_alert("PgKafkaTransactionOpen")
            assert prometheus.firing() == {}


def test_a_full_disk(watch: Any, small_disk: Path) -> None:  # noqa: F811
    ballast = small_disk / "ballast"
    settings = {"DISK_RESERVE_BYTES": str(RESERVE)}
    with MeteredBroker("--data", str(small_disk / "data"), settings=settings).ready() as broker:
        with watch([broker.metrics_address], PgKafkaDiskFillsUp="0.01") as prometheus:
            assert {"PgKafkaDiskFull", "PgKafkaDiskFillsUp"}.isdisjoint(prometheus.firing())
            disk = os.statvfs(small_disk)
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - RESERVE // 2)
            assert is_filled_in(prometheus.wait_for_alert("PgKafkaDiskFull"))
            assert is_filled_in(prometheus.wait_for_alert("PgKafkaDiskFillsUp"))
            ballast.unlink()
            prometheus.wait_for_no_alert("PgKafkaDiskFull")
            prometheus.wait_for_no_alert("PgKafkaDiskFillsUp")


def test_a_take_over(watch: Any, pg_dsn: str) -> None:
    with Scene(pg_dsn) as scene:
        with watch(scene.targets) as prometheus:
            assert prometheus.firing() == {}
            scene.leader.send(signal.SIGKILL)
            scene.other.ready()
            lost = prometheus.wait_for_alert("PgKafkaLeaderLost")
            down = prometheus.wait_for_alert("PgKafkaDown")
            assert down["labels"]["instance"] == scene.leader.metrics_address
            assert is_filled_in(lost)
            assert is_filled_in(down)
            prometheus.wait_for_no_alert("PgKafkaNoLeader")
            assert set(prometheus.firing()) == {"PgKafkaLeaderLost", "PgKafkaDown"}


def test_a_broker_that_is_killed_and_started_again(watch: Any, pg_dsn: str) -> None:
    with MeteredBroker("--database", pg_dsn).ready() as broker:
        with watch([broker.metrics_address]) as prometheus:
            broker.stop(signal.SIGKILL)
            with MeteredBroker("--database", pg_dsn, like=broker).ready():
                prometheus.wait_for_alert("PgKafkaLeaderLost")
                prometheus.wait_for_no_alert("PgKafkaDown")


def test_a_stop_in_order_is_no_alarm_while_another_broker_waits(watch: Any, pg_dsn: str) -> None:
    with Scene(pg_dsn) as scene:
        with watch(scene.targets) as prometheus:
            assert scene.leader.stop() == 0
            scene.other.ready()
            prometheus.wait_for_alert("PgKafkaDown")
            taken = f'pg_kafka_take_overs_total{{instance="{scene.other.metrics_address}"}} == 1'
            prometheus.wait(lambda: prometheus.query(taken), "the take-over is seen")
            prometheus.wait_for_no_alert("PgKafkaNoLeader")  # which waits a minute where it is in use
            assert set(prometheus.firing()) == {"PgKafkaDown"}


def test_a_database_that_is_gone(watch: Any, make_postgres: Callable[..., PostgresServer]) -> None:
    server = make_postgres("postgresql-15")
    database = server.create_database()
    with MeteredBroker("--database", database.dsn).ready() as broker:
        with watch([broker.metrics_address], PgKafkaDatabaseAway="3") as prometheus:
            assert prometheus.firing() == {}
            server.stop()
            assert is_filled_in(prometheus.wait_for_alert("PgKafkaDatabaseAway"))
            server.start()
            prometheus.wait_for_no_alert("PgKafkaDatabaseAway")
    server.drop_database(database)
