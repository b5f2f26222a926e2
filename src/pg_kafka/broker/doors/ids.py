"""What the id of a group or a transaction can be."""

from __future__ import annotations

from pg_kafka.storage.journal import MAX_GROUP_ID_BYTES


def can_be_id(text: str) -> bool:
    """Can this be stored? Kafka takes any text; PostgreSQL takes no NUL and indexes 2,000 bytes."""
    return "\0" not in text and (len(text) * 4 <= MAX_GROUP_ID_BYTES or len(text.encode()) <= MAX_GROUP_ID_BYTES)
