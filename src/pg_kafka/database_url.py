"""The address of the database: what it may look like, and what of it may be shown.

It may hold a password, so no function here puts any of it into what it says. Whether a character belongs to the password or
ends it is for a parser to say, and parsers differ: what is not percent-encoded where it has to be is refused, so that
no part of a password is taken, and shown, for a host or the name of a database.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

WANTED = "a URL, as in postgresql://user@host/dbname"
ENCODED = "with %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #, %25 for % and %20 for a space in its parts"
_SCHEMES = ("postgresql://", "postgres://")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(%25[^\]]+)?\]|[^\[\]:@\s]*)(:[0-9]*)?")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRETS = ("password", "sslpassword")


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
        parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        return f"{WANTED}, {ENCODED}"
    return None


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
