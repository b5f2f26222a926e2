"""What waits to be written, counted against memory and disk from the moment it is queued until it has its answer."""

from __future__ import annotations

from pg_kafka.storage.disk import DiskWatch, Named


class Backlog:
    """See the module. Shared by all lanes."""

    def __init__(self, disk: DiskWatch) -> None:
        self._disk = disk
        self.bytes = 0

    @property
    def must_drop(self) -> bool:
        """Not even the disk's reserve holds what is queued: it must be refused before it is written."""
        return self._disk.must_drop

    def admit(self, count_bytes: int, item: Named | None = None) -> str | None:
        """Count a batch; or say why it cannot be queued."""
        refusal = self._disk.admit(count_bytes, item)
        if refusal is None:
            self.bytes += count_bytes
        return refusal

    def expect(self, count_bytes: int) -> None:
        """Count what is queued whether it fits or not."""
        self._disk.expect(count_bytes)
        self.bytes += count_bytes

    def answered(self, count_bytes: int) -> None:
        """It is written, or has failed."""
        self._disk.written(count_bytes)
        self.bytes -= count_bytes
