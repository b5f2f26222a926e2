"""Subjects of certificates as Java prints them. What is expected was printed by X500Principal.getName() of OpenJDK 17."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from pg_kafka.security.distinguished_names import InvalidName, text_of

CN, OU, ORGANIZATION, C, DC, UID = (
    NameOID.COMMON_NAME,
    NameOID.ORGANIZATIONAL_UNIT_NAME,
    NameOID.ORGANIZATION_NAME,
    NameOID.COUNTRY_NAME,
    NameOID.DOMAIN_COMPONENT,
    NameOID.USER_ID,
)


def der(*parts: tuple[x509.ObjectIdentifier, str]) -> bytes:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts]).public_bytes()


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([(CN, "alice")], "CN=alice"),
        ([(C, "DE"), (ORGANIZATION, "Example"), (OU, "Sales"), (CN, "alice")], "CN=alice,OU=Sales,O=Example,C=DE"),
        ([(DC, "org"), (DC, "example"), (UID, "a1")], "UID=a1,DC=example,DC=org"),
        ([(CN, 'a,b+c"d\\e<f>g;h=i#j')], 'CN=a\\,b\\+c\\"d\\\\e\\<f\\>g\\;h\\=i\\#j'),
        ([(CN, "  two spaces  ")], "CN=\\ \\ two spaces\\ \\ "),
        ([(CN, "Müller 日本")], "CN=Müller 日本"),
        ([(NameOID.STATE_OR_PROVINCE_NAME, "NRW"), (NameOID.LOCALITY_NAME, "Bonn")], "L=Bonn,ST=NRW"),
        ([(NameOID.STREET_ADDRESS, "Way 1")], "STREET=Way 1"),
        ([(NameOID.EMAIL_ADDRESS, "a@b.c")], "1.2.840.113549.1.9.1=#160561" + "40622e63"),
        ([(NameOID.SERIAL_NUMBER, "7")], "2.5.4.5=#130137"),
        ([(CN, "a\0b")], "CN=a\\00b"),
        ([(CN, " ")], "CN=\\ "),
        ([], ""),
    ],
)
def test_subject_is_printed_as_java_does(parts: list[tuple[x509.ObjectIdentifier, str]], text: str) -> None:
    assert text_of(der(*parts)) == text


def test_several_attributes_in_one_part() -> None:
    name = x509.Name(
        [
            x509.RelativeDistinguishedName([x509.NameAttribute(ORGANIZATION, "Example")]),
            x509.RelativeDistinguishedName([x509.NameAttribute(CN, "alice"), x509.NameAttribute(UID, "1")]),
        ]
    )
    first, second = text_of(name.public_bytes()).split(",")
    assert (set(first.split("+")), second) == ({"CN=alice", "UID=1"}, "O=Example")


def test_strings_of_two_bytes_are_read_as_java_reads_them() -> None:
    name = x509.Name([x509.NameAttribute(CN, "ab", _type=_ASN1Type.BMPString)])
    assert text_of(name.public_bytes()) == "CN=\\00a\\00b"


@pytest.mark.parametrize(
    "bytes_", [b"", b"\x30", b"\x30\x05\x31", b"\x31\x00", b"\x30\x02\x30\x00", b"\x30\x84\xff\xff\xff\xff"]
)
def test_what_is_no_name_is_refused(bytes_: bytes) -> None:
    with pytest.raises(InvalidName):
        text_of(bytes_)


def test_every_cut_of_a_name_is_refused() -> None:
    whole = der((CN, "alice"), (ORGANIZATION, "Example"))
    for size in range(len(whole)):
        with pytest.raises(InvalidName):
            text_of(whole[:size])
