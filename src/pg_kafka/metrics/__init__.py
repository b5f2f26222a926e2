"""Metrics: what is counted, what it is called, and how it is written for Prometheus.

    counters.py    what the hot path counts in: whole numbers, and nothing that locks, formats or looks up labels
    clients.py     the counters of connections and quotas
    catalogue/     every metric: its name, type, labels and meaning, one file for each subject
    families.py    counters and figures of the moment as families of `prometheus_client`
    series.py      how many series there may be, and which ones
    registry.py    the sources of families, in one place for the whole process
    exposition.py  families as text

A part of the broker that has something to tell keeps plain numbers. A `Source` beside it turns them into families when
Prometheus asks. Nothing here knows sockets, tasks, the broker or the database; the HTTP server is in `broker/metrics/`.
"""
