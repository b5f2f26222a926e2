"""Topic configs: Kafka 4.4's keys, its checks and its sentences."""

from __future__ import annotations

import pytest

from pg_kafka.config import Config
from pg_kafka.config import topics as topic_configs
from pg_kafka.config.keys import ConfigType, Effect, InvalidConfig, Source
from pg_kafka.config.layers import ConfigSource
from pg_kafka.coordinator import topic_names


def refusal(**configs: str | None) -> str:
    with pytest.raises(InvalidConfig) as caught:
        topic_configs.validate({name.replace("_", "."): value for name, value in configs.items()})
    return str(caught.value)


@pytest.mark.parametrize("name", topic_configs.TOPIC_KEYS)
def test_every_default_is_valid(name: str) -> None:
    key = topic_configs.TOPIC_KEYS[name]
    text = key.text(key.default)
    topic_configs.validate({name: text})
    assert text is not None and key.parse(text) == key.default


def test_all_keys_of_kafka_are_known() -> None:
    assert len(topic_configs.TOPIC_KEYS) == 37 + 2  # Kafka's and ours


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention.ms", " 5 "),
        ("retention.ms", "-1"),
        ("segment.bytes", "+2000000"),
        ("cleanup.policy", ""),
        ("cleanup.policy", "compact, delete"),
        ("compression.type", " gzip "),
        ("compression.gzip.level", "-1"),
        ("preallocate", "TRUE"),
        ("min.cleanable.dirty.ratio", "1e-1"),
        ("leader.replication.throttled.replicas", "*"),
        ("leader.replication.throttled.replicas", "0:1,1:2"),
        ("leader.replication.throttled.replicas", ""),
        ("retention.bytes", "-5"),
    ],
)
def test_valid_values(name: str, value: str) -> None:
    topic_configs.validate({name: value})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("foo", "1", "Unknown topic config name: foo"),
        ("retention.ms", None, "Null value not supported for topic configs: retention.ms"),
        ("retention.ms", "abc", "Invalid value abc for configuration retention.ms: Not a number of type LONG"),
        ("retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1"),
        ("retention.ms", "1_000", "Invalid value 1_000 for configuration retention.ms: Not a number of type LONG"),
        ("segment.bytes", "100", "Invalid value 100 for configuration segment.bytes: Value must be at least 1048576"),
        (
            "segment.bytes",
            "9999999999",
            "Invalid value 9999999999 for configuration segment.bytes: Not a number of type INT",
        ),
        ("segment.bytes", "", "Invalid value  for configuration segment.bytes: Not a number of type INT"),
        (
            "cleanup.policy",
            "delete,foo",
            "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete",
        ),
        ("cleanup.policy", ",", "Configuration 'cleanup.policy' values must not be empty."),
        (
            "compression.gzip.level",
            "0",
            "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
        ),
        (
            "compression.zstd.level",
            "30",
            "Invalid value 30 for configuration compression.zstd.level: Value must be no more than 22",
        ),
        (
            "preallocate",
            "yes",
            "Invalid value yes for configuration preallocate: Expected value to be either true or false",
        ),
        (
            "min.cleanable.dirty.ratio",
            "2",
            "Invalid value 2.0 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
        ),
        (
            "leader.replication.throttled.replicas",
            "*,0:1",
            "Invalid value [*, 0:1] for configuration leader.replication.throttled.replicas: "
            "leader.replication.throttled.replicas must be the literal '*' or a list of replicas in the following "
            "format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
        ),
        (
            "remote.storage.enable",
            "true",
            "Tiered Storage functionality is disabled in the broker. "
            "Topic cannot be configured with remote log storage.",
        ),
    ],
)
def test_refusals_are_kafkas_sentences(name: str, value: str | None, sentence: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        topic_configs.validate({name: value})
    assert str(caught.value) == sentence


def test_compaction_lags_may_not_cross() -> None:
    assert refusal(min_compaction_lag_ms="10", max_compaction_lag_ms="5") == (
        "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)"
    )


def test_a_megabyte_of_digits_is_refused_at_once() -> None:
    assert refusal(retention_ms="9" * 1_000_000).endswith("Not a number of type LONG")


def test_topic_value_wins_over_the_broker_and_the_default() -> None:
    config = Config(message_max_bytes=5000, sources={"message.max.bytes": Source.FILE})
    assert topic_configs.effective({}, config).max_message_bytes == 5000
    assert topic_configs.effective({"max.message.bytes": "77"}, config).max_message_bytes == 77
    assert topic_configs.effective({}, Config()).max_message_bytes == 1048588


def test_stored_value_that_is_no_longer_valid_gives_way_to_the_default() -> None:
    assert topic_configs.effective({"segment.bytes": "1"}, Config()).segment_bytes == 1073741824


def test_settings_in_the_terms_of_the_log() -> None:
    configs = {
        "cleanup.policy": "compact",
        "message.timestamp.type": "LogAppendTime",
        "compression.type": "zstd",
        "compression.zstd.level": "7",
    }
    settings = topic_configs.effective(configs, Config())
    assert settings.is_compacted
    assert settings.timestamp_type == 1
    assert (settings.codec, settings.compression_level) == (4, 7)
    plain = topic_configs.effective({}, Config())
    assert not plain.is_compacted
    assert (plain.codec, plain.compression_level, plain.timestamp_type) == (None, None, 0)
    gzip = topic_configs.effective({"compression.type": "gzip"}, Config())
    assert (gzip.codec, gzip.compression_level) == (1, None)


def test_description_names_sources_and_synonyms() -> None:
    config = Config(log_roll_ms=9000, sources={"log.roll.ms": Source.DATABASE})
    entries = {entry.name: entry for entry in topic_configs.describe({"retention.ms": " 5 "}, config)}
    assert len(entries) == len(topic_configs.TOPIC_KEYS)
    retention = entries["retention.ms"]
    assert (retention.value, retention.source, retention.type) == ("5", ConfigSource.TOPIC, ConfigType.LONG)
    assert retention.synonyms == [
        ("retention.ms", "5", ConfigSource.TOPIC),
    ]
    roll = entries["segment.ms"]
    assert (roll.value, roll.source) == ("9000", ConfigSource.DYNAMIC_DEFAULT_BROKER)
    assert roll.synonyms == [
        ("log.roll.ms", "9000", ConfigSource.DYNAMIC_DEFAULT_BROKER),
        ("log.roll.hours", "168", ConfigSource.DEFAULT),
    ]
    assert (entries["flush.ms"].value, entries["flush.ms"].synonyms) == ("9223372036854775807", [])
    assert entries["remote.storage.enable"].synonyms == []
    assert entries["preallocate"].value == "false"
    assert entries["cleanup.policy"].value == "delete"


def test_description_of_chosen_keys_leaves_out_unknown_ones() -> None:
    entries = topic_configs.describe({}, Config(), ["foo", "retention.ms"])
    assert [entry.name for entry in entries] == ["retention.ms"]


def test_keys_that_change_nothing_are_named_unless_they_say_the_default() -> None:
    configs = {"flush.ms": "5", "preallocate": "false", "max.message.bytes": "2000000", "flush.messages": "1"}
    assert topic_configs.without_effect(configs) == ["flush.ms", "flush.messages"]


def test_hours_and_minutes_stand_in_for_milliseconds() -> None:
    def of_broker(**values: int) -> Config:
        names = {name.replace("_", "."): value for name, value in values.items()}
        return Config(**values, sources=dict.fromkeys(names, Source.FILE))  # type: ignore[arg-type]

    assert topic_configs.effective({}, of_broker(log_retention_hours=2)).retention_ms == 7_200_000
    assert (
        topic_configs.effective({}, of_broker(log_retention_hours=2, log_retention_minutes=3)).retention_ms == 180_000
    )
    assert topic_configs.effective({}, of_broker(log_retention_minutes=3, log_retention_ms=7)).retention_ms == 7
    assert topic_configs.effective({}, of_broker(log_retention_hours=-1)).retention_ms == -1
    assert topic_configs.effective({}, of_broker(log_roll_hours=1)).segment_ms == 3_600_000
    (retention,) = topic_configs.describe({}, of_broker(log_retention_hours=2), ["retention.ms"])
    assert (retention.value, retention.source) == ("7200000", ConfigSource.STATIC_BROKER)
    assert retention.synonyms == [("log.retention.hours", "2", ConfigSource.STATIC_BROKER)]


@pytest.mark.parametrize("name", ["a", "ok.a_b-C", "a" * 249, "__x"])
def test_legal_topic_names(name: str) -> None:
    assert topic_names.fault_of(name) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "é", "a\n", "a" * 250])
def test_illegal_topic_names(name: str) -> None:
    fault = topic_names.fault_of(name)
    assert fault is not None
    assert fault.startswith("Topic name is invalid: ")


def test_names_that_differ_in_dots_and_underscores_collide() -> None:
    assert topic_names.collision("a.b_c", {"a_b.c": 1, "x": 1}) == "a_b.c"


def test_what_works_reaches_the_log() -> None:
    """Each key that has an effect is a field of what the log works with."""
    settings = topic_configs.effective({}, Config())
    for key in topic_configs.TOPIC_KEYS.values():
        if key.effect is Effect.WORKS:
            texts = key.choices or (("0.25",) if key.type is ConfigType.DOUBLE else ("2", "2000000"))
            assert any(topic_configs.effective({key.name: text}, Config()) != settings for text in texts), key.name
