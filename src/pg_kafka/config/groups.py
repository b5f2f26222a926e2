"""What a group may set for itself, by IncrementalAlterConfigs on a GROUP resource, and what it amounts to.

altered({}, [(SET, "consumer.session.timeout.ms", "50000")], config)   the configs afterwards
effective(configs, config)                                            what the group's machine works with
describe(configs, config)                                             what DescribeConfigs answers
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace

from pg_kafka.config import changes
from pg_kafka.config.broker import BrokerConfig
from pg_kafka.config.changes import Change
from pg_kafka.config.changes import Operation as Operation
from pg_kafka.config.keys import ConfigType, InvalidConfig, Key, attribute_of, table
from pg_kafka.config.layers import ConfigEntry, ConfigSource, Layer, entry, in_force

_DEFAULTS = BrokerConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """The broker's settings for groups, by Kafka's names with `_` for `.`; times in milliseconds."""

    group_initial_rebalance_delay_ms: int = _DEFAULTS.group_initial_rebalance_delay_ms
    group_max_size: int = _DEFAULTS.group_max_size
    group_min_session_timeout_ms: int = _DEFAULTS.group_min_session_timeout_ms
    group_max_session_timeout_ms: int = _DEFAULTS.group_max_session_timeout_ms
    group_consumer_session_timeout_ms: int = _DEFAULTS.group_consumer_session_timeout_ms
    group_consumer_min_session_timeout_ms: int = _DEFAULTS.group_consumer_min_session_timeout_ms
    group_consumer_max_session_timeout_ms: int = _DEFAULTS.group_consumer_max_session_timeout_ms
    group_consumer_heartbeat_interval_ms: int = _DEFAULTS.group_consumer_heartbeat_interval_ms
    group_consumer_min_heartbeat_interval_ms: int = _DEFAULTS.group_consumer_min_heartbeat_interval_ms
    group_consumer_max_heartbeat_interval_ms: int = _DEFAULTS.group_consumer_max_heartbeat_interval_ms
    group_consumer_max_size: int = _DEFAULTS.group_consumer_max_size
    group_consumer_assignment_interval_ms: int = _DEFAULTS.group_consumer_assignment_interval_ms
    group_consumer_assignors: tuple[str, ...] = _DEFAULTS.group_consumer_assignors
    group_consumer_migration_policy: str = _DEFAULTS.group_consumer_migration_policy


def _key(name: str, doc: str) -> Key:
    """The broker has a value for all groups that set none, `group.<name>`, and bounds for what a group may set."""
    protocol, _, rest = name.partition(".")
    synonym = f"group.{name}"
    return Key(
        name=name,
        type=ConfigType.INT,
        default=getattr(_DEFAULTS, attribute_of(synonym)),
        doc=doc,
        synonyms=(synonym,),
        bounds=(f"group.{protocol}.min.{rest}", f"group.{protocol}.max.{rest}"),
    )


GROUP_KEYS: Mapping[str, Key] = table(
    _key("consumer.session.timeout.ms", "After what silence a member of the consumer protocol is removed."),
    _key(
        "consumer.heartbeat.interval.ms",
        "How often members of the consumer protocol are told to send heartbeats.",
    ),
    _key(
        "consumer.assignment.interval.ms",
        "Least time between two target assignments of a group of the consumer protocol.",
    ),
)


def group_settings(config: BrokerConfig) -> GroupSettings:
    """The broker's settings, as the machines take them."""
    return GroupSettings(**{field.name: getattr(config, field.name) for field in fields(GroupSettings)})


def altered(configs: Mapping[str, str], operations: Iterable[Change], config: BrokerConfig) -> dict[str, str]:
    """The configs of a group after these operations. Raises InvalidChange, InvalidConfig; then nothing is changed."""
    result = changes.altered(configs, operations, GROUP_KEYS, lambda key: key.text(in_force(key, config)))
    _check(result, config)
    return result


def _check(configs: Mapping[str, str], config: BrokerConfig) -> None:
    for name, text in configs.items():
        key = GROUP_KEYS.get(name)
        if key is None:
            raise InvalidConfig(f"Unknown group config name: {name}")
        value = key.parse(text)
        lowest, highest = _bounds(key, config)
        assert key.bounds is not None
        if value < lowest:
            raise InvalidConfig(f"{name} must be greater than or equal to {key.bounds[0]}")
        if value > highest:
            raise InvalidConfig(f"{name} must be less than or equal to {key.bounds[1]}")
    result = effective(configs, config)
    if result.group_consumer_session_timeout_ms <= result.group_consumer_heartbeat_interval_ms:
        raise InvalidConfig("consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms")


def _bounds(key: Key, config: BrokerConfig) -> tuple[int, int]:
    """The least and the greatest value that a group may set."""
    assert key.bounds is not None
    lowest, highest = (getattr(config, attribute_of(name)) for name in key.bounds)
    return lowest, highest


def effective(configs: Mapping[str, str], config: BrokerConfig) -> GroupSettings:
    """The broker's settings with what the group has set. What no longer fits the broker's bounds is moved into them."""
    own = {}
    for name, text in configs.items():
        if (key := GROUP_KEYS.get(name)) is not None:
            lowest, highest = _bounds(key, config)
            with suppress(InvalidConfig):  # somebody may write anything by SQL
                own[attribute_of(key.synonyms[0])] = min(max(key.parse(text), lowest), highest)
    return replace(group_settings(config), **own)


def describe(
    configs: Mapping[str, str], config: BrokerConfig, names: Collection[str] | None = None
) -> list[ConfigEntry]:
    """Every key (or the known ones of `names`) with its value, where that comes from, and what it overrides."""
    return [
        entry(key, config, Layer(key.name, configs[key.name], ConfigSource.GROUP) if key.name in configs else None)
        for key in GROUP_KEYS.values()
        if names is None or key.name in names
    ]
