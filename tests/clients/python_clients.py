"""confluent-kafka (librdkafka), aiokafka and kafka-python behind the tests' common face."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

import aiokafka
import aiokafka.abc
import aiokafka.admin
import aiokafka.errors
import confluent_kafka
import confluent_kafka.admin
from tests.clients.client import CALL_TIMEOUT_S, USUAL_BYTES, USUAL_WAIT_MS, Client, ClientError, Consumer, Producer
from tests.clients.logins import Login, lifetime_ends_s
from tests.clients.records import Record

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python reads its schemas in an old way
    import kafka
    import kafka.admin
    import kafka.errors

T = TypeVar("T")
LOG_LEVEL = 2  # librdkafka would tell each refused connection of a restart


class Refusals:
    """What librdkafka tells of logins that were refused: it goes on trying, and fails no call for it."""

    _CODES = (confluent_kafka.KafkaError._AUTHENTICATION, confluent_kafka.KafkaError._SSL)

    def __init__(self) -> None:
        self._found: list[confluent_kafka.KafkaError] = []

    def settings(self, login: Login | None) -> dict[str, Any]:
        """What to add to the settings of a client."""
        if login is None:
            return {}
        settings = login.for_librdkafka() | {"error_cb": self._told}
        if login.token is not None:
            settings["oauth_cb"] = lambda _: (token := login.read_token(), lifetime_ends_s(token))
        return settings

    def _told(self, error: confluent_kafka.KafkaError) -> None:
        # An alert of TLS is told as a lost connection.
        if error.code() in self._CODES or "SSL routines" in error.str():
            self._found.append(error)

    def check(self) -> None:
        """Raises ClientError when there was one."""
        if self._found:
            raise ClientError(self._found[0].code(), self._found.pop(0).str())


class ConfluentProducer(Producer):
    def __init__(self, settings: dict[str, Any], login: Login | None) -> None:
        self._refusals = Refusals()
        self._producer = confluent_kafka.Producer(settings | self._refusals.settings(login))

    def send(self, topic: str, records: Sequence[Record], partition: int = 0) -> list[int]:
        offsets: dict[int, int] = {}
        errors: list[confluent_kafka.KafkaError] = []

        def delivered(place: int, error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
            if error is not None:
                errors.append(error)
            else:
                offsets[place] = message.offset()

        for place, record in enumerate(records):
            callback = lambda error, message, place=place: delivered(place, error, message)  # noqa: E731
            while True:
                try:
                    self._producer.produce(
                        topic,
                        value=record.value,
                        key=record.key,
                        partition=partition,
                        headers=list(record.headers),
                        on_delivery=callback,
                        **({} if record.timestamp is None else {"timestamp": record.timestamp}),
                    )
                    break
                except BufferError:
                    self._producer.poll(1)
                except confluent_kafka.KafkaException as failed:
                    raise ClientError(failed.args[0].code(), failed.args[0].str()) from failed
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while (unsent := self._producer.flush(0.05)) and time.monotonic() < deadline:
            self._refusals.check()
        if errors:
            raise ClientError(errors[0].code(), errors[0].str())
        assert unsent == 0, f"{unsent} records were neither delivered nor refused"
        return [offsets[place] for place in range(len(records))]

    def close(self) -> None:
        self._producer.purge()
        self._producer.flush(CALL_TIMEOUT_S)


class ConfluentConsumer(Consumer):
    def __init__(self, settings: dict[str, Any], login: Login | None, topic: str, partition: int, offset: int) -> None:
        self._refusals = Refusals()
        self._consumer = confluent_kafka.Consumer(settings | self._refusals.settings(login))
        self._place = (topic, partition)
        self._consumer.assign([confluent_kafka.TopicPartition(topic, partition, offset)])

    def read(self, count: int, timeout_s: float = CALL_TIMEOUT_S) -> list[Record]:
        records: list[Record] = []
        deadline = time.monotonic() + timeout_s
        while len(records) < count and (left := deadline - time.monotonic()) > 0:
            message = self._consumer.poll(min(left, 0.1))
            self._refusals.check()
            if message is None:
                continue
            if (error := message.error()) is not None:
                raise ClientError(error.code(), error.str())
            kind, timestamp = message.timestamp()
            assert kind == confluent_kafka.TIMESTAMP_CREATE_TIME
            headers = tuple(message.headers() or ())
            records.append(Record(message.key(), message.value(), headers, timestamp, message.offset()))
        return records

    def seek(self, offset: int) -> None:
        self._consumer.seek(confluent_kafka.TopicPartition(*self._place, offset))

    def close(self) -> None:
        self._consumer.close()


class Confluent(Client):
    name = "confluent-kafka"

    def __init__(self) -> None:
        self._admins: dict[str, confluent_kafka.admin.AdminClient] = {}

    def producer(
        self,
        bootstrap: str,
        *,
        codec: str = "none",
        idempotent: bool = True,
        max_bytes: int = USUAL_BYTES,
        login: Login | None = None,
    ) -> Producer:
        return ConfluentProducer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": idempotent,
                "compression.type": codec,
                "message.max.bytes": max_bytes,
                "reconnect.backoff.max.ms": 200,
                "log_level": LOG_LEVEL,
            },
            login,
        )

    def consumer(
        self,
        bootstrap: str,
        topic: str,
        *,
        partition: int = 0,
        offset: int = 0,
        max_wait_ms: int = USUAL_WAIT_MS,
        login: Login | None = None,
    ) -> Consumer:
        return ConfluentConsumer(self._consumer_settings(bootstrap, max_wait_ms), login, topic, partition, offset)

    def watermarks(self, bootstrap: str, topic: str, partition: int = 0) -> tuple[int, int]:
        with closing(confluent_kafka.Consumer(self._consumer_settings(bootstrap))) as consumer:
            place = confluent_kafka.TopicPartition(topic, partition)
            watermarks: tuple[int, int] = consumer.get_watermark_offsets(place, timeout=CALL_TIMEOUT_S)
            return watermarks

    def offset_for_time(self, bootstrap: str, topic: str, timestamp: int, partition: int = 0) -> int:
        with closing(confluent_kafka.Consumer(self._consumer_settings(bootstrap))) as consumer:
            place = confluent_kafka.TopicPartition(topic, partition, timestamp)
            (found,) = consumer.offsets_for_times([place], timeout=CALL_TIMEOUT_S)
            return -1 if found.offset == confluent_kafka.OFFSET_END else found.offset

    def create_topic(
        self, bootstrap: str, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        new = confluent_kafka.admin.NewTopic(topic, partitions, 1, config=dict(configs or {}))
        self._result(self._admin(bootstrap).create_topics([new])[topic])

    def delete_topic(self, bootstrap: str, topic: str) -> None:
        self._result(self._admin(bootstrap).delete_topics([topic])[topic])

    def create_partitions(self, bootstrap: str, topic: str, total: int) -> None:
        wanted = confluent_kafka.admin.NewPartitions(topic, total)
        self._result(self._admin(bootstrap).create_partitions([wanted])[topic])

    def partitions(self, bootstrap: str, topic: str) -> int:
        names = confluent_kafka.TopicCollection([topic])
        return len(self._result(self._admin(bootstrap).describe_topics(names)[topic]).partitions)

    def configs(self, bootstrap: str, topic: str) -> dict[str, str]:
        resource = confluent_kafka.admin.ConfigResource(confluent_kafka.admin.ResourceType.TOPIC, topic)
        entries = self._result(self._admin(bootstrap).describe_configs([resource])[resource])
        return {name: entry.value for name, entry in entries.items()}

    def _admin(self, bootstrap: str) -> confluent_kafka.admin.AdminClient:
        """One for each broker, kept: when it is collected, its pending futures fail."""
        if bootstrap not in self._admins:
            settings = {"bootstrap.servers": bootstrap, "reconnect.backoff.max.ms": 200, "log_level": LOG_LEVEL}
            self._admins[bootstrap] = confluent_kafka.admin.AdminClient(settings)
        return self._admins[bootstrap]

    @staticmethod
    def _consumer_settings(bootstrap: str, max_wait_ms: int = USUAL_WAIT_MS) -> dict[str, Any]:
        return {
            "bootstrap.servers": bootstrap,
            "group.id": "unused, but librdkafka wants a name",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": max_wait_ms,
            "socket.timeout.ms": max_wait_ms + 60_000,
            "log_level": LOG_LEVEL,
        }

    @staticmethod
    def _result(future: Any) -> Any:
        try:
            return future.result(CALL_TIMEOUT_S)
        except confluent_kafka.KafkaException as failed:
            raise ClientError(failed.args[0].code(), failed.args[0].str()) from failed


class Loop:
    """An event loop in a thread of its own, so that a client's background tasks live between our calls."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 2 * CALL_TIMEOUT_S) -> T:
        """The result of a coroutine; errors of Kafka's become ClientError."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)
        except aiokafka.errors.KafkaError as failed:
            raise ClientError(getattr(failed, "errno", -1), repr(failed)) from failed

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class AiokafkaTokens(aiokafka.abc.AbstractTokenProvider):  # type: ignore[misc]
    def __init__(self, login: Login) -> None:
        self._login = login

    async def token(self) -> str:
        return self._login.read_token()


class AiokafkaProducer(Producer):
    def __init__(self, loop: Loop, settings: dict[str, Any]) -> None:
        self._loop = loop
        self._producer = loop.run(self._started(settings))

    def send(self, topic: str, records: Sequence[Record], partition: int = 0) -> list[int]:
        return self._loop.run(self._send(topic, records, partition))

    def close(self) -> None:
        self._loop.run(self._producer.stop())

    @staticmethod
    async def _started(settings: dict[str, Any]) -> aiokafka.AIOKafkaProducer:
        producer = aiokafka.AIOKafkaProducer(**settings)
        await producer.start()
        return producer

    async def _send(self, topic: str, records: Sequence[Record], partition: int) -> list[int]:
        sent = [
            await self._producer.send(
                topic,
                record.value,
                record.key,
                partition=partition,
                timestamp_ms=record.timestamp,
                headers=list(record.headers),
            )
            for record in records
        ]
        return [(await acknowledged).offset for acknowledged in sent]


class AiokafkaConsumer(Consumer):
    def __init__(self, loop: Loop, settings: dict[str, Any], topic: str, partition: int, offset: int) -> None:
        self._loop = loop
        self._place = aiokafka.TopicPartition(topic, partition)
        self._consumer = loop.run(self._started(settings, offset))

    def read(self, count: int, timeout_s: float = CALL_TIMEOUT_S) -> list[Record]:
        return self._loop.run(self._read(count, timeout_s))

    def seek(self, offset: int) -> None:
        self._consumer.seek(self._place, offset)

    def close(self) -> None:
        self._loop.run(self._consumer.stop())

    async def _started(self, settings: dict[str, Any], offset: int) -> aiokafka.AIOKafkaConsumer:
        consumer = aiokafka.AIOKafkaConsumer(**settings)
        await consumer.start()
        consumer.assign([self._place])
        consumer.seek(self._place, offset)
        return consumer

    async def _read(self, count: int, timeout_s: float) -> list[Record]:
        records: list[Record] = []
        deadline = time.monotonic() + timeout_s
        while len(records) < count and (left := deadline - time.monotonic()) > 0:
            for messages in (await self._consumer.getmany(timeout_ms=int(left * 1000))).values():
                records += [Record(m.key, m.value, tuple(m.headers), m.timestamp, m.offset) for m in messages]
        return records


class Aiokafka(Client):
    name = "aiokafka"

    def __init__(self) -> None:
        self._loop = Loop()

    def stop(self) -> None:
        self._loop.stop()

    def can_send(self, record: Record) -> bool:
        return not (record.key is None and record.value is None)

    def producer(
        self,
        bootstrap: str,
        *,
        codec: str = "none",
        idempotent: bool = True,
        max_bytes: int = USUAL_BYTES,
        login: Login | None = None,
    ) -> Producer:
        settings = {
            "bootstrap_servers": bootstrap,
            "acks": "all",
            "enable_idempotence": idempotent,
            "compression_type": None if codec == "none" else codec,
            "max_request_size": max_bytes,
            "request_timeout_ms": int(CALL_TIMEOUT_S * 1000),
        }
        return AiokafkaProducer(self._loop, settings | self._shown(login))

    def consumer(
        self,
        bootstrap: str,
        topic: str,
        *,
        partition: int = 0,
        offset: int = 0,
        max_wait_ms: int = USUAL_WAIT_MS,
        login: Login | None = None,
    ) -> Consumer:
        settings = self._consumer_settings(bootstrap, max_wait_ms) | self._shown(login)
        return AiokafkaConsumer(self._loop, settings, topic, partition, offset)

    def watermarks(self, bootstrap: str, topic: str, partition: int = 0) -> tuple[int, int]:
        place = aiokafka.TopicPartition(topic, partition)

        async def ask(consumer: aiokafka.AIOKafkaConsumer) -> tuple[int, int]:
            low, high = await consumer.beginning_offsets([place]), await consumer.end_offsets([place])
            return low[place], high[place]

        return self._loop.run(self._with_consumer(bootstrap, ask))

    def offset_for_time(self, bootstrap: str, topic: str, timestamp: int, partition: int = 0) -> int:
        place = aiokafka.TopicPartition(topic, partition)

        async def ask(consumer: aiokafka.AIOKafkaConsumer) -> int:
            found = (await consumer.offsets_for_times({place: timestamp}))[place]
            return -1 if found is None else found.offset

        return self._loop.run(self._with_consumer(bootstrap, ask))

    def create_topic(
        self, bootstrap: str, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        new = aiokafka.admin.NewTopic(topic, partitions, 1, topic_configs=dict(configs or {}))
        response = self._administer(bootstrap, lambda admin: admin.create_topics([new]))
        self._check(code for _, code, *_ in response.topic_errors)

    def delete_topic(self, bootstrap: str, topic: str) -> None:
        response = self._administer(bootstrap, lambda admin: admin.delete_topics([topic]))
        self._check(code for _, code, *_ in response.topic_error_codes)

    def create_partitions(self, bootstrap: str, topic: str, total: int) -> None:
        wanted = {topic: aiokafka.admin.NewPartitions(total)}
        response = self._administer(bootstrap, lambda admin: admin.create_partitions(wanted))
        self._check(code for _, code, *_ in response.topic_errors)

    def partitions(self, bootstrap: str, topic: str) -> int:
        (described,) = self._administer(bootstrap, lambda admin: admin.describe_topics([topic]))
        self._check([described["error_code"]])
        return len(described["partitions"])

    def configs(self, bootstrap: str, topic: str) -> dict[str, str]:
        resource = aiokafka.admin.config_resource.ConfigResource(
            aiokafka.admin.config_resource.ConfigResourceType.TOPIC, topic
        )
        responses = self._administer(bootstrap, lambda admin: admin.describe_configs([resource]))
        ((code, _, _, _, entries),) = responses[0].resources
        self._check([code])
        return {name: value for name, value, *_ in entries}

    @staticmethod
    def _shown(login: Login | None) -> dict[str, Any]:
        if login is None:
            return {}
        tokens = {} if login.token is None else {"sasl_oauth_token_provider": AiokafkaTokens(login)}
        return login.for_python() | tokens

    @staticmethod
    def _check(codes: Any) -> None:
        for code in codes:
            if code:
                raise ClientError(code, repr(aiokafka.errors.for_code(code)))

    def _administer(
        self, bootstrap: str, call: Callable[[aiokafka.admin.AIOKafkaAdminClient], Coroutine[Any, Any, Any]]
    ) -> Any:
        async def work() -> Any:
            admin = aiokafka.admin.AIOKafkaAdminClient(bootstrap_servers=bootstrap)
            await admin.start()
            try:
                return await call(admin)
            finally:
                await admin.close()

        return self._loop.run(work())

    async def _with_consumer(
        self, bootstrap: str, call: Callable[[aiokafka.AIOKafkaConsumer], Coroutine[Any, Any, T]]
    ) -> T:
        consumer = aiokafka.AIOKafkaConsumer(**self._consumer_settings(bootstrap))
        await consumer.start()
        try:
            return await call(consumer)
        finally:
            await consumer.stop()

    @staticmethod
    def _consumer_settings(bootstrap: str, max_wait_ms: int = USUAL_WAIT_MS) -> dict[str, Any]:
        return {
            "bootstrap_servers": bootstrap,
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "fetch_max_wait_ms": max_wait_ms,
            "request_timeout_ms": max_wait_ms + 60_000,
        }


class KafkaPythonTokens(kafka.net.sasl.oauth.AbstractTokenProvider):  # type: ignore[misc]
    def __init__(self, login: Login) -> None:
        super().__init__()
        self._login = login

    def token(self) -> str:
        return self._login.read_token()


class KafkaPythonProducer(Producer):
    def __init__(self, settings: dict[str, Any]) -> None:
        try:
            self._producer = kafka.KafkaProducer(**settings)
        except kafka.errors.KafkaError as failed:
            raise _from_kafka_python(failed) from failed

    def send(self, topic: str, records: Sequence[Record], partition: int = 0) -> list[int]:
        try:
            sent = [
                self._producer.send(
                    topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    partition=partition,
                    timestamp_ms=record.timestamp,
                )
                for record in records
            ]
            self._producer.flush(CALL_TIMEOUT_S)
            return [future.get(CALL_TIMEOUT_S).offset for future in sent]
        except kafka.errors.KafkaError as failed:
            raise _from_kafka_python(failed) from failed

    def close(self) -> None:
        self._producer.close(timeout=CALL_TIMEOUT_S)


class KafkaPythonConsumer(Consumer):
    def __init__(self, settings: dict[str, Any], topic: str, partition: int, offset: int) -> None:
        try:
            self._consumer = kafka.KafkaConsumer(**settings)
        except kafka.errors.KafkaError as failed:
            raise _from_kafka_python(failed) from failed
        self._place = kafka.TopicPartition(topic, partition)
        self._consumer.assign([self._place])
        self._consumer.seek(self._place, offset)

    def read(self, count: int, timeout_s: float = CALL_TIMEOUT_S) -> list[Record]:
        records: list[Record] = []
        deadline = time.monotonic() + timeout_s
        while len(records) < count and (left := deadline - time.monotonic()) > 0:
            try:
                polled = self._consumer.poll(timeout_ms=int(left * 1000))
            except kafka.errors.KafkaError as failed:
                raise _from_kafka_python(failed) from failed
            for messages in polled.values():
                records += [Record(m.key, m.value, tuple(m.headers), m.timestamp, m.offset) for m in messages]
        return records

    def seek(self, offset: int) -> None:
        self._consumer.seek(self._place, offset)

    def close(self) -> None:
        self._consumer.close(autocommit=False)


class KafkaPython(Client):
    name = "kafka-python"

    def can_send(self, record: Record) -> bool:
        has_null_header = any(value is None for _, value in record.headers)
        return not (record.key is None and record.value is None) and not has_null_header

    def producer(
        self,
        bootstrap: str,
        *,
        codec: str = "none",
        idempotent: bool = True,
        max_bytes: int = USUAL_BYTES,
        login: Login | None = None,
    ) -> Producer:
        return KafkaPythonProducer(
            {
                "bootstrap_servers": bootstrap,
                "acks": "all",
                "enable_idempotence": idempotent,
                "compression_type": None if codec == "none" else codec,
                "max_request_size": max_bytes,
                "linger_ms": 5,
                "reconnect_backoff_max_ms": 200,
                **self._shown(login),
            }
        )

    def consumer(
        self,
        bootstrap: str,
        topic: str,
        *,
        partition: int = 0,
        offset: int = 0,
        max_wait_ms: int = USUAL_WAIT_MS,
        login: Login | None = None,
    ) -> Consumer:
        settings = self._consumer_settings(bootstrap, max_wait_ms) | self._shown(login)
        return KafkaPythonConsumer(settings, topic, partition, offset)

    def watermarks(self, bootstrap: str, topic: str, partition: int = 0) -> tuple[int, int]:
        place = kafka.TopicPartition(topic, partition)
        with closing(kafka.KafkaConsumer(**self._consumer_settings(bootstrap))) as consumer:
            return consumer.beginning_offsets([place])[place], consumer.end_offsets([place])[place]

    def offset_for_time(self, bootstrap: str, topic: str, timestamp: int, partition: int = 0) -> int:
        place = kafka.TopicPartition(topic, partition)
        with closing(kafka.KafkaConsumer(**self._consumer_settings(bootstrap))) as consumer:
            found = consumer.offsets_for_times({place: timestamp})[place]
            return -1 if found is None else found.offset

    def create_topic(
        self, bootstrap: str, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        options = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(configs or {})}
        self._administer(bootstrap, lambda admin: admin.create_topics({topic: options}))

    def delete_topic(self, bootstrap: str, topic: str) -> None:
        self._administer(bootstrap, lambda admin: admin.delete_topics([topic]))

    def create_partitions(self, bootstrap: str, topic: str, total: int) -> None:
        self._administer(bootstrap, lambda admin: admin.create_partitions({topic: total}))

    def partitions(self, bootstrap: str, topic: str) -> int:
        (described,) = self._administer(bootstrap, lambda admin: admin.describe_topics([topic]))
        if described["error_code"]:
            raise ClientError(described["error_code"], repr(described))
        return len(described["partitions"])

    def configs(self, bootstrap: str, topic: str) -> dict[str, str]:
        resource = kafka.admin.ConfigResource("topic", topic)
        described = self._administer(bootstrap, lambda admin: admin.describe_configs([resource], config_filter="all"))
        return {name: entry["value"] for name, entry in described["topic"][topic].items()}

    @staticmethod
    def _shown(login: Login | None) -> dict[str, Any]:
        if login is None:
            return {}
        tokens = {} if login.token is None else {"sasl_oauth_token_provider": KafkaPythonTokens(login)}
        # A login that is refused is tried again until then.
        return login.for_python() | tokens | {"bootstrap_timeout_ms": 5000}

    @staticmethod
    def _administer(bootstrap: str, call: Callable[[kafka.admin.KafkaAdminClient], Any]) -> Any:
        with closing(kafka.admin.KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
            try:
                return call(admin)
            except kafka.errors.KafkaError as failed:
                raise _from_kafka_python(failed) from failed

    @staticmethod
    def _consumer_settings(bootstrap: str, max_wait_ms: int = USUAL_WAIT_MS) -> dict[str, Any]:
        return {
            "bootstrap_servers": bootstrap,
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "fetch_max_wait_ms": max_wait_ms,
            "request_timeout_ms": max_wait_ms + 60_000,
            "max_poll_records": 10_000,
        }


def _from_kafka_python(failed: kafka.errors.KafkaError) -> ClientError:
    return ClientError(getattr(failed, "errno", -1), repr(failed))
