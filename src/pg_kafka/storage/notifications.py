"""Topics whose new records are told by NOTIFY (kafka.notify_on).

notifications = TopicNotifications(control)
await notifications.wanted()        which topics, by id
await notifications.notify([7])     there is something new
"""

from __future__ import annotations

from collections.abc import Collection

from pg_kafka.storage import queries
from pg_kafka.storage.control import ControlSession

SQL = queries.load("notifications")


class TopicNotifications:
    """See the module. Every method raises StorageError."""

    def __init__(self, control: ControlSession) -> None:
        self._control = control

    async def wanted(self) -> frozenset[int]:
        """The ids of topics that somebody wants to be told of."""
        await self._control.execute(SQL["forget_deleted"])
        return frozenset(row["topic_id"] for row in await self._control.fetch(SQL["wanted"]))

    async def notify(self, topic_ids: Collection[int]) -> None:
        """Tell whoever listens that these topics have something new."""
        await self._control.execute(SQL["notify"], list(topic_ids))
