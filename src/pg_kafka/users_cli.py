"""`pg-kafka users`: who may log in by SASL. Passwords are never arguments, which everybody on the machine can see.

Keys are made here, and only they are sent to the database.
"""

from __future__ import annotations

import os
import secrets
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pg_kafka import logs
from pg_kafka.config import Config
from pg_kafka.config.load import load
from pg_kafka.errors import FatalError
from pg_kafka.security import scram
from pg_kafka.security.scram import Keys, Mechanism

users = typer.Typer(help="Users who log in by SASL.", no_args_is_help=True)

PASSWORD_VARIABLE = "PG_KAFKA_USER_PASSWORD"
_GENERATED_BYTES = 18


class MechanismName(StrEnum):
    SHA_256 = scram.SHA_256.name
    SHA_512 = scram.SHA_512.name

    @property
    def mechanism(self) -> Mechanism:
        return scram.MECHANISMS[self.value]


Name = Annotated[str, typer.Argument(help="The user's name.")]
Database = Annotated[
    str | None, typer.Option(metavar="URL", help="The brokers' database. Default: the embedded server.")
]
Data = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder of the embedded server. Default: in the user's data folder.")
]
File = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML.")]
Stdin = Annotated[
    bool,
    typer.Option(
        "--password-stdin",
        help=f"Read the password from standard input. Else it is {PASSWORD_VARIABLE}, or asked for.",
    ),
]
Generate = Annotated[bool, typer.Option("--generate", help="Make a random password and print it.")]
OneMechanism = Annotated[
    MechanismName | None, typer.Option("--mechanism", help="Only this one. Default: both, and PLAIN goes with either.")
]
Iterations = Annotated[
    int, typer.Option(min=scram.MIN_ITERATIONS, max=scram.MAX_ITERATIONS, help="How often the password is hashed.")
]


@users.command("list")
def list_users(database: Database = None, data: Data = None, file: File = None) -> None:
    """Show who may log in, and by what."""
    from pg_kafka import app
    from pg_kafka.storage import user_accounts

    found = app.with_database(_config(database, data, file), user_accounts.accounts)
    width = max((len(account.name) for account in found), default=0)
    for account in found:
        print(
            f"{account.name:{width}}  {account.mechanism}  {account.iterations:5}  {account.changed_at:%Y-%m-%d %H:%M}"
        )


@users.command()
def create(
    name: Name,
    password_stdin: Stdin = False,
    generate: Generate = False,
    mechanism: OneMechanism = None,
    iterations: Iterations = scram.MIN_ITERATIONS,
    database: Database = None,
    data: Data = None,
    file: File = None,
) -> None:
    """Make a user."""
    from pg_kafka import app
    from pg_kafka.storage import user_accounts

    password = _password(name, stdin=password_stdin, generate=generate)
    keys = _keys(password, mechanism, iterations)
    app.with_database(_config(database, data, file), lambda dsn: user_accounts.create(dsn, name, keys))
    if generate:
        print(password)


@users.command()
def alter(
    name: Name,
    password_stdin: Stdin = False,
    generate: Generate = False,
    mechanism: OneMechanism = None,
    iterations: Iterations = scram.MIN_ITERATIONS,
    database: Database = None,
    data: Data = None,
    file: File = None,
) -> None:
    """Give a user another password. The old one is good for nothing then, and its connections are closed."""
    from pg_kafka import app
    from pg_kafka.storage import user_accounts

    password = _password(name, stdin=password_stdin, generate=generate)
    keys = _keys(password, mechanism, iterations)
    app.with_database(_config(database, data, file), lambda dsn: user_accounts.alter(dsn, name, keys))
    if generate:
        print(password)


@users.command()
def drop(
    name: Name, mechanism: OneMechanism = None, database: Database = None, data: Data = None, file: File = None
) -> None:
    """Remove a user, or one mechanism of it, and close its connections."""
    from pg_kafka import app
    from pg_kafka.storage import user_accounts

    one = None if mechanism is None else mechanism.mechanism
    app.with_database(_config(database, data, file), lambda dsn: user_accounts.drop(dsn, name, one))


def _config(database: str | None, data: str | None, file: Path | None) -> Config:
    loaded = load({"database": database, "data": data}, os.environ, file)
    logs.configure(loaded.log_level, loaded.log_format)
    return loaded


def _keys(password: str, only: MechanismName | None, iterations: int) -> list[tuple[Mechanism, Keys]]:
    wanted = scram.MECHANISMS.values() if only is None else [only.mechanism]
    return [
        (one, scram.make_keys(one, password, secrets.token_bytes(scram.DEFAULT_SALT_BYTES), iterations))
        for one in wanted
    ]


def _password(name: str, *, stdin: bool, generate: bool) -> str:
    """Raises FatalError."""
    if generate:
        return secrets.token_urlsafe(_GENERATED_BYTES)
    if stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif PASSWORD_VARIABLE in os.environ:
        password = os.environ[PASSWORD_VARIABLE]
    elif sys.stdin.isatty():
        password = typer.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True)
    else:
        raise FatalError(f"no password: give --password-stdin, {PASSWORD_VARIABLE} or --generate")
    if not password:
        raise FatalError("a password must not be empty")
    return password
