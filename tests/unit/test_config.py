"""Settings: parsing, precedence, and the sentences of their errors."""

import logging
from pathlib import Path

import pytest

from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.config.broker import BROKER_KEYS
from pg_kafka.config.keys import ConfigType, Key, Source
from pg_kafka.config.layers import ConfigSource, Layer, entry
from pg_kafka.config.load import Stored, load, parsed, with_database_settings
from pg_kafka.config.settings import ALL_KEYS, Settings, default_data_folder
from pg_kafka.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    file = folder / "pg-kafka.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9092", Address("127.0.0.1", 9092)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:9092", Address("::1", 9092)),
        ("[fe80::1%eth0]:65535", Address("fe80::1%eth0", 65535)),
        (" 0.0.0.0:1 ", Address("0.0.0.0", 1)),
    ],
)
def test_address_is_parsed_and_written_back(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "9092",
        ":9092",
        "localhost:",
        "localhost:x",
        "localhost:65536",
        "localhost:-1",
        "::1:9092",
        "[::1",
        "[]:1",
        "[::1]",
        "a:1:2",
        "localhost:٣",
    ],
)
def test_bad_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


def test_defaults_come_from_nowhere() -> None:
    config = load({}, {}, None)
    assert config == Config()
    assert config.listen == Address("127.0.0.1", 9092)
    assert config.sources == {}
    assert config.source("num.partitions") == Source.DEFAULT


def test_stronger_sources_win(tmp_path: Path) -> None:
    file = write(tmp_path, '"num.partitions" = 2\nlanes = 2\nreaders = 3\nlisten = "[::1]:1"\n')
    config = load({"listen": "[::1]:3"}, {"PG_KAFKA_NUM_PARTITIONS": "4", "PG_KAFKA_LISTEN": "[::1]:2"}, file)
    config = with_database_settings(
        config, [("num.partitions", "9"), ("pg_kafka.lanes", "9"), ("fetch.max.bytes", "2048")]
    )
    assert (config.listen.port, config.num_partitions, config.lanes, config.fetch_max_bytes) == (3, 4, 2, 2048)
    assert {
        name: config.source(name) for name in ("listen", "num.partitions", "pg_kafka.lanes", "fetch.max.bytes")
    } == {
        "listen": Source.FLAG,
        "num.partitions": Source.ENVIRONMENT,
        "pg_kafka.lanes": Source.FILE,
        "fetch.max.bytes": Source.DATABASE,
    }


def test_what_the_database_says_of_a_dynamic_setting_wins(tmp_path: Path) -> None:
    key = BROKER_KEYS["message.max.bytes"]
    config = load({}, {}, write(tmp_path, '"message.max.bytes" = 1\n'))
    rows = [Stored("pg_kafka.message_max_bytes", "3"), Stored("message.max.bytes", "4", 7), Stored(key.name, "2", None)]
    of_others = with_database_settings(config, rows, 8)
    assert of_others.given(key) == {Source.DATABASE: 3, Source.FILE: 1, Source.PARAMETER: 2}
    own = with_database_settings(of_others, rows, 7)
    assert (own.message_max_bytes, own.source(key.name)) == (4, Source.NODE)
    assert list(own.given(key).values()) == [4, 3, 1, 2]
    assert with_database_settings(own, [], 7) == config
    assert with_database_settings(own, []).given(key) == {Source.FILE: 1}
    assert with_database_settings(with_database_settings(Config(), rows), []) == Config()


@pytest.mark.parametrize(
    "text",
    [
        '"num.partitions" = 7',
        "num.partitions = 7",
        "num_partitions = 7",
        "[num]\npartitions = 7",
        "[pg_kafka]\nnum_partitions = 7",
        '"num.partitions" = "7"',
    ],
)
def test_file_accepts_every_spelling(tmp_path: Path, text: str) -> None:
    assert load({}, {}, write(tmp_path, text)).num_partitions == 7


@pytest.mark.parametrize("name", ["num.partitions", "pg_kafka.num_partitions", "num_partitions"])
def test_database_accepts_every_spelling(name: str) -> None:
    assert with_database_settings(Config(), [(name, "7")]).num_partitions == 7


def test_environment_names_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "delete.topic.enable = false")
    assert load({}, {"PG_KAFKA_CONFIG": str(file)}, None).delete_topic_enable is False


def test_foreign_and_empty_variables_are_left_alone() -> None:
    # Kubernetes puts such variables into every container next to a service named pg-kafka.
    env = {"PG_KAFKA_PORT": "tcp://10.0.0.1:9092", "PG_KAFKA_SERVICE_HOST": "10.0.0.1", "PG_KAFKA_LISTEN": ""}
    assert load({}, env, None) == Config()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("num.partitions", "0"),
        ("num.partitions", "1.5"),
        ("num.partitions", "many"),
        ("num.partitions", str(2**31)),
        ("auto.create.topics.enable", "yes"),
        ("compression.type", "brotli"),
        ("log_level", "loud"),
        ("listen", "9092"),
        ("log.segment.bytes", "1000"),
        ("queued.max.request.bytes", "-2"),
        ("pg_kafka.heartbeat_ms", "5000"),
    ],
)
def test_bad_value_is_one_sentence_naming_the_setting(name: str, text: str) -> None:
    setting = ALL_KEYS[name]
    with pytest.raises(ConfigError) as caught:
        load({}, {setting.environment: text}, None)
    assert "\n" not in str(caught.value)
    assert text in str(caught.value)
    assert setting.attribute in str(caught.value).lower()


@pytest.mark.parametrize(
    "text", ["num.partitions = true", "num.partitions = 1.0", "num.partitions = [1]", "listen = 9092"]
)
def test_file_value_of_the_wrong_type_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="wants"):
        load({}, {}, write(tmp_path, text))


def test_unknown_name_in_the_file_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'num\.partition', .* 'num\.partitions'"):
        load({}, {}, write(tmp_path, "num.partition = 3"))


def test_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration file"):
        load({}, {}, tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load({}, {}, write(tmp_path, "a = ["))


def test_advertised_port_cannot_be_zero() -> None:
    with pytest.raises(ConfigError, match="advertise"):
        load({"advertise": "broker:0"}, {}, None)


@pytest.mark.parametrize("name", ["num.partition", "listen", "pg_kafka.database"])
def test_name_without_effect_in_the_database_is_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pg_kafka"):
        assert with_database_settings(Config(), [(name, "3")]) == Config()
    assert [record.__dict__["setting"] for record in caplog.records] == [name]


def test_bad_value_in_the_database_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pg_kafka\.lanes in the database wants"):
        with_database_settings(Config(), [("pg_kafka.lanes", "none")])


def test_later_row_of_the_database_wins() -> None:
    config = with_database_settings(Config(), [("num.partitions", "2"), ("pg_kafka.num_partitions", "3")])
    assert config.num_partitions == 3
    assert with_database_settings(config, [("num.partitions", "4")]).num_partitions == 4


@pytest.mark.parametrize("key", ALL_KEYS.values(), ids=lambda key: key.name)
def test_every_default_is_a_value_of_its_own_setting(key: Key) -> None:
    value = getattr(Config(), key.attribute)
    text = key.text(value)
    assert text is None or parsed(key, text, key.name) == value
    assert key.doc.endswith(".")
    assert key.name in (key.attribute, key.parameter) or "." in key.name


def test_request_budget_is_never_unlimited() -> None:
    assert Config().request_budget_bytes == 256 * 1024 * 1024
    assert Config(queued_max_request_bytes=5).request_budget_bytes == 5


def test_password_in_the_database_url_is_not_shown() -> None:
    assert "secret" not in repr(load({"database": "postgresql://me:secret@host/db"}, {}, None))


def test_data_folder_follows_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_folder() == tmp_path / ".local/share/pg-kafka"
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/data")
    assert default_data_folder() == Path("/srv/data/pg-kafka")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data_folder() == tmp_path / ".local/share/pg-kafka"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_data_folder() == Path("/var/lib/pg-kafka/data")


def test_dynamic_settings_change_and_others_stay() -> None:
    settings, told = Settings(Config(num_partitions=3)), []
    settings.watch(lambda: told.append(settings.current.max_connections))
    news = Config(num_partitions=7, max_connections=5, sources={"max.connections": Source.DATABASE})
    settings.renew(news)
    assert (settings.current.num_partitions, settings.current.max_connections) == (3, 5)
    assert settings.current.source("max.connections") == Source.DATABASE
    settings.renew(news)
    assert told == [5]  # nothing has changed since


def test_sensitive_values_are_described_without_their_text() -> None:
    key = Key(name="secret", type=ConfigType.STRING, default=None, doc="A secret.", is_sensitive=True)
    described = entry(key, Config(), Layer("secret", "hidden", ConfigSource.TOPIC))
    assert (described.value, described.is_sensitive) == (None, True)
    assert "hidden" not in repr(described)
