"""All settings of one broker: those of a broker (`broker.py`), and those that a start needs before it has a database.

The latter are never read from a database, and are no configs of a broker for Kafka either.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pg_kafka import database_url
from pg_kafka.config.address import WANTED as ADDRESS
from pg_kafka.config.address import Address
from pg_kafka.config.broker import BROKER_KEYS, BrokerConfig, key_named
from pg_kafka.config.keys import ConfigType, Key, keys_of, setting
from pg_kafka.config.listeners import WANTED as LISTENERS
from pg_kafka.config.listeners import WANTED_MAP as PROTOCOL_MAP
from pg_kafka.config.listeners import Endpoints, ProtocolMap

DEFAULT_PORT = 9092
METRICS_ADDRESS = "HOST:PORT, as in 127.0.0.1:9308"


def default_data_folder() -> Path:
    """Where the embedded PostgreSQL keeps its data unless told otherwise.

    Root's home is closed to the unprivileged user that runs the server for root, so root's data is with the system's.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/pg-kafka/data")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "pg-kafka"
    given = os.environ.get("XDG_DATA_HOME", "")
    return (Path(given) if given.startswith("/") else Path.home() / ".local" / "share") / "pg-kafka"


def _database(text: str) -> str:
    if instead := database_url.wanted_instead(text):
        raise ValueError(instead)
    return database_url.without_channel_binding(text)


def _folder(text: str) -> Path:
    return Path(text).expanduser()


def _metrics_address(text: str) -> Address:
    return Address.parse(text, METRICS_ADDRESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BrokerConfig):
    """The settings of one broker, by attribute: `config.lanes`."""

    listen: Address = setting(
        Key(
            name="listen",
            type=ConfigType.STRING,
            convert=Address.parse,
            form=ADDRESS,
            default=Address("127.0.0.1", DEFAULT_PORT),
            doc="Where Kafka clients connect. Port 0 takes a free one.",
        )
    )
    advertise: Address | None = setting(
        Key(
            name="advertise",
            type=ConfigType.STRING,
            convert=Address.parse,
            form=ADDRESS,
            default=None,
            doc="The address told to clients."
            " Unset: the one each connected to, which is wrong behind NAT or a port forward.",
        )
    )
    listeners: Endpoints | None = setting(
        Key(
            name="listeners",
            type=ConfigType.STRING,
            convert=Endpoints.parse,
            form=LISTENERS,
            default=None,
            doc="Instead of `listen`: the places where clients connect, each with a name."
            " `SECURE://:9093` listens on all addresses.",
        )
    )
    advertised_listeners: Endpoints | None = setting(
        Key(
            name="advertised.listeners",
            type=ConfigType.STRING,
            convert=Endpoints.parse,
            form=LISTENERS,
            default=None,
            doc="Instead of `advertise`: the address that clients of each listener are told."
            " A listener that is not named tells each client the one it connected to.",
        )
    )
    listener_security_protocol_map: ProtocolMap | None = setting(
        Key(
            name="listener.security.protocol.map",
            type=ConfigType.STRING,
            convert=ProtocolMap.parse,
            form=PROTOCOL_MAP,
            default=None,
            doc="What is spoken on each listener: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
            " Listeners that have one of these names need no entry.",
        )
    )
    secure: bool = setting(
        Key(
            name="secure",
            type=ConfigType.BOOLEAN,
            default=False,
            doc="Make certificates, a user `admin` and client files where there are none, speak SASL_SSL, and let ACLs"
            " decide who may do what.",
        )
    )
    allow_anonymous: bool = setting(
        Key(
            name="allow_anonymous",
            type=ConfigType.BOOLEAN,
            default=False,
            doc="Let others than this machine connect to listeners that ask nobody who they are.",
        )
    )
    database: str | None = setting(
        Key(
            name="database",
            type=ConfigType.STRING,
            convert=_database,
            form=database_url.WANTED,
            default=None,
            doc="PostgreSQL 14 or newer to keep everything in. Unset: an embedded server.",
            is_sensitive=True,  # the URL may hold a password
        )
    )
    database_file: Path | None = setting(
        Key(
            name="database_file",
            type=ConfigType.STRING,
            convert=_folder,
            default=None,
            doc="A file whose first line is the address of the database, as container platforms give secrets.",
        )
    )
    data: Path = setting(
        Key(
            name="data",
            type=ConfigType.STRING,
            convert=_folder,
            default=None,
            doc="Folder of the embedded server.",
        ),
        default_data_folder,
    )
    metrics: Address | None = setting(
        Key(
            name="metrics",
            type=ConfigType.STRING,
            convert=_metrics_address,
            form=METRICS_ADDRESS,
            default=None,
            doc="Where `/metrics`, `/healthz` and `/readyz` are served, by HTTP to everybody who can connect. Port 0 takes a"
            " free one. Unset: nowhere.",
        )
    )
    log_level: str = setting(
        Key(
            name="log_level",
            type=ConfigType.STRING,
            default="warning",
            choices=("debug", "info", "warning", "error"),
            doc="The least severe log lines that are written.",
        )
    )
    log_format: str = setting(
        Key(
            name="log_format",
            type=ConfigType.STRING,
            default="text",
            choices=("text", "json"),
            doc="How log lines are written: as `key=value` pairs, or as JSON objects with the same keys.",
        )
    )


ALL_KEYS: Mapping[str, Key] = keys_of(Config)
START_KEYS: Mapping[str, Key] = {name: key for name, key in ALL_KEYS.items() if name not in BROKER_KEYS}


def _is_dynamic(name: str) -> bool:
    key = key_named(name)
    return key is not None and key.is_dynamic


class Settings:
    """The present values of the settings: `settings.current.num_partitions`, looked up at each use.

    Whoever keeps a value of `current`, or `current` itself, keeps what held at that moment: right for settings that are
    not dynamic. What is made of dynamic ones is made anew by a watcher.
    """

    __slots__ = ("_watchers", "current")

    def __init__(self, config: Config) -> None:
        self.current = config
        self._watchers: list[Callable[[], None]] = []

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have `watcher` called after each change."""
        self._watchers.append(watcher)

    def renew(self, config: Config) -> None:
        """Take the dynamic values of `config`, and where they come from; all others stay what they were at the start."""
        sources, beneath, values = dict(self.current.sources), dict(self.current.beneath), dict[str, Any]()
        by_listener = {name: v for name, v in self.current.by_listener.items() if not _is_dynamic(name)}
        by_listener |= {name: v for name, v in config.by_listener.items() if _is_dynamic(name)}
        for key in BROKER_KEYS.values():
            if key.is_dynamic:
                values[key.attribute] = getattr(config, key.attribute)
        for name in {*BROKER_KEYS, *self.current.by_listener, *config.by_listener}:
            if _is_dynamic(name):
                sources[name] = config.source(name)
                beneath[name] = config.beneath.get(name, {})
        before, self.current = (
            self.current,
            replace(self.current, **values, by_listener=by_listener, sources=sources, beneath=beneath),
        )
        if self.current != before:
            for watcher in self._watchers:
                watcher()
