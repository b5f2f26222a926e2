"""Records to produce: files of one record a line, the same on every machine.

Random letters of base64 (six bits of entropy a byte: the perf tool reads text) and events as applications write them.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path

# Enough that a batch hardly holds a record twice.
_BYTES = 4 << 20

_EVENTS = ("page_view", "add_to_cart", "checkout", "payment_accepted", "refund", "login")
_COUNTRIES = ("DE", "FR", "US", "JP", "BR", "IN", "GB", "NG")
_WORDS = tuple("order shipped late customer asked twice about the blue one in size medium and paid by card".split())


class Payloads:
    """Files in a folder, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, payload: str, record_bytes: int) -> Path:
        """Of "random" or "json" records of exactly that size."""
        path = self._folder / f"{payload}-{record_bytes}.txt"
        if not path.exists():
            make = _MAKERS[payload]
            chance = random.Random(record_bytes)
            count = max(1000, _BYTES // record_bytes)
            path.write_text("\n".join(make(chance, record_bytes, number) for number in range(count)))
        return path


def random_text(chance: random.Random, record_bytes: int, number: int) -> str:
    return base64.b64encode(chance.randbytes(record_bytes)).decode()[:record_bytes]


def json_event(chance: random.Random, record_bytes: int, number: int) -> str:
    event: dict[str, object] = {
        "id": f"{chance.getrandbits(48):012x}",
        "ts": 1_700_000_000_000 + number * 13,
        "event": chance.choice(_EVENTS),
        "user": chance.randrange(1_000_000),
        "country": chance.choice(_COUNTRIES),
        "amount": round(chance.random() * 500, 2),
        "note": "",
    }
    room = record_bytes - len(json.dumps(event, separators=(",", ":")))
    note = ""
    while len(note) < room:
        note += chance.choice(_WORDS) + f" {chance.randrange(10_000)} "
    return json.dumps({**event, "note": note[: max(0, room)]}, separators=(",", ":"))


_MAKERS: dict[str, Callable[[random.Random, int, int], str]] = {"random": random_text, "json": json_event}
