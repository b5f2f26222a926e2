"""Where the value of a key comes from, for topics, groups and the broker alike; DescribeConfigs shows it.

A key may have a value of its own (of a topic, of a group), one that the broker has for all of them, and a default. The
strongest is in force; the others are what DescribeConfigs calls synonyms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pg_kafka.config.broker import BROKER_KEYS, BrokerConfig
from pg_kafka.config.keys import ConfigType, Key, Source
from pg_kafka.config.listeners import LISTENER_PREFIX


class ConfigSource(IntEnum):
    """DescribeConfigs' numbers for where a value comes from."""

    UNKNOWN = 0
    TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5
    DYNAMIC_BROKER_LOGGER = 6
    CLIENT_METRICS = 7
    GROUP = 8


@dataclass(frozen=True, slots=True)
class Layer:
    """One place that gives a value to a key."""

    name: str  # by which it has the value there
    value: Any
    source: ConfigSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigEntry:
    """One line of DescribeConfigs' answer."""

    name: str
    value: str | None
    source: ConfigSource
    is_read_only: bool
    is_sensitive: bool
    type: ConfigType
    synonyms: Sequence[tuple[str, str | None, ConfigSource]]
    doc: str


def layers(key: Key, config: BrokerConfig, own: Layer | None = None) -> list[Layer]:
    """The values that a key has anywhere, the strongest first; `own` is that of a topic or a group.

    A synonym without a value of its own says nothing. That a weaker one has a default is told by none but itself.
    """
    found = [] if own is None else [own]
    names = key.synonyms or ((key.name,) if BROKER_KEYS.get(key.name) is key else ())
    if key.name.startswith(LISTENER_PREFIX):
        # What holds for all listeners stands in for what holds for one.
        names = (key.name, max((one for one in BROKER_KEYS if key.name.endswith(f".{one}")), key=len))
    for kind in _KINDS:
        for name in names:
            of_broker = key if name == key.name else BROKER_KEYS[name]
            for source, value in config.given(of_broker).items():
                if _kind(of_broker, source) is kind:
                    found.append(Layer(name, value, kind))
                    break
    first = key.name if key.name in names else (*names, None)[0]
    for name in names:
        if (
            name in BROKER_KEYS
            and BROKER_KEYS[name].default is not None
            and (name == first or any(layer.name == first for layer in found))
        ):
            found.append(Layer(name, BROKER_KEYS[name].default, ConfigSource.DEFAULT))
    return found


_KINDS = (ConfigSource.DYNAMIC_BROKER, ConfigSource.DYNAMIC_DEFAULT_BROKER, ConfigSource.STATIC_BROKER)


def _kind(key: Key, source: Source) -> ConfigSource:
    """What is read at the start alone is static, wherever it is kept."""
    if key.is_dynamic and source is Source.NODE:
        return ConfigSource.DYNAMIC_BROKER
    if key.is_dynamic and source is Source.DATABASE:
        return ConfigSource.DYNAMIC_DEFAULT_BROKER
    return ConfigSource.STATIC_BROKER


def in_force(key: Key, config: BrokerConfig) -> Any:
    """The value of a topic's or a group's key where the topic or the group sets none."""
    for name in key.synonyms:
        of_broker = BROKER_KEYS[name]
        value = getattr(config, of_broker.attribute)
        if value is not None:
            if of_broker.unit_ms == 1:
                return value
            return -1 if value < 0 else value * of_broker.unit_ms
    return key.default


def entry(key: Key, config: BrokerConfig, own: Layer | None = None, *, is_read_only: bool = False) -> ConfigEntry:
    """A key with its value, where that comes from, and what it overrides."""
    found = layers(key, config, own)
    if BROKER_KEYS.get(key.name) is key or key.name.startswith(LISTENER_PREFIX):
        # Those that stand in for it are named behind it alone.
        found = found[next((n for n, layer in enumerate(found) if layer.name == key.name), len(found)) :]
        value = config.value(key)
    else:
        value = in_force(key, config) if own is None else own.value
    return ConfigEntry(
        name=key.name,
        value=_shown(key, value),
        source=found[0].source if found else ConfigSource.DEFAULT,
        is_read_only=is_read_only,
        is_sensitive=key.is_sensitive,
        type=key.type,
        synonyms=[(layer.name, _shown(key, layer.value), layer.source) for layer in found],
        doc=key.doc,
    )


def _shown(key: Key, value: Any) -> str | None:
    return None if key.is_sensitive else key.text(value)
