"""Log lines about what peers do, which must not fill the log: of each message and kind only some are written."""

from __future__ import annotations

import asyncio
import logging
import re

NOTE_INTERVAL_S = 5.0
MAX_NOTE_KINDS = 256

_DIGITS = re.compile("[0-9]+")


class Notes:
    """Writes to one logger; everything runs on the event loop's thread."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        # (time of the last line, lines left out since)
        self._written: dict[tuple[str, str, str], tuple[float, int]] = {}

    def note(
        self,
        message: str,
        kind: str,
        *,
        level: int = logging.ERROR,
        exc_info: BaseException | None = None,
        by: str = "",
        **extra: object,
    ) -> None:
        """Log what a peer has caused: each message and kind at most every few seconds, with the number left out.

        Kinds that differ in numbers only are one. With `by`, an address, so many are written for each: one peer must not
        hide another.
        """
        if not self._logger.isEnabledFor(level):
            return
        now = asyncio.get_running_loop().time()
        kind = _DIGITS.sub("", kind)
        if len(self._written) >= MAX_NOTE_KINDS and (message, kind, by) not in self._written:
            self._written = {key: note for key, note in self._written.items() if now - note[0] < NOTE_INTERVAL_S}
            if len(self._written) >= MAX_NOTE_KINDS:
                kind, by = "other", ""
        last, left_out = self._written.get((message, kind, by), (-NOTE_INTERVAL_S, 0))
        if now - last < NOTE_INTERVAL_S:
            self._written[message, kind, by] = (last, left_out + 1)
            return
        self._written[message, kind, by] = (now, 0)
        if left_out:
            extra["left_out"] = left_out
        self._logger.log(level, message, exc_info=exc_info, extra=extra)
