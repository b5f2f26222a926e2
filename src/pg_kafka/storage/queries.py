"""Named SQL statements from the `.sql` files beside this module.

A file of `sql/queries` is a list of blocks; each begins with a line `-- name: append`. Comment lines right after it say
what the statement is for and are not sent to the server. Where a table's name varies, the block is a template with
`{leaf}` in it.

    STATEMENTS = load("segments")
    await connection.execute(render(STATEMENTS["truncate"], leaf="log_0_3"))
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

SQL: Traversable = files("pg_kafka.storage") / "sql"

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


@cache
def load(name: str) -> dict[str, str]:
    """The statements of `sql/queries/<name>.sql` by their names. Raises ValueError on a name given twice."""
    return parse((SQL / "queries" / f"{name}.sql").read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, str]:
    """Split the text of a query file into its named statements."""
    pieces = _NAME.split(text)
    statements: dict[str, str] = {}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if name in statements:
            raise ValueError(f"query {name!r} is there twice")
        lines = body.strip().splitlines()
        while lines and lines[0].startswith("--"):
            del lines[0]
        statements[name] = "\n".join(lines).strip().rstrip(";")
    return statements


def render(template: str, **identifiers: str | int | Sequence[str]) -> str:
    """Fill the placeholders of a template: text becomes a quoted identifier, several a list, a number stays a number."""

    def value(match: re.Match[str]) -> str:
        identifier = identifiers[match[1]]
        if isinstance(identifier, int):
            return str(identifier)
        return quote(identifier) if isinstance(identifier, str) else ", ".join(map(quote, identifier))

    return _PLACEHOLDER.sub(value, template)


def quote(identifier: str) -> str:
    """An SQL identifier in double quotes."""
    return '"' + identifier.replace('"', '""') + '"'
