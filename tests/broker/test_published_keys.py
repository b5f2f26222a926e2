"""The keys of an issuer, by address and by file: read, read again, and kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.token_issuer import Issuer, Place, published

from pg_kafka.broker import published_keys
from pg_kafka.broker.published_keys import MIN_BETWEEN_S, PublishedKeys
from pg_kafka.config.oauth import OauthSettings
from pg_kafka.errors import FatalError
from pg_kafka.security.jwks import MAX_BYTES


class Time:
    """A steady clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def place() -> Iterator[Place]:
    with published(Issuer("rsa")) as place:
        yield place


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@asynccontextmanager
async def started(url: str, time: Time, **settings: int) -> AsyncIterator[PublishedKeys]:
    deaths: list[str] = []
    keys = PublishedKeys(OauthSettings(url=url, **settings), time, deaths.append)
    await keys.start()
    try:
        yield keys
    finally:
        await keys.stop()
        assert not deaths


def names(keys: PublishedKeys) -> list[str | None]:
    return [] if keys.current is None else [key.kid for key in keys.current.keys]


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)


async def test_a_new_key_is_asked_for_at_once_and_then_not_for_a_while(place: Place, time: Time) -> None:
    async with started(place.url, time) as keys:
        assert names(keys) == ["rsa"] and place.requests == 1
        place.body = Issuer("rsa", "ec").keys
        assert not await keys.renewed(), "the first reading has only just been"
        time.now_s += MIN_BETWEEN_S
        assert await keys.renewed()
        assert names(keys) == ["rsa", "ec"] and place.requests == 2
        assert not await keys.renewed()
        assert place.requests == 2


async def test_many_that_ask_at_once_are_one_request(place: Place, time: Time) -> None:
    async with started(place.url, time) as keys:
        time.now_s += MIN_BETWEEN_S
        assert all(await asyncio.gather(*(keys.renewed() for _ in range(50))))
        assert place.requests == 2


async def test_keys_are_read_again_by_the_interval(place: Place, time: Time) -> None:
    async with started(place.url, time, refresh_ms=20) as keys:
        place.body = Issuer("ec").keys
        await until(lambda: names(keys) == ["ec"])


async def test_keys_stay_when_the_address_fails(place: Place, time: Time) -> None:
    async with started(place.url, time, backoff_ms=10, backoff_max_ms=20) as keys:
        good = place.body
        for place.status, place.body in [(500, good), (200, b"no keys"), (200, b" " * (MAX_BYTES + 1)), (404, good)]:
            time.now_s += MIN_BETWEEN_S
            assert not await keys.renewed()
            assert names(keys) == ["rsa"]
        place.status, place.body = 200, Issuer("ec").keys
        # By the pauses after a failure, which nobody has to ask for.
        await until(lambda: names(keys) == ["ec"])


async def test_redirects_are_not_followed(place: Place, time: Time) -> None:
    with published(Issuer("ec")) as elsewhere:
        place.status, place.headers = 302, {"Location": elsewhere.url}
        async with started(place.url, time) as keys:
            assert names(keys) == []
        assert elsewhere.requests == 0


async def test_a_start_without_an_answer_goes_on_asking(place: Place, time: Time) -> None:
    place.status = 503
    async with started(place.url, time, backoff_ms=10, backoff_max_ms=20) as keys:
        assert keys.current is None
        place.status = 200
        await until(lambda: names(keys) == ["rsa"])


async def test_an_address_where_nobody_listens(time: Time) -> None:
    with published(Issuer("rsa")) as gone:
        pass
    async with started(gone.url, time) as keys:
        assert keys.current is None


async def test_a_file_is_read_again_when_it_is_replaced(
    tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_keys, "FILE_LOOK_S", 0.01)
    file = tmp_path / "keys of ours.json"
    file.write_bytes(Issuer("rsa").keys)
    async with started(file.as_uri(), time) as keys:
        assert names(keys) == ["rsa"]
        replace(file, Issuer("ec").keys)
        await until(lambda: names(keys) == ["ec"])
        file.unlink()
        time.now_s += MIN_BETWEEN_S
        assert not await keys.renewed()
        assert names(keys) == ["ec"]
        replace(file, json.dumps({"keys": []}).encode())
        time.now_s += MIN_BETWEEN_S
        assert not await keys.renewed()
        assert names(keys) == ["ec"]
        replace(file, Issuer("rsa").keys)
        await until(lambda: names(keys) == ["rsa"])


def replace(file: Path, content: bytes) -> None:
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.rename(file)


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"keys":[{"kty":"oct","k":"AAAA"}]}'])
async def test_a_start_without_a_usable_file_fails(tmp_path: Path, time: Time, content: bytes | None) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FatalError, match=r"jwks\.endpoint\.url = file://"):
        await PublishedKeys(OauthSettings(url=file.as_uri()), time, lambda _reason: None).start()
