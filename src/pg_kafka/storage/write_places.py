"""Where rows go now: the active segment of each series, and the table of each journal that is written.

Lanes ask when they build a transaction. The janitor changes it between two transactions of every lane.
"""

from __future__ import annotations

from collections.abc import Mapping

from pg_kafka.storage.flight import JournalTables


class WritePlaces:
    """See the module."""

    def __init__(self, segments: Mapping[int, int], journals: JournalTables) -> None:
        self._segments = dict(segments)
        self.journals = journals

    def segment(self, series: int) -> int:
        """The number of the active segment of a series."""
        return self._segments[series]

    def use_segment(self, series: int, segment: int) -> None:
        """Rows of a series go there from now on."""
        self._segments[series] = segment

    def use_journal(self, name: str, table: str) -> None:
        """What is written to a journal goes to that table from now on."""
        self.journals = self.journals._replace(**{name: table})
