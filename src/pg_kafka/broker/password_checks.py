"""Checks passwords against stored keys, in threads: one takes some milliseconds of PBKDF2.

    checks = PasswordChecks()
    await checks.is_right("10.0.0.1", SHA_512, keys, "alice", "secret")
    checks.stop()

However many clients log in at once, few passwords are checked at a time and few wait; more than that is `CannotVerify`, and
one address may fill only a part of the room. What has been proved is remembered for a minute, so that the many connections
of one client cost one check.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor

from pg_kafka.broker.authentication import CannotVerify
from pg_kafka.security import scram
from pg_kafka.security.scram import Keys, Mechanism

# One processor is left to the event loop and to PostgreSQL.
THREADS = max(1, min(2, (os.cpu_count() or 1) - 1))
# 256 take some two seconds when every user has the greatest number of iterations, four with one thread.
MAX_WAITING = 256
MAX_WAITING_PER_ADDRESS = 64
REMEMBERED = 1024
REMEMBERED_S = 60.0


class PasswordChecks:
    """Used on the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._waiting = 0
        self._per_address: Counter[str] = Counter()
        # By it nobody who reads this process's memory later can try passwords faster than by the stored keys.
        self._secret = secrets.token_bytes(32)
        self._proved: OrderedDict[bytes, float] = OrderedDict()  # until when each holds

    async def is_right(self, host: str, mechanism: Mechanism, keys: Keys, password: str) -> bool:
        """Does the password have these keys? `host` is who asks. Raises CannotVerify."""
        mark = hmac.digest(self._secret, keys.salt + keys.stored_key + password.encode(), "sha256")
        now = self._loop.time()
        if self._proved.get(mark, now) > now:
            return True
        if self._waiting >= MAX_WAITING or self._per_address[host] >= MAX_WAITING_PER_ADDRESS:
            raise CannotVerify("too many passwords wait to be checked")
        self._waiting += 1
        self._per_address[host] += 1
        try:
            is_right = await self._loop.run_in_executor(self._threads, scram.is_password, mechanism, keys, password)
        finally:
            self._waiting -= 1
            self._per_address[host] -= 1
            if not self._per_address[host]:
                del self._per_address[host]
        if is_right:
            self._remember(mark, now + REMEMBERED_S)
        return is_right

    def _remember(self, mark: bytes, until: float) -> None:
        self._proved[mark] = until
        self._proved.move_to_end(mark)
        if len(self._proved) > REMEMBERED:
            self._proved.popitem(last=False)

    def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
