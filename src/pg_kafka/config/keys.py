"""What a config is, for the broker, for topics and for groups alike: one `Key` says all there is to say about one.

    key.parse("60000")      its value; raises InvalidConfig with Kafka's sentence
    key.text(60000)         the value as DescribeConfigs and files write it
    key.effect              what setting it does here

The tables of keys are in `broker.py`, `topics.py` and `groups.py`. Nothing here knows files, the environment or time.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import Any

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1
LONG_MIN = -(2**63)  # as a least value: any number
ENVIRONMENT_PREFIX = "PG_KAFKA_"
OWN_PREFIX = "pg_kafka."


class InvalidConfig(Exception):
    """A key is unknown or its value is not allowed; the message is Kafka's sentence for it."""


class InvalidChange(Exception):
    """What is asked for is no change that can be made; the message is Kafka's sentence for it."""


class Source(StrEnum):
    """Where a value came from. `strongest_first` says which one is in force."""

    NODE = "database, this broker"  # kafka.settings, for one node id
    DATABASE = "database"  # kafka.settings, for all brokers
    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    PARAMETER = "parameter"  # of PostgreSQL: ALTER DATABASE ... SET pg_kafka.lanes = 2
    DEFAULT = "default"


_DYNAMIC = (Source.NODE, Source.DATABASE)
_STATIC = (Source.FLAG, Source.ENVIRONMENT, Source.FILE)


class ConfigType(IntEnum):
    """DescribeConfigs' numbers for the type of a value."""

    UNKNOWN = 0
    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class Effect(Enum):
    """What it does here to set a key. The values are the words of the documentation."""

    WORKS = "works"
    NONE = "no effect"  # it only matters to replication or to files, which are PostgreSQL's here
    REFUSED = "refused"  # only its default is taken


_NUMBER = re.compile(r"[+-]?[0-9]+")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One config. Every table of keys, the documentation and DescribeConfigs are made of these."""

    name: str  # as Kafka and DescribeConfigs write it
    type: ConfigType
    default: Any  # a value; None: unset
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    also_allowed: int | None = None  # one value outside the range
    choices: tuple[str, ...] = ()
    must_be_set: bool = False  # a list that names something, and nothing twice
    pattern: str = ""  # what a text matches as a whole, a list without spaces; `form` says it for people
    convert: Callable[[str], Any] | None = None  # makes more of a text; raises ValueError with what it wants instead
    form: str = ""  # what a text has to look like, for people
    synonyms: tuple[str, ...] = ()  # the broker's keys that give the value where this one is not set, strongest first
    unit_ms: int = 1  # what one of it is in milliseconds, for a key whose synonyms have other units
    bounds: tuple[str, str] | None = None  # the broker's keys for the least and the greatest value
    effect: Effect = Effect.WORKS
    refused: str = ""  # the sentence for what is not the default, when that is refused
    is_dynamic: bool = False  # a setting of the broker that is read each time it is used: a change takes effect at once
    is_sensitive: bool = False  # nobody is shown its value
    by_listener: bool = False  # each listener may have a value of its own: listener.name.<name>.<key>

    @property
    def attribute(self) -> str:
        """Its name as one of Python, of an environment variable, and of a parameter of PostgreSQL."""
        return attribute_of(self.name)

    @property
    def strongest_first(self) -> tuple[Source, ...]:
        """Which source wins. What is changed while the broker runs beats what it was started with, as in Kafka."""
        given = (*_DYNAMIC, *_STATIC) if self.is_dynamic else (*_STATIC, *_DYNAMIC)
        return (*given, Source.PARAMETER)

    @property
    def environment(self) -> str:
        """The environment variable that sets it, for a setting of the broker."""
        return ENVIRONMENT_PREFIX + self.attribute.upper()

    @property
    def parameter(self) -> str:
        """The PostgreSQL parameter, and the row of kafka.settings, that sets it, for a setting of the broker."""
        return OWN_PREFIX + self.attribute

    @property
    def range_text(self) -> str:
        """What it may be, for documentation and error messages."""
        if self.choices:
            return ", ".join(self.choices)
        if self.type is ConfigType.BOOLEAN:
            return "true, false"
        if self.minimum is None:
            return ""
        if self.minimum == LONG_MIN:
            return "any whole number"
        if self.maximum in (None, INT_MAX, LONG_MAX):
            return f"{self.minimum} or more"
        also = "" if self.also_allowed is None else f", or {self.also_allowed}"
        return f"{self.minimum} to {self.maximum}{also}"

    def text(self, value: Any) -> str | None:
        """A value as Kafka writes it."""
        if value is None:
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, float):
            return _as_java(value)
        return ",".join(value) if self.type is ConfigType.LIST and isinstance(value, tuple) else str(value)

    def parse(self, text: str) -> Any:
        """The value that `text` stands for: bool, str, int, float, a tuple of str, or what `convert` makes.

        Raises InvalidConfig; ValueError when `convert` does.
        """
        value = _PARSERS[self.type](self, text.strip())
        self._check(value)
        return value if self.convert is None else self.convert(value)

    def _check(self, value: Any) -> None:
        if self.pattern and re.fullmatch(self.pattern, self.text(value) or "") is None:
            shown = f"[{', '.join(value)}]" if self.type is ConfigType.LIST else value
            raise self.refusal(shown, f"{self.name} must be {self.form}")
        if self.must_be_set and (not value or len(set(value)) < len(value)):
            raise self.refusal(self.text(value), "must name something, and nothing twice")
        if self.choices:
            for item in value if self.type is ConfigType.LIST else (value,):
                if item not in self.choices:
                    raise self.refusal(item, f"String must be one of: {', '.join(self.choices)}")
        elif self.also_allowed is not None:
            if value != self.also_allowed and not (self.minimum or 0) <= value <= (self.maximum or 0):
                raise self.refusal(
                    value, f"Value must be between {self.minimum} and {self.maximum} or equal to {self.also_allowed}"
                )
        elif self.minimum is not None and value < self.minimum:
            raise self.refusal(value, f"Value must be at least {self.minimum}")
        elif self.maximum is not None and value > self.maximum:
            raise self.refusal(value, f"Value must be no more than {self.maximum}")

    def refusal(self, value: object, reason: str) -> InvalidConfig:
        return InvalidConfig(f"Invalid value {value} for configuration {self.name}: {reason}")


def _as_java(value: float) -> str:
    """A double as Java writes it: 0.5, 1.0E7, 1.7976931348623157E308."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    digits, _, exponent = repr(value).partition("e")
    if not exponent:  # Python writes more of them out
        digits, _, exponent = f"{value:.17e}".partition("e")
        digits = next(text for text in (f"{value:.{n}e}" for n in range(18)) if float(text) == value).partition("e")[0]
    return f"{digits if '.' in digits else digits + '.0'}E{int(exponent)}"


def attribute_of(name: str) -> str:
    """The attribute of a key, by any of its names: Kafka's, with underscores, with `pg_kafka.` in front."""
    return name.removeprefix(OWN_PREFIX).replace(".", "_").replace("-", "_")


def table(*keys: Key) -> Mapping[str, Key]:
    """Keys by name."""
    return {key.name: key for key in keys}


def setting(key: Key, default: Callable[[], Any] | None = None) -> Any:
    """A field of a dataclass of settings that holds the value of `key`; `default` is for one that differs by machine."""
    if default is not None:
        return dataclasses.field(default_factory=default, repr=not key.is_sensitive, metadata={"key": key})
    return dataclasses.field(default=key.default, repr=not key.is_sensitive, metadata={"key": key})


def broker_setting(
    name: str,
    type: ConfigType,
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    also_allowed: int | None = None,
    choices: tuple[str, ...] = (),
    must_be_set: bool = False,
    synonyms: tuple[str, ...] = (),
    unit_ms: int = 1,
    effect: Effect = Effect.WORKS,
    is_dynamic: bool = False,
    is_sensitive: bool = False,
    by_listener: bool = False,
    convert: Callable[[str], Any] | None = None,
    form: str = "",
) -> Any:
    """A field of a broker's settings and its key. Whole numbers are not negative unless `low` says so."""
    return setting(
        Key(
            name=name,
            type=type,
            default=default,
            doc=doc,
            minimum=0 if low is None and type in _LIMITS else low,
            maximum=high,
            also_allowed=also_allowed,
            choices=choices,
            must_be_set=must_be_set,
            synonyms=synonyms,
            unit_ms=unit_ms,
            effect=effect,
            is_dynamic=is_dynamic,
            is_sensitive=is_sensitive,
            by_listener=by_listener,
            convert=convert,
            form=form,
        )
    )


def keys_of(settings: type) -> Mapping[str, Key]:
    """The keys of a dataclass of settings, by name."""
    return table(*(field.metadata["key"] for field in dataclasses.fields(settings) if "key" in field.metadata))


def _parse_boolean(key: Key, text: str) -> bool:
    lowered = text.lower()
    if lowered not in ("true", "false"):
        raise key.refusal(text, "Expected value to be either true or false")
    return lowered == "true"


def _parse_string(key: Key, text: str) -> str:
    return text


_LIMITS = {ConfigType.SHORT: 2**15 - 1, ConfigType.INT: INT_MAX, ConfigType.LONG: LONG_MAX}


def _parse_integer(key: Key, text: str) -> int:
    limit = _LIMITS[key.type]
    # The length is checked first: turning a megabyte of digits into a number takes seconds.
    value = int(text) if len(text) <= 100 and _NUMBER.fullmatch(text) else None
    if value is None or not -limit - 1 <= value <= limit:
        raise key.refusal(text, f"Not a number of type {key.type.name}")
    return value


def _parse_double(key: Key, text: str) -> float:
    if len(text) > 100 or _REAL.fullmatch(text) is None:
        raise key.refusal(text, "Not a number of type DOUBLE")
    return float(text)


def _parse_list(key: Key, text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(",")) if text else ()
    if "" in items:
        raise InvalidConfig(f"Configuration '{key.name}' values must not be empty.")
    return items


_PARSERS: Mapping[ConfigType, Callable[[Key, str], Any]] = {
    ConfigType.BOOLEAN: _parse_boolean,
    ConfigType.STRING: _parse_string,
    ConfigType.SHORT: _parse_integer,
    ConfigType.INT: _parse_integer,
    ConfigType.LONG: _parse_integer,
    ConfigType.DOUBLE: _parse_double,
    ConfigType.LIST: _parse_list,
    ConfigType.PASSWORD: _parse_string,
}
