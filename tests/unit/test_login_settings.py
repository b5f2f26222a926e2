"""Settings of logins by token and as PostgreSQL's roles: what a listener gets, and what is refused."""

from __future__ import annotations

from functools import partial

import pytest

from pg_kafka.config import Config
from pg_kafka.config.listening import listeners_of
from pg_kafka.config.load import load
from pg_kafka.config.oauth import OauthSettings
from pg_kafka.errors import ConfigError

KEYS = "https://id.example.com/keys"
LISTENERS = {
    "listeners": "ONE://127.0.0.1:9092,TWO://127.0.0.1:9093",
    "listener.security.protocol.map": "ONE:SASL_PLAINTEXT,TWO:PLAINTEXT",
    "listener.name.one.sasl.enabled.mechanisms": "OAUTHBEARER",
}


def config_of(settings: dict[str, str]) -> Config:
    names = {name: f"PG_KAFKA_{name.replace('.', '_').replace('-', '_').upper()}" for name in settings}
    return load({}, {names[name]: value for name, value in settings.items()}, None)


def settings_of(settings: dict[str, str]) -> OauthSettings:
    config = config_of({**LISTENERS, **settings})
    return OauthSettings.read("ONE", partial(config.of_listener, "ONE", mechanism="OAUTHBEARER"))


def test_what_a_mechanism_of_a_listener_has_is_before_the_listener_and_that_before_all() -> None:
    everywhere = {"sasl.oauthbearer.jwks.endpoint.url": KEYS, "sasl.oauthbearer.expected.issuer": "all"}
    assert settings_of(everywhere) == OauthSettings(url=KEYS, issuer="all")
    listener = {**everywhere, "listener.name.one.sasl.oauthbearer.expected.issuer": "one"}
    assert settings_of(listener).issuer == "one"
    mechanism = {**listener, "listener.name.one.oauthbearer.sasl.oauthbearer.expected.issuer": "token"}
    assert settings_of(mechanism).issuer == "token"


def test_all_settings_are_read() -> None:
    assert settings_of(
        {
            "sasl.oauthbearer.jwks.endpoint.url": "file:///etc/keys.json",
            "sasl.oauthbearer.jwks.endpoint.refresh.ms": "5000",
            "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms": "7",
            "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms": "70",
            "sasl.oauthbearer.expected.audience": "kafka, events",
            "sasl.oauthbearer.expected.issuer": "https://id.example.com",
            "sasl.oauthbearer.clock.skew.seconds": "0",
            "sasl.oauthbearer.scope.claim.name": "scp",
            "sasl.oauthbearer.sub.claim.name": "azp",
        }
    ) == OauthSettings(
        url="file:///etc/keys.json",
        refresh_ms=5000,
        backoff_ms=7,
        backoff_max_ms=70,
        audiences=("kafka", "events"),
        issuer="https://id.example.com",
        clock_skew_s=0,
        scope_claim="scp",
        subject_claim="azp",
    )


def test_tokens_without_keys_are_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"ONE has OAUTHBEARER and no sasl\.oauthbearer\.jwks\.endpoint\.url"):
        config_of(LISTENERS)


@pytest.mark.parametrize(
    "url",
    [
        "id.example.com/keys",
        "ftp://id.example.com/keys",
        "https://",
        "https:///keys",
        "file://",
        "file://other/keys",
        "https://u:p@h/k",
        "http://h:x/",
    ],
)
def test_addresses_of_keys_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sasl.oauthbearer.jwks.endpoint.url|JWKS_ENDPOINT_URL"):
        settings_of({"sasl.oauthbearer.jwks.endpoint.url": url})


ROLES = {
    "listeners": "ONE://127.0.0.1:9092",
    "listener.security.protocol.map": "ONE:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.one.pg_kafka.users": "roles",
}


def test_roles_log_in_on_a_loopback_address_without_tls() -> None:
    for host in ("127.0.0.1", "[::1]", "localhost"):
        config = config_of({**ROLES, "listeners": f"ONE://{host}:9092"})
        assert [listener.takes_roles for listener in listeners_of(config)] == [True]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"listeners": "ONE://0.0.0.0:9092"}, "without TLS"),
        ({"listeners": "ONE://:9092"}, "without TLS"),
        ({"listeners": "ONE://broker.example.com:9092"}, "without TLS"),
        ({"sasl.enabled.mechanisms": "SCRAM-SHA-512"}, "needs PLAIN"),
        ({"sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512"}, "SCRAM-SHA-512, which needs stored users"),
        ({"listener.name.one.pg_kafka.users": "everybody"}, "stored, roles"),
        ({"listener.security.protocol.map": "ONE:PLAINTEXT"}, "has no SASL"),
    ],
)
def test_roles_are_refused(changed: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        config_of({**ROLES, **changed})


def test_users_are_stored_where_nothing_is_said() -> None:
    config = config_of({"listeners": "ONE://127.0.0.1:9092", "listener.security.protocol.map": "ONE:SASL_PLAINTEXT"})
    assert [listener.takes_roles for listener in listeners_of(config)] == [False]
