"""Who somebody is: Kafka's principals, and the rules that make one of a certificate's subject (KIP-371).

    rules = parse_rules("RULE:^CN=([^,]+),.*$/$1/L,DEFAULT")
    name_of(rules, "CN=Alice,OU=Sales,O=Example")       "alice"

A rule is `DEFAULT`, the whole subject, or `RULE:pattern/replacement/` with `L` or `U` behind it for lower or upper case. The
first whose pattern matches the whole subject counts; when none does there is no principal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

USER = "User"
ANONYMOUS = "User:ANONYMOUS"


def user(name: str) -> str:
    return f"{USER}:{name}"


class InvalidRules(ValueError):
    """`ssl.principal.mapping.rules` cannot be read; the message says where."""


@dataclass(frozen=True, slots=True)
class Rule:
    """None for `pattern`: DEFAULT."""

    pattern: re.Pattern[str] | None
    replacement: str = ""
    case: str = ""

    def apply(self, subject: str) -> str | None:
        if self.pattern is None:
            return subject
        found = self.pattern.fullmatch(subject)
        if found is None:
            return None
        name = _GROUP.sub(lambda number: _group(found, int(number[1])), self.replacement)
        return name.lower() if self.case == "L" else name.upper() if self.case == "U" else name


_GROUP = re.compile(r"\$([0-9])")
# Slashes and commas within a pattern are escaped or not ambiguous: a rule ends at its second slash that no backslash escapes.
_RULE = re.compile(r"\s*(?:(DEFAULT)|RULE:((?:\\.|[^\\/])*)/((?:\\.|[^\\/])*)/([LU]?))\s*(?:,|$)")


def _group(found: re.Match[str], number: int) -> str:
    return (found[number] or "") if number <= found.re.groups else ""


def parse_rules(text: str) -> Sequence[Rule]:
    """Raises InvalidRules."""
    rules: list[Rule] = []
    position = 0
    while position < len(text.rstrip()):
        found = _RULE.match(text, position)
        if found is None or found.end() == position:
            raise InvalidRules(
                f"the rule at character {position + 1} is neither DEFAULT nor RULE:pattern/replacement/[LU]"
            )
        if found[1]:
            rules.append(Rule(None))
        else:
            try:
                pattern = re.compile(found[2])
            except re.error as error:
                raise InvalidRules(f"the pattern {found[2]!r} cannot be read: {error}") from None
            rules.append(Rule(pattern, found[3], found[4]))
        position = found.end()
    return tuple(rules) or (Rule(None),)


def name_of(rules: Sequence[Rule], subject: str) -> str | None:
    """The name of whoever has a certificate with this subject (RFC 2253), or None."""
    for rule in rules:
        if (name := rule.apply(subject)) is not None:
            return name
    return None
