"""Whose names and passwords PLAIN takes: users that are stored in kafka.users, or PostgreSQL's roles.

`UsersConfig` is a part of `BrokerConfig` (`broker.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pg_kafka.config.address import is_loopback
from pg_kafka.config.keys import ConfigType, broker_setting
from pg_kafka.config.listeners import Listener

STORED, ROLES = "stored", "roles"


@dataclass(frozen=True, kw_only=True)
class UsersConfig:
    """See the module."""

    users: str = broker_setting(
        "pg_kafka.users",
        ConfigType.STRING,
        STORED,
        "Who logs in by PLAIN: users of kafka.create_user() (stored), or PostgreSQL's roles (roles), which needs TLS.",
        choices=(STORED, ROLES),
        by_listener=True,
    )


def roles_refused(listener: Listener) -> str | None:
    """Why PostgreSQL's roles cannot log in on a listener, in one sentence; None when they can."""
    if "PLAIN" not in listener.mechanisms:
        return f"the listener {listener.name} has pg_kafka.users = roles, which needs PLAIN in sasl.enabled.mechanisms"
    if scram := _scram(listener.mechanisms):
        return (
            f"the listener {listener.name} has pg_kafka.users = roles and {scram}, which needs stored users: take it out of"
            " sasl.enabled.mechanisms, or give it to another listener"
        )
    if not listener.protocol.has_tls and not is_loopback(listener.address.host):
        return (
            f"the listener {listener.name} has pg_kafka.users = roles without TLS, and everybody on the way could read"
            " passwords of the database: use SASL_SSL, or listen on 127.0.0.1"
        )
    return None


def _scram(mechanisms: Collection[str]) -> str | None:
    return next((mechanism for mechanism in mechanisms if mechanism.startswith("SCRAM")), None)
