"""Listeners by Kafka's settings, from files, flags and the environment."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.config.broker import key_named
from pg_kafka.config.kafka_environment import setting_of
from pg_kafka.config.keys import Source
from pg_kafka.config.listeners import Endpoints, Listener, ProtocolMap, SecurityProtocol
from pg_kafka.config.listening import listeners_of, with_addresses
from pg_kafka.config.load import load, with_database_settings
from pg_kafka.config.tls import TlsSettings
from pg_kafka.errors import ConfigError


def from_text(text: str, tmp_path: Path, **variables: str) -> Config:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return load({}, variables, file)


def flags(**given: str) -> Config:
    return load(given, {}, None)


def test_listen_and_advertise_are_one_listener() -> None:
    assert listeners_of(flags(listen="0.0.0.0:1", advertise="a.example:2")) == (
        Listener(name="PLAINTEXT", address=Address("0.0.0.0", 1), advertised=Address("a.example", 2)),
    )
    assert listeners_of(Config()) == (Listener(name="PLAINTEXT", address=Address("127.0.0.1", 9092)),)


def test_each_listener_has_its_address_protocol_and_mechanisms(tmp_path: Path) -> None:
    config = from_text(
        """
        listeners = "internal://127.0.0.1:9092, External://:9093, SSL://[::1]:9094"
        ssl.keystore.location = "all.pem"
        ssl.truststore.location = "ca.pem"
        ssl.client.auth = "required"
        listener.name.external.ssl.keystore.location = "external.pem"
        advertised.listeners = "EXTERNAL://kafka.example:19093"
        listener.security.protocol.map = "INTERNAL:PLAINTEXT,external:sasl_ssl"
        sasl.enabled.mechanisms = "PLAIN"
        listener.name.external.sasl.enabled.mechanisms = "SCRAM-SHA-512,PLAIN"
        """,
        tmp_path,
    )
    assert listeners_of(config) == (
        Listener(name="INTERNAL", address=Address("127.0.0.1", 9092)),
        Listener(
            name="EXTERNAL",
            address=Address("", 9093),
            advertised=Address("kafka.example", 19093),
            protocol=SecurityProtocol.SASL_SSL,
            mechanisms=("SCRAM-SHA-512", "PLAIN"),
            # On SASL_SSL only the listener's own ssl.client.auth counts.
            tls=TlsSettings(keystore_location="external.pem", truststore_location="ca.pem"),
        ),
        Listener(
            name="SSL",
            address=Address("::1", 9094),
            protocol=SecurityProtocol.SSL,
            tls=TlsSettings(keystore_location="all.pem", truststore_location="ca.pem", client_auth="required"),
        ),
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"listeners": "9092"}, "--listeners wants NAME://HOST:PORT, with commas between several,"),
        ({"listeners": "A://h:1,"}, "--listeners wants NAME://"),
        ({"listeners": "A://::1:1"}, "an IPv6 address in brackets"),
        ({"listeners": "PLAINTEXT://h:70000"}, "--listeners wants HOST:PORT"),
        ({"listeners": "PLAINTEXT://h:1,plaintext://h:2"}, "listeners has PLAINTEXT twice"),
        ({"listeners": "PLAINTEXT://h:1,SSL://:1"}, "listeners PLAINTEXT and SSL have the same port 1"),
        (
            {"listeners": "INTERNAL://h:1"},
            "listener INTERNAL has no protocol: add INTERNAL:SASL_SSL, or another one, to",
        ),
        ({"listeners": "PLAINTEXT://h:1,CONTROLLER://h:2"}, "there are no controllers here: remove it"),
        ({"listeners": "PLAINTEXT://h:1", "listen": "h:2"}, "listen and listeners are both set: remove listen"),
        ({"listeners": "PLAINTEXT://h:1", "advertise": "h:2"}, "advertise and listeners are both set"),
        (
            {"advertised_listeners": "PLAINTEXT://h:1", "advertise": "h:2"},
            "advertise and advertised.listeners are both",
        ),
        ({"advertised_listeners": "SSL://h:1"}, "advertised.listeners names SSL, which listeners does not have"),
        (
            {"advertised_listeners": "PLAINTEXT://0.0.0.0:1"},
            "wants a host that clients can connect to, not PLAINTEXT://0",
        ),
        ({"advertised_listeners": "PLAINTEXT://:1"}, "wants a host that clients can connect to"),
        ({"advertised_listeners": "PLAINTEXT://h:0"}, "wants a port from 1 to 65535"),
        ({"advertised_listeners": "PLAINTEXT://h:1,PLAINTEXT://h:2"}, "advertised.listeners has PLAINTEXT twice"),
        ({"listener_security_protocol_map": "A"}, "wants NAME:PROTOCOL, with commas between several"),
        ({"listener_security_protocol_map": "A:TLS"}, "protocols of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ({"listener_security_protocol_map": "A:SSL,a:SSL"}, "wants each name once"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(given, {}, None)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_an_ipv4_and_an_ipv6_address_may_share_a_port() -> None:
    config = flags(listeners="PLAINTEXT://127.0.0.1:1,SASL_PLAINTEXT://[::1]:1")
    assert [listener.address.port for listener in listeners_of(config)] == [1, 1]
    # Any free ports are different ones.
    assert len(listeners_of(flags(listeners="PLAINTEXT://h:0,SASL_PLAINTEXT://h:0"))) == 2


def test_unknown_mechanism_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sasl.enabled.mechanisms .* wants some, .* of PLAIN, SCRAM"):
        from_text('listener.name.plaintext.sasl.enabled.mechanisms = "GSSAPI"', tmp_path)


def test_a_setting_of_a_listener_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"and there is no listener SECURE: name it in listeners"):
        from_text('listener.name.secure.sasl.enabled.mechanisms = "PLAIN"', tmp_path)


def test_only_settings_of_listeners_may_be_set_for_one(tmp_path: Path) -> None:
    assert key_named("listener.name.a.num.partitions") is None
    with pytest.raises(ConfigError, match="no setting of pg-kafka"):
        from_text("listener.name.plaintext.num.partitions = 1", tmp_path)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("listener.name.sasl_ssl.sasl.enabled.mechanisms", "listener.name.sasl_ssl.sasl.enabled.mechanisms"),
        ("listener.name.A-B.sasl.enabled.mechanisms", "listener.name.a_b.sasl.enabled.mechanisms"),
        ("pg_kafka.listener_name_sasl_ssl_sasl_enabled_mechanisms", "listener.name.sasl_ssl.sasl.enabled.mechanisms"),
        (
            "listener.name.a.scram-sha-256.sasl.enabled.mechanisms",
            "listener.name.a.scram-sha-256.sasl.enabled.mechanisms",
        ),
        (
            "listener_name_a_scram_sha_256_sasl_enabled_mechanisms",
            "listener.name.a.scram-sha-256.sasl.enabled.mechanisms",
        ),
    ],
)
def test_a_key_of_a_listener_has_a_name_in_each_form(given: str, name: str) -> None:
    key = key_named(given)
    assert key is not None
    assert key.name == name


def test_kafkas_variables_are_those_of_images() -> None:
    assert setting_of("KAFKA_LISTENER_NAME_SASL__SSL_SSL_CLIENT_AUTH") == "listener.name.sasl_ssl.ssl.client.auth"
    assert setting_of("KAFKA_LISTENER_NAME_A___B_SASL_X") == "listener.name.a-b.sasl.x"
    assert setting_of("KAFKA_NUM_PARTITIONS") == "num.partitions"


# As in the examples of Apache Kafka's image.
COMPOSE = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_LISTENERS": "CONTROLLER://localhost:29093,PLAINTEXT_HOST://:9092,SASL-HOST://:9094",
    "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT_HOST://localhost:9092,SASL-HOST://kafka:9094",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT_HOST:PLAINTEXT,SASL-HOST:SASL_PLAINTEXT",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:29093",
    "KAFKA_LISTENER_NAME_SASL___HOST_SASL_ENABLED_MECHANISMS": "PLAIN",
    "KAFKA_NUM_PARTITIONS": "7",
    "KAFKA_HEAP_OPTS": "-Xmx1G",
    "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
    "CLUSTER_ID": "4L6g3nShT-eMCtK--X86sw",
    "KAFKA_DATABASE": "postgresql://h/d",
}


def test_the_environment_of_kafkas_image_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = load({}, COMPOSE, None)
    assert [(one.name, one.address, one.advertised, one.mechanisms) for one in listeners_of(config)] == [
        ("PLAINTEXT_HOST", Address("", 9092), Address("localhost", 9092), ()),
        ("SASL-HOST", Address("", 9094), Address("kafka", 9094), ("PLAIN",)),
    ]
    assert (config.num_partitions, config.database) == (7, None)
    assert config.source("num.partitions") is Source.ENVIRONMENT
    [warning] = [vars(record) for record in caplog.records]
    assert warning["variables"] == (
        "KAFKA_CONTROLLER_LISTENER_NAMES, KAFKA_CONTROLLER_QUORUM_VOTERS, KAFKA_DATABASE, KAFKA_LOG_DIRS, KAFKA_NODE_ID,"
        " KAFKA_PROCESS_ROLES"
    )


def test_our_own_variable_is_stronger_than_kafkas() -> None:
    env = {"KAFKA_NUM_PARTITIONS": "7", "PG_KAFKA_NUM_PARTITIONS": "8"}
    assert load({}, env, None).num_partitions == 8
    env = {
        "KAFKA_LISTENER_NAME_PLAINTEXT_SASL_ENABLED_MECHANISMS": "PLAIN",
        "PG_KAFKA_LISTENER_NAME_PLAINTEXT_SASL_ENABLED_MECHANISMS": "OAUTHBEARER",
    }
    assert load({}, env, None).of_listener("PLAINTEXT", "sasl.enabled.mechanisms") == ("OAUTHBEARER",)


def test_a_bad_value_in_kafkas_variable_names_it() -> None:
    with pytest.raises(ConfigError, match="KAFKA_NUM_PARTITIONS wants a whole number"):
        load({}, {"KAFKA_NUM_PARTITIONS": "many"}, None)


def test_the_database_sets_a_listeners_key_and_takes_it_back() -> None:
    name = "listener.name.plaintext.sasl.enabled.mechanisms"
    rows: list[tuple[str, str | None]] = [(name, "PLAIN"), ("listener.name.other.sasl.enabled.mechanisms", "PLAIN")]
    config = with_database_settings(Config(), rows)
    assert config.of_listener("PLAINTEXT", "sasl.enabled.mechanisms") == ("PLAIN",)
    assert config.source(name) is Source.DATABASE
    assert with_database_settings(config, []).by_listener == {}


def test_a_mechanisms_own_value_comes_before_the_listeners() -> None:
    def value(**given: Any) -> Any:
        by_listener = {f"listener.name.a.{name}": value for name, value in given.items()}
        return Config(by_listener=by_listener).of_listener("A", "sasl.enabled.mechanisms", "PLAIN")

    of_listener = {"sasl.enabled.mechanisms": ("OAUTHBEARER",)}
    assert value() == Config().sasl_enabled_mechanisms
    assert value(**of_listener) == ("OAUTHBEARER",)
    assert value(**of_listener, **{"plain.sasl.enabled.mechanisms": ("PLAIN",)}) == ("PLAIN",)


def test_listeners_are_written_as_they_are_read() -> None:
    text = "A://[::1]:1,B://h:2,C://:3"
    assert str(Endpoints.parse(text)) == text
    assert str(ProtocolMap.parse("a:ssl, B:SASL_SSL")) == "A:SSL,B:SASL_SSL"


def test_free_ports_are_kept() -> None:
    for given in ({"listen": "h:0"}, {"listeners": "PLAINTEXT://h:0"}):
        config = load(given, {}, None)
        [listener] = listeners_of(config)
        taken = Listener(name=listener.name, address=Address("h", 77))
        assert listeners_of(with_addresses(config, [taken]))[0].address.port == 77
