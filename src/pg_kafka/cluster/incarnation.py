"""One life of a broker, and what its process remembers beyond it."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from pg_kafka.storage.sessions import SQL, Identity, OtherHistory, unavailable

STATEMENT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of a broker: what its sessions lock and what its leadership is called."""

    id: int
    node_id: int
    epoch: int
    lock_id: int
    heartbeat_lock_id: int
    cluster_id: str
    system_identifier: str
    timeline: str

    def check_identity(self, identity: Identity) -> None:
        """Raises OtherHistory when a session has found another server or another history."""
        if (identity.system_identifier, identity.timeline) != (self.system_identifier, self.timeline):
            raise OtherHistory(f"the server's history changed to {identity.system_identifier}/{identity.timeline}")


class History:
    """What this process has seen of the database, over all its incarnations and while it waited.

    Neither timeline nor system identifier tell of a backup that was put in the database's place and started as it is, but
    it lacks a heartbeat that was committed. A lower timeline is an old primary that is not to be used any more.
    """

    def __init__(self) -> None:
        self._system_identifier = ""
        self._timeline = ""
        self._incarnation = 0
        self.beats = 0
        self.went_back = False

    def led(self, identity: Identity) -> None:
        """A broker leads here, and clients know that by its epoch."""
        self._system_identifier, self._timeline = identity.system_identifier, identity.timeline
        self.went_back = False

    def beat(self, incarnation: int, beats: int) -> None:
        """So many heartbeats of an incarnation are committed."""
        self._incarnation, self.beats = incarnation, beats

    def refuse_older(self, identity: Identity) -> None:
        """Raises StorageError when the server is on a timeline that its successor has left behind."""
        if identity.system_identifier == self._system_identifier and identity.timeline < self._timeline:
            raise unavailable(
                f"the server is on timeline {identity.timeline}, this broker has seen {self._timeline}: an old primary? "
                "If it is a restored backup, restart the broker"
            )

    async def look_back(self, connection: asyncpg.Connection) -> None:
        """Find out whether the last heartbeat is still there."""
        if self._incarnation and not self.went_back:
            row = await connection.fetchrow(SQL["incarnation_status"], self._incarnation, timeout=STATEMENT_TIMEOUT_S)
            self.went_back = row is None or row["beats"] < self.beats
