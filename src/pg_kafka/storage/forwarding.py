"""Requests of clients that one broker passes on to another one through the database.

asked = ForwardedRequests(control)
await asked.listen_for_answers(event.set)          the broker that waits
number = await asked.ask(request, node_id=2)
answers = await asked.answered([number])

await asked.listen_for_requests(event.set)         the leader
for number, request in await asked.take(16):
    await asked.answer(number, b"...")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from pg_kafka.storage import queries
from pg_kafka.storage.control import ControlSession

SQL = queries.load("forwarding")
REQUESTS, ANSWERS = "pg_kafka_forwarded", "pg_kafka_answered"


class Forwarded(NamedTuple):
    """A request, and for whom it is asked."""

    principal: str
    client_host: str
    client_port: int
    client_id: str | None
    listener: str  # the name of the one that the client has come by
    api_key: int
    api_version: int
    request: bytes  # without its header


class ForwardedRequests:
    """See the module. All raise StorageError."""

    def __init__(self, control: ControlSession) -> None:
        self._control = control

    async def listen_for_answers(self, on_answer: Callable[[], None]) -> None:
        """Have `on_answer` called when there may be answers. A notification is lost with its session: look now and then."""
        await self._control.listen(ANSWERS, on_answer)

    async def listen_for_requests(self, on_request: Callable[[], None]) -> None:
        """As above, for requests."""
        await self._control.listen(REQUESTS, on_request)

    async def ask(self, asked: Forwarded, node_id: int) -> UUID:
        """Pass a request on; `answered` has the answer later. `node_id` is of the broker that asks."""
        rows = await self._control.fetch(SQL["ask"], node_id, *asked)
        number: UUID = rows[0]["id"]
        return number

    async def answered(self, numbers: Sequence[UUID]) -> dict[UUID, bytes | None]:
        """Those of these requests that have an answer, which is given once. None: close the client's connection."""
        return {row["id"]: row["answer"] for row in await self._control.fetch(SQL["answered"], numbers)}

    async def take(self, limit: int) -> list[tuple[UUID, Forwarded]]:
        """The oldest requests that nobody has taken; each is given once."""
        return [(row["id"], Forwarded(*list(row)[1:])) for row in await self._control.fetch(SQL["take"], limit)]

    async def answer(self, number: UUID, answer: bytes | None) -> None:
        """Answer a request."""
        await self._control.execute(SQL["answer"], number, answer)

    async def forget(self, older_than_s: float) -> None:
        """Remove what is so old that nobody can be waiting for it."""
        await self._control.execute(SQL["forget"], older_than_s)
