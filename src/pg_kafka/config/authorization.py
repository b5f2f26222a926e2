"""The settings that say who decides what a client may do (docs/security.md, "Authorization")."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pg_kafka.config.keys import ConfigType, broker_setting

STANDARD_AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


class Deciding(StrEnum):
    """What decides."""

    NONE = "none"
    ACL = "acl"
    GRANTS = "grants"


@dataclass(frozen=True, kw_only=True)  # no slots: a class with several bases can have those of one only
class AuthorizationConfig:
    """A part of `BrokerConfig` (`broker.py`)."""

    authorizer_class_name: str | None = broker_setting(
        "authorizer.class.name",
        ConfigType.STRING,
        None,
        "Kafka's way to switch access control lists on: its StandardAuthorizer means pg_kafka.authorizer=acl.",
        choices=(STANDARD_AUTHORIZER,),
    )
    super_users: str | None = broker_setting(
        "super.users",
        ConfigType.STRING,
        None,
        "Principals that may do everything, between semicolons, as in User:admin;User:root.",
    )
    allow_everyone_if_no_acl_found: bool = broker_setting(
        "allow.everyone.if.no.acl.found",
        ConfigType.BOOLEAN,
        False,
        "Whether everybody may use a resource that no access control list names.",
    )
    authorizer: str = broker_setting(
        "pg_kafka.authorizer",
        ConfigType.STRING,
        Deciding.NONE.value,
        "What decides who may do what: none lets everybody do everything, acl goes by access control lists, grants by GRANT"
        " on topics' views, and by access control lists for all else.",
        choices=tuple(each.value for each in Deciding),
    )


def deciding(config: AuthorizationConfig) -> Deciding:
    """What decides. Kafka's key switches access control lists on where ours says nothing."""
    if config.authorizer == Deciding.NONE and config.authorizer_class_name:
        return Deciding.ACL
    return Deciding(config.authorizer)
