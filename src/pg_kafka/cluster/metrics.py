"""Who leads, as families for Prometheus: `ClusterSource` for as long as the process lives, `LeaderSource` while it leads."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from pg_kafka.cluster.counts import Cause, ClusterCounts
from pg_kafka.cluster.membership import Membership
from pg_kafka.metrics.catalogue import cluster
from pg_kafka.metrics.families import many, one


class ClusterSource:
    """Counters of all incarnations."""

    def __init__(self, counts: ClusterCounts) -> None:
        self._counts = counts

    def families(self) -> Iterable[Metric]:
        counts = self._counts
        yield one(cluster.LEADS, int(counts.leads))
        yield one(cluster.EPOCH, counts.epoch)
        yield one(cluster.INCARNATIONS, counts.incarnations)
        yield one(cluster.TAKE_OVERS, counts.take_overs)
        yield one(cluster.FENCED, counts.fenced)
        took_s = counts.take_over_s
        yield many(cluster.TAKE_OVER_SECONDS, {} if took_s is None else {(): took_s})
        yield many(cluster.ENDED, {(cause.value,): counts.ended[cause] for cause in Cause})
        yield one(cluster.FAILED_JOINS, counts.failed_joins)
        yield one(cluster.HEARTBEATS, counts.heartbeats)
        yield one(cluster.HEARTBEATS_FAILED, counts.heartbeats_failed)


class LeaderSource:
    """Of the incarnation that leads."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    def families(self) -> Iterable[Metric]:
        yield one(cluster.HEARTBEAT_AGE, self._membership.heartbeat_age_s)
        yield one(cluster.WAITING, len(self._membership.waiting))
