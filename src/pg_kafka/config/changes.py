"""How configs are changed, for topics, brokers and groups alike: IncrementalAlterConfigs' operations on what is set.

    altered({}, [(Operation.APPEND, "cleanup.policy", "compact")], TOPIC_KEYS, lambda key: "delete")
        {"cleanup.policy": "delete,compact"}

Whether the result may be is a question of each table of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum

from pg_kafka.config.keys import ConfigType, InvalidChange, InvalidConfig, Key

Change = tuple[int, str, str | None]
"""Operation, name, value."""


class Operation(IntEnum):
    """IncrementalAlterConfigs' numbers for what to do with a key."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


def altered(
    configs: Mapping[str, str],
    changes: Iterable[Change],
    keys: Mapping[str, Key],
    in_force: Callable[[Key], str | None],
) -> dict[str, str]:
    """What is set after these changes; `in_force` says what holds for a list that is not set.

    Raises InvalidChange for what is no change, InvalidConfig for APPEND and SUBTRACT of what is no list.
    """
    result = dict(configs)
    seen: set[str] = set()
    for operation, name, value in changes:
        if name in seen:
            raise InvalidChange("Error due to duplicate config keys")
        seen.add(name)
        if operation == Operation.DELETE:
            result.pop(name, None)
            continue
        if value is None:
            raise InvalidChange(f"Null value not supported for : {name}")
        if operation == Operation.SET:
            result[name] = value
        elif operation in (Operation.APPEND, Operation.SUBTRACT):
            key = keys.get(name)
            if key is None or key.type is not ConfigType.LIST:
                word = Operation(operation).name
                raise InvalidConfig(f"Can't {word} to key {name} because its type is not LIST.")
            before = result.get(name, in_force(key))
            items = before.split(",") if before else []
            given = value.split(",")
            if operation == Operation.APPEND:
                items += [item for item in dict.fromkeys(given) if item not in items]
            else:
                items = [item for item in items if item not in given]
            result[name] = ",".join(items)
        else:
            raise InvalidChange(f"Unknown operation {operation} on key {name}")
    return result


def replacement(changes: Iterable[tuple[str, str | None]]) -> list[Change]:
    """AlterConfigs' pairs of name and value as operations on nothing. Raises InvalidChange."""
    return [(Operation.SET, name, value) for name, value in changes]
