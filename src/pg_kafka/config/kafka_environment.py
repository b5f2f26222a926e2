"""Settings in the environment as Kafka's images take them, so that their compose files work here.

    KAFKA_NUM_PARTITIONS=3                              num.partitions=3
    KAFKA_LISTENER_NAME_SASL__SSL_SSL_CLIENT_AUTH=none  listener.name.sasl_ssl.ssl.client.auth=none

`_` stands for a dot, `__` for an underscore, `___` for a dash.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping

from pg_kafka.config.keys import Key

logger = logging.getLogger(__name__)

PREFIX = "KAFKA_"
_SIGNS = {1: ".", 2: "_", 3: "-"}
# They say how Kafka's images start Java, not how the broker is set.
_OF_JAVA = re.compile(
    r"KAFKA_(VERSION|HOME|OPTS|(HEAP|LOG4J|JMX|JVM_PERFORMANCE|GC_LOG)_OPTS?|JMX_(PORT|HOSTNAME)|LOG4J_\w+|TOOLS_LOG4J_\w+)"
)
_CONTROLLERS = "KAFKA_CONTROLLER_LISTENER_NAMES"
_LISTENERS = ("KAFKA_LISTENERS", "KAFKA_ADVERTISED_LISTENERS", "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP")


def kafka_variables(env: Mapping[str, str], named: Callable[[str], Key | None]) -> Iterator[tuple[str, Key, str]]:
    """The variables that set something here, each with its key and value; `named` finds a key.

    Those that have no meaning here are named in one warning. Listeners of controllers are none of this broker.
    """
    idle = []
    controllers = {name.strip().upper() for name in env.get(_CONTROLLERS, "").split(",")} - {""}
    for variable in sorted(env):
        text = env[variable]
        if not variable.startswith(PREFIX) or _OF_JAVA.fullmatch(variable) or not text:
            continue
        if variable in _LISTENERS and controllers:
            text = ",".join(item for item in text.split(",") if _name(item) not in controllers)
        key = named(setting_of(variable))
        if key is None:
            idle.append(variable)
        elif text:
            yield variable, key, text
    if idle:
        logger.warning("variables have no effect", extra={"variables": ", ".join(idle)})


def setting_of(variable: str) -> str:
    """The name of the setting that a variable of Kafka's images stands for."""
    name = variable.removeprefix(PREFIX).lower()
    return re.sub(r"_{1,3}", lambda run: _SIGNS[len(run[0])], name)


def _name(item: str) -> str:
    """The name of a listener in an item of `listeners` or of the protocol map."""
    return item.strip().partition(":")[0].upper()
