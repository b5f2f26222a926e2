"""The state of quotas, by a clock that the test moves: who shares what, what is forgotten, what is metered."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable
from typing import Any

import pytest

from pg_kafka.broker import quotas as module
from pg_kafka.broker.arrivals import MAX_ADDRESSES, Arrival, Arrivals
from pg_kafka.broker.meter import Meter
from pg_kafka.broker.quotas import UNUSED_MS, Limits, Quotas, Windows
from pg_kafka.broker.reply import Reply
from pg_kafka.broker.throttling import told, wait_ms
from pg_kafka.config import Config
from pg_kafka.config.keys import INT_MAX
from pg_kafka.security.quotas import (
    CONNECTION_CREATION_RATE,
    CONSUMER_BYTE_RATE,
    CONTROLLER_MUTATION_RATE,
    DEFAULT,
    PRODUCER_BYTE_RATE,
    REQUEST_PERCENTAGE,
    Entity,
    Table,
)
from pg_kafka.security.rates import Window
from pg_kafka.wire import _produce, codec
from pg_kafka.wire.frames import RequestHeader, decode_response_header
from pg_kafka.wire.messages.fetch import FetchResponse
from pg_kafka.wire.messages.produce import PartitionProduceData, ProduceResponse, TopicProduceData
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeResponse


class World:
    """Quotas and their clock."""

    def __init__(self, entries: dict[Entity, dict[str, float]]) -> None:
        self.now = 1_000_000
        self.quotas = Quotas(lambda: self.now, Windows.of(Config()))
        self.quotas.renew(Table(entries))

    def limits(self, user: str = "alice", client_id: str = "app") -> Limits:
        return self.quotas.limits(f"User:{user}", client_id)

    def produced(self, size: int, user: str = "alice", client_id: str = "app") -> int:
        applying = self.limits(user, client_id).produce
        return 0 if applying is None else self.quotas.produced(applying, size)


def test_without_quotas_nothing_is_asked() -> None:
    world = World({})
    assert not world.quotas.is_active
    assert not world.limits().is_any
    world.quotas.renew(Table({Entity(ip="::1"): {CONNECTION_CREATION_RATE: 1.0}}))
    assert not world.quotas.is_active  # requests have nothing to do with addresses


def test_client_ids_of_one_user_share_the_user_s_quota() -> None:
    world = World({Entity("alice"): {PRODUCER_BYTE_RATE: 1000.0}})
    assert world.produced(6000, client_id="a") == 0
    assert world.produced(6000, client_id="b") == 12_000
    assert world.produced(6000, user="bob") == 0


@pytest.mark.parametrize("connections", [1, 3, 50])
@pytest.mark.parametrize("kilobytes", [1, 16, 500])
@pytest.mark.parametrize("seconds", [20, 600])
def test_greedy_connections_together_keep_the_quota(connections: int, kilobytes: int, seconds: int) -> None:
    """Each sends the next request a millisecond after it may: a megabyte a second for all."""
    world = World({Entity("alice"): {PRODUCER_BYTE_RATE: 1e6}})
    began, sent = world.now, 0
    free = [(world.now, number) for number in range(connections)]
    heapq.heapify(free)
    while free[0][0] < began + seconds * 1000:
        at, number = heapq.heappop(free)
        world.now = at
        heapq.heappush(free, (at + 1 + world.produced(kilobytes * 1000, client_id=str(number)), number))
        sent += kilobytes * 1000
    # What each has sent last is not paid for yet.
    assert 0.95 <= sent / (seconds * 1e6) <= 1.05 + connections * kilobytes * 1000 / (seconds * 1e6)


def test_users_by_default_have_a_quota_each() -> None:
    world = World({Entity(DEFAULT): {PRODUCER_BYTE_RATE: 1000.0}})
    assert world.produced(9000, user="alice") == 0
    assert world.produced(9000, user="bob") == 0
    assert world.produced(9000, user="alice") == 18_000


def test_the_user_s_name_may_have_colons() -> None:
    world = World({Entity("CN=a:b"): {PRODUCER_BYTE_RATE: 1000.0}})
    assert world.limits("CN=a:b").is_any


def test_what_is_taken_stays_when_the_quota_changes() -> None:
    world = World({Entity("alice"): {PRODUCER_BYTE_RATE: 1000.0}})
    assert world.produced(50_000) == 50_000
    world.now += 10_000
    world.quotas.renew(Table({Entity("alice"): {PRODUCER_BYTE_RATE: 10_000.0}}))
    assert world.quotas.owed_ms(world.limits()) == 4000
    world.quotas.renew(Table({}))
    assert not world.limits().is_any


def test_it_is_forgotten_after_an_hour() -> None:
    world = World({Entity(None, DEFAULT): {PRODUCER_BYTE_RATE: 1.0}})
    world.produced(10**9, client_id="old")
    assert world.quotas.kept == 1
    world.now += UNUSED_MS + 1
    world.produced(1, client_id="new")
    assert world.quotas.kept == 1
    assert world.produced(1, client_id="old") == 0


def test_very_many_client_ids_have_only_client_ids_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 100)
    world = World({Entity("bob"): {PRODUCER_BYTE_RATE: 1.0}, Entity(None, DEFAULT): {PRODUCER_BYTE_RATE: 1.0}})
    owed_ms = world.produced(1_000_000, user="bob")
    for number in range(1000):
        world.produced(1, client_id=f"made-up-{number}")
    assert world.quotas.kept == 101
    assert world.produced(0, user="bob") == owed_ms


def test_very_long_client_ids_take_no_more_memory_than_others() -> None:
    world = World({Entity(None, DEFAULT): {PRODUCER_BYTE_RATE: 1.0}})
    for number in range(100):
        world.produced(1, client_id="x" * 30_000 + str(number))
    assert world.quotas.kept == 1
    assert {len(client_id) for _, client_id in world.quotas._limits} == {1001}


def test_a_consumer_waits_before_it_gets_more() -> None:
    world = World({Entity("alice"): {CONSUMER_BYTE_RATE: 1000.0}})
    applying = world.limits().fetch
    assert applying is not None
    assert world.quotas.most_at_once(applying) == 10_000
    assert world.quotas.fetched(applying, 10_000) == (0, True)
    wait, is_sent = world.quotas.fetched(applying, 1000)
    assert (wait, is_sent) == (11_000, False)
    assert world.quotas.fetched(applying, 1000) == (11_000, False)  # what was not sent does not count
    world.now += 11_000
    assert world.quotas.fetched(applying, 1000) == (0, True)


def test_a_batch_beyond_the_window_is_sent_when_nothing_is_used() -> None:
    world = World({Entity("alice"): {CONSUMER_BYTE_RATE: 1000.0}})
    applying = world.limits().fetch
    assert applying is not None
    sent, began = 0, world.now
    for _ in range(40):
        wait, is_sent = world.quotas.fetched(applying, 100_000)
        sent += 100_000 * is_sent
        world.now += wait
    assert sent >= 10 * 100_000
    assert abs(sent / (world.now - began) - 1) < 0.05  # bytes in a millisecond: the quota


def test_a_request_quota_makes_nobody_wait_longer_than_a_sample() -> None:
    world = World({Entity("alice"): {REQUEST_PERCENTAGE: 1.0}})
    applying = world.limits().request
    assert applying is not None
    assert world.quotas.spent(applying, 100_000_000) == 0  # a tenth of a second in ten seconds
    assert world.quotas.spent(applying, 5_000_000_000) == 1000
    world.now += 600_000
    assert world.quotas.spent(applying, 5_000_000) == 0
    world.now += 9_900
    assert world.quotas.spent(applying, 96_000_000) == 200


def test_strict_mutations_are_all_or_nothing() -> None:
    world = World({Entity("alice"): {CONTROLLER_MUTATION_RATE: 1.0}})
    mutations = world.quotas.mutations("User:alice", "app", is_strict=True)
    assert mutations.may(20)  # it goes below nothing once
    assert mutations.throttle_ms == 0
    assert not mutations.may(1)
    assert mutations.throttle_ms == 9000
    world.now += 4000
    assert mutations.throttle_ms == 5000
    world.now += 5000
    assert world.quotas.mutations("User:alice", "app", is_strict=True).may(1)


def test_permissive_mutations_are_made_and_waited_for() -> None:
    world = World({Entity("alice"): {CONTROLLER_MUTATION_RATE: 1.0}})
    mutations = world.quotas.mutations("User:alice", "app", is_strict=False)
    assert mutations.may(20)
    assert mutations.throttle_ms == 9000
    assert mutations.may(20)
    assert mutations.throttle_ms == 29_000
    assert world.quotas.mutations("User:bob", "app", is_strict=True).may(10**9)


def came(arrivals: Arrivals, host: str, most: int = INT_MAX, listener: str = "INSIDE") -> Arrival:
    config = Config(
        max_connection_creation_rate=most, by_listener={"listener.name.outside.max.connection.creation.rate": 2}
    )
    return arrivals.came(host, listener, config)


def test_a_listener_has_a_rate_of_its_own() -> None:
    arrivals = Arrivals(World({}).quotas, Window(11, 1000))
    assert [came(arrivals, "10.0.0.1", listener="OUTSIDE").wait_ms for _ in range(22)] == [0] * 20 + [500, 1000]
    assert came(arrivals, "10.0.0.1") == Arrival()
    # What is counted together counts all listeners.
    assert [came(arrivals, "10.0.0.1", 100).wait_ms for _ in range(1001)] == [0] * 1000 + [10]


def test_addresses_that_come_too_often_wait_and_are_refused() -> None:
    world = World({Entity(ip="10.0.0.1"): {CONNECTION_CREATION_RATE: 1.0}})
    arrivals = Arrivals(world.quotas, Window(11, 1000))
    assert [came(arrivals, "10.0.0.1") for _ in range(10)] == [Arrival()] * 10
    wait, refusal, limit = came(arrivals, "10.0.0.1")
    assert wait == 1000
    assert refusal is not None and limit in refusal
    assert limit == CONNECTION_CREATION_RATE
    assert came(arrivals, "10.0.0.2") == Arrival()
    world.now += 11_000
    assert came(arrivals, "10.0.0.1") == Arrival()


def test_connections_wait_one_after_the_other() -> None:
    world = World({})
    arrivals = Arrivals(world.quotas, Window(11, 1000))
    waits = [came(arrivals, "10.0.0.1", 10)[0] for _ in range(103)]
    assert waits == [0] * 100 + [100, 200, 300]


def test_a_flood_of_connections_is_closed_and_not_counted() -> None:
    world = World({})
    arrivals = Arrivals(world.quotas, Window(11, 1000))
    arrived = [came(arrivals, "10.0.0.1", 10) for _ in range(5000)]
    assert sum(one.refusal is None for one in arrived) == 100 + 50  # in five seconds
    assert arrived[-1].wait_ms == 0 and arrived[-1].refusal is not None
    world.now += 120_000
    assert came(arrivals, "10.0.0.1", 10) == Arrival()


def test_addresses_are_bounded() -> None:
    world = World({Entity(ip=DEFAULT): {CONNECTION_CREATION_RATE: 1.0}})
    arrivals = Arrivals(world.quotas, Window(11, 1000))
    for number in range(MAX_ADDRESSES + 100):
        came(arrivals, f"2001:db8::{number:x}")
    assert len(arrivals._by_address) == MAX_ADDRESSES


class Sink:
    def complete(self, reply: Reply, message: Any | None) -> None: ...

    def fail(self, reason: str) -> None: ...

    def note(self, message: str, reason: str, kind: str, level: int) -> None: ...

    def refused_by(self, setting: str) -> None: ...


def reply_to(api_key: int, version: int, size: int = 1000) -> Reply:
    return Reply(Sink(), RequestHeader(api_key, version, 7, "app"), size, size)


class Result:
    base_offset, log_append_time_ms, log_start_offset = 5, -1, 0


@pytest.mark.parametrize("version", range(3, 14))
def test_an_acknowledgement_that_is_encoded_is_told_the_wait(version: int) -> None:
    reply = reply_to(0, version)
    topics = [TopicProduceData(name="t", partition_data=(PartitionProduceData(index=3, records=b""),))]
    reply.parts = [_produce.acknowledgement(version, 7, topics, [Result()])]
    assert told(reply, None, 123_456) is None
    (frame,) = reply.parts
    _, offset = decode_response_header(bytes(frame)[4:], 0, version)
    response = codec.decode_response(0, version, bytes(frame)[4:], offset)
    assert isinstance(response, ProduceResponse)
    assert response.throttle_time_ms == 123_456
    assert response.responses[0].partition_responses[0].base_offset == 5


@pytest.mark.parametrize("version", range(7, 19))
def test_a_fetch_without_news_that_is_encoded_is_told_the_wait(version: int) -> None:
    reply = reply_to(1, version)
    reply.send_encoded(b"".join(codec.encode_response(FetchResponse(session_id=9), 1, version)))
    told(reply, None, 2**31 - 1)
    frame = b"".join(reply.parts)
    _, offset = decode_response_header(frame[4:], 1, version)
    response = codec.decode_response(1, version, frame[4:], offset)
    assert (response.throttle_time_ms, response.session_id) == (2**31 - 1, 9)


def test_a_message_that_others_get_as_well_stays_as_it_is() -> None:
    message = FetchResponse(session_id=9)
    copied = told(reply_to(1, 12), message, 5)
    assert copied is not None and copied.throttle_time_ms == 5
    assert (message.throttle_time_ms, copied.session_id) == (0, 9)
    plain = SaslHandshakeResponse()
    assert told(reply_to(17, 1), plain, 5) is plain  # has no place for it


def test_the_longest_wait_counts() -> None:
    world = World({Entity("alice"): {PRODUCER_BYTE_RATE: 10.0, REQUEST_PERCENTAGE: 1e-6}})
    now = iter(range(0, 10**12, 10**9))
    meter = Meter(lambda: next(now))
    with meter:
        pass
    limits = world.limits()
    assert limits.produce is not None
    assert world.quotas.produced(limits.produce, 1000) == 100_000
    assert wait_ms(world.quotas, limits, reply_to(0, 9, 1000), ProduceResponse(), meter) == 100_000
    assert wait_ms(world.quotas, limits, reply_to(3, 9), FetchResponse(throttle_time_ms=2000), meter) == 2000
    assert wait_ms(world.quotas, limits, reply_to(3, 9), None, meter) == 1000


async def test_only_the_steps_of_metered_work_count() -> None:
    now = 0

    def tick(by: int) -> None:
        nonlocal now
        now += by

    meter = Meter(lambda: now)
    gate = asyncio.Event()

    async def work() -> None:
        tick(3)
        await gate.wait()
        tick(5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(10)
        tick(7)

    async def outside() -> None:
        tick(1000)
        gate.set()

    await asyncio.gather(_awaiting(meter.metered(work())), outside())
    assert meter.take() == 15
    assert meter.take() == 0


async def _awaiting(work: Awaitable[None]) -> None:
    await work


async def test_metered_work_raises_and_is_cancelled_like_any() -> None:
    meter = Meter(lambda: 0)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await meter.metered(fails())

    cleaned = False

    async def waits() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            cleaned = True

    task = asyncio.create_task(_awaiting(meter.metered(waits())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned


def test_a_meter_asked_in_the_middle_counts_what_has_passed() -> None:
    now = 0
    meter = Meter(lambda: now)
    with meter:
        now = 4
        with meter:
            now = 6
            assert meter.take() == 6
        now = 7
    assert meter.take() == 1
