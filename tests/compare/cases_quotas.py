"""Requests that set quotas of clients and tell them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tests.compare.cases_admin_apis import with_words
from tests.compare.scene import Scene, case

from pg_kafka.wire.messages import alter_client_quotas as altering
from pg_kafka.wire.messages import describe_client_quotas as describing

DESCRIBE, ALTER = 48, 49
EXACT, DEFAULT, ANY = range(3)

Entity = Mapping[str, str | None]
Filter = tuple[str, int, str | None]


def setting(*entries: tuple[Entity, list[tuple[str, float | None]]], validate_only: bool = False) -> Any:
    """None for a value removes the quota."""
    return altering.AlterClientQuotasRequest(
        entries=[
            altering.RequestEntryData(
                entity=[
                    altering.RequestEntityData(entity_type=kind, entity_name=name) for kind, name in entity.items()
                ],
                ops=[altering.OpData(key=key, value=value or 0.0, remove=value is None) for key, value in values],
            )
            for entity, values in entries
        ],
        validate_only=validate_only,
    )


def filtering(*components: Filter, strict: bool = False) -> Any:
    return describing.DescribeClientQuotasRequest(
        components=[
            describing.ComponentData(entity_type=kind, match_type=match_type, match=match)
            for kind, match_type, match in components
        ],
        strict=strict,
    )


def in_order(answer: Any) -> Any:
    """Kafka tells entities, their parts and their quotas in the order of its hash tables."""
    for entry in getattr(answer, "entries", None) or ():
        entry.entity = sorted(entry.entity, key=lambda one: one.entity_type)
        if hasattr(entry, "values"):
            entry.values = sorted(entry.values, key=lambda one: one.key)
    if getattr(answer, "entries", None):
        answer.entries = sorted(
            answer.entries, key=lambda entry: [(one.entity_type, one.entity_name or "") for one in entry.entity]
        )
    return answer


async def set_for(scene: Scene, entity: Entity, wanted: Mapping[str, float]) -> Any:
    """What an entity has, once that is as wanted: Kafka answers before its brokers know of a change."""
    components = [(kind, DEFAULT if name is None else EXACT, name) for kind, name in entity.items()]

    def found(answer: Any) -> dict[str, float]:
        return {one.key: one.value for entry in answer.entries or () for one in entry.values}

    answer = await scene.ask_until(
        lambda a: found(a) == wanted, filtering(*components, strict=True), version=1, api_key=DESCRIBE
    )
    return in_order(answer)


def _add_change(name: str, entity: Entity, *values: tuple[str, float | None], then: Mapping[str, float]) -> None:
    """For validation only, really, and what is set then; afterwards nothing is."""

    @case(f"quotas-set-{name}", ALTER)
    async def ask(scene: Scene) -> Any:
        try:
            return {
                "checked": with_words(in_order(await scene.ask(setting((entity, list(values)), validate_only=True)))),
                "altered": with_words(in_order(await scene.ask(setting((entity, list(values)))))),
                "set": await set_for(scene, entity, then),
            }
        finally:
            if then:
                await scene.ask(setting((entity, [(key, None) for key in then])))
                await set_for(scene, entity, {})


_USER: Entity = {"user": "quota-user"}
_PRODUCE, _REQUEST = "producer_byte_rate", "request_percentage"
_add_change("user", _USER, (_PRODUCE, 1000.0), (_REQUEST, 0.5), then={_PRODUCE: 1000.0, _REQUEST: 0.5})
_add_change("client", {"client-id": "quota-client"}, ("consumer_byte_rate", 1e18), then={"consumer_byte_rate": 1e18})
_add_change(
    "both",
    {"user": "quota-user", "client-id": "quota-client"},
    ("controller_mutation_rate", 5.0),
    then={"controller_mutation_rate": 5.0},
)
_add_change(
    "both-defaults",
    {"user": None, "client-id": None},
    ("consumer_byte_rate", 1e15),
    then={"consumer_byte_rate": 1e15},
)
_add_change("address", {"ip": "10.0.0.1"}, ("connection_creation_rate", 10.0), then={"connection_creation_rate": 10.0})
_add_change("address-default", {"ip": None}, ("connection_creation_rate", 1e9), then={"connection_creation_rate": 1e9})
_add_change("special-characters", {"user": "CN=a b,O=<default>"}, (_PRODUCE, 7.0), then={_PRODUCE: 7.0})
_add_change("nothing", _USER, then={})
_add_change("remove-unset", _USER, (_PRODUCE, None), then={})
_add_change("remove-unknown", _USER, ("no_such_rate", None), then={})


def _add_refused(name: str, *entries: tuple[Entity, list[tuple[str, float | None]]]) -> None:
    @case(f"quotas-refused-{name}", ALTER)
    async def ask(scene: Scene) -> Any:
        return with_words(in_order(await scene.ask(setting(*entries))))


_add_refused("zero", (_USER, [(_PRODUCE, 0.0)]))
_add_refused("negative", (_USER, [(_PRODUCE, -1.0)]))
_add_refused("fraction", (_USER, [(_PRODUCE, 1.5)]))
_add_refused("too-large", (_USER, [(_PRODUCE, 1e19)]))
_add_refused("endless", (_USER, [(_PRODUCE, math.inf)]))
_add_refused("endless-percentage", (_USER, [(_REQUEST, -math.inf)]))
_add_refused("no-number", (_USER, [(_REQUEST, math.nan)]))
_add_refused("no-number-of-unknown", (_USER, [("no_such_rate", math.nan)]))
_add_refused("unknown", (_USER, [("no_such_rate", 1.0)]))
_add_refused("rate-of-addresses", (_USER, [("connection_creation_rate", 1.0)]))
_add_refused("rate-of-clients", ({"ip": "10.0.0.1"}, [(_PRODUCE, 1.0)]))
_add_refused("too-many-connections", ({"ip": "10.0.0.1"}, [("connection_creation_rate", 2.0**31)]))
_add_refused("no-address", ({"ip": "no address"}, [("connection_creation_rate", 1.0)]))
_add_refused("address-and-user", ({"ip": "10.0.0.1", "user": "alice"}, [("connection_creation_rate", 1.0)]))
_add_refused("no-entity", ({}, [(_PRODUCE, 1.0)]))
_add_refused("unknown-type", ({"group": "g"}, [(_PRODUCE, 1.0)]))
_add_refused("empty-name", ({"user": ""}, [(_PRODUCE, 1.0)]))
_add_refused("quota-twice", (_USER, [(_PRODUCE, 1.0), (_PRODUCE, 2.0)]))
_add_refused("entity-twice", (_USER, [(_PRODUCE, None)]), (_USER, [(_PRODUCE, None)]))
_add_refused(
    "both-twice",
    ({"user": "a", "client-id": None}, [(_PRODUCE, None)]),
    ({"client-id": None, "user": "a"}, [(_PRODUCE, None)]),
)
_add_refused("one-of-two", (_USER, [(_PRODUCE, 0.0)]), ({"client-id": "quota-client"}, [(_PRODUCE, None)]))


def _add_filter(name: str, *components: Filter, strict: bool = False) -> None:
    """What is told of six entities; the names are this case's, so that other cases' quotas do not count."""

    @case(f"quotas-told-{name}", DESCRIBE)
    async def ask(scene: Scene) -> Any:
        entities: list[Entity] = [
            {"user": "told-a"},
            {"user": "told-a", "client-id": "told-c"},
            {"user": "told-a", "client-id": None},
            {"client-id": "told-c"},
            {"ip": "10.0.0.9"},
        ]
        rates = ["connection_creation_rate" if "ip" in entity else "consumer_byte_rate" for entity in entities]
        await scene.ask(
            setting(*((entity, [(rate, 1e9)]) for entity, rate in zip(entities, rates, strict=True))), 1, ALTER
        )
        for entity, rate in zip(entities, rates, strict=True):
            await set_for(scene, entity, {rate: 1e9})
        return with_words(in_order(await scene.ask(filtering(*components, strict=strict))))


_add_filter("user", ("user", EXACT, "told-a"))
_add_filter("user-strict", ("user", EXACT, "told-a"), strict=True)
_add_filter("user-and-client", ("user", EXACT, "told-a"), ("client-id", EXACT, "told-c"), strict=True)
_add_filter("user-and-default-client", ("user", EXACT, "told-a"), ("client-id", DEFAULT, None))
_add_filter("user-and-any-client", ("user", EXACT, "told-a"), ("client-id", ANY, None))
_add_filter("client-strict", ("client-id", EXACT, "told-c"), strict=True)
_add_filter("address", ("ip", EXACT, "10.0.0.9"))
_add_filter("nobody", ("user", EXACT, "told-nobody"))
_add_filter("empty-name", ("user", EXACT, ""))
_add_filter("empty-type", ("", ANY, None))
_add_filter("unknown-type", ("group", ANY, None))
_add_filter("type-twice", ("user", ANY, None), ("user", DEFAULT, None))
_add_filter("address-and-user", ("ip", ANY, None), ("user", ANY, None))
_add_filter("exact-null", ("user", EXACT, None))
_add_filter("default-with-name", ("user", DEFAULT, "told-a"))
_add_filter("any-with-name", ("user", ANY, "told-a"))
_add_filter("unknown-match", ("user", 7, None))
