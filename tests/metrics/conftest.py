"""Two brokers with metrics on one database, with all done that a dashboard shows, and a Prometheus that scrapes them.

`scene` has series by partition, as kafka_exporter has them; `summed_scene` the sums that there are by default. What needs
Prometheus is skipped where it is not installed, unless PG_KAFKA_REQUIRE_CLIENTS=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.kafka_reference import ToolMissing
from tests.metrics.prometheus import Prometheus, program
from tests.metrics.scene import Scene
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def promtool() -> str:
    """Its path."""
    try:
        return program("promtool")
    except ToolMissing as missing:
        if os.environ.get("PG_KAFKA_REQUIRE_CLIENTS") == "1":
            raise
        pytest.skip(str(missing))


def _played(postgres: PostgresServer, **settings: str) -> Iterator[Scene]:
    database = postgres.create_database()
    try:
        with Scene(database.dsn, **settings) as scene:
            scene.play()
            yield scene
    finally:
        postgres.drop_database(database)


@pytest.fixture(scope="module")
def scene(postgres15: PostgresServer) -> Iterator[Scene]:
    yield from _played(postgres15, METRICS_PER_PARTITION="true")


@pytest.fixture(scope="module")
def summed_scene(postgres15: PostgresServer) -> Iterator[Scene]:
    yield from _played(postgres15)


@pytest.fixture(scope="module")
def prometheus(promtool: str, scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Has looked at both brokers often enough for rates."""
    with Prometheus(tmp_path_factory.mktemp("prometheus"), scene.targets) as running:
        wait_for_all(running, scene)
        yield running


def wait_for_all(prometheus: Prometheus, scene: Scene) -> None:
    """Until rates can be had of everything, also of what brokers find out every ten or fifteen seconds."""
    late = ("kafka_consumergroup_lag_sum", "kafka_topic_partition_oldest_offset", "pg_kafka_database_bytes")
    prometheus.wait_for_looks(len(scene.targets), 3)
    scene.play_on()
    prometheus.wait_for("kafka_topic_partition_current_offset > kafka_topic_partition_current_offset offset 3s")
    for metric in late:
        prometheus.wait_for(f"min(count_over_time({metric}[1h])) >= 4")
