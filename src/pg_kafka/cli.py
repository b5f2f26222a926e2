"""The command line: arguments in, one call into `pg_kafka.app`, an exit code out.

A FatalError becomes one sentence on stderr and exit code 1. `app` is imported by the commands that need it: it brings
the database driver and the broker, which `--help` and `version` should not wait for.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pg_kafka import __version__, database_url, logs
from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.config.load import load, parsed
from pg_kafka.config.settings import START_KEYS
from pg_kafka.errors import FatalError
from pg_kafka.users_cli import users

commands = typer.Typer(
    name="pg-kafka",
    help="A Kafka broker on PostgreSQL. Settings come from flags, PG_KAFKA_* variables, a file and the database.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Listen = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Where Kafka clients connect. Default: 127.0.0.1:9092.")
]
Advertise = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="The address told to clients. Default: the one each client connected to."),
]
Listeners = Annotated[
    str | None,
    typer.Option(metavar="NAME://HOST:PORT,...", help="Several places with names, instead of --listen."),
]
AdvertisedListeners = Annotated[
    str | None,
    typer.Option(metavar="NAME://HOST:PORT,...", help="What clients of each are told, instead of --advertise."),
]
ProtocolMap = Annotated[
    str | None,
    typer.Option(
        metavar="NAME:PROTOCOL,...", help="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL for each of --listeners."
    ),
]
Secure = Annotated[
    bool, typer.Option("--secure", help="Make certificates and a user admin, and speak TLS to users alone.")
]
AllowAnonymous = Annotated[
    bool, typer.Option("--allow-anonymous", help="Let others than this machine connect without saying who they are.")
]
Database = Annotated[
    str | None, typer.Option(metavar="URL", help="PostgreSQL 14 or newer. Default: an embedded server.")
]
Data = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder of the embedded server. Default: in the user's data folder.")
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Where to serve metrics for Prometheus, /healthz and /readyz. Default: nowhere."
    ),
]
LogLevel = Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error. Default: warning.")]
LogFormat = Annotated[str | None, typer.Option(metavar="FORMAT", help="text or json. Default: text.")]
File = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings in TOML, with Kafka's names for Kafka's settings."),
]


def _load(file: Path | None, **flags: str | None) -> Config:
    logs.hold()  # what is said of the settings themselves
    try:
        loaded = load(flags, os.environ, file)
    except Exception:
        asked_for = flags.get("log_format") or os.environ.get(START_KEYS["log_format"].environment)
        logs.configure("warning", logs.JSON if asked_for == logs.JSON else logs.TEXT)
        raise
    logs.configure(loaded.log_level, loaded.log_format)
    return loaded


@commands.command()
def serve(
    listen: Listen = None,
    advertise: Advertise = None,
    listeners: Listeners = None,
    advertised_listeners: AdvertisedListeners = None,
    listener_security_protocol_map: ProtocolMap = None,
    secure: Secure = False,
    allow_anonymous: AllowAnonymous = False,
    database: Database = None,
    data: Data = None,
    metrics: Metrics = None,
    file: File = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Run a broker until it is told to stop (SIGINT, SIGTERM; a second one stops at once)."""
    loaded = _load(
        file,
        listen=listen,
        advertise=advertise,
        listeners=listeners,
        advertised_listeners=advertised_listeners,
        listener_security_protocol_map=listener_security_protocol_map,
        secure="true" if secure else None,
        allow_anonymous="true" if allow_anonymous else None,
        database=database,
        data=data,
        metrics=metrics,
        log_level=log_level,
        log_format=log_format,
    )
    from pg_kafka import app

    raise typer.Exit(app.serve(loaded))


@commands.command()
def migrate(
    database: Database = None,
    data: Data = None,
    file: File = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    broker: Annotated[
        str | None,
        typer.Option(
            "--grant-broker",
            metavar="ROLE",
            help="Give this role what a broker needs, and no right to change the schema.",
        ),
    ] = None,
) -> None:
    """Create or upgrade the schema in the database, and do nothing else."""
    loaded = _load(file, database=database, data=data, log_level=log_level, log_format=log_format)
    from pg_kafka import app

    app.migrate(loaded, grant_broker=broker)


@commands.command()
def doctor(
    listen: Listen = None,
    advertise: Advertise = None,
    listeners: Listeners = None,
    advertised_listeners: AdvertisedListeners = None,
    listener_security_protocol_map: ProtocolMap = None,
    secure: Secure = False,
    allow_anonymous: AllowAnonymous = False,
    database: Database = None,
    data: Data = None,
    metrics: Metrics = None,
    file: File = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Check a setup and say what is wrong; exit code 1 if something is."""
    loaded = _load(
        file,
        listen=listen,
        advertise=advertise,
        listeners=listeners,
        advertised_listeners=advertised_listeners,
        listener_security_protocol_map=listener_security_protocol_map,
        secure="true" if secure else None,
        allow_anonymous="true" if allow_anonymous else None,
        database=database,
        data=data,
        metrics=metrics,
        log_level=log_level,
        log_format=log_format,
    )
    from rich.console import Console
    from rich.text import Text

    from pg_kafka import app

    styles = {"ok": "green", "warning": "yellow", "error": "bold red"}
    console = Console(highlight=False, soft_wrap=True)
    is_broken = False
    for level, text in app.doctor(loaded):
        sentence, *fix = text.split("\n")
        console.print(Text.assemble((f"{level:8}", styles[level]), sentence))
        for line in fix:
            console.print(Text(f"{'':8}  {line}", "cyan"))
        is_broken = is_broken or level == "error"
    raise typer.Exit(1 if is_broken else 0)


@commands.command()
def certs(
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the files are, and are put.")] = Path("certs"),
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name or address of the broker, beside those of this machine."),
    ] = None,
    client: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Make a certificate for this client.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long broker and clients may use theirs.")] = 825,
) -> None:
    """Make a CA and certificates for a first try. Files that are there are kept."""
    from pg_kafka import certs as certificates

    made = certificates.make(folder.expanduser().absolute(), host or (), client or (), days)
    for path in (made.ca, made.ca_key, made.broker, *made.clients):
        print(f"{'made' if path in made.new else 'kept'}  {path}")
    print("\n".join(certificates.how_to_use(made)))


@commands.command()
def bench(
    bootstrap: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="A broker, this or any other, without TLS and SASL.")
    ] = "127.0.0.1:9092",
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to produce, and to measure latency.")] = 10.0,
    record_bytes: Annotated[int, typer.Option(min=1, max=1_000_000, help="Size of a record's value.")] = 100,
    batch_bytes: Annotated[
        int, typer.Option(min=100, max=1_000_000, help="Size of a batch, before compression.")
    ] = 65_536,
    producers: Annotated[int, typer.Option(min=1, max=100, help="Producers at once.")] = 1,
    partitions: Annotated[int, typer.Option(min=1, max=1000, help="Partitions of the topic.")] = 1,
    rate: Annotated[int, typer.Option(min=1, help="Records a second while latency is measured.")] = 1_000,
    codec: Annotated[str, typer.Option("--compression", help="none, gzip, snappy, lz4 or zstd.")] = "none",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a running broker: records in and out a second, and latency. Makes a topic of its own and deletes it."""
    from rich.console import Console

    from pg_kafka.bench import command

    if codec not in command.CODECS:
        raise typer.BadParameter(f"{codec!r} is none of {', '.join(command.CODECS)}", param_hint="--compression")
    try:
        place = Address.parse(bootstrap)
    except ValueError as wanted:
        raise FatalError(f"--bootstrap wants {wanted}, not {bootstrap!r}") from None
    options = command.Options(place, seconds, record_bytes, batch_bytes, producers, partitions, rate=rate, codec=codec)
    report = command.run(options, Console(stderr=True))
    if as_json:
        print(command.as_json(options, report))
    else:
        command.show(options, report, Console(highlight=False, soft_wrap=True))


@commands.command()
def dashboards(
    folder: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where the files are put.")] = Path(),
    replace: Annotated[bool, typer.Option("--replace", help="Write over files that have been changed.")] = False,
) -> None:
    """Write a Grafana dashboard and alert rules for Prometheus."""
    from pg_kafka.dashboards import files

    for one in files.write(folder.expanduser(), replace=replace):
        print(f"{one.what:8}  {one.path}")
        if one.what == "kept":
            print("          has been changed, or is of another version: --replace writes over it")


commands.add_typer(users, name="users")


@commands.command()
def version() -> None:
    """Print the version."""
    print(f"pg-kafka {__version__}")


def _hide_password(given: Sequence[str]) -> None:
    """Everybody may see the arguments of a process, and nobody else its environment: start again with the password there.

    It is the same process afterwards. Overwriting the arguments in place would need a library, and works on few systems.
    Raises FatalError.
    """
    left, kept, url = deque(given), list[str](), ""
    while left:
        argument = left.popleft()
        flag, has_value, value = argument.partition("=")
        if flag != "--database":
            kept.append(argument)
            continue
        if not kept or not (has_value or left):
            return  # a usage error, which is said elsewhere
        url = value if has_value else left.popleft()
        if left and not left[0].startswith("-"):
            raise FatalError("--database wants one argument: put the URL in quotes, with %20 for a space in it")
    if not database_url.may_hold_password(url):
        return
    key = START_KEYS["database"]
    os.environ[key.environment] = parsed(key, url, "--database")
    python = sys.orig_argv[1 : len(sys.orig_argv) - len(given)]
    os.execv(sys.executable, [sys.executable, *python, *kept])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The `pg-kafka` command."""
    try:
        if arguments is None and sys.executable:
            _hide_password(sys.argv[1:])
        commands(args=None if arguments is None else list(arguments))
    except FatalError as error:
        logs.say_last(str(error))
    sys.exit(1)
