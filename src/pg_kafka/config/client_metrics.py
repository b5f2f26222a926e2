"""What a subscription to metrics of clients may set (KIP-714), by IncrementalAlterConfigs on a CLIENT_METRICS resource.

altered({}, [(SET, "interval.ms", "60000")])    the configs afterwards
describe(configs)                               what DescribeConfigs answers
matches(("client_id=app.*",))                   what its clients have to match: [("client_id", "app.*")]

Whether an expression is one, and whom it matches, is told by `coordinator/client_metrics.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pg_kafka.config import changes
from pg_kafka.config.changes import Change
from pg_kafka.config.keys import ConfigType, InvalidChange, InvalidConfig, Key, table
from pg_kafka.config.layers import ConfigEntry, ConfigSource

DEFAULT_INTERVAL_MS = 300_000
LEAST_INTERVAL_MS, GREATEST_INTERVAL_MS = 100, 3_600_000

CLIENT_PROPERTIES = (
    "client_instance_id",
    "client_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
)
"""What is known of a client and may be matched, by Kafka's names."""

_PROPERTY = "|".join(CLIENT_PROPERTIES)

# In the order of DescribeConfigs.
CLIENT_METRICS_KEYS: Mapping[str, Key] = table(
    Key(
        name="interval.ms",
        type=ConfigType.INT,
        default=DEFAULT_INTERVAL_MS,
        doc="How often clients push their metrics. The least of all subscriptions that match a client holds.",
        minimum=LEAST_INTERVAL_MS,
        maximum=GREATEST_INTERVAL_MS,
    ),
    Key(
        name="match",
        type=ConfigType.LIST,
        default=(),
        doc=f"Which clients: pairs of a property and an expression (RE2) that matches all of it. Empty: all clients. Properties: {', '.join(CLIENT_PROPERTIES)}.",  # noqa: E501 - one sentence
        pattern=rf"(({_PROPERTY})\s*=[^=,]+=*(,({_PROPERTY})\s*=[^=,]+=*)*)?",
        form="property=expression, more with commas between; an expression has no = and no comma",
    ),
    Key(
        name="metrics",
        type=ConfigType.LIST,
        default=(),
        doc="Which metrics: how their names begin. `*`: all. Empty: none.",
    ),
)


def altered(configs: Mapping[str, str], operations: Iterable[Change]) -> dict[str, str]:
    """The configs of a subscription after these operations. Raises InvalidChange, InvalidConfig; then nothing is changed.

    As in Kafka, lists can be set, not appended to.
    """
    result = changes.altered(configs, operations, {}, lambda _key: None)
    for name, text in result.items():
        if name not in CLIENT_METRICS_KEYS:
            raise InvalidChange(f"Unknown client metrics configuration: {name}")
        parse(name, text)
    return result


def parse(name: str, text: str) -> int | tuple[str, ...]:
    """The value of a key. Raises InvalidChange, InvalidConfig, with Kafka's sentences."""
    # Kafka's ranges and forms have sentences of their own, and the one of a range has a code of its own.
    if name == "interval.ms":
        interval_ms: int = _INTERVAL.parse(text)
        if not LEAST_INTERVAL_MS <= interval_ms <= GREATEST_INTERVAL_MS:
            raise InvalidChange(
                f"Invalid value {interval_ms} for interval.ms, interval must be between 100 and 3600000 (1 hour)"
            )
        return interval_ms
    items: tuple[str, ...] = _LISTS[name].parse(text)
    if name == "match":
        matches(items)
    return items


_INTERVAL = Key(name="interval.ms", type=ConfigType.INT, default=None, doc="")
_LISTS = {name: Key(name=name, type=ConfigType.LIST, default=None, doc="") for name in ("match", "metrics")}


def matches(items: Sequence[str]) -> list[tuple[str, str]]:
    """Properties and expressions; of a property that is named twice the last one counts. Raises InvalidConfig."""
    found: dict[str, str] = {}
    for item in items:
        # As Java splits: an end of = alone is nothing.
        parts = item.rstrip("=").split("=")
        if len(parts) != 2 or parts[0].strip() not in CLIENT_PROPERTIES:
            raise illegal(item)
        found[parts[0].strip()] = parts[1].strip()
    return list(found.items())


def illegal(item: str, reason: str = "") -> InvalidConfig:
    """What cannot be matched, in Kafka's words."""
    return InvalidConfig(f"Illegal client matching pattern: {item}" + (f": {reason}" if reason else ""))


def describe(configs: Mapping[str, str], names: Collection[str] | None = None) -> list[ConfigEntry]:
    """Every key (or the known ones of `names`) with its value and where that comes from."""
    return [
        _entry(key, configs.get(key.name)) for key in CLIENT_METRICS_KEYS.values() if not names or key.name in names
    ]


def _entry(key: Key, text: str | None) -> ConfigEntry:
    try:
        value = None if text is None else key.text(parse(key.name, text))
    except (InvalidChange, InvalidConfig):  # somebody may write anything by SQL
        value = text
    return ConfigEntry(
        name=key.name,
        value=key.text(key.default) if value is None else value,
        source=ConfigSource.DEFAULT if value is None else ConfigSource.CLIENT_METRICS,
        is_read_only=False,
        is_sensitive=False,
        type=key.type,
        synonyms=[] if value is None else [(key.name, value, ConfigSource.CLIENT_METRICS)],
        doc=key.doc,
    )
