"""Which producers may be forgotten (producer.id.expiration.ms), with patience while the clock may have lied."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pg_kafka.clock import Clock
from pg_kafka.coordinator.patience import Patience

logger = logging.getLogger("pg_kafka.log")

# What was used so short a time ago is needed for retries (delivery.timeout.ms), whatever the clock says meanwhile.
HOLD_MS = 15 * 60_000


class ProducerAges:
    """See the module. Shared by all lanes."""

    def __init__(self, clock: Clock, expiration_ms: Callable[[], int]) -> None:
        """`expiration_ms` gives the setting as it is at the moment."""
        self._clock = clock
        self._expiration_ms = expiration_ms
        self._patience = Patience(min(HOLD_MS, expiration_ms()))

    def oldest_ms(self) -> int:
        """Producers that were silent since before this wall time may be forgotten."""
        jump_ms = self._patience.observe(self._clock.wall_ms(), self._clock.steady_ms())
        if jump_ms:
            logger.warning("the clock of this machine was set", extra={"by_s": jump_ms // 1000})
        return self._patience.oldest(self._expiration_ms())
