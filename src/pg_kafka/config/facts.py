"""What DescribeConfigs says of a broker beside its settings: who it is and where it listens. Nobody can set these."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pg_kafka.config.keys import ConfigType
from pg_kafka.config.layers import ConfigEntry, ConfigSource
from pg_kafka.config.listeners import Listener, url


def facts(
    node_id: int,
    listeners: Sequence[Listener],
    log_dir: str,
    names: Collection[str] | None = None,
) -> list[ConfigEntry]:
    """Those of Kafka's read-only configs that tools look for; of `names`, or all.

    `listeners` have the addresses that clients are told.
    """
    listening = ",".join(url(one.name, one.address) for one in listeners)
    advertised = ",".join(url(one.name, one.advertised or one.address) for one in listeners)
    protocols = ",".join(f"{one.name}:{one.protocol.value}" for one in listeners)
    values = (
        ("broker.id", str(node_id), ConfigType.INT, "The node id."),
        ("node.id", str(node_id), ConfigType.INT, "The node id."),
        ("process.roles", "broker,controller", ConfigType.LIST, "Every broker can be the controller as well."),
        ("listeners", listening, ConfigType.LIST, "Where it listens."),
        ("advertised.listeners", advertised, ConfigType.LIST, "Where clients are told to connect."),
        ("listener.security.protocol.map", protocols, ConfigType.STRING, "What is spoken on each listener."),
        ("log.dir", log_dir, ConfigType.STRING, "Where the log is, as DescribeLogDirs names it."),
        ("log.dirs", log_dir, ConfigType.LIST, "Where the log is, as DescribeLogDirs names it."),
    )
    return [
        ConfigEntry(
            name=name,
            value=value,
            source=ConfigSource.STATIC_BROKER,
            is_read_only=True,
            is_sensitive=False,
            type=type,
            synonyms=[(name, value, ConfigSource.STATIC_BROKER)],
            doc=doc,
        )
        for name, value, type, doc in values
        if names is None or name in names
    ]
