"""Subscriptions to metrics of clients, what clients are told of them, and what they push (KIP-714).

Subscriptions of these cases match clients of their own alone, so that cases do not meddle with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from tests.compare.cases_admin_apis import with_words
from tests.compare.scene import Scene, case

from pg_kafka.wire import compression
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages import incremental_alter_configs as incremental
from pg_kafka.wire.messages.alter_configs import AlterableConfig, AlterConfigsRequest, AlterConfigsResource
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.get_telemetry_subscriptions import GetTelemetrySubscriptionsRequest
from pg_kafka.wire.messages.list_config_resources import ListConfigResourcesRequest
from pg_kafka.wire.messages.push_telemetry import PushTelemetryRequest

DESCRIBE, ALTER, INCREMENTAL, ASK, PUSH, LIST = 32, 33, 44, 71, 72, 74
CLIENT_METRICS = 16
SET, DELETE, APPEND, SUBTRACT = range(4)

Change = tuple[int, str, str | None]
EMPTY = b"\x0a\x00"  # one resource without metrics


def changing(name: str, *changes: Change, validate_only: bool = False) -> Any:
    return incremental.IncrementalAlterConfigsRequest(
        resources=[
            incremental.AlterConfigsResource(
                resource_type=CLIENT_METRICS,
                resource_name=name,
                configs=[
                    incremental.AlterableConfig(name=key, config_operation=operation, value=value)
                    for operation, key, value in changes
                ],
            )
        ],
        validate_only=validate_only,
    )


async def described(scene: Scene, name: str) -> dict[str, tuple[str, int]]:
    resource = DescribeConfigsResource(resource_type=CLIENT_METRICS, resource_name=name)
    answer = await scene.ask(DescribeConfigsRequest(resources=[resource]), 4, DESCRIBE)
    return {one.name: (one.value, one.config_source) for one in answer.results[0].configs}


async def has(scene: Scene, name: str, wanted: dict[str, str]) -> dict[str, tuple[str, int]]:
    """What is set, once that is as wanted: Kafka answers before its brokers know of a change."""

    async def look() -> dict[str, str]:
        return {key: value for key, (value, source) in (await described(scene, name)).items() if source == 7}

    for _ in range(200):
        if await look() == wanted:
            break
    return await described(scene, name)


def _add_change(name: str, *changes: Change, then: dict[str, str]) -> None:
    """For validation only, really, and what is set then; afterwards nothing is."""

    @case(f"telemetry-set-{name}", INCREMENTAL)
    async def ask(scene: Scene) -> Any:
        of = f"set-{name}-{scene.version}"
        try:
            return {
                "checked": with_words(await scene.ask(changing(of, *changes, validate_only=True))),
                "altered": with_words(await scene.ask(changing(of, *changes))),
                "set": await has(scene, of, then),
            }
        finally:
            await scene.ask(changing(of, *((DELETE, key, None) for key in then)))
            await has(scene, of, {})


_INTERVAL, _MATCH, _METRICS = "interval.ms", "match", "metrics"
_NOBODY = (SET, _MATCH, "client_id=nobody")
_add_change(
    "all",
    (SET, _METRICS, "a.,b."),
    (SET, _INTERVAL, "100"),
    _NOBODY,
    then={_METRICS: "a.,b.", _INTERVAL: "100", _MATCH: "client_id=nobody"},
)
_add_change("spaces", (SET, _METRICS, " a , b "), (SET, _INTERVAL, " 500 "), then={_METRICS: "a,b", _INTERVAL: "500"})
_EVERY = (
    "client_instance_id=a,client_id=b,client_software_name=c,client_software_version=d,"
    "client_source_address=e,client_source_port=f"
)
_add_change("every-property", (SET, _MATCH, _EVERY), then={_MATCH: _EVERY})
_add_change("property-twice", (SET, _MATCH, "client_id=a,client_id=b"), then={_MATCH: "client_id=a,client_id=b"})
_add_change("trailing-equals", (SET, _MATCH, "client_id=a="), then={_MATCH: "client_id=a="})
_add_change("empty-lists", (SET, _METRICS, ""), (SET, _MATCH, ""), then={_METRICS: "", _MATCH: ""})
_add_change("nothing", then={})
_add_change("delete-unset", (DELETE, _METRICS, None), then={})
_add_change("delete-unknown", (DELETE, "nope", None), then={})


def _add_refused(name: str, *changes: Change, of: str = "refused") -> None:
    @case(f"telemetry-refused-{name}", INCREMENTAL)
    async def ask(scene: Scene) -> Any:
        return with_words(await scene.ask(changing(of, *changes)))


_add_refused("interval-low", (SET, _INTERVAL, "99"))
_add_refused("interval-high", (SET, _INTERVAL, "3600001"))
_add_refused("interval-text", (SET, _INTERVAL, "x"))
_add_refused("interval-empty", (SET, _INTERVAL, ""))
_add_refused("null", (SET, _INTERVAL, None))
_add_refused("unknown", (SET, "nope", "1"))
_add_refused("twice", (SET, _METRICS, "a"), (DELETE, _METRICS, None))
_add_refused("empty-item", (SET, _METRICS, "a,,b"))
_add_refused("append", (APPEND, _METRICS, "a"))
_add_refused("subtract", (SUBTRACT, _MATCH, "client_id=a"))
_add_refused("append-interval", (APPEND, _INTERVAL, "5"))
_add_refused("unnamed", (SET, _METRICS, "a"), of="")
for _name, _text in {
    "no-value": "client_id",
    "empty-value": "client_id=",
    "two-values": "client_id=a=b",
    "no-property": "=x",
    "unknown-property": "foo=x",
    "no-expression": "client_id=[",
}.items():
    _add_refused(f"match-{_name}", (SET, _MATCH, _text))


@case("telemetry-replace", ALTER)
async def _(scene: Scene) -> Any:
    def replacing(**configs: str | None) -> Any:
        entries = [AlterableConfig(name=key.replace("_", "."), value=value) for key, value in configs.items()]
        resource = AlterConfigsResource(resource_type=CLIENT_METRICS, resource_name="replaced", configs=entries)
        return AlterConfigsRequest(resources=[resource])

    return {
        "set": with_words(await scene.ask(replacing(metrics="a", match="client_id=nobody"))),
        "refused": with_words(await scene.ask(replacing(interval_ms="1"))),
        "null": with_words(await scene.ask(replacing(metrics=None))),
        "replaced": with_words(await scene.ask(replacing(match="client_id=nobody"))),
        "now": await has(scene, "replaced", {"match": "client_id=nobody"}),
        "none": with_words(await scene.ask(replacing())),
        "then": await has(scene, "replaced", {}),
    }


@case("telemetry-listed", LIST)
async def _(scene: Scene) -> Any:
    name = f"listed-{scene.version}"
    await scene.ask(changing(name, _NOBODY), 1, INCREMENTAL)
    await has(scene, name, {_MATCH: "client_id=nobody"})
    types = [CLIENT_METRICS] if scene.version else []
    listed = await scene.ask(ListConfigResourcesRequest(resource_types=types))
    await scene.ask(changing(name, (DELETE, _MATCH, None)), 1, INCREMENTAL)
    await has(scene, name, {})
    return [one for one in listed.config_resources if one.resource_name == name]


# -- clients -------------------------------------------------------------------------------------------------------------


class Client:
    """One client with subscriptions of its own. Each case has an id of its own, by which these match."""

    def __init__(self, scene: Scene, label: str) -> None:
        self.scene = scene
        self.name = f"telemetry-{label}-{uuid4()}"
        scene.client.client_id = self.name
        self._set: dict[str, dict[str, str]] = {}

    async def subscribe(self, label: str, **configs: str) -> None:
        name = f"{self.name}-{label}"
        wanted = {"match": f"client_id={self.name}"} | {key.replace("_", "."): text for key, text in configs.items()}
        await self.scene.ask(changing(name, *((SET, key, text) for key, text in wanted.items())), 1, INCREMENTAL)
        await has(self.scene, name, wanted)
        self._set[name] = wanted

    async def ask(self, instance_id: UUID = ZERO_UUID) -> Any:
        return await self.scene.ask(GetTelemetrySubscriptionsRequest(client_instance_id=instance_id), 0, ASK)

    async def told(self, is_so: Callable[[Any], bool]) -> Any:
        """What a new client is told, once that is so."""
        for _ in range(200):
            answer = await self.ask()
            if is_so(answer):
                break
        return answer

    async def push(self, of: Any, **other: Any) -> str:
        request = PushTelemetryRequest(
            client_instance_id=of.client_instance_id, subscription_id=of.subscription_id, metrics=EMPTY
        )
        for key, value in other.items():
            setattr(request, key, value)
        answer = await self.scene.ask(request, 0, PUSH)
        return f"{answer.error_code} {answer.throttle_time_ms}" if hasattr(answer, "error_code") else str(answer)

    async def leave(self) -> None:
        for name, configs in self._set.items():
            await self.scene.ask(changing(name, *((DELETE, key, None) for key in configs)), 1, INCREMENTAL)
            await has(self.scene, name, {})


def shape(answer: Any) -> Any:
    """What a client is told; its id and the subscription's number are the broker's own."""
    return {
        "error": answer.error_code,
        "throttle": answer.throttle_time_ms,
        "id": answer.client_instance_id != ZERO_UUID,
        "compressions": list(answer.accepted_compression_types),
        "interval": answer.push_interval_ms,
        "bytes": answer.telemetry_max_bytes,
        "delta": answer.delta_temporality,
        "metrics": sorted(answer.requested_metrics),
    }


def _add_client(name: str, api_key: int) -> Callable[[Callable[[Client], Any]], None]:
    def add(play: Callable[[Client], Any]) -> None:
        @case(f"telemetry-{name}", api_key)
        async def ask(scene: Scene) -> Any:
            client = Client(scene, name)
            try:
                return await play(client)
            finally:
                await client.leave()

    return add


@_add_client("nothing-wanted", ASK)
async def _(client: Client) -> Any:
    first = await client.ask()
    again = await client.ask(first.client_instance_id)
    return [shape(first), shape(again), shape(await client.ask(UUID(int=1)))]


@_add_client("together", ASK)
async def _(client: Client) -> Any:
    await client.subscribe("a", metrics="x.,y.", interval_ms="60000")
    await client.subscribe("b", metrics="y.,z.", interval_ms="30000")
    both = await client.told(lambda a: len(a.requested_metrics) == 3 and a.push_interval_ms == 30_000)
    await client.subscribe("c", metrics="*")
    return [shape(both), shape(await client.told(lambda a: list(a.requested_metrics) == ["*"]))]


@_add_client("hour", ASK)
async def _(client: Client) -> Any:
    await client.subscribe("a", metrics="x.", interval_ms="3600000")
    return shape(await client.told(lambda a: list(a.requested_metrics) == ["x."]))


@_add_client("pushes", PUSH)
async def _(client: Client) -> Any:
    await client.subscribe("a", metrics="x.", interval_ms="300000")
    me = await client.told(lambda a: list(a.requested_metrics) == ["x."])
    return {
        "once": await client.push(me),
        "again": await client.push(me),
        "asked": shape(await client.ask(me.client_instance_id)),
        "goodbye": await client.push(me, terminating=True),
        "after": await client.push(me),
        "other": await client.push(me, subscription_id=me.subscription_id ^ 1),
    }


def _add_push(name: str, **fields: Any) -> None:
    """One push, and what is told to who asks after it."""

    @_add_client(f"push-{name}", PUSH)
    async def play(client: Client) -> Any:
        await client.subscribe("a", metrics="x.", interval_ms="300000")
        me = await client.told(lambda a: list(a.requested_metrics) == ["x."])
        code = await client.push(me, **fields)
        return {"code": code, "asked": shape(await client.ask(me.client_instance_id))}


_add_push("wrong-subscription", subscription_id=1)
_add_push("unknown-compression", compression_type=9)
_add_push("garbage", metrics=b"garbage")
_add_push("cut", metrics=b"\x0a\x05\x00")
_add_push("nothing", metrics=b"")
_add_push("large", metrics=b"\0" * (2**20 + 1))
_add_push("no-gzip", metrics=b"1234", compression_type=1)
_add_push("zero-id", client_instance_id=ZERO_UUID)
_add_push("reserved-id", client_instance_id=UUID(int=1))
_add_push("unknown-instance", client_instance_id=UUID(int=0x1234))
_add_push("unpacks-to-much", metrics=compression.compress(4, EMPTY * 2**20), compression_type=4)
for _codec in range(1, 5):
    _add_push(f"codec-{_codec}", metrics=compression.compress(_codec, EMPTY), compression_type=_codec)
