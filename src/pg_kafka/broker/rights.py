"""What an authorizer stands on, kept as the database has it: access control lists, and what is granted on topics' views.

    rights = Rights(config, control)
    await rights.start()
    rights.authorizer.watch(house.changed)
    await rights.follow(changes)        of the catalogue
    watch = supervised(rights.run(), "rights", on_death)

GRANT tells nobody, so whoever goes by it looks each second whether anything has changed. A broker that waits looks at
the access control lists in the same way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pg_kafka.broker.acl_book import AclBook
from pg_kafka.broker.authorizer import AclAuthorizer, GrantAuthorizer, super_users_of
from pg_kafka.config import Config
from pg_kafka.config.authorization import Deciding, deciding
from pg_kafka.errors import StorageError
from pg_kafka.storage.acls import AclStore
from pg_kafka.storage.catalogue_changes import Change
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.grants import GrantStore

logger = logging.getLogger("pg_kafka.rights")

LOOK_S = 1.0


class Rights:
    """See the module. For a configuration with an authorizer only."""

    def __init__(self, config: Config, control: ControlSession, *, follows_changes: bool = True) -> None:
        """`follows_changes`: somebody calls `follow`."""
        self._stored_acls = AclStore(control)
        self.acls = AclBook(self._stored_acls)
        self._grants = GrantStore(control)
        self._looks_at_acls = not follows_changes
        self._acl_sign = self._grant_sign = ""
        super_users, allow_if_no_acl = super_users_of(config.super_users or ""), config.allow_everyone_if_no_acl_found
        self._may_be_locked_out = not super_users and not allow_if_no_acl
        self._by_grants: GrantAuthorizer | None = None
        if deciding(config) is Deciding.GRANTS:
            self._by_grants = GrantAuthorizer(self.acls, super_users, allow_if_no_acl=allow_if_no_acl)
        self.authorizer = self._by_grants or AclAuthorizer(self.acls, super_users, allow_if_no_acl=allow_if_no_acl)

    async def start(self) -> None:
        """Read everything. Raises StorageError."""
        if self._looks_at_acls:
            self._acl_sign = await self._stored_acls.sign()
        await self.acls.start()
        await self._look_at_grants()
        if self._may_be_locked_out and self._by_grants is None and not self.acls.acls:
            logger.warning("nobody may do anything", extra={"wants": "super.users, or kafka.create_acl()"})

    async def follow(self, changes: Sequence[Change] | None) -> None:
        """Take over what others have changed in the catalogue. Raises StorageError."""
        await self.acls.follow(changes)

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while self._looks_at_acls or self._by_grants is not None:
            await asyncio.sleep(LOOK_S)  # GRANT tells nobody
            try:
                await self._look_at_grants()
                await self._look_at_acls()
            except StorageError as error:
                logger.debug("cannot look at what is granted", extra={"reason": error.message})

    async def _look_at_grants(self) -> None:
        if self._by_grants is None:
            return
        sign = (
            await self._grants.sign()
        )  # before what it is the sign of: what changes meanwhile is seen at the next look
        if sign != self._grant_sign:
            self._by_grants.show(await self._grants.load())
            self._grant_sign = sign

    async def _look_at_acls(self) -> None:
        if not self._looks_at_acls:
            return
        sign = await self._stored_acls.sign()
        if sign != self._acl_sign:
            await self.acls.follow(None)
            self._acl_sign = sign
