"""What grows until the janitor has work: segments and journals that may be full, topics that want a series of their own."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from pg_kafka.storage.partition import Partition

# After so many bytes a segment may be full.
GROWN_BYTES = 16 * 1024 * 1024
# After so many bytes a journal may have to be rotated.
JOURNAL_GROWN_BYTES = 2 * 1024 * 1024


class Growth:
    """See the module. The log counts, the janitor waits for `is_wanted`."""

    def __init__(self, series_bytes: int) -> None:
        self._series_bytes = series_bytes
        self._log_bytes = 0
        self._journal_bytes = 0
        self._topic_bytes: defaultdict[int, int] = defaultdict(int)
        self._told: set[int] = set()
        self.outgrown: set[int] = set()  # topics in the shared series that are larger than `series_bytes`
        self.starts_moved = True  # partitions begin later than before: there may be segments that nobody needs
        self.is_wanted = asyncio.Event()

    def look(self) -> None:
        """Something has changed that the janitor may have work from."""
        self.is_wanted.set()

    def look_for_free(self) -> None:
        """There may be segments that nobody needs any more."""
        self.starts_moved = True
        self.look()

    def add(self, partition: Partition, count_bytes: int) -> None:
        """So much was appended to a partition, or was there when it was loaded."""
        self._log_bytes += count_bytes
        if self._log_bytes >= GROWN_BYTES:
            self._log_bytes = 0
            self.look()
        if partition.series == 0:
            topic = partition.topic.id
            self._topic_bytes[topic] += count_bytes
            if self._topic_bytes[topic] > self._series_bytes and topic not in self._told:
                self._told.add(topic)
                self.outgrown.add(topic)
                self.look()

    def add_to_journals(self, count_bytes: int) -> None:
        """So much was written to the journals."""
        self._journal_bytes += count_bytes
        if self._journal_bytes >= JOURNAL_GROWN_BYTES:
            self._journal_bytes = 0
            self.look()

    def forget(self, topic_id: int) -> None:
        """The topic is deleted."""
        self._topic_bytes.pop(topic_id, None)
        self._told.discard(topic_id)
