"""The levels of the broker's loggers, which DescribeConfigs and IncrementalAlterConfigs call configs of a broker logger.

As in Kafka, a level that is changed holds until the broker ends, and is written nowhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pg_kafka.config.changes import Change, Operation
from pg_kafka.config.keys import ConfigType, InvalidChange, InvalidConfig
from pg_kafka.config.layers import ConfigEntry, ConfigSource

PROGRAM = "pg_kafka"
"""What Kafka calls the root logger: all others take its level over."""
ROOT = "root"

# Kafka's names of levels. Python knows none below DEBUG.
_LEVELS = {
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
}
_NAMES = {number: name for name, number in _LEVELS.items()}


def _names() -> list[str]:
    known = [name for name in logging.root.manager.loggerDict if name.startswith(PROGRAM + ".")]
    return [ROOT, *sorted(known)]


def _logger(name: str) -> logging.Logger:
    return logging.getLogger(PROGRAM if name == ROOT else name)


def describe(names: frozenset[str] | None) -> list[ConfigEntry]:
    """The level of each logger."""
    return [_entry(name) for name in _names() if names is None or name in names]


def _entry(name: str) -> ConfigEntry:
    level = _NAMES.get(_logger(name).getEffectiveLevel(), "INFO")
    return ConfigEntry(
        name=name,
        value=level,
        source=ConfigSource.DYNAMIC_BROKER_LOGGER,
        is_read_only=False,
        is_sensitive=False,
        type=ConfigType.STRING,
        synonyms=[(name, level, ConfigSource.DYNAMIC_BROKER_LOGGER)],
        doc="The least severe lines that this logger writes.",
    )


def alter(operations: Sequence[Change], *, validate_only: bool) -> None:
    """Set levels, or have loggers take over that of the program again. Raises InvalidChange, InvalidConfig."""
    levels: dict[str, int] = {}
    for operation, name, value in operations:
        if operation in (Operation.APPEND, Operation.SUBTRACT):
            word = Operation(operation).name
            raise InvalidChange(f"{word} operation is not allowed for the BROKER_LOGGER resource")
        if operation not in (Operation.SET, Operation.DELETE):
            raise InvalidChange(f"Unknown operation {operation} on key {name}")
        if name in levels:
            raise InvalidChange("Error due to duplicate config keys")
        if name not in _names():
            raise InvalidConfig(f"Logger {name} does not exist!")
        if operation == Operation.DELETE:
            if name == ROOT:
                raise InvalidChange("Removing the log level of the root logger is not allowed")
            levels[name] = logging.NOTSET
        elif value not in _LEVELS:
            raise InvalidConfig(
                f"Cannot set the log level of {name} to {value} as it is not a supported log level. "
                f"Valid log levels are {', '.join(sorted(_LEVELS))}"
            )
        else:
            levels[name] = _LEVELS[value]
    if not validate_only:
        for name, level in levels.items():
            _logger(name).setLevel(level)
