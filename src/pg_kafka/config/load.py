"""A Config from what a start gives, and what the database holds; the only part of the settings that reads files.

Precedence: flag, environment (PG_KAFKA_NUM_PARTITIONS, then KAFKA_NUM_PARTITIONS), file (TOML), database
(kafka.settings), parameter of PostgreSQL (pg_kafka.num_partitions), default. A setting that can be changed while the
broker runs is taken from kafka.settings first.
Every error is a ConfigError of one sentence.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import logging
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pg_kafka import database_url
from pg_kafka.config.broker import BROKER_KEYS, key_named
from pg_kafka.config.kafka_environment import kafka_variables
from pg_kafka.config.keys import ENVIRONMENT_PREFIX, ConfigType, InvalidConfig, Key, Source, attribute_of
from pg_kafka.config.listeners import LISTENER_PREFIX
from pg_kafka.config.listening import listeners_of
from pg_kafka.config.secure import secure_settings
from pg_kafka.config.settings import ALL_KEYS, Config
from pg_kafka.errors import ConfigError

logger = logging.getLogger(__name__)

# Of kafka.settings: what holds for all brokers. Node ids begin with 1.
ALL_NODES = 0

_OF_DATABASE = (Source.NODE, Source.DATABASE, Source.PARAMETER)
_STRONGEST_FIRST = (Source.FLAG, Source.ENVIRONMENT, Source.FILE)
_BY_ATTRIBUTE = {key.attribute: key for key in ALL_KEYS.values()}


def load(flags: Mapping[str, object], env: Mapping[str, str], file: Path | None) -> Config:
    """The configuration before any database is asked.

    `flags` maps attribute names to values, None meaning not given. Without `file`, PG_KAFKA_CONFIG may name one.
    Raises ConfigError.
    """
    given: dict[str, dict[Source, Any]] = defaultdict(dict, {name: {} for name in ALL_KEYS})
    if file is None and env.get(f"{ENVIRONMENT_PREFIX}CONFIG"):
        file = Path(env[f"{ENVIRONMENT_PREFIX}CONFIG"])
    if file is not None:
        for name, value in _read_file(file):
            key = _known(name, file)
            given[key.name][Source.FILE] = parsed(key, value, f"{name} in {file}")
    for variable, key, text in kafka_variables(env, _of_kafka):
        given[key.name][Source.ENVIRONMENT] = parsed(key, text, variable)
    for variable, text in env.items():
        found = key_named(variable.removeprefix(ENVIRONMENT_PREFIX).lower()) if _is_of_listener(variable) else None
        if found is not None and text:
            given[found.name][Source.ENVIRONMENT] = parsed(found, text, variable)
    for key in ALL_KEYS.values():
        text = env.get(key.environment, "")
        if text:
            given[key.name][Source.ENVIRONMENT] = parsed(key, text, key.environment)
        flag = flags.get(key.attribute)
        if flag is not None:
            given[key.name][Source.FLAG] = parsed(key, flag, "--" + key.attribute.replace("_", "-"))
    _read_database_file(_with_given(Config(), given), given)
    config = _with_given(Config(), given)
    if config.secure:
        for name, text in secure_settings(config.data).items():
            if config.source(name) is Source.DEFAULT:
                given[name][Source.FLAG] = ALL_KEYS[name].parse(text)
        config = _with_given(Config(), given)
    return _checked(config)


def _is_of_listener(variable: str) -> bool:
    return variable.startswith(f"{ENVIRONMENT_PREFIX}LISTENER_NAME_")


def _of_kafka(name: str) -> Key | None:
    """A key by its own name, if Kafka has it as well."""
    if name.startswith(LISTENER_PREFIX):
        return key_named(name)
    key = ALL_KEYS.get(name)
    return key if key is not None and ("." in name or name == "listeners") else None


def _named(name: str) -> Key | None:
    """A key of any kind, by any of its names."""
    return _BY_ATTRIBUTE.get(attribute_of(name)) or key_named(name)


def _read_database_file(loaded: Config, given: Mapping[str, dict[Source, Any]]) -> None:
    """Take the address of the database from the file that is named. Raises ConfigError, without a word of what is in it."""
    file, source = loaded.database_file, loaded.source("database_file")
    if file is None:
        return
    if source in given["database"]:
        raise ConfigError("database and database_file both say where the database is: remove one of them")
    if any(_STRONGEST_FIRST.index(other) < _STRONGEST_FIRST.index(source) for other in given["database"]):
        return
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"cannot read the address of the database from {file}: {reason}") from None
    given["database"][source] = parsed(ALL_KEYS["database"], lines[0] if lines else "", f"the first line of {file}")


class Stored(NamedTuple):
    """What the database says of a setting."""

    name: str
    text: str | None
    node_id: int | None = ALL_NODES  # whom it is for; None: a parameter of PostgreSQL says so, for all


def with_database_settings(
    config: Config, rows: Iterable[tuple[str, str | None] | Stored], node_id: int | None = None
) -> Config:
    """`config` with what the database holds, in place of what it held before.

    What is for one broker counts when `node_id` is its number. Names are Kafka's or `pg_kafka.` ones with dots or
    underscores. A name that this version does not know is a warning: brokers of several versions may share one database.
    Raises ConfigError for a value that cannot be.
    """
    keys = [*BROKER_KEYS.values(), *filter(None, map(key_named, config.by_listener))]
    given: dict[str, dict[Source, Any]] = defaultdict(
        dict,
        {
            key.name: {source: value for source, value in config.given(key).items() if source not in _OF_DATABASE}
            for key in keys
        },
    )
    for name, text, node in (Stored(*row) for row in rows):
        key = key_named(name)
        if key is None:
            logger.warning("a setting in the database has no effect", extra={"setting": name})
        elif text is not None and node in (None, ALL_NODES, node_id):
            source = {None: Source.PARAMETER, ALL_NODES: Source.DATABASE}.get(node, Source.NODE)
            given[key.name][source] = parsed(key, text, f"{name} in the database")
    return _checked(_with_given(config, given))


def with_usable_settings(config: Config, rows: Iterable[Stored], node_id: int | None = None) -> Config:
    """As with_database_settings, but a value that cannot be is a warning, and nothing is set by it.

    Raises ConfigError for values that cannot be together.
    """
    usable = []
    for row in rows:
        key = key_named(row.name)
        try:
            if key is not None and row.text is not None:
                parsed(key, row.text, f"{row.name} in the database")
        except ConfigError as error:
            logger.warning("a setting in the database cannot be", extra={"reason": str(error)})
        else:
            usable.append(row)
    return with_database_settings(config, usable, node_id)


def _with_given(config: Config, given: Mapping[str, Mapping[Source, Any]]) -> Config:
    """`config` with the values that the strongest sources give."""
    values: dict[str, Any] = {}
    sources, beneath, by_listener = dict(config.sources), dict(config.beneath), dict(config.by_listener)
    for name, by_source in given.items():
        key = _named(name)
        assert key is not None
        sources.pop(name, None)
        beneath.pop(name, None)
        ordered = {source: by_source[source] for source in key.strongest_first if source in by_source}
        if ordered:
            sources[name], value = next(iter(ordered.items()))
            if name in ALL_KEYS:
                values[key.attribute] = value
            else:
                by_listener[name] = value
            del ordered[sources[name]]
            if ordered:
                beneath[name] = ordered
        elif name not in ALL_KEYS:
            by_listener.pop(name, None)
        elif config.source(name) is not Source.DEFAULT:
            values[key.attribute] = key.default
    return dataclasses.replace(config, **values, by_listener=by_listener, sources=sources, beneath=beneath)


def parsed(key: Key, given: object, where: str) -> Any:
    """The value of what a flag, variable, file or row says. Raises ConfigError naming `where`."""
    wanted = _wanted(key)
    if _may_be(key, given):
        try:
            return key.parse(str(given))
        except InvalidConfig:
            pass
        except ValueError as error:
            wanted = str(error)
    if key.is_sensitive:
        raise ConfigError(f"{where} wants {wanted}")
    text = str(given).strip()
    # The address of a database may have been given in the wrong place.
    found = "the address of a database" if database_url.may_hold_password(text) else repr(text)
    raise ConfigError(f"{where} wants {wanted}, not {found}")


def _may_be(key: Key, given: object) -> bool:
    """Is what was given of a type that the key can be written in? TOML has types of its own."""
    if key.type in (ConfigType.STRING, ConfigType.LIST, ConfigType.PASSWORD):
        return isinstance(given, str) and bool(given.strip())
    return key.type is ConfigType.BOOLEAN or not isinstance(given, (bool, float))


def _wanted(key: Key) -> str:
    match key.type:
        case ConfigType.BOOLEAN:
            return "true or false"
        case ConfigType.INT | ConfigType.LONG:
            return f"a whole number, {key.range_text}"
        case ConfigType.LIST:
            names = f"some, each once, with commas between them, of {key.range_text}"
            return names if key.choices else "names with commas between them"
    return key.form or (f"one of {key.range_text}" if key.choices else "a text")


def _checked(config: Config) -> Config:
    if config.advertise is not None and config.advertise.port == 0:
        raise ConfigError("advertise wants a port from 1 to 65535, not 0")
    listeners_of(config)  # raises when they cannot be
    if config.eviction_ms < 3 * config.heartbeat_ms:
        raise ConfigError(
            f"pg_kafka.eviction_ms ({config.eviction_ms}) must be at least three times"
            f" pg_kafka.heartbeat_ms ({config.heartbeat_ms})"
        )
    _check_order(config, "group.min.session.timeout.ms", "group.max.session.timeout.ms")
    for what in ("session.timeout.ms", "heartbeat.interval.ms", "assignment.interval.ms"):
        _check_order(config, f"group.consumer.min.{what}", f"group.consumer.{what}", f"group.consumer.max.{what}")
    if config.group_consumer_heartbeat_interval_ms >= config.group_consumer_session_timeout_ms:
        raise ConfigError(
            f"group.consumer.heartbeat.interval.ms ({config.group_consumer_heartbeat_interval_ms}) must be less than"
            f" group.consumer.session.timeout.ms ({config.group_consumer_session_timeout_ms})"
        )
    return config


def _check_order(config: Config, *names: str) -> None:
    """Raise ConfigError unless each setting is at most the next one."""
    for smaller, larger in itertools.pairwise(names):
        low, high = getattr(config, attribute_of(smaller)), getattr(config, attribute_of(larger))
        if low > high:
            raise ConfigError(f"{smaller} ({low}) must not be larger than {larger} ({high})")


def _read_file(file: Path) -> Iterable[tuple[str, object]]:
    try:
        with file.open("rb") as stream:
            return list(_flatten("", tomllib.load(stream)))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {file} is not valid TOML: {error}") from error


def _flatten(prefix: str, table: Mapping[str, object]) -> Iterable[tuple[str, object]]:
    """num.partitions = 3 is a nested table in TOML, "num.partitions" = 3 is not: both give the same name."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _known(name: str, file: Path) -> Key:
    key = _named(name)
    if key is None:
        near = difflib.get_close_matches(attribute_of(name), _BY_ATTRIBUTE, n=1, cutoff=0.0)
        raise ConfigError(
            f"{file} sets {name!r}, which is no setting of pg-kafka; the nearest one is {_BY_ATTRIBUTE[near[0]].name!r}"
        )
    return key
