"""Consumer groups: their members and states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from pg_kafka.broker.groups import GroupCoordinator
from pg_kafka.broker.metrics.walks import Walk
from pg_kafka.metrics.catalogue import groups as catalogue
from pg_kafka.metrics.catalogue import process
from pg_kafka.metrics.families import Labels, many
from pg_kafka.metrics.series import Bounds, Chosen, bounded

MEMBERS_PER_TURN = 1_000


@dataclass(slots=True)
class Sums:
    """Over all groups."""

    members: dict[Labels, float] = field(default_factory=dict)
    states: Counter[Labels] = field(default_factory=Counter)
    left_out: int = 0


class GroupsSource:
    """Of one incarnation that leads. `walk.run` goes on beside it."""

    def __init__(self, groups: GroupCoordinator, bounds: Bounds) -> None:
        self._groups = groups
        self._bounds = bounds
        self._chosen = Chosen()
        self.walk = Walk(self._sums, self._groups.__len__, Sums())

    def families(self) -> Iterable[Metric]:
        sums = self.walk.look()
        yield many(catalogue.MEMBERS, sums.members)
        yield many(catalogue.STATES, sums.states)
        yield many(process.LEFT_OUT, {("groups",): sums.left_out})

    def _sums(self) -> Generator[None, None, Sums]:
        sums = Sums()
        looked_at = 0
        for group in self._groups:
            machine = group.machine
            members = len(machine.members)
            sums.members[group.id,] = members
            sums.states[machine.kind, machine.state] += (
                1  # of a consumer group it is found out by looking at each member
            )
            looked_at += 1 + members
            if looked_at >= MEMBERS_PER_TURN:
                looked_at = 0
                yield
        # A group without members has a series as well: that the last one has gone is what one wants to see.
        chosen = self._chosen.choose(sums.members, self._bounds.most)
        sums.members, sums.left_out = bounded(sums.members, chosen), self._chosen.left_out
        return sums
