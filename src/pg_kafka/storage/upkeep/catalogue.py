"""Changes of topics and settings that somebody has made by SQL, or another broker."""

from __future__ import annotations

from pg_kafka.storage.catalogue_changes import Apply, CatalogueChanges
from pg_kafka.storage.upkeep.job import NEVER, Job, Site

# So often one cheap query asks. Nothing tells: NOTIFY takes a lock of the whole server.
INTERVAL_S = 1.0


class FollowCatalogue(Job):
    """Has `apply` called with what has changed, within some seconds."""

    name = "follow catalogue"

    def __init__(self, site: Site, apply: Apply | None) -> None:
        super().__init__(site)
        self._apply = apply
        self._changes = CatalogueChanges()
        self._looks_at = NEVER if apply is None else float("-inf")

    async def step(self) -> bool:
        if self.site.now() >= self._looks_at:
            await self.look()
        return False

    async def look(self) -> None:
        """Have all applied that is committed at this moment."""
        if self._apply is not None:
            self._looks_at = self.site.now() + INTERVAL_S
            await self._changes.follow(self.site.connection, self._apply)

    def wakes_at(self) -> float:
        return self._looks_at
