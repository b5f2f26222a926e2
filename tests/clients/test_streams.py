"""A Kafka Streams job that counts words, killed and started again, on a broker that is killed and started again.

With exactly_once_v2 the output is what one job without any failure would have written: each word's counts are 1, 2, 3
and so on to the number of times that the word was sent. With at_least_once no count is too low in the end.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka
import confluent_kafka.admin
import pytest
from tests.clients.brokers import Broker
from tests.clients.client import Client
from tests.clients.conftest import unavailable
from tests.clients.groups import CLEANING
from tests.clients.test_sql import query
from tests.kafka_reference import ToolMissing, compiled, end, java, spawn, tail

from pg_kafka.broker.dispatch import APIS

pytestmark = pytest.mark.timeout(300)

JOB_DIR = Path(__file__).resolve().parent / "streams"
PARTITIONS = 4
WORDS = [f"word-{number}" for number in range(150)]
LINES = 1500
WORDS_OF_A_LINE = 8
LINES_A_SECOND = 250
WAIT_S = 90.0
END_TXN = 26
QUIET = {"log_level": 0, "error_cb": lambda error: None, "reconnect.backoff.max.ms": 200}
_numbers = itertools.count(1)


class Job:
    """The job's process, which may be killed and started again; its state folder stays."""

    def __init__(self, folder: Path, bootstrap: str, name: str, guarantee: str) -> None:
        self.name = name
        self.input, self.output = f"{name}-lines", f"{name}-counted"
        self.log = folder / f"{name}.log"
        self._state = folder / name
        self._command = java(
            "WordCount",
            *(bootstrap, name, str(self._state), guarantee, self.input, self.output),
            options=("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m"),
            more_classes=compiled(JOB_DIR / "WordCount.java", JOB_DIR),
            libraries=JOB_DIR,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = spawn(self._command, self.log, stdin=subprocess.PIPE)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._close_input()

    def stop(self) -> None:
        """Ends it in good order."""
        assert self._process is not None and self._process.poll() is None, tail(self.log)
        self._close_input()
        assert self._process.wait(70) == 0, tail(self.log)

    def lose_state(self) -> None:
        """The stopped job finds nothing of its own when it is started again, but what is in its topics."""
        shutil.rmtree(self._state)

    def clean_up(self) -> None:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                end(self._process, timeout_s=10)
            self._close_input()

    def _close_input(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()


class Lines(threading.Thread):
    """Sends the input, steadily; `sent` counts its words."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__(daemon=True)
        self.sent: Counter[str] = Counter()
        self.failures: list[str] = []
        self._topic = topic
        self._producer = confluent_kafka.Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, **QUIET}
        )

    def run(self) -> None:
        chance = random.Random(7)
        for number in range(LINES):
            line = chance.choices(WORDS, k=WORDS_OF_A_LINE)
            self.sent.update(line)
            self._producer.produce(
                self._topic, " ".join(line), partition=number % PARTITIONS, on_delivery=self._delivered
            )
            self._producer.poll(0)
            time.sleep(1 / LINES_A_SECOND)
        if self._producer.flush(60):
            self.failures.append("not all was delivered")

    def _delivered(self, error: confluent_kafka.KafkaError | None, _: confluent_kafka.Message) -> None:
        if error is not None:
            self.failures.append(error.str())


class Counts(threading.Thread):
    """Reads the output as read_committed consumers do."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__(daemon=True)
        self.of: dict[str, list[int]] = defaultdict(list)  # each word's counts in the order of the log
        self.number = 0
        self.ends = [0] * PARTITIONS  # last stable offsets up to which all has been read
        self.failures: list[str] = []
        self._topic = topic
        self._stopping = threading.Event()
        self._consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
                **QUIET,
            }
        )

    def run(self) -> None:
        self._consumer.assign([confluent_kafka.TopicPartition(self._topic, index, 0) for index in range(PARTITIONS)])
        while not self._stopping.is_set():
            for message in self._consumer.consume(1000, 0.1):
                error = message.error()
                if error is None:
                    self.of[message.key().decode()].append(int(message.value()))
                    self.number += 1
                elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    self.ends[message.partition()] = message.offset()
                elif error.code() == confluent_kafka.KafkaError._AUTO_OFFSET_RESET or error.fatal():
                    self.failures.append(error.str())
        self._consumer.close()

    def last(self) -> dict[str, int]:
        return {word: counts[-1] for word, counts in list(self.of.items())}

    def wait(self, is_so: Callable[[], bool], what: str, log: Path) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            assert not self.failures, self.failures
            assert time.monotonic() < deadline, f"not after {WAIT_S:.0f} s: {what}\n{tail(log)}"
            time.sleep(0.05)

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class Story:
    """A job with its input and its output, under way."""

    def __init__(self, broker: Broker, admin: Client, folder: Path, guarantee: str) -> None:
        self.broker, self.admin = broker, admin
        self.is_exact = guarantee == "exactly_once_v2"
        self.job = Job(folder, broker.bootstrap, f"{guarantee.replace('_', '-')}-{next(_numbers)}", guarantee)
        for topic in (self.job.input, self.job.output):
            admin.create_topic(broker.bootstrap, topic, PARTITIONS)
        self.lines = Lines(broker.bootstrap, self.job.input)
        self.counts = Counts(broker.bootstrap, self.job.output)
        self.job.start()
        self.counts.start()
        self.lines.start()

    def reach(self, share: float) -> None:
        """Wait until a share of the output is there."""
        wanted = LINES * WORDS_OF_A_LINE * share
        self.counts.wait(lambda: self.counts.number >= wanted, f"{wanted:.0f} counts", self.job.log)

    def wait_until_compacted(self) -> None:
        """Its changelog holds half of the counts that it was given, or fewer."""
        self.counts.wait(lambda: self._changes() < self.counts.number / 2, "a compacted changelog", self.job.log)

    def _changes(self) -> int:
        """How many records the changelog has."""
        topic = f"{self.job.name}-counts-changelog"
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self.broker.bootstrap, "group.id": "unused", "enable.partition.eof": True, **QUIET}
        )
        consumer.assign([confluent_kafka.TopicPartition(topic, index, 0) for index in range(PARTITIONS)])
        number, ended = 0, set()
        deadline = time.monotonic() + WAIT_S
        while len(ended) < PARTITIONS and time.monotonic() < deadline:
            for message in consumer.consume(1000, 1.0):
                if message.error() is None:
                    number += 1
                else:
                    ended.add(message.partition())
        consumer.close()
        return number

    def finish(self, *, was_killed: bool) -> None:
        """The account: the input is read, the job is stopped, and the counts are right."""
        self.lines.join()
        assert not self.lines.failures, self.lines.failures[:5]
        sent, counts = self.lines.sent, self.counts
        counts.wait(self._is_counted, "all words counted", self.job.log)
        self.job.stop()
        self._read_to_the_end()
        if self.is_exact or not was_killed:
            wrong = {word: found for word, found in counts.of.items() if found != list(range(1, sent[word] + 1))}
            assert not wrong, dict(itertools.islice(wrong.items(), 3))
            assert counts.number == LINES * WORDS_OF_A_LINE
        assert counts.last().keys() == sent.keys()
        assert not [word for word in sent if max(counts.of[word]) < sent[word]]
        self._check_topics()
        if (dsn := self.broker.dsn()) is not None:
            self._check_sql(dsn)

    def _is_counted(self) -> bool:
        last = self.counts.last()
        return all(last.get(word, 0) >= number for word, number in self.lines.sent.items())

    def _read_to_the_end(self) -> None:
        """Every partition's last stable offset comes to its end, and the reader too."""
        admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": self.broker.bootstrap, **QUIET})
        asked = {
            confluent_kafka.TopicPartition(self.job.output, index): confluent_kafka.admin.OffsetSpec.latest()
            for index in range(PARTITIONS)
        }
        answers = admin.list_offsets(asked, isolation_level=confluent_kafka.IsolationLevel.READ_UNCOMMITTED)
        ends = [answers[place].result(WAIT_S).offset for place in asked]
        self.counts.wait(lambda: self.counts.ends == ends, f"last stable offsets at {ends}", self.job.log)

    def _check_topics(self) -> None:
        """Streams has made its own topics the way it wanted them."""
        bootstrap, name = self.broker.bootstrap, self.job.name
        changelog, repartition = f"{name}-counts-changelog", f"{name}-words-repartition"
        assert self.admin.partitions(bootstrap, changelog) == PARTITIONS
        assert self.admin.partitions(bootstrap, repartition) == PARTITIONS
        assert self.admin.configs(bootstrap, changelog)["cleanup.policy"] == "compact"
        configs = self.admin.configs(bootstrap, repartition)
        assert (configs["cleanup.policy"], configs["retention.ms"]) == ("delete", "-1")

    def _check_sql(self, dsn: str) -> None:
        rows = query(
            dsn,
            "SELECT kafka.as_text(m.key) AS word, kafka.as_text(m.value)::int AS count FROM kafka.messages m "
            "JOIN kafka.topics t ON t.id = m.topic_id WHERE t.name = $1 ORDER BY m.partition_id, m.partition_offset",
            self.job.output,
        )
        by_sql: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            by_sql[row["word"]].append(row["count"])
        assert by_sql == self.counts.of

    def clean_up(self) -> None:
        self.job.clean_up()
        self.lines.join()
        self.counts.stop()


@pytest.fixture
def streams_broker(group_flavour: str, brokers: Callable[..., Broker]) -> Broker:
    try:
        return brokers(group_flavour, "streams", CLEANING)
    except ToolMissing as missing:
        unavailable(missing)
        raise


@pytest.fixture
def begin(streams_broker: Broker, confluent: Client, tmp_path: Path) -> Iterator[Callable[[str], Story]]:
    """Factory: a job with that guarantee, its input and its output."""
    begun: list[Story] = []

    def make(guarantee: str) -> Story:
        if guarantee == "exactly_once_v2" and streams_broker.flavour != "apache-kafka" and END_TXN not in APIS:
            pytest.skip("pg_kafka has no transactions")
        try:
            begun.append(Story(streams_broker, confluent, tmp_path, guarantee))
        except ToolMissing as missing:
            unavailable(missing)
        return begun[-1]

    yield make
    for story in begun:
        story.clean_up()


GUARANTEES = pytest.mark.parametrize("guarantee", ["exactly_once_v2", "at_least_once"])


@GUARANTEES
def test_counts_are_right(guarantee: str, begin: Callable[[str], Story]) -> None:
    begin(guarantee).finish(was_killed=False)


@GUARANTEES
def test_counts_are_right_when_the_job_is_killed(guarantee: str, begin: Callable[[str], Story]) -> None:
    story = begin(guarantee)
    for share in (0.2, 0.5, 0.8):
        story.reach(share)
        story.job.kill()
        story.job.start()
    story.finish(was_killed=True)


@GUARANTEES
def test_counts_are_right_when_the_broker_is_killed(guarantee: str, begin: Callable[[str], Story]) -> None:
    story = begin(guarantee)
    for share in (0.2, 0.6):
        story.reach(share)
        story.broker.kill()
        story.broker.start()
    story.finish(was_killed=True)


@GUARANTEES
def test_state_is_restored_from_its_changelog(guarantee: str, begin: Callable[[str], Story]) -> None:
    story = begin(guarantee)
    for share in (0.3, 0.7):
        story.reach(share)
        story.wait_until_compacted()
        story.job.stop()
        story.job.lose_state()
        story.job.start()
    story.finish(was_killed=False)
