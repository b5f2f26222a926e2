"""Metrics that clients push (KIP-714): who is asked for which, and what has come.

    telemetry = Telemetry(clock.steady_ms)
    telemetry.renew(subscriptions)                       these hold from now on
    code, instance = telemetry.ask(instance_id, client, connection)
    code = await telemetry.push(ctx.broker.turns, ..., data)

One for the process: what clients have told stays when a broker stops leading, and a broker that waits is told as well,
since clients push to whichever broker they are connected to. Everything runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from pg_kafka.broker.notes import Notes
from pg_kafka.broker.turns import Turns
from pg_kafka.coordinator.client_metrics import Client, Connection, Instance, Instances, Pushing, Subscription
from pg_kafka.coordinator.pushed_metrics import Detail, PushedMetrics
from pg_kafka.errors import StorageError
from pg_kafka.storage.client_metrics import StoredClientMetrics
from pg_kafka.wire import compression
from pg_kafka.wire.compression import MESSAGE_TOO_LARGE, RecordsError
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.otlp import InvalidOtlp, points

logger = logging.getLogger("pg_kafka.telemetry")

LOOK_S: Final = 5.0
"""A broker that waits hears of no change, and looks."""

WAIT_S: Final = 10.0
"""How long a push waits for others that are being read. Then it is told to come later."""

COMPRESSIONS: Final = (compression.ZSTD, compression.LZ4, compression.GZIP, compression.SNAPPY)
"""What clients may compress by, the best first; as in Kafka, clients take the first that they know."""


async def keep_looking(stored: StoredClientMetrics) -> None:
    """Read the subscriptions now and then, until cancelled: for a broker that waits."""
    while True:
        try:
            await stored.load()
        except StorageError as error:
            logger.debug("cannot look at client metrics", extra={"reason": error.message})
        await asyncio.sleep(LOOK_S)


class Telemetry:
    """See the module."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.instances = Instances()
        self.pushed = PushedMetrics()
        self.asked: Counter[int] = Counter()  # by error code of the answer
        self.pushes: Counter[int] = Counter()
        self.pushed_bytes = 0  # as they were sent
        self.points = self.points_left_out = 0
        self._notes = Notes(logger)
        # Each is read in slices, and what has been read of it takes memory until it is known to be sound.
        self._reading = asyncio.Lock()

    def renew(self, subscriptions: Sequence[Subscription]) -> None:
        """These hold from now on."""
        self.instances.renew(subscriptions)

    def new_id(self) -> UUID:
        """An id for a client that has none yet."""
        while (found := uuid.uuid4()) in self.instances:
            pass
        return found

    def ask(self, instance_id: UUID, client: Client, connection: Connection) -> tuple[int, Instance]:
        """What is wanted of a client: NONE, or why it is not told."""
        self.forget()
        code, instance = self.instances.ask(instance_id, client, connection, self._now_ms())
        self.asked[code] += 1
        return code, instance

    async def push(
        self,
        turns: Turns,
        instance_id: UUID,
        client: Client,
        connection: Connection,
        what: Pushing,
        data: bytes,
        *,
        most_bytes: int,
        detail: Detail,
    ) -> int:
        """A client pushes: NONE when its metrics have been taken, all of them, else an error code and nothing is taken."""
        self.forget()
        code, instance = self.instances.push(instance_id, client, connection, self._now_ms(), what, most_bytes)
        if code == ErrorCode.NONE and instance is not None and data:
            code = await self._take(turns, instance, what.compression, data, most_bytes, detail)
            instance.last_code = code
        self.pushes[code] += 1
        return code

    def forget(self) -> None:
        """Clients that are silent, and what nobody has pushed for long. Called with each request and each look at metrics."""
        now_ms = self._now_ms()
        if self.instances.is_time_to_forget(now_ms):
            self.pushed.forget(self.instances.forgotten(now_ms))
            self.pushed.forget_unused(now_ms)

    async def _take(
        self, turns: Turns, instance: Instance, codec: int, data: bytes, most_bytes: int, detail: Detail
    ) -> int:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._reading.acquire()
        except TimeoutError:
            return int(ErrorCode.THROTTLING_QUOTA_EXCEEDED)
        try:
            # A client must not make a megabyte of a kilobyte: what it holds is bounded as well.
            plain = bytes(compression.decompress(codec, data, most_bytes))
            push = self.pushed.begin(instance.id, instance.client.client_id or "", detail, self._now_ms())
            async for point in turns.each(points(plain)):
                if point is not None:
                    push.add(point)
        except RecordsError as error:
            too_large = error.code == MESSAGE_TOO_LARGE
            self._note(instance, error.message)
            return int(ErrorCode.TELEMETRY_TOO_LARGE if too_large else ErrorCode.INVALID_RECORD)
        except InvalidOtlp as error:
            self._note(instance, str(error))
            return int(ErrorCode.INVALID_RECORD)
        finally:
            self._reading.release()
        if instance.id in self.instances:  # else it was forgotten meanwhile, and nobody would forget its gauges
            self.pushed.take(push)
        self.pushed_bytes += len(data)
        self.points += push.points
        self.points_left_out += push.left_out
        return int(ErrorCode.NONE)

    def _note(self, instance: Instance, reason: str) -> None:
        client = instance.client
        self._notes.note(
            "pushed metrics cannot be read",
            reason,
            level=logging.WARNING,
            by=client.client_source_address,
            client=(client.client_id or "")[:200],
            peer=client.client_source_address,
            software=f"{client.client_software_name} {client.client_software_version}"[:200],
            reason=reason,
        )
