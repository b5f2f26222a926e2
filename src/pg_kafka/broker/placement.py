"""Which broker leads a partition, coordinates a group or a transactional id, and is the controller."""

from __future__ import annotations

from typing import Protocol


class Placement(Protocol):
    """What of that is here. Where it changes, the house has to hear of it (`House.changed`)."""

    @property
    def has_everything(self) -> bool:
        """True: it is never asked. Fixed for the placement's life."""

    @property
    def is_controller(self) -> bool:
        """Are topics created and deleted here?"""

    def leads(self, topic_id: int, index: int) -> bool:
        """Is the partition led here?"""

    def coordinates_group(self, group_id: str) -> bool:
        """Is the group coordinated here?"""

    def coordinates_transactional_id(self, transactional_id: str) -> bool:
        """Is the transactional id coordinated here?"""


class AllHere:
    """One broker leads and coordinates everything."""

    has_everything = True
    is_controller = True

    def leads(self, topic_id: int, index: int) -> bool:
        return True

    def coordinates_group(self, group_id: str) -> bool:
        return True

    def coordinates_transactional_id(self, transactional_id: str) -> bool:
        return True
