"""A Grafana dashboard and alert rules for Prometheus, made for the metrics of `pg_kafka.metrics`.

overview.py  what the dashboard shows, row by row
alerts.py    what is worth waking somebody for
grafana.py   panels as Grafana's JSON
rules.py     rules as Prometheus' YAML
files.py     writes both: `pg-kafka dashboards --to DIR`

Tests run every expression on metrics of a broker at work, with Prometheus itself.
"""
