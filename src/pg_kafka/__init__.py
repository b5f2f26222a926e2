"""A Kafka broker whose log, offsets and groups are rows in PostgreSQL."""

__version__ = "0.1.0"
