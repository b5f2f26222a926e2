"""Views of topics: for new ones, for those that somebody has dropped, after an upgrade; and away with those of deleted topics."""

from __future__ import annotations

from pg_kafka.storage.upkeep.job import SQL, Job, Site

# A view costs about 1 ms and three locks.
VIEWS_PER_STEP = 100


async def _create(job: Job, ids: list[int]) -> None:
    async with job.site.segments.giving_way():
        await job.site.connection.execute(SQL["create_views"], ids)


class MakeViews(Job):
    """Views of new topics, and of those whose view somebody has dropped."""

    name = "make views"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._lost_at = float("-inf")  # when it is looked whether somebody has dropped a view

    async def step(self) -> bool:
        if not self.has_room():
            return False
        if self.site.now() >= self._lost_at:
            self._lost_at = self.site.now() + self.site.options.interval_s
            await self.site.connection.execute(SQL["forget_lost_views"])
        rows = await self.site.connection.fetch(SQL["topics_without_view"], list(self.put_off), VIEWS_PER_STEP)
        return await self.all_or_each({row["id"]: row["name"] for row in rows}, lambda ids: _create(self, ids))


class RenewViews(Job):
    """Views from before an upgrade, made anew: with the columns that came since, and asking for their topic alone."""

    name = "renew views"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._looks_at = float("-inf")

    async def step(self) -> bool:
        if self.site.now() < self._looks_at or not self.has_room():
            return False
        rows = await self.site.connection.fetch(SQL["topics_with_old_view"], list(self.put_off), VIEWS_PER_STEP)
        has_more = await self.all_or_each({row["id"]: row["name"] for row in rows}, lambda ids: _create(self, ids))
        if not has_more:
            self._looks_at = self.site.now() + self.site.options.interval_s
        return has_more


class DropViews(Job):
    """Views of deleted topics. One that a view of a user's stands on stays, empty."""

    name = "drop views"

    async def step(self) -> bool:
        rows = await self.site.connection.fetch(SQL["views_of_deleted_topics"], list(self.put_off), VIEWS_PER_STEP)
        return await self.all_or_each({row["id"]: row["view_name"] for row in rows}, self._remove)

    async def _remove(self, ids: list[int]) -> None:
        connection = self.site.connection
        async with self.site.segments.giving_way():
            gone = {row["id"] for row in await connection.fetch(SQL["drop_views"], ids) if row["is_gone"]}
            await connection.execute(SQL["views_are_gone"], list(gone))
        # A view of a user's stands on the others, which are empty now.
        self.put_off.update(set(ids) - gone)
