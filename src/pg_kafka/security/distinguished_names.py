"""The subject of a certificate as Java prints it, which is what Kafka's ACLs and mapping rules are written for.

    text_of(der)      "CN=alice,OU=Sales\\, Europe,O=Example"

The form is RFC 2253: the last part comes first. Java knows few types by name there; all others are numbers with the value in
hexadecimal, so that an e-mail address is `1.2.840.113549.1.9.1=#1610616c...`.

    Name ::= SEQUENCE OF SET OF SEQUENCE { type OBJECT IDENTIFIER, value }
"""

from __future__ import annotations

from collections.abc import Iterator

_KEYWORDS = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}
_SEQUENCE, _SET, _OBJECT_IDENTIFIER = 0x30, 0x31, 0x06
# UTF8, Printable, T61, IA5, General, Universal and BMP strings. Java reads the bytes of all of them as UTF-8.
_STRINGS = (0x0C, 0x13, 0x14, 0x16, 0x1B, 0x1C, 0x1E)
_ESCAPED = ',=+<>#;"\\'


class InvalidName(ValueError):
    """These bytes are no name."""


def text_of(name: bytes) -> str:
    """Raises InvalidName."""
    whole = list(_parts(name))
    if len(whole) != 1 or whole[0][0] != _SEQUENCE:
        raise InvalidName("a name is a sequence")
    content = whole[0][1]
    parts = []
    for tag, relative, _ in _parts(content):
        if tag != _SET:
            raise InvalidName("a part of a name is a set")
        parts.append("+".join(_attribute(pair) for _, pair, _ in _parts(relative)))
    return ",".join(reversed(parts))


def _attribute(pair: bytes) -> str:
    try:
        (type_tag, type, _), (value_tag, value, encoded) = _parts(pair)
    except ValueError:
        raise InvalidName("an attribute has a type and a value") from None
    if type_tag != _OBJECT_IDENTIFIER:
        raise InvalidName("the type of an attribute is a number")
    number = _number(type)
    keyword = _KEYWORDS.get(number)
    if keyword is None or value_tag not in _STRINGS:
        return f"{keyword or number}=#{encoded.hex()}"
    return f"{keyword}={_escaped(value.decode('utf-8', 'replace'))}"


def _escaped(text: str) -> str:
    signs = ["\\" + sign if sign in _ESCAPED else "\\00" if sign == "\0" else sign for sign in text]
    for places in (range(len(text)), range(len(text) - 1, -1, -1)):
        for place in places:
            if text[place] not in " \r":
                break
            signs[place] = "\\" + text[place]
    return "".join(signs)


def _number(content: bytes) -> str:
    numbers, number = [], 0
    for byte in content:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    if not numbers:
        raise InvalidName("an object identifier is empty")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def _parts(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Tag, content, and both with the length, of each value."""
    place = 0
    while place < len(content):
        start = place
        if place + 2 > len(content):
            raise InvalidName("a value is cut short")
        tag, length = content[place], content[place + 1]
        place += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(content[place : place + count])
            place += count
        if place + length > len(content):
            raise InvalidName("a value is cut short")
        yield tag, content[place : place + length], content[start : place + length]
        place += length
