"""The settings of SASL: how clients of a listener log in, and for how long. A part of `BrokerConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from pg_kafka.config.keys import ConfigType, broker_setting

# With what else a connection takes, within 64 kB for somebody who has not said who that is.
DEFAULT_RECEIVE_BYTES = 32 * 1024


@dataclass(frozen=True, kw_only=True)
class SaslConfig:
    """See the module."""

    sasl_jaas_config: str | None = broker_setting(
        "sasl.jaas.config",
        ConfigType.PASSWORD,
        None,
        'Users of PLAIN beside those of the database, as user_<name>="<password>" of a PlainLoginModule.'
        " Usually as listener.name.<name>.plain.sasl.jaas.config.",
        is_sensitive=True,
        by_listener=True,
    )
    sasl_server_max_receive_size: int = broker_setting(
        "sasl.server.max.receive.size",
        ConfigType.INT,
        DEFAULT_RECEIVE_BYTES,
        "Bytes that a client may send before it has authenticated itself, as one request or several; more closes the"
        " connection. Each such client may cost as much memory.",
        low=1024,
    )
    connections_max_reauth_ms: int = broker_setting(
        "connections.max.reauth.ms",
        ConfigType.LONG,
        0,
        "How long a login holds until the client has to repeat it on the same connection; 0: as long as the connection.",
        by_listener=True,
    )
    connection_failed_authentication_delay_ms: int = broker_setting(
        "connection.failed.authentication.delay.ms",
        ConfigType.INT,
        100,
        "How long after a wrong login it is answered and the connection closed.",
    )
    authentication_timeout_ms: int = broker_setting(
        "pg_kafka.authentication_timeout_ms",
        ConfigType.INT,
        30_000,
        "A client that has not authenticated itself for so long after it has connected is closed.",
        low=100,
    )
