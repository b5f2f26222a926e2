"""The settings of OAUTHBEARER, by Kafka's names (KIP-768). Each listener may have its own.

`OauthConfig` is a part of `BrokerConfig` (`broker.py`); `OauthSettings` is what one listener has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pg_kafka.config.keys import ConfigType, broker_setting

_STRING, _INT, _LONG, _LIST = ConfigType.STRING, ConfigType.INT, ConfigType.LONG, ConfigType.LIST
OAUTHBEARER = "OAUTHBEARER"
WANTED_URL = "https://HOST/PATH, http://HOST/PATH or file:///PATH"


def _address(text: str) -> str:
    """Where keys are published. Raises ValueError with what is wanted."""
    try:
        parts = urlsplit(text)
        is_usable = (
            bool(parts.hostname) and (parts.port is None or parts.port > 0) and parts.username is None
            if parts.scheme in ("http", "https")
            else parts.scheme == "file" and parts.netloc in ("", "localhost") and len(parts.path) > 1
        )
    except ValueError:
        is_usable = False
    if not is_usable or not text.isprintable() or " " in text:
        raise ValueError(WANTED_URL)
    return text


@dataclass(frozen=True, kw_only=True)
class OauthConfig:
    """See the module."""

    sasl_oauthbearer_jwks_endpoint_url: str | None = broker_setting(
        "sasl.oauthbearer.jwks.endpoint.url",
        _STRING,
        None,
        "Where the issuer of tokens publishes its keys: an https, http or file URL. Listeners with OAUTHBEARER need it.",
        convert=_address,
        form=WANTED_URL,
        by_listener=True,
    )
    sasl_oauthbearer_jwks_endpoint_refresh_ms: int = broker_setting(
        "sasl.oauthbearer.jwks.endpoint.refresh.ms",
        _LONG,
        3_600_000,
        "How often the keys are read again from an address; files are looked at each second.",
        low=1000,
        by_listener=True,
    )
    sasl_oauthbearer_jwks_endpoint_retry_backoff_ms: int = broker_setting(
        "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms",
        _LONG,
        100,
        "The pause before keys are asked for again when that has failed; it doubles each time.",
        low=1,
        by_listener=True,
    )
    sasl_oauthbearer_jwks_endpoint_retry_backoff_max_ms: int = broker_setting(
        "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms",
        _LONG,
        10_000,
        "The longest of these pauses.",
        low=1,
        by_listener=True,
    )
    sasl_oauthbearer_expected_audience: tuple[str, ...] | None = broker_setting(
        "sasl.oauthbearer.expected.audience",
        _LIST,
        None,
        "Tokens must be meant for one of these (aud). While it is not set, tokens that are meant for somebody are refused.",
        by_listener=True,
    )
    sasl_oauthbearer_expected_issuer: str | None = broker_setting(
        "sasl.oauthbearer.expected.issuer",
        _STRING,
        None,
        "Tokens must come from this issuer (iss).",
        by_listener=True,
    )
    sasl_oauthbearer_clock_skew_seconds: int = broker_setting(
        "sasl.oauthbearer.clock.skew.seconds",
        _INT,
        30,
        "By how much the issuer's clock may differ from the broker's.",
        high=3600,
        by_listener=True,
    )
    sasl_oauthbearer_scope_claim_name: str = broker_setting(
        "sasl.oauthbearer.scope.claim.name",
        _STRING,
        "scope",
        "The claim with the scopes of a token: if it is there, none may be empty or come twice. Nothing else depends on it.",
        by_listener=True,
    )
    sasl_oauthbearer_sub_claim_name: str = broker_setting(
        "sasl.oauthbearer.sub.claim.name",
        _STRING,
        "sub",
        "The claim with the name of whom a token stands for.",
        by_listener=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OauthSettings:
    """What one listener has."""

    url: str
    refresh_ms: int = 3_600_000
    backoff_ms: int = 100
    backoff_max_ms: int = 10_000
    audiences: tuple[str, ...] = ()
    issuer: str | None = None
    clock_skew_s: int = 30
    scope_claim: str = "scope"
    subject_claim: str = "sub"

    @classmethod
    def read(cls, listener: str, value_of: Callable[[str], Any]) -> OauthSettings:
        """`value_of` gives the value of a setting for the listener. Raises ValueError with a sentence."""
        url = value_of("sasl.oauthbearer.jwks.endpoint.url")
        if url is None:
            raise ValueError(
                f"the listener {listener} has OAUTHBEARER and no sasl.oauthbearer.jwks.endpoint.url: without keys no token"
                " can be checked, and unsigned ones are never accepted"
            )
        return cls(
            url=url,
            refresh_ms=value_of("sasl.oauthbearer.jwks.endpoint.refresh.ms"),
            backoff_ms=value_of("sasl.oauthbearer.jwks.endpoint.retry.backoff.ms"),
            backoff_max_ms=value_of("sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms"),
            audiences=value_of("sasl.oauthbearer.expected.audience") or (),
            issuer=value_of("sasl.oauthbearer.expected.issuer"),
            clock_skew_s=value_of("sasl.oauthbearer.clock.skew.seconds"),
            scope_claim=value_of("sasl.oauthbearer.scope.claim.name"),
            subject_claim=value_of("sasl.oauthbearer.sub.claim.name"),
        )
