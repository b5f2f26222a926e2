"""What PostgreSQL compresses a new segment's records with."""

from __future__ import annotations

import asyncio
import logging

from pg_kafka.config.topics import TOPIC_KEYS
from pg_kafka.storage.segments import first_guess
from pg_kafka.storage.upkeep.job import SQL, Site
from pg_kafka.wire import compression as codecs

_CHOICES = TOPIC_KEYS["storage.compression"].choices

logger = logging.getLogger("pg_kafka.janitor")

# Below this share of its size, compressing a sample is worth its time.
WORTHWHILE_RATIO = 0.8


async def choose(site: Site, series: int, segment: int, topic_id: int | None = None) -> str:
    """What was configured, or what a sample of the last segment speaks for; of one topic's records, if that is given.

    A topic says it for its own series, whose number is the topic's.
    """
    own = await site.connection.fetchval(SQL["own_compression"], series if topic_id is None else topic_id)
    configured = own if own in _CHOICES else site.options.compression
    if configured in site.available:
        return configured
    if configured != "auto":
        extra = {"compression": configured, "series": series} | ({} if topic_id is None else {"topic_id": topic_id})
        logger.warning("this PostgreSQL lacks a compression", extra=extra)
        return "none"
    guess = first_guess(site.available)
    sample = b"".join(await site.segments.sample(series, segment, topic_id))
    if guess == "none" or not sample:
        return guess
    # PostgreSQL's lz4 and ours find about the same in the same bytes.
    compressed = await asyncio.to_thread(codecs.compress, codecs.LZ4, sample)
    return guess if len(compressed) < WORTHWHILE_RATIO * len(sample) else "none"
