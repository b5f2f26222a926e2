"""Rules that make a name of a certificate's subject: the examples of KIP-371, and what is refused."""

from __future__ import annotations

import pytest

from pg_kafka.security.principals import InvalidRules, name_of, parse_rules

SUBJECT = "CN=Alice Smith,OU=Service Users,O=Org,C=US"


@pytest.mark.parametrize(
    ("rules", "subject", "name"),
    [
        ("DEFAULT", SUBJECT, SUBJECT),
        ("", SUBJECT, SUBJECT),
        ("RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/", "CN=service,OU=ServiceUsers,O=Org", "service"),
        ("RULE:^CN=(.*?),OU=(.*?),O=(.*?),C=(.*?)$/$1@$2/L,DEFAULT", SUBJECT, "alice smith@service users"),
        ("RULE:^cn=(.*?),.*$/$1/, RULE:^CN=([^,]+),.*$/$1/U", SUBJECT, "ALICE SMITH"),
        ("RULE:^CN=nobody$/x/", SUBJECT, None),
        ("RULE:CN=Alice Smith/x/", SUBJECT, None),
        (r"RULE:^CN=(.*?)\/(.*?),.*$/$2\/$1/", "CN=a/b,O=x", r"b\/a"),
        ("RULE:^CN=(a)|CN=(b)$/$1$2$3/", "CN=b", "b"),
    ],
)
def test_names(rules: str, subject: str, name: str | None) -> None:
    assert name_of(parse_rules(rules), subject) == name


@pytest.mark.parametrize(
    "rules", ["RULE", "RULE:a/b", "RULE:a/b/X", "default", "RULE:(/x/", "DEFAULT;DEFAULT", "RULE:a/b/Ljunk"]
)
def test_rules_that_cannot_be_read(rules: str) -> None:
    with pytest.raises(InvalidRules):
        parse_rules(rules)
