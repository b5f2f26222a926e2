"""Whatever shape of compressed stream is taken, every library reads it, and the ones after it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from tests.broker.rawclient import RawClient, SomeTopic, batch, patched
from tests.clients.brokers import Broker
from tests.clients.client import Client
from tests.compressed_streams import STREAMS, Fate, Stream

from pg_kafka.wire.error_codes import ErrorCode

ATTRIBUTES, LENGTH = 21, 8
NO_TOPIC_ID = UUID(int=0)


@dataclass
class At:
    host: str
    port: int


def values_of(name: str) -> list[bytes]:
    """Three records, for several blocks of 64 kB."""
    return [name.encode(), b"".join(b"%06d|" % number for number in range(20_000)), b"last of " + name.encode()]


def batch_of(name: str, stream: Stream) -> bytes:
    plain = batch(values_of(name))
    content = stream.make(plain[61:])
    records = patched(plain[:61] + content, LENGTH, struct.pack(">i", 49 + len(content)))
    return patched(records, ATTRIBUTES, struct.pack(">h", stream.codec))


async def write_all(bootstrap: str, topic: str) -> tuple[list[str], dict[str, int]]:
    """Send a batch of each shape; those that were taken, and the error codes of the others."""
    host, port = bootstrap.split(":")
    taken, refused = [], {}
    async with await RawClient.connect(At(host, int(port))) as client:
        for name, stream in STREAMS.items():
            answer = await client.produce(SomeTopic(topic, NO_TOPIC_ID), batch_of(name, stream))
            if answer.error_code:
                refused[name] = answer.error_code
            else:
                taken.append(name)
    return taken, refused


def test_streams_that_are_taken_are_read_by_every_library(
    broker: Broker, client: Client, new_topic: Callable[..., str], once: dict[Any, Any]
) -> None:
    if broker.flavour == "apache-kafka":
        pytest.skip("takes what some libraries cannot read")
    place = ("streams", broker.flavour)
    if place not in once:  # written once, read by every library
        topic = new_topic(1, {"retention.ms": "-1"})  # the records are old
        taken, refused = asyncio.run(write_all(broker.bootstrap, topic))
        assert taken == [name for name, stream in STREAMS.items() if stream.fate is not Fate.REFUSED]
        assert set(refused.values()) == {ErrorCode.INVALID_RECORD}
        once[place] = topic, taken
    topic, taken = once[place]
    expected = [value for name in taken for value in values_of(name)]
    read = client.consume(broker.bootstrap, topic, len(expected))
    assert [record.offset for record in read] == list(range(len(expected)))
    assert [record.value for record in read] == expected
