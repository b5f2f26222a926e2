"""kcat: a program that runs once for each call. It writes text, without timestamps, and one set of headers a run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from tests.clients.client import CALL_TIMEOUT_S, USUAL_BYTES, USUAL_WAIT_MS, Client, ClientError, Consumer, Producer
from tests.clients.logins import Login
from tests.clients.records import Record
from tests.kafka_reference import need

_INSTALL = "apt-get install kcat"
# Sizes first, so that keys and values may hold any byte.
_FORMAT = "%o %T %K %S\\n%k%s"
_HEAD = re.compile(rb"(\d+) (-?\d+) (-?\d+) (-?\d+)\n")


def kcat(*arguments: str, stdin: bytes = b"", timeout_s: float = CALL_TIMEOUT_S) -> bytes:
    """What kcat prints; raises ClientError when it fails."""
    command = [need("kcat", _INSTALL), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise ClientError(-1, done.stderr.decode(errors="replace"))
    return done.stdout


def shown(login: Login | None) -> tuple[str, ...]:
    """The arguments that say who the client is."""
    settings = {} if login is None else login.for_librdkafka()
    return tuple(word for name, value in settings.items() for word in ("-X", f"{name}={value}"))


class KcatProducer(Producer):
    def __init__(self, bootstrap: str, codec: str, idempotent: bool, max_bytes: int, login: Login | None) -> None:
        idempotence = f"enable.idempotence={str(idempotent).lower()}"
        size = f"message.max.bytes={max_bytes}"
        self._settings = ("-b", bootstrap, "-z", codec, "-X", idempotence, "-X", size, "-X", "acks=all")
        self._shown = shown(login)

    def send(self, topic: str, records: Sequence[Record], partition: int = 0) -> list[int]:
        """kcat does not tell offsets: they follow what the partition held before, as tests write to it alone."""
        bootstrap = self._settings[1]
        before = _end(bootstrap, topic, partition, self._shown)
        lines = b"".join(b"%s\x1f%s\x1e" % (record.key or b"", record.value or b"") for record in records)
        delimiters = ("-K", "\\x1f", "-D", "\\x1e", "-Z")
        kcat("-P", *self._settings, *self._shown, "-t", topic, "-p", str(partition), *delimiters, stdin=lines)
        return list(range(before, before + len(records)))

    def close(self) -> None:
        """Nothing is open."""


class KcatConsumer(Consumer):
    def __init__(
        self, bootstrap: str, topic: str, partition: int, offset: int, max_wait_ms: int, login: Login | None
    ) -> None:
        where = ("-b", bootstrap, "-t", topic, "-p", str(partition), "-X", f"fetch.wait.max.ms={max_wait_ms}")
        self._where = (*where, *shown(login))
        self._offset = offset

    def read(self, count: int, timeout_s: float = CALL_TIMEOUT_S) -> list[Record]:
        output = kcat("-C", *self._where, "-o", str(self._offset), "-c", str(count), "-f", _FORMAT, timeout_s=timeout_s)
        records: list[Record] = []
        position = 0
        while position < len(output):
            head = _HEAD.match(output, position)
            assert head is not None, output[position : position + 100]
            offset, timestamp, key_size, value_size = map(int, head.groups())
            key_end = head.end() + max(0, key_size)
            value_end = key_end + max(0, value_size)
            key = None if key_size < 0 else output[head.end() : key_end]
            value = None if value_size < 0 else output[key_end:value_end]
            records.append(Record(key, value, (), timestamp, offset))
            position = value_end
        self._offset += len(records)
        return records

    def seek(self, offset: int) -> None:
        self._offset = offset

    def close(self) -> None:
        """Nothing is open."""


def _end(bootstrap: str, topic: str, partition: int, shown: Sequence[str] = ()) -> int:
    """The next offset; 0 when there is no such topic yet, which asking does not make."""
    try:
        answer = kcat("-Q", "-b", bootstrap, *shown, "-t", f"{topic}:{partition}:-1").decode()
    except ClientError as failed:
        if "Unknown partition" in str(failed) or "Unknown topic" in str(failed):
            return 0
        raise
    found = re.search(r"\[\d+\] offset (\d+)", answer)
    assert found is not None, answer
    return int(found[1])


class Kcat(Client):
    name = "kcat"
    sets_timestamps = False
    administers = False
    keeps_open = False
    reads_headers = False  # prints them as text, see test_kcat.py

    def __init__(self) -> None:
        need("kcat", _INSTALL)

    def can_send(self, record: Record) -> bool:
        """Text without the delimiters; what is empty becomes null."""
        key, value = record.key or b"", record.value or b""
        empty = record.key == b"" or record.value == b""
        return not (empty or record.headers or re.search(rb"[\x00\x1e\x1f\xff]", key + value))

    def producer(
        self,
        bootstrap: str,
        *,
        codec: str = "none",
        idempotent: bool = True,
        max_bytes: int = USUAL_BYTES,
        login: Login | None = None,
    ) -> Producer:
        return KcatProducer(bootstrap, codec, idempotent, max_bytes, login)

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
        return KcatConsumer(bootstrap, topic, partition, offset, max_wait_ms, login)

    def watermarks(self, bootstrap: str, topic: str, partition: int = 0) -> tuple[int, int]:
        answer = kcat("-Q", "-b", bootstrap, "-t", f"{topic}:{partition}:-2").decode()
        found = re.search(r"\[\d+\] offset (\d+)", answer)
        assert found is not None, answer
        return int(found[1]), _end(bootstrap, topic, partition)

    def offset_for_time(self, bootstrap: str, topic: str, timestamp: int, partition: int = 0) -> int:
        answer = kcat("-Q", "-b", bootstrap, "-t", f"{topic}:{partition}:{timestamp}").decode()
        found = re.search(r"\[\d+\] offset (-?\d+)", answer)
        assert found is not None, answer
        return int(found[1])
