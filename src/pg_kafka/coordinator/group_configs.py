"""What a group may set for itself, by IncrementalAlterConfigs on a GROUP resource, and what it amounts to.

altered({}, [(SET, "consumer.session.timeout.ms", "50000")], config)   the configs afterwards
effective(configs, config)                                            what the group's machine works with
describe(configs, config)                                             what DescribeConfigs answers
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from pg_kafka.config import INT_MAX, Config
from pg_kafka.coordinator.group_steps import GroupSettings
from pg_kafka.coordinator.topic_configs import ConfigEntry, ConfigSource, ConfigType, source_of
from pg_kafka.wire.error_codes import ErrorCode

_NUMBER = re.compile(r"[+-]?[0-9]+")


class Operation(IntEnum):
    """IncrementalAlterConfigs' numbers for what to do with a key."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class InvalidGroupConfig(Exception):
    """A change that is refused, with Kafka's error code and its sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = int(code)
        self.message = message


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """One key. The broker has a default for all groups, and bounds for what a group may set."""

    name: str
    bounds: Callable[[Config], tuple[int, int]]
    doc: str

    @property
    def setting(self) -> str:
        """The broker's default."""
        return f"group.{self.name}"

    def bound(self, which: str) -> str:
        """The broker's setting that is the bound, "min" or "max"."""
        protocol, _, rest = self.name.partition(".")
        return f"group.{protocol}.{which}.{rest}"


GROUP_CONFIGS: Mapping[str, GroupConfig] = {
    row.name: row
    for row in (
        GroupConfig(
            "consumer.session.timeout.ms",
            lambda config: (config.group_consumer_min_session_timeout_ms, config.group_consumer_max_session_timeout_ms),
            "After what silence a member of the consumer protocol is removed.",
        ),
        GroupConfig(
            "consumer.heartbeat.interval.ms",
            lambda config: (
                config.group_consumer_min_heartbeat_interval_ms,
                config.group_consumer_max_heartbeat_interval_ms,
            ),
            "How often members of the consumer protocol are told to send heartbeats.",
        ),
        GroupConfig(
            "consumer.assignment.interval.ms",
            lambda config: (
                config.group_consumer_min_assignment_interval_ms,
                config.group_consumer_max_assignment_interval_ms,
            ),
            "Least time between two target assignments of a group of the consumer protocol.",
        ),
    )
}


def group_settings(config: Config) -> GroupSettings:
    """The broker's settings, as the machines take them."""
    return GroupSettings(
        group_initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
        group_max_size=config.group_max_size,
        group_min_session_timeout_ms=config.group_min_session_timeout_ms,
        group_max_session_timeout_ms=config.group_max_session_timeout_ms,
        group_consumer_session_timeout_ms=config.group_consumer_session_timeout_ms,
        group_consumer_min_session_timeout_ms=config.group_consumer_min_session_timeout_ms,
        group_consumer_max_session_timeout_ms=config.group_consumer_max_session_timeout_ms,
        group_consumer_heartbeat_interval_ms=config.group_consumer_heartbeat_interval_ms,
        group_consumer_min_heartbeat_interval_ms=config.group_consumer_min_heartbeat_interval_ms,
        group_consumer_max_heartbeat_interval_ms=config.group_consumer_max_heartbeat_interval_ms,
        group_consumer_assignment_interval_ms=config.group_consumer_assignment_interval_ms,
        group_consumer_max_size=config.group_consumer_max_size,
        group_consumer_assignors=config.group_consumer_assignors,
        group_consumer_migration_policy=config.group_consumer_migration_policy,
    )


def altered(
    configs: Mapping[str, str], operations: Iterable[tuple[int, str, str | None]], config: Config
) -> dict[str, str]:
    """The configs of a group after these operations. Raises InvalidGroupConfig; then nothing is changed."""
    result = dict(configs)
    seen: set[str] = set()
    for operation, name, value in operations:
        if name in seen:
            raise InvalidGroupConfig(ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")
        seen.add(name)
        if operation != Operation.DELETE and value is None:
            raise InvalidGroupConfig(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {name}")
        if operation == Operation.SET:
            result[name] = str(value)
        elif operation == Operation.DELETE:
            result.pop(name, None)
        elif operation in (Operation.APPEND, Operation.SUBTRACT):
            word = Operation(operation).name
            raise InvalidGroupConfig(
                ErrorCode.INVALID_CONFIG, f"Can't {word} to key {name} because its type is not LIST."
            )
        else:
            raise InvalidGroupConfig(ErrorCode.INVALID_REQUEST, f"Unknown operation {operation} on key {name}")
    _check(result, config)
    return result


def _check(configs: Mapping[str, str], config: Config) -> None:
    for name, text in configs.items():
        row = GROUP_CONFIGS.get(name)
        if row is None:
            raise InvalidGroupConfig(ErrorCode.INVALID_CONFIG, f"Unknown group config name: {name}")
        value = _parsed(row, text)
        lowest, highest = row.bounds(config)
        if value < lowest:
            message = f"{name} must be greater than or equal to {row.bound('min')}"
            raise InvalidGroupConfig(ErrorCode.INVALID_CONFIG, message)
        if value > highest:
            message = f"{name} must be less than or equal to {row.bound('max')}"
            raise InvalidGroupConfig(ErrorCode.INVALID_CONFIG, message)
    result = effective(configs, config)
    if result.group_consumer_session_timeout_ms <= result.group_consumer_heartbeat_interval_ms:
        raise InvalidGroupConfig(
            ErrorCode.INVALID_CONFIG, "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms"
        )


def _parsed(row: GroupConfig, text: str) -> int:
    text = text.strip()
    value = int(text) if len(text) <= 100 and _NUMBER.fullmatch(text) else None
    if value is None or not -INT_MAX - 1 <= value <= INT_MAX:
        raise InvalidGroupConfig(
            ErrorCode.INVALID_CONFIG, f"Invalid value {text} for configuration {row.name}: Not a number of type INT"
        )
    return value


def effective(configs: Mapping[str, str], config: Config) -> GroupSettings:
    """The broker's settings with what the group has set. What no longer fits the broker's bounds is moved into them."""
    changes: dict[str, Any] = {}
    for name, text in configs.items():
        row = GROUP_CONFIGS.get(name)
        if row is not None:
            lowest, highest = row.bounds(config)
            changes[row.setting.replace(".", "_")] = min(max(_parsed(row, text), lowest), highest)
    return replace(group_settings(config), **changes)


def describe(configs: Mapping[str, str], config: Config, keys: Collection[str] | None = None) -> list[ConfigEntry]:
    """Every key (or the known ones of `keys`) with its value, where that comes from, and what it overrides."""
    entries = []
    for row in GROUP_CONFIGS.values():
        if keys is not None and row.name not in keys:
            continue
        attribute = row.setting.replace(".", "_")
        synonyms: list[tuple[str, str | None, ConfigSource]] = []
        if row.name in configs:
            synonyms.append((row.name, configs[row.name], ConfigSource.GROUP))
        source = source_of(config, row.setting)
        synonyms.append((row.setting, str(getattr(config, attribute)), source))
        if source is not ConfigSource.DEFAULT:
            synonyms.append((row.setting, str(getattr(Config(), attribute)), ConfigSource.DEFAULT))
        entries.append(
            ConfigEntry(
                name=row.name,
                value=synonyms[0][1],
                source=synonyms[0][2],
                is_read_only=False,
                type=ConfigType.INT,
                synonyms=synonyms,
                doc=row.doc,
            )
        )
    return entries
