"""The address of the database: what it may look like, and what of it may be shown.

It may hold a password, so no function here puts any of it into what it says. Whether a character belongs to the password or
ends it is for a parser to say, and parsers differ: what is not percent-encoded where it has to be is refused, so that
no part of a password is taken, and shown, for a host or the name of a database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

WANTED = "a URL, as in postgresql://user@host/dbname"
ENCODED = "with %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #, %25 for % and %20 for a space in its parts"
_SCHEMES = ("postgresql://", "postgres://")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(%25[^\]]+)?\]|[^\[\]:@\s]*)(:[0-9]*)?")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRETS = ("password", "sslpassword")
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


def wanted_instead(url: str) -> str | None:
    """What the address should be, when it is not a URL that everybody reads in the same way; holds nothing of it."""
    if not url.startswith(_SCHEMES):
        return WANTED
    rest = url.partition("://")[2]
    before_query, _, query = rest.partition("?")
    authority, _, name = before_query.partition("/")
    login, at, hosts = authority.rpartition("@")
    is_strange = (
        re.search(r"[\s#\x00-\x1f\x7f]", rest)
        or _BARE_PERCENT.search(rest)
        or "@" in login
        or "@" in name
        or "@" in query
        or (at and not login.partition(":")[0] and ":" in login)
        or not all(_HOST.fullmatch(host) for host in hosts.split(","))
    )
    if is_strange:
        return f"{WANTED}, {ENCODED}"
    try:
        urlsplit(url)
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        return f"{WANTED}, {ENCODED}"
    if options.get("channel_binding", "prefer") not in ("prefer", "disable"):
        return f"{WANTED}, without channel_binding, which cannot be had: sslmode=verify-full proves who the server is"
    return None


def without_channel_binding(url: str) -> str:
    """The address as the driver takes it: it would send what it does not know to the server as a setting."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in options if name != "channel_binding"]
    return url if kept == options else urlunsplit(parts._replace(query=urlencode(kept, quote_via=quote)))


def may_hold_password(text: str) -> bool:
    """Whether there may be a password in what was given as an address, whatever it looks like."""
    return "password" in text or ":" in text.partition("://")[2].rpartition("@")[0]


def without_password(url: str) -> str:
    """The same address for people."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    shown = [(name, value) for name, value in parse_qsl(parts.query) if name not in _SECRETS]
    return urlunsplit(
        parts._replace(netloc=login.partition(":")[0] + at + hosts, query=urlencode(shown, quote_via=quote))
    )


def place(url: str) -> str:
    """host:port/database, for messages."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    hosts = parts.netloc.rpartition("@")[2] or options.get("host") or "localhost"
    port = f":{options['port']}" if "port" in options and not hosts.rpartition(":")[2].isdigit() else ""
    database = unquote(parts.path.lstrip("/")) or options.get("dbname") or options.get("database") or ""
    return f"{unquote(hosts)}{port}/{database}".rstrip("/")


def options_of(url: str) -> dict[str, str]:
    """What stands behind the question mark; the last one counts where one is there twice."""
    return dict(parse_qsl(urlsplit(url).query))


def named_files(url: str, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Files of certificates and keys that the address or libpq's variables name, each with the option that does."""
    options = dict(parse_qsl(urlsplit(url).query))
    named = ((name, options.get(name) or environment.get(f"PG{name.upper()}")) for name in _TLS_FILES)
    return [(name, file) for name, file in named if file]


def is_proven(url: str, environment: Mapping[str, str]) -> bool:
    """Is it certain who the server is: by its certificate, or as it is on this machine?"""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if options.get("sslmode", environment.get("PGSSLMODE")) in ("verify-ca", "verify-full"):
        return True
    hosts = parts.netloc.rpartition("@")[2] or options.get("host") or environment.get("PGHOST", "")
    return all(_is_here(unquote(host)) for host in hosts.split(","))


def _is_here(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name in ("", "localhost", "::1") or name.startswith(("/", "127."))
