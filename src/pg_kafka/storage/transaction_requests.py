"""What operators ask of the broker by `kafka.abort_transaction()`: rows that it takes and answers.

requests = TransactionRequests(control)
await requests.listen(event.set)
for request in await requests.waiting(): ...
await requests.answer(request, None)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pg_kafka.storage import queries
from pg_kafka.storage.control import ControlSession

SQL = queries.load("transactions")
CHANNEL = "pg_kafka_transactions"


@dataclass(frozen=True, slots=True)
class TransactionRequest:
    """A row of kafka.transaction_requests. Producer id and epoch say which transaction was meant."""

    id: int
    transactional_id: str
    producer_id: int
    producer_epoch: int
    action: str
    requested_by: str


class TransactionRequests:
    """See the module."""

    def __init__(self, control: ControlSession) -> None:
        self._control = control

    async def listen(self, on_request: Callable[[], None]) -> None:
        """Have `on_request` called soon after a request is made, or may have been made. Raises StorageError.

        A notification is lost with its session: look at `waiting` now and then.
        """
        await self._control.listen(CHANNEL, on_request)

    async def waiting(self) -> list[TransactionRequest]:
        """Requests without an answer, in their order. Raises StorageError."""
        return [TransactionRequest(*row) for row in await self._control.fetch(SQL["open_requests"])]

    async def answer(self, request: TransactionRequest, error: str | None) -> None:
        """Say that it is done, or why not. Raises StorageError."""
        await self._control.execute(SQL["close_request"], request.id, error)
