"""Carries out what operators ask for by `kafka.abort_transaction()`."""

from __future__ import annotations

import asyncio
import logging

from pg_kafka.broker.transactions import TransactionCoordinator
from pg_kafka.errors import StorageError
from pg_kafka.storage.transaction_requests import TransactionRequests

logger = logging.getLogger("pg_kafka.transactions")

# How often the table is looked at for requests whose notification was lost with its session.
LOOK_S = 10.0
RETRY_S = 0.5


class OperatorRequests:
    """One task between `start` and `stop`."""

    def __init__(self, requests: TransactionRequests, transactions: TransactionCoordinator) -> None:
        self._requests = requests
        self._transactions = transactions
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises StorageError."""
        self._wanted.set()
        await self._requests.listen(self._wanted.set)
        self._task = asyncio.create_task(self._run(), name="requests of operators")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            try:
                for request in await self._requests.waiting():
                    asked = (request.transactional_id, request.producer_id, request.producer_epoch)
                    await self._requests.answer(request, await self._transactions.abort(*asked))
            except StorageError as error:
                logger.warning("requests of operators have to wait", extra={"error": str(error)})
                await self._look_again()
            except Exception:
                logger.exception("a request of an operator failed")
                await self._look_again()

    async def _look_again(self) -> None:
        await asyncio.sleep(RETRY_S)
        self._wanted.set()
