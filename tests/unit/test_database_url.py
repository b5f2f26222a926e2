"""The database's address: one reading or none, and never a password in what is said about it."""

from __future__ import annotations

import itertools

import pytest
from asyncpg import connect_utils

from pg_kafka import database_url
from pg_kafka.config.load import load
from pg_kafka.database_url import may_hold_password, place, wanted_instead, without_password
from pg_kafka.errors import ConfigError

GOOD = {
    "postgresql://host/db": "host/db",
    "postgres://me@host:5433/db": "host:5433/db",
    "postgresql://me:secret@host/db": "host/db",
    "postgresql://me:se:cret@host/db": "host/db",
    "postgresql://me:s%40%2F%3F%23%25%3A%20ecret@host/db": "host/db",
    "postgresql://me:secret@[::1]:5432/db": "[::1]:5432/db",
    "postgresql://me@a:1,b:2/db": "a:1,b:2/db",
    "postgresql:///db?host=/run/postgresql&user=me&password=secret": "/run/postgresql/db",
    "postgresql://me@/db?host=%2Ftmp%2Fx&port=1234": "/tmp/x:1234/db",
    "postgresql://me@%2Ftmp/db": "/tmp/db",
    "postgresql://host": "host",
    "postgresql://": "localhost",
    "postgresql://host/db?sslmode=require&sslpassword=secret&passfile=/etc/x": "host/db",
    "postgresql://host/my%40db": "host/my@db",
}


@pytest.mark.parametrize(("url", "shown"), GOOD.items())
def test_good_ones_are_taken_and_shown_without_their_password(url: str, shown: str) -> None:
    assert wanted_instead(url) is None
    assert load({"database": url}, {}, None).database == url
    assert place(url) == shown
    assert "secret" not in without_password(url)
    assert "ecret" not in without_password(url)


@pytest.mark.parametrize("special", [*"/@?#%:[] \t\\&=+'\"é€℀", "12/", "/1@", "?a=", "%zz"])
@pytest.mark.parametrize("rest", ["@host/db", "@host:5432/db?sslmode=disable", "@/db?host=/tmp", ""])
def test_password_with_any_character_is_shown_by_no_one(special: str, rest: str) -> None:
    for before, after in itertools.product(("", "hid", "1"), ("", "den", "2")):
        password = f"hidden{before}{special}{after}hidden"
        url = f"postgresql://me:{password}{rest}"
        if rest:
            assert may_hold_password(url)
        try:
            config = load({}, {"PG_KAFKA_DATABASE": url}, None)
        except ConfigError as error:
            assert "hidden" not in str(error)
            assert "PG_KAFKA_DATABASE wants a URL" in str(error)
            continue
        if not rest:
            assert special == "@"  # a password and a host
            continue
        assert config.database == url
        for text in (place(url), without_password(url), repr(config)):
            assert "hidden" not in text
        # The driver reads it as we do.
        _, parameters = connect_utils._parse_connect_dsn_and_args(  # type: ignore[attr-defined]
            dsn=url, host=None, port=None, user=None, password=None, passfile="/dev/null", database=None, ssl=None,
            service=None, servicefile=None, direct_tls=None, server_settings=None, target_session_attrs=None,
            krbsrvname=None, gsslib=None,
        )  # fmt: skip
        assert parameters.user == "me"
        assert parameters.password is not None and parameters.password.startswith("hidden")
        assert parameters.password.endswith("hidden")


@pytest.mark.parametrize(
    "text",
    [
        "host=localhost password=hidden user=me",
        "password=hidden",
        "me:hidden@host/db",
        "http://me:hidden@host/db",
        "jdbc:postgresql://host/db?password=hidden",
        "postgresql:/me:hidden@host/db",
        "hidden",
    ],
)
def test_what_is_no_url_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="--database wants a URL, as in postgresql://user@host/dbname") as caught:
        load({"database": text}, {}, None)
    assert "hidden" not in str(caught.value)


def test_address_of_the_database_that_is_given_as_another_setting_is_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"--listen wants .*, not the address of a database") as caught:
        load({"listen": "postgresql://me:hidden@host/db"}, {}, None)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "environment", "is_proven"),
    [
        ("postgresql://a@db/d", {}, False),
        ("postgresql://a@db/d?sslmode=require", {}, False),
        ("postgresql://a@db/d?sslmode=verify-full", {}, True),
        ("postgresql://a@db/d", {"PGSSLMODE": "verify-full"}, True),
        ("postgresql://a@db/d?sslmode=prefer", {"PGSSLMODE": "verify-full"}, False),
        ("postgresql://a@127.0.0.1:5432/d", {}, True),
        ("postgresql://a@[::1]:5432/d", {}, True),
        ("postgresql://a@localhost,db/d", {}, False),
        ("postgresql://a@/d?host=%2Frun%2Fpostgresql", {}, True),
        ("postgresql:///d", {"PGHOST": "db"}, False),
    ],
)
def test_whether_the_server_is_proven(url: str, environment: dict[str, str], is_proven: bool) -> None:
    assert database_url.is_proven(url, environment) is is_proven


def test_channel_binding_is_refused_or_left_out() -> None:
    wanted = database_url.wanted_instead("postgresql://a@db/d?channel_binding=require")
    assert wanted is not None and "without channel_binding" in wanted
    url = "postgresql://a@db/d?sslmode=verify-full&channel_binding=prefer"
    assert database_url.wanted_instead(url) is None
    assert database_url.without_channel_binding(url) == "postgresql://a@db/d?sslmode=verify-full"
