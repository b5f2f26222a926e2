"""How far each partition is known to be committed, also while it is not loaded.

Two guards rest on it: no row is written below what is committed, and no partition is served that ends below it.
"""

from __future__ import annotations

from pg_kafka.storage.partition import Partition
from pg_kafka.storage.sessions import Fenced


class CommittedEnds:
    """See the module. Shared by all lanes; lasts as long as the incarnation."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, int], int] = {}

    def note(self, partition: Partition) -> None:
        """What the partition has committed."""
        key = (partition.topic.id, partition.index)
        self._ends[key] = max(partition.high_watermark, self._ends.get(key, 0))

    def of(self, topic_id: int, index: int) -> int:
        """The first offset that is not known to be committed; 0 when nothing is known."""
        return self._ends.get((topic_id, index), 0)

    def check(self, partition: Partition, base_offset: int) -> None:
        """The last guard against an offset given out twice. Raises Fenced."""
        committed = self.of(partition.topic.id, partition.index)
        if base_offset < committed:
            raise Fenced(f"{partition} would be written at {base_offset}, and {committed} offsets are committed")

    def forget(self, topic_id: int, index: int) -> None:
        """The topic is deleted."""
        self._ends.pop((topic_id, index), None)
